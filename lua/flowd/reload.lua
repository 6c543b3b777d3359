-- SPDX-License-Identifier: Apache-2.0
--- A new configuration for the running daemon: all of it, or, on any error, nothing.
--
-- Runs between two batches. What the new configuration says about a plugin or backend in the same words,
-- with the same code, keeps running, with its pipes, sockets and marks.
local ffi = require("ffi")
local api = require("flowd.api")
local config = require("flowd.config")
local counters = require("flowd.counters")
local log = require("flowd.log")
local plugins = require("flowd.plugins")
local privileges = require("flowd.privileges")
local watch = require("flowd.watch")

local reload = {}

-- What is taken when the process starts.
reload.at_start = { "runtime_dir", "state_dir", "cache_dir", "pid_file", "max_flows", "user", "group" }

local kind_of = { plugin = "plugins", backend = "backends" }

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function same_module(old, new, kind, name)
  local was, is = old.modules[kind][name], new.modules[kind][name]
  if not was or not is then return false end
  local text = plugins.source(was)
  return text == plugins.source(is) and (text ~= nil or was == is)
end

-- Does an instance run as the new configuration wants it?
local function unchanged(old, new, kind, name)
  return same_module(old, new, kind, name) and same(old.values[kind][name], new.values[kind][name])
end

-- One that can takes its new options while it runs.
local function change(daemon, new, entry)
  local kind, instance = kind_of[entry.kind], entry.instance
  local options = new.values[kind][entry.name]
  if not instance.change or not options or not same_module(daemon.config, new, kind, entry.name) then return false end
  local ok, changed = pcall(watch.call, entry.kind, entry.name, instance.change, instance, options)
  if not ok then log.error("reload: %s '%s': %s", entry.kind, entry.name, tostring(changed)) end
  if not ok or not changed then return false end
  instance.options, instance.ctx.options = options, options
  log.info("reload: %s '%s' goes on with its new options", entry.kind, entry.name)
  return true
end

local function stop(daemon, entry)
  log.info("reload: %s '%s' is stopped", entry.kind, entry.name)
  plugins.stop(entry.instance)
  for i, other in ipairs(daemon.instances) do
    if other == entry then
      table.remove(daemon.instances, i)
      break
    end
  end
end

local function entries(daemon, kind)
  local list = {}
  for _, entry in ipairs(daemon.instances) do
    if entry.kind == kind then list[#list + 1] = entry end
  end
  return list
end

-- Stop what the new configuration has not, or has otherwise. Returns the names that go on.
local function stop_changed(daemon, new, what)
  local kept = {}
  for _, entry in ipairs(entries(daemon, what)) do
    if unchanged(daemon.config, new, kind_of[what], entry.name) or change(daemon, new, entry) then
      kept[entry.name] = entry.instance
    else
      stop(daemon, entry)
    end
  end
  return kept
end

-- Everything that can be wrong is found before anything changes.
local function load(daemon)
  local new, errors = config.load(daemon.config.path, daemon.config.overrides)
  if not new then return nil, errors end
  local bits, message = daemon:backend_bits(new)
  if not bits then return nil, { message } end
  local chain, problems = daemon:compile_rules(new, bits)
  if not chain then return nil, problems end
  local denied = privileges.denied(new, function(kind, name) return unchanged(daemon.config, new, kind, name) end)
  if denied then return nil, denied end
  return new, nil, bits, chain
end

local function apply(daemon, new, bits, chain)
  for _, name in ipairs(reload.at_start) do
    if new.values[name] ~= daemon.values[name] then
      log.warn("reload: %s is now %s: it is taken at the next restart", name, tostring(new.values[name]))
      new.values[name] = daemon.values[name]
    end
  end
  for _, failed in ipairs(daemon.failed) do
    counters.get("flowd_modules_failed", { kind = failed.kind, name = failed.name }).value = 0
  end
  daemon.failed, daemon.off = {}, {}
  -- Events that wait were made under the rules from before.
  daemon.flush_emitted()
  local kept_plugins = stop_changed(daemon, new, "plugin")
  daemon.flush_emitted()
  local kept_backends = stop_changed(daemon, new, "backend")
  daemon:use(new)
  daemon:start_backends(bits, kept_backends)
  daemon:use_chain(chain)
  daemon:adopt_flows(kept_backends)
  daemon:start_plugins(kept_plugins)
  log.setup(new.values.log.level, new.values.log.time)
  daemon:keep_configuration()
  daemon.console:use()
end

--- Load the configuration again. What is wrong with it is logged, and then nothing changes.
---@param daemon table flowd.daemon's
---@return boolean
function reload.run(daemon)
  local path = daemon.config.path
  local started = api.clock_monotonic_ns()
  local ok, new, errors, bits, chain = xpcall(load, debug.traceback, daemon)
  if not ok then new, errors = nil, { tostring(new) } end
  if not new then
    local counter = counters.get("flowd_reloads_total", { result = "refused" })
    counter.value = counter.value + 1
    for _, message in ipairs(errors) do log.error("%s", message) end
    log.error("reload: %s has %d error%s: the configuration before it goes on", path, #errors, #errors == 1 and "" or "s")
    return false
  end
  apply(daemon, new, bits, chain)
  local counter = counters.get("flowd_reloads_total", { result = "ok" })
  counter.value = counter.value + 1
  log.info("reload: %s is in use: plugins %s; backends %s; %d rules; took %.0f ms", path, daemon:running("plugin"),
    daemon:running("backend"), #chain.rules,
    tonumber(ffi.cast("int64_t", api.clock_monotonic_ns() - started)) / 1e6)
  return true
end

return reload
