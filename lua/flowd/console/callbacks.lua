-- SPDX-License-Identifier: Apache-2.0
--- Functions of Lua that call back, in a form that can be left in the middle: what is called from C cannot.
jit.off(true, true)

local slice = require("flowd.slice")

slice.may_be_left()

local callbacks = { string = { gsub = slice.library.string.gsub }, table = slice.library.table }

local metatable_of, c_format, c_tostring = debug.getmetatable, string.format, tostring

--- As Lua's.
function callbacks.tostring(...)
  local value = ...
  local metatable = type(value) == "table" and metatable_of(value)
  local fn = metatable and rawget(metatable, "__tostring")
  if type(fn) == "function" then return (fn(value)) end
  return c_tostring(...)
end

local function as_text(value) return type(value) == "table" and callbacks.tostring(value) or value end

--- As Lua's, where it is not called as a method of a text.
function callbacks.string.format(...)
  local count, objects = select("#", ...), false
  for i = 2, count do objects = objects or type((select(i, ...))) == "table" end
  if not objects then return c_format(...) end
  local given = { ... }
  for i = 2, count do given[i] = as_text(given[i]) end
  return c_format(unpack(given, 1, count))
end

local function handled(handler, ok, ...)
  if ok then return true, ... end
  return false, handler(...)
end

--- As Lua's, but the handler runs when the function has ended: there is no traceback to be had there anyway.
function callbacks.xpcall(fn, handler, ...) return handled(handler, pcall(fn, ...)) end

return callbacks
