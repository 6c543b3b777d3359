-- SPDX-License-Identifier: Apache-2.0
--- The environment of configuration and rule files: the sandbox, and the words of policy in it:
--- rule, drop, accept, require, flowd.prefixes, flowd.address, flowd.map, flowd.state, flowd.log.
local addresses = require("flowd.addresses")
local definition = require("flowd.rules.definition")
local dry = require("flowd.dry")
local helpers = require("flowd.helpers")
local log = require("flowd.log")
local map = require("flowd.map")
local sandbox = require("flowd.sandbox")
local show = require("flowd.show")
local state = require("flowd.state")
local suggest = require("flowd.suggest")
local timers = require("flowd.timers")
local cell = require("flowd.view").cell

local policy = {}

---@class flowd.Policy
---@field env table the global environment
---@field files? flowd.map.Files of its maps
local Policy = {}
Policy.__index = Policy

-- Maps made and not yet bound to a registry: of the configuration that is being loaded.
local unbound = {}

---@class flowd.policy.Files how the files of a configuration are found and read
---@field directory string what relative names refer to
---@field owner integer uid whose files are trusted, besides root's
---@field read fun(path: string): string?, string?
---@field kept? boolean `read` gives what was kept of the files

-- What rules say: at a limited rate, as they run for every flow.
local loggers = {}
for _, level in ipairs({ "debug", "info", "warn", "error" }) do loggers[level] = log.limited(20, 60) end

local function say(level, format, ...)
  local logger = loggers[level]
  if not logger then
    error(('flowd.log: expected a level, "debug", "info", "warn" or "error"; got %s%s'):format(show(level),
      suggest.hint(level, { "debug", "info", "warn", "error" })), 2)
  end
  local ok, text = pcall(string.format, format, ...)
  if not ok then error(("flowd.log: %s"):format((text:gsub("to '%?'", "of string.format"))), 2) end
  if dry.on then return dry.say(("%s: %s"):format(level, text)) end
  logger(level, "%s", text)
end

-- What is made by a running rule would be made for each flow, and never be of use.
local function not_in_a_rule(what)
  if cell.event ~= nil then error(("%s cannot be made by a rule: make it in the file, outside of rules"):format(what), 4) end
end

-- The words that rule files and files of maps share.
local function words_of(box, makers)
  box:define("flowd", sandbox.closed({
    prefixes = addresses.prefixes,
    address = function(text)
      local address, message = addresses.parse(text)
      if not address then error(message, 2) end
      return address
    end,
    every = timers.every,
    after = timers.after,
    map = sandbox.closed(makers, "flowd.map"),
    state = sandbox.closed({ counter = state.counter, table = state.table }, "flowd.state"),
    log = say,
  }, "flowd"))
end

-- How maps find their files. A Lua file that is a map has an environment of its own.
local function map_files(files)
  local self = { directory = files.directory, owner = files.owner, read = files.read, kept = files.kept, inner = {} }
  local box
  function self.load(text, chunkname)
    if not box then
      box = sandbox.new()
      words_of(box, map.makers(function(made) self.inner[#self.inner + 1] = made end, self))
    end
    return box:load_text(text, chunkname)
  end
  return self
end

--- An environment for one configuration and its rule files. Maps that an earlier one left
--- unbound (it was never compiled) are forgotten.
---@param files? flowd.policy.Files nil: maps are made from tables only
---@return flowd.Policy
function policy.new(files)
  for i = #unbound, 1, -1 do unbound[i] = nil end
  timers.forget()
  local box = sandbox.new()
  local self = setmetatable({ box = box, env = box.env, made = {}, named = {}, sealed = false }, Policy)
  local function check(what)
    if not self.sealed then return end
    error(("%s cannot be made by a timer: make it in the file, outside of timers"):format(what), 4)
  end
  box:define("rule", definition.maker(function(rule)
    not_in_a_rule("a rule")
    check("a rule")
    self.made[#self.made + 1] = rule
  end, self.named))
  box:define("drop", definition.drop)
  box:define("accept", definition.accept)
  if files then box:define("require", helpers.require(box, files)) end
  self.files = files and map_files(files)
  words_of(box, map.makers(function(made)
    not_in_a_rule("a map")
    check("a map")
    unbound[#unbound + 1] = made
  end, self.files))
  return self
end

--- All of the configuration is loaded: what would be made from now on, nobody would use.
function Policy:seal() self.sealed = true end

--- Compile the text of a file; its globals are the environment.
---@param text string
---@param chunkname string "@" and the path
---@return function? chunk, string? message
function Policy:load(text, chunkname) return self.box:load_text(text, chunkname) end

--- The rules made since the last call, in order.
---@return flowd.Rule[] made
---@return string[] problems rules that have a name and no body
function Policy:take_rules()
  local made, problems = self.made, {}
  self.made = {}
  for give, problem in pairs(self.named) do
    self.named[give] = nil
    problems[#problems + 1] = problem
  end
  table.sort(problems)
  return made, problems
end

--- Check the values of all maps against the registry and make the maps answer.
---@param registry flowd.Registry
---@return string[] problems
function policy.bind_maps(registry) return map.bind(unbound, registry) end

return policy
