-- SPDX-License-Identifier: Apache-2.0
--- The environment in which a configuration file and its rule files run.
local sandbox = require("flowd.sandbox")

local config_sandbox = {}

local Rule = {}

--- Was it made by `rule "name" …`?
---@param value any
---@return boolean
function config_sandbox.is_rule(value) return type(value) == "table" and getmetatable(value) == Rule end

--- rule "name" (function(flow) … end) or rule "name" { match = …, set = …, route = … }
local function rule(name)
  if type(name) ~= "string" or name == "" then error("rule: expected a name", 2) end
  return function(body)
    if type(body) ~= "function" and type(body) ~= "table" then
      error(('rule "%s": expected a function or a table; got %s'):format(name, type(body)), 2)
    end
    local at = debug.getinfo(2, "Sl")
    return setmetatable({ name = name, body = body, file = at.short_src, line = at.currentline }, Rule)
  end
end

local Policy = {}
Policy.__index = Policy

--- A new environment.
function config_sandbox.new()
  local box = sandbox.new()
  box:define("rule", rule)
  box:define("drop", {})
  box:define("accept", {})
  return setmetatable({ box = box }, Policy)
end

--- Compile text to run in the environment.
---@param text string
---@param chunkname string
---@return function|nil chunk, string|nil message
function Policy:load(text, chunkname) return self.box:load_text(text, chunkname) end

return config_sandbox
