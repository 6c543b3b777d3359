-- SPDX-License-Identifier: Apache-2.0
--- A configuration, loaded in a policy state of its own, as the main state sees it.
--
--     local builder = policy_config.new(path, overrides, kept, { limit = 256, seconds = 30 })
--     builder:begin_load()
--     repeat local what, result = builder:step(budget_ns) until what ~= "more"
--
-- What comes of it is data, the modules of plugins and backends (which live in the main state), and the
-- policy state with the rules in it.
local api = require("flowd.api")
local plugins = require("flowd.plugins")
local policy_state = require("flowd.policy_state")
local registry = require("flowd.registry")
local watch = require("flowd.watch")

local policy_config = {}

local MIB = 2 ^ 20
-- Until a configuration says otherwise.
policy_config.MEMORY_LIMIT, policy_config.LOAD_TIMEOUT = 256, 30

---@class flowd.PolicyBuilder
---@field policy flowd.PolicyState
---@field spent_ns number time that its steps took
local Builder = {}
Builder.__index = Builder

--- Nothing is loaded before the first step.
---@param path string
---@param overrides table?
---@param kept flowd.Snapshot?
---@param limits { limit: number?, seconds: number? }? MiB of memory, CPU seconds
---@return flowd.PolicyBuilder
function policy_config.new(path, overrides, kept, limits)
  limits = limits or {}
  local self = setmetatable({
    path = path, spent_ns = 0, seconds = limits.seconds or policy_config.LOAD_TIMEOUT,
    policy = policy_state.new({ limit = (limits.limit or policy_config.MEMORY_LIMIT) * MIB }),
  }, Builder)
  self.load_arguments = { path, overrides or {}, kept }
  return self
end

--- Begin to load.
function Builder:begin_load() self:begin("flowd.policy_load.run", unpack(self.load_arguments, 1, 3)) end

--- Begin a call that is made in steps.
function Builder:begin(name, ...) self.policy:call("flowd.policy_inside.begin", name, ...) end

function Builder:close() self.policy:close() end

--- The same while events go on.
function Builder:retire() self.policy:retire() end

-- Where an endless load was, of the site's own.
local function place_in(trace, file)
  local from, to = trace:find("\n%s+" .. file:gsub("%p", "%%%0") .. ":%d+:")
  return from and trace:sub(from, to - 1):match("(%S+)$") or file
end

function Builder:overdue()
  local file, trace = self.policy:call("flowd.policy_inside.cancel")
  return { ("%s: never came to its end while it was loaded: given up after %g s (load_timeout)")
    :format(file and place_in(trace, file) or self.path, self.seconds) }
end

function Builder:failure(message, trace)
  if type(message) == "string" and message:find("not enough memory", 1, true) then
    return { ("%s: not enough memory: memory_limit is %d MB"):format(self.path,
      tonumber(api.heap_limit(self.policy.heap)) / MIB) }
  end
  return { ("%s: internal error: %s%s"):format(self.path, tostring(message), trace and "\n" .. tostring(trace) or "") }
end

--- Go on for a while.
---@param budget_ns number
---@return "more"|"done"|"errors" what
---@return any ... done: results; errors: a list of them
function Builder:step(budget_ns)
  local before = api.clock_monotonic_ns()
  local function stepped(ok, what, ...)
    self.spent_ns = self.spent_ns + tonumber(api.clock_monotonic_ns() - before)
    if not ok then return "errors", self:failure(what, "") end
    if what == "error" then return "errors", self:failure(...) end
    if what == "more" and self.spent_ns > self.seconds * 1e9 then return "errors", self:overdue() end
    return what, ...
  end
  return stepped(pcall(self.policy.call, self.policy, "flowd.policy_inside.step", budget_ns))
end

--- Call a function of the policy in one go, where nothing else waits. A file that never comes to its end is the
--- watchdog's.
---@param name string
---@return any result nil: there are errors
---@return string[]|nil errors
function Builder:now(name, ...)
  local function called(ok, ...)
    if ok then return ... end
    return nil, self:failure(...)
  end
  return called(pcall(self.policy.call, self.policy, name, ...))
end

-- The modules of plugins and backends, as texts that were checked in the policy state.
local function find_modules(config, errors)
  local modules = { plugins = {}, backends = {} }
  local function read(path) return config.sources.files[path] end
  for kind, names in pairs(config.module_names) do
    for key, entry in pairs(names) do
      local module, message = plugins.find(kind, entry.name, entry.directories, read)
      modules[kind][key] = module
      if not module then
        errors[#errors + 1] = ("%s: %s.%s: %s"):format(config.path, kind, key, message or "there is no such module")
      end
    end
  end
  return modules
end

--- What a loaded configuration is in the main state.
---@param summary table what flowd.policy_load.run gave
---@return flowd.Config|nil
---@return string[]|nil errors
function policy_config.complete(summary)
  local errors = {}
  summary.modules = find_modules(summary, errors)
  if summary.registry_file then
    local problems
    summary.registry, problems = registry.parse(summary.sources.files[summary.registry_file], summary.registry_file)
    for _, problem in ipairs(problems or {}) do errors[#errors + 1] = problem end
  else
    summary.registry = registry.load_embedded()
  end
  if #errors > 0 then return nil, errors end
  return summary
end

--- Load a configuration in one go.
---@param path string
---@param overrides table?
---@param kept flowd.Snapshot?
---@return flowd.Config|nil config
---@return string[]|nil errors
---@return flowd.PolicyBuilder|nil builder with the rules; to be closed
function policy_config.load(path, overrides, kept)
  local builder = policy_config.new(path, overrides, kept)
  -- Whatever never comes to its end is in one of these files.
  local mark = watch.enter("file", path)
  local summary, errors = builder:now("flowd.policy_load.run", unpack(builder.load_arguments, 1, 3))
  local config
  if summary then config, errors = policy_config.complete(summary) end
  watch.leave(mark)
  if config then return config, nil, builder end
  builder:close()
  return nil, errors
end

return policy_config
