-- SPDX-License-Identifier: Apache-2.0
--- The environment in which a configuration file and its rule files run.
local config_sandbox = {}

local function copy(source, ...)
  local out = {}
  for _, name in ipairs({ ... }) do out[name] = source[name] end
  return out
end

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

--- A new environment.
---@return table
function config_sandbox.environment()
  local environment = copy(_G, "assert", "error", "ipairs", "next", "pairs", "pcall", "select", "tonumber",
    "tostring", "type", "unpack", "xpcall")
  environment.math = copy(math, "abs", "ceil", "floor", "fmod", "huge", "max", "min", "modf", "pi", "pow", "random", "sqrt")
  environment.string = copy(string, "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep",
    "reverse", "sub", "upper")
  environment.table = copy(table, "concat", "insert", "maxn", "remove", "sort")
  environment.os = copy(os, "date", "time", "getenv")
  environment.rule = rule
  return setmetatable(environment, {
    __index = function(_, name) error(("unknown name '%s'"):format(tostring(name)), 2) end,
    __newindex = function(_, name) error(("global '%s' is not declared: put local before it"):format(tostring(name)), 2) end,
    __metatable = false,
  })
end

--- Compile text (never bytecode) to run in an environment.
---@param text string
---@param chunkname string
---@param environment table
---@return function|nil chunk, string|nil message
function config_sandbox.load(text, chunkname, environment)
  -- A first line that starts with # is for the shell.
  if text:sub(1, 1) == "#" then text = "--" .. text end
  return load(text, chunkname, "t", environment)
end

return config_sandbox
