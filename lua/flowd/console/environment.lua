-- SPDX-License-Identifier: Apache-2.0
--- What is there at the prompt: the policy's globals, the console's commands, and what the session assigned.
jit.off(true, true)

local arguments = require("flowd.console.arguments")
local callbacks = require("flowd.console.callbacks")
local sandbox = require("flowd.sandbox")
local slice = require("flowd.slice")
local suggest = require("flowd.suggest")

slice.may_be_left()

local environment = {}

local NAMES_MAX = 2000 -- of those that were assigned

-- The methods of strings too.
rawset(string, "gsub", callbacks.string.gsub)

local function copy(library, replaced, name)
  local out = {}
  for key, value in pairs(library) do out[key] = value end
  for key, value in pairs(replaced or {}) do out[key] = value end
  return sandbox.closed(out, name)
end

-- What a client that may only ask sees of `flowd`. Maps are none of it: they read files.
local questions = { prefixes = true, address = true }

-- These start something that goes on when the client has left.
local timers = { ["flowd.every"] = true, ["flowd.after"] = true }

-- What the policy has that cannot be changed.
local constant = { drop = true, accept = true }

-- The policy's functions: what they are given is looked at first, as they cannot be left in the middle.
local function checked(library, name, wanted, on_timer)
  local out, hidden = {}, {}
  for key, value in next, library do
    local full = name .. "." .. key
    if wanted and not wanted[key] then
      -- Not as if it were misspelt.
      value = nil
      hidden[key] = true
    elseif type(value) == "table" then
      value = checked(value, full, nil, on_timer)
    elseif type(value) == "function" then
      local fn = value
      local before_timer = on_timer and timers[full]
      value = function(...)
        arguments.check(full, ...)
        if before_timer then on_timer(full) end
        return fn(...)
      end
    end
    out[key] = value
  end
  sandbox.closed(out, name)
  local meta = debug.getmetatable(out)
  local unknown = meta.__index
  function meta.__index(t, key)
    if hidden[key] then error(("%s.%s: you may ask, but not change anything (console.readonly_group)"):format(name, key), 2) end
    return unknown(t, key)
  end
  return out
end

--- Every name that can be used.
---@param env table
---@return string[] sorted
function environment.names(env)
  local seen, names = {}, {}
  for _, layer in ipairs(debug.getmetatable(env).__layers) do
    local looked_at = 0
    for name in next, layer do
      looked_at = looked_at + 1
      if looked_at > NAMES_MAX then break end
      if type(name) == "string" and not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

--- The global environment of one session. What is assigned there stays until the session ends.
---@param policy_env table globals of the policy
---@param commands table<string, any> the console's own
---@param readonly boolean
---@param on_timer fun(name: string) is told before a timer is started
---@return table env
---@return table variables what is assigned
function environment.new(policy_env, commands, readonly, on_timer)
  local own, variables = {}, {}
  for name, value in pairs(commands) do own[name] = value end
  own.string = copy(rawget(policy_env, "string"), callbacks.string, "string")
  own.table = copy(rawget(policy_env, "table"), callbacks.table, "table")
  own.tostring, own.xpcall, own.setmetatable = callbacks.tostring, callbacks.xpcall, arguments.setmetatable
  own.flowd = checked(rawget(policy_env, "flowd"), "flowd", readonly and questions or nil, on_timer)
  if readonly then
    -- What a file of the site returns is shared with its rules.
    own.require = function() error("require: you may ask, but not change anything", 2) end
    -- Entries of the policy's own libraries can be assigned to.
    for name, value in next, policy_env do
      if type(value) == "table" and not own[name] and not constant[name] then own[name] = copy(value, nil, name) end
    end
  end
  local env = {}
  local meta = { __layers = { variables, own, policy_env }, __newindex = variables }
  function meta.__index(_, name)
    local value = variables[name]
    if value == nil then value = own[name] end
    if value == nil and type(name) == "string" then value = rawget(policy_env, name) end
    if value ~= nil or name == "_" then return value end
    error(("%s is not defined%s"):format(tostring(name), suggest.hint(tostring(name), environment.names(env))), 2)
  end
  -- The sandbox's getmetatable would hand it out.
  meta.__metatable = nil
  return setmetatable(env, meta), variables
end

return environment
