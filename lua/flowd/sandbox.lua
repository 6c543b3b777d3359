-- SPDX-License-Identifier: Apache-2.0
--- The environment of configuration and rule files.
--
-- Each sandbox has copies of its own of what it may use: changing them changes nothing for
-- the daemon or for another sandbox. What reaches outside (files, processes, FFI, the
-- compiler, bytecode, other environments, the metatable that all strings share) is not
-- there, and a name that is not there is an error where it is used.
local bit = require("bit")
local dry = require("flowd.dry")
local log = require("flowd.log")
local suggest = require("flowd.suggest")

local sandbox = {}

-- Every string reaches the string library, ("").dump: what makes bytecode of a function goes.
string.dump = nil -- luacheck: ignore 122

---@class flowd.Sandbox
---@field env table the global environment of everything loaded here
local Sandbox = {}
Sandbox.__index = Sandbox

-- What the libraries give: named one by one, so that a newer LuaJIT adds nothing by itself.
local libraries = {
  string = { string, "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse", "sub", "upper" },
  table = { table, "concat", "insert", "maxn", "remove", "sort" },
  math = { math, "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cosh", "deg", "exp", "floor", "fmod", "frexp",
    "huge", "ldexp", "log", "log10", "max", "min", "modf", "pi", "pow", "rad", "random", "sin", "sinh", "sqrt", "tan", "tanh" },
  bit = { bit, "arshift", "band", "bnot", "bor", "bswap", "bxor", "lshift", "rol", "ror", "rshift", "tobit", "tohex" },
  os = { os, "clock", "date", "difftime", "time" },
}

local functions = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, pcall = pcall, select = select,
  setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, xpcall = xpcall,
}

-- Of a table only: strings share one metatable with the daemon.
function functions.getmetatable(value)
  if type(value) ~= "table" then return nil end
  return getmetatable(value)
end

-- What writes into a table past its metatable keeps off those that are closed.
local function open_only(name, fn)
  return function(t, ...)
    if type(t) == "table" and getmetatable(t) == false then
      error(("table.%s: %s cannot be changed"):format(name, tostring(t)), 2)
    end
    return fn(t, ...)
  end
end

local wrapped = { [table] = { insert = open_only("insert", table.insert), remove = open_only("remove", table.remove),
  sort = open_only("sort", table.sort) } }

function functions.print(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  if dry.on then return dry.say(table.concat(parts, "\t")) end
  log.info("%s", table.concat(parts, "\t"))
end

-- Names people know from Lua, with the reason why they are not here.
local absent = {
  collectgarbage = "the daemon looks after its memory",
  coroutine = "rules and configuration run to their end",
  debug = "", ffi = "", jit = "", package = "", newproxy = "", getfenv = "", setfenv = "", gcinfo = "", module = "",
  io = "files are the daemon's", dofile = "", load = "", loadfile = "", loadstring = "",
  require = "there is no configuration directory here",
  rawequal = "", rawget = "", rawset = "", rawlen = "", _G = "declare what is shared with `local`",
}

local function names_of(t)
  local names = {}
  for name in pairs(t) do
    if type(name) == "string" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

local function show(value)
  return type(value) == "string" and value or ("[%s]"):format(tostring(value))
end

-- Reading what is not there and adding what was not declared are errors of the line that does it.
local function close(t, owner)
  return setmetatable(t, {
    __index = function(_, name)
      local full = owner and owner .. "." .. show(name) or show(name)
      local why = not owner and absent[name] or owner and ""
      if why then
        error(("%s is not available in configuration and rule files%s%s"):format(full,
          why ~= "" and ": " .. why or "", suggest.hint(name, names_of(t))), 2)
      end
      error(("%s is not defined%s"):format(full, suggest.hint(name, names_of(t))), 2)
    end,
    __newindex = function(_, name)
      if owner then error(("%s.%s cannot be added: %s is closed"):format(owner, show(name), owner), 2) end
      error(("%s is not declared: write `local %s = …`"):format(show(name), show(name)), 2)
    end,
    __metatable = false,
  })
end

--- A table that scripts may read but not extend; unknown names are errors.
---@param fields table
---@param owner string its name, for messages
function sandbox.closed(fields, owner) return close(fields, owner) end

--- A sandbox of its own.
---@return flowd.Sandbox
function sandbox.new()
  local env = {}
  for name, fn in pairs(functions) do env[name] = fn end
  for name, library in pairs(libraries) do
    local copy = {}
    local special = wrapped[library[1]] or {}
    for i = 2, #library do copy[library[i]] = special[library[i]] or library[1][library[i]] end
    env[name] = close(copy, name)
  end
  return setmetatable({ env = close(env) }, Sandbox)
end

--- Give the sandbox another name.
---@param name string
---@param value any
function Sandbox:define(name, value) rawset(self.env, name, value) end

--- Compile text; its globals are the sandbox.
---@param text string Lua source: bytecode is refused
---@param chunkname string as for loadstring: "@conf.lua"
---@return function? chunk, string? message
function Sandbox:load_text(text, chunkname)
  local name = chunkname:gsub("^[@=]", "")
  -- A byte order mark, as some editors write, is no Lua.
  if text:sub(1, 3) == "\239\187\191" then text = text:sub(4) end
  if text:sub(1, 3) == "\27LJ" or text:sub(1, 4) == "\27Lua" then
    return nil, name .. ": this is compiled Lua; only source text is accepted"
  end
  -- A first line that starts with # is for the shell.
  if text:sub(1, 1) == "#" then text = "--" .. text end
  return load(text, chunkname, "t", self.env)
end

--- Compile a file; its globals are the sandbox.
---@param path string
---@return function? chunk, string? message
function Sandbox:load_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text, read_message = file:read("*a")
  file:close()
  if not text then return nil, ("%s: %s"):format(path, read_message or "cannot be read") end
  return self:load_text(text, "@" .. path)
end

return sandbox
