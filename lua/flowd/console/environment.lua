-- SPDX-License-Identifier: Apache-2.0
--- What is there at the prompt: the policy's globals, the console's commands, and what the session assigned.
jit.off(true, true)

local sandbox = require("flowd.sandbox")
local slice = require("flowd.slice")
local suggest = require("flowd.suggest")

local environment = {}

-- Functions that call back: in a form that can be left in the middle. The methods of strings too.
rawset(string, "gsub", slice.library.string.gsub)

local function copy(library, replaced, name)
  local out = {}
  for key, value in pairs(library) do out[key] = value end
  for key, value in pairs(replaced) do out[key] = value end
  return sandbox.closed(out, name)
end

-- What a client that may only ask sees of `flowd`.
local questions = { prefixes = true, address = true, map = true }

local function readonly_flowd(flowd)
  local out = {}
  for key in pairs(questions) do out[key] = rawget(flowd, key) end
  return sandbox.closed(out, "flowd")
end

--- Every name that can be used.
---@param env table
---@return string[] sorted
function environment.names(env)
  local seen, names = {}, {}
  for _, layer in ipairs(getmetatable(env).__layers) do
    for name in next, layer do
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
---@return table env
function environment.new(policy_env, commands, readonly)
  local own, variables = {}, {}
  for name, value in pairs(commands) do own[name] = value end
  own.string = copy(rawget(policy_env, "string"), slice.library.string, "string")
  own.table = copy(rawget(policy_env, "table"), slice.library.table, "table")
  local flowd = rawget(policy_env, "flowd")
  if readonly then
    own.flowd = flowd and readonly_flowd(flowd)
    -- What a file of the site returns is shared with its rules.
    own.require = function() error("require: you may ask, but not change anything", 2) end
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
