-- SPDX-License-Identifier: Apache-2.0
--- Random Lua programs that end, for what must not change what a program does: calls in calls, values without
--- number, metamethods, protected calls, closures, loops. None asks how long a list with nil in it is: that is not
--- defined, and machine code may answer otherwise than the interpreter.
local random_lua = {}

local random = math.random

local function pick(list) return list[random(#list)] end

local HEAD = [[
local log = {}
local function note(...)
  local n = select("#", ...)
  local parts = {}
  for i = 1, n do parts[i] = tostring((select(i, ...))) end
  log[#log + 1] = n .. ":" .. table.concat(parts, ",")
  return ...
end
local function many(n, ...) if n <= 0 then return ... end return many(n - 1, n, ...) end
local function first(a) return a end
local function count(...) return select("#", ...), ... end
local function tail(...) return count(...) end
local function dense(...)
  local list = {}
  for i = 1, select("#", ...) do list[i] = (select(i, ...)) == nil and 0 or (select(i, ...)) end
  return list
end
local meta = {}
meta.__index = function(_, k) return note(k, #tostring(k)) end
meta.__newindex = function(t, k, v) rawset(t, k, first(note(v))) end
meta.__add = function(a, b) return first(note(rawget(a, 1) or 0, b)) end
meta.__eq = function() return first(note(true)) end
meta.__lt = function() return first(note(false)) end
meta.__concat = function(_, b) return "<" .. tostring(b) .. ">" end
meta.__call = function(_, ...) return note(...) end
meta.__tostring = function() return first(note("object")) end
meta.__len = function() return 3 end
local object, other = setmetatable({ 5 }, meta), setmetatable({}, meta)
local a, b, c, t = 1, "x", nil, { 1, 2, 3 }
]]

local expression

local atoms = { "a", "b", "c", "1", "2.5", '"s"', "nil", "true", "false", "#t", "t[1]", "t.n", "object.x", "(...)" }

local function list(depth, max)
  local items = {}
  for i = 1, random(0, max or 3) do items[i] = expression(depth) end
  return table.concat(items, ", ")
end

local forms = {
  function(d) return ("count(%s)"):format(list(d)) end,
  function(d) return ("tail(%s)"):format(list(d)) end,
  function(d) return ("note(%s)"):format(list(d)) end,
  function(d) return ("(note(%s))"):format(list(d)) end,
  function(d) return ("count(many(%d, %s))"):format(random(0, 4), expression(d)) end,
  function(d) return ("object(%s)"):format(list(d)) end,
  function(d) return ("pcall(count, %s)"):format(expression(d)) end,
  function(d) return ("select(2, pcall(function(...) return note(%s), ... end, %s))"):format(expression(d), expression(d)) end,
  function() return 'select("#", pcall(error, { "e" }))' end,
  function(d) return ("(function(...) return %s end)(%s)"):format(list(d), list(d)) end,
  function(d) return ("#dense(%s, many(%d))"):format(expression(d), random(0, 5)) end,
  function(d) return ("unpack({ %s, many(%d) }, 1, %d)"):format(expression(d), random(0, 5), random(0, 5)) end,
  function(d) return ("unpack({ %s, count(%s) }, 1, %d)"):format(expression(d), list(d), random(0, 5)) end,
  function(d) return ("tostring(%s)"):format(expression(d)) end,
  function() return "tostring(object)" end,
  function(d) return ("(object + first(%s))"):format(expression(d)) end,
  function() return "(object == other)" end,
  function() return "(object < other)" end,
  function(d) return ("(object .. tostring(%s))"):format(expression(d)) end,
  function(d) return ("(%s and %s or %s)"):format(expression(d), expression(d), expression(d)) end,
  function(d) return ('("%%s/%%s"):format(tostring(%s), tostring(%s))'):format(expression(d), expression(d)) end,
  function(d) return ('(tostring(%s):gsub("%%w", "%%0%%0"))'):format(expression(d)) end,
  function(d) return ("table.concat({ tostring(%s), tostring(%s) }, \"-\")"):format(expression(d), expression(d)) end,
  function(d) return ("math.max(#tostring(%s), 2)"):format(expression(d)) end,
}

function expression(depth)
  if depth <= 0 or random(4) == 1 then return pick(atoms) end
  return pick(forms)(depth - 1)
end

local statements
local statement = {
  function(d) return ("%s = %s"):format(pick({ "a", "b", "c" }), expression(d)) end,
  function(d) return ("a, b, c = %s"):format(expression(d)) end,
  function(d) return ("t[#t + 1] = (%s)"):format(expression(d)) end,
  function(d) return ("t = dense(%s, note(%s))"):format(expression(d), list(d)) end,
  function(d) return ("other.y = %s other.y = nil"):format(expression(d)) end,
  function(d) return ("note(%s)"):format(list(d, 4)) end,
  function(d) return ("if %s then %s else %s end"):format(expression(d), statements(d - 1, 2), statements(d - 1, 2)) end,
  function(d) return ("for i = 1, %d do local a = i %s end"):format(random(0, 4), statements(d - 1, 2)) end,
  function(d) return ("for k, v in ipairs({ %s, %s }) do note(k, v) end"):format(expression(d), list(d)) end,
  function() return "do local n = 0 for _, v in pairs({ 4, 5, x = 6 }) do n = n + v end note(n) end" end,
  function(d) return ("do local f = function(...) a = %s return ... end note(f(%s)) end"):format(expression(d), list(d)) end,
  function() return "table.insert(t, 1, a == nil and 0 or a) note(table.remove(t, 1))" end,
  function(d) return ("do local n = 0 while n < %d do n = n + 1 %s end end"):format(random(0, 3), statements(d - 1, 1)) end,
}

function statements(depth, max)
  if depth <= 0 then return ("note(%s)"):format(list(0)) end
  local out = {}
  for i = 1, random(1, max) do out[i] = pick(statement)(depth) end
  return table.concat(out, "\n")
end

--- A program: its function returns a text that tells what it did.
---@return string source
function random_lua.program()
  return ("local function program(...)\n%s%s\nreturn table.concat(log, \";\")\nend\nreturn program(%s)"):format(HEAD, statements(4, 6),
    "7, nil, 'v'")
end

return random_lua
