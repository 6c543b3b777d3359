-- SPDX-License-Identifier: Apache-2.0
--- Lua that may take long, run in slices between batches of events.
--
-- A slice is a coroutine that is interpreted and left, wherever it is, when its time is spent: in an
-- endless loop, in a metamethod, under pcall. The hook that does it is there only during a step, so that
-- everything else runs as fast as ever. What it calls is interrupted too, unless LuaJIT has or gets it
-- compiled (a long loop of the framework needs jit.off), or a C function such as string.find is at work.
--
-- Inside a function that a C function calls a coroutine cannot be left. After 200 ms there (what was typed at the console:
-- 2 ms) it ends with an error. slice.library has table.sort and string.gsub without that limit.
--
-- Where others run between two steps, on the same data, slice.among is for it: such a slice is not left inside
-- functions of the framework, which are written for being alone, except those of files that call
-- slice.may_be_left.
local core = require("flowd.slice_core")

local step = core.step
local find, sub, c_gsub = string.find, string.sub, string.gsub
local concat = table.concat

local slice = {}

---@class flowd.Slice
---@field thread thread
---@field finished boolean
---@field anywhere boolean it may be left wherever it is
local Slice = {}
Slice.__index = Slice

--- A slice that runs a function. Nothing happens before the first step.
---@param fn function it and the functions inside it are never compiled from now on
---@param ... any its arguments
---@return flowd.Slice
function slice.new(fn, ...)
  jit.off(fn, true)
  return setmetatable({
    thread = coroutine.create(fn), arguments = { n = select("#", ...), ... }, finished = false, anywhere = true,
  }, Slice)
end

--- The same beside others that use the framework between its steps.
---@param fn function
---@param ... any
---@return flowd.Slice
function slice.among(fn, ...)
  local self = slice.new(fn, ...)
  self.anywhere = false
  return self
end

--- Leave here, if this runs in a slice and its time is spent: for what takes long in files that may not be left
--- elsewhere. Others run meanwhile.
function slice.pause()
  if core.spent() then coroutine.yield("pause") end
end

--- Does this run in a slice whose time is spent? Also where it cannot be left, and should come to its end.
---@return boolean
function slice.spent() return core.spent(true) end

--- The file that calls this may be left at any instruction: what it finds in place before a loop or call may be
--- another behind it, and what it puts in place in several steps is seen half done.
function slice.may_be_left() core.may_be_left[debug.getinfo(2, "S").source] = true end

local function result(self, what, ...)
  if what ~= "more" then self.finished = true end
  return what, ...
end

--- Run for a while.
---@param budget_ns number nanoseconds
---@param ... any what coroutine.yield returns inside, if that is what left
---@return "more"|"done"|"error" what
---@return any ... more: values given to coroutine.yield, none when the time was spent; done: results; error: the
---   error and a traceback, which begins with "stack traceback:"
function Slice:step(budget_ns, ...)
  if self.finished then error("this slice has ended", 2) end
  local arguments = self.arguments
  if arguments then
    self.arguments = nil
    return result(self, step(self.thread, budget_ns, self.anywhere, unpack(arguments, 1, arguments.n)))
  end
  return result(self, step(self.thread, budget_ns, self.anywhere, ...))
end

--- Never go on with it. Where it was, if it had begun:
---@return string traceback
function Slice:cancel()
  self.finished = true
  local trace = debug.traceback(self.thread)
  self.thread = nil
  return trace
end

--- Run to the end, in one go after the other, for tests and where nothing else waits.
---@return "done"|"error" what
---@return any ...
function Slice:finish()
  local function go_on(what, ...)
    if what == "more" then return go_on(self:step(1e9)) end
    return what, ...
  end
  return go_on(self:step(1e9))
end

-- Heap sort: in place, no recursion, and any comparison function, however wrong, ends.
local function sift(list, first, last, before)
  local root = first
  local value = list[root]
  while true do
    local child = 2 * root
    if child > last then break end
    if child < last and before(list[child], list[child + 1]) then child = child + 1 end
    if not before(value, list[child]) then break end
    list[root] = list[child]
    root = child
  end
  list[root] = value
end

local function less(a, b) return a < b end

local function sort(list, before)
  if type(list) ~= "table" then error(("bad argument #1 to 'sort' (table expected, got %s)"):format(type(list)), 2) end
  if before ~= nil and type(before) ~= "function" then
    error(("bad argument #2 to 'sort' (function expected, got %s)"):format(type(before)), 2)
  end
  before = before or less
  local count = #list
  for i = math.floor(count / 2), 1, -1 do sift(list, i, count, before) end
  for last = count, 2, -1 do
    list[1], list[last] = list[last], list[1]
    sift(list, 1, last - 1, before)
  end
end

-- %0 to %9 in the text that takes the place of a match.
local function expand(template, whole, ...)
  if not find(template, "%", 1, true) then return template end
  local count, captures = select("#", ...), { ... }
  return (c_gsub(template, "%%(.?)", function(c)
    local number = tonumber(c)
    if not number then return c end
    if number == 0 or number == 1 and count == 0 then return whole end
    if number > count then error("invalid capture index", 0) end
    return tostring(captures[number])
  end))
end

local function replacement(whole, replace, first, ...)
  local value
  if type(replace) == "string" then
    if first == nil then return expand(replace, whole) end
    return expand(replace, whole, first, ...)
  elseif type(replace) == "table" then
    value = replace[first == nil and whole or first]
  elseif first == nil then
    value = replace(whole)
  else
    value = replace(first, ...)
  end
  if not value then return whole end
  if type(value) ~= "string" and type(value) ~= "number" then
    error(("invalid replacement value (a %s)"):format(type(value)), 0)
  end
  return value
end

-- The match that string.find tells, if any: first, last, captures.
local function replace_match(out, text, from, replace, first, last, ...)
  if not first then return nil end
  out[#out + 1] = sub(text, from, first - 1)
  out[#out + 1] = replacement(sub(text, first, last), replace, ...)
  return first, last
end

-- In shorter texts what calls nothing is replaced at once; also in longer ones: those are files, which no slice that others
-- wait for has. And pieces of a text that are put together.
local SHORT, LONG, PIECES = 8192, 65536, 4096

local function gsub(text, pattern, replace, count_max)
  local kind = type(replace)
  local calls = kind == "function" or kind == "table" and getmetatable(replace)
  local waited_for = type(text) == "string" and #text > SHORT and #text <= LONG and (kind == "string" or kind == "table")
  if not calls and not waited_for then
    return c_gsub(text, pattern, replace, count_max)
  end
  text, pattern = tostring(text), tostring(pattern)
  local out, count, from = {}, 0, 1
  local anchored = sub(pattern, 1, 1) == "^"
  while not count_max or count < count_max do
    local first, last = replace_match(out, text, from, replace, find(text, pattern, from))
    if not first then break end
    count = count + 1
    if last >= first then
      from = last + 1
    else
      -- Nothing was matched: the octet there is taken over.
      out[#out + 1] = sub(text, first, first)
      from = first + 1
    end
    if anchored or from > #text + 1 then break end
    if #out >= PIECES then out = { concat(out) } end
  end
  out[#out + 1] = sub(text, from)
  return concat(out), count
end

--- What a sandbox for sliced code has in place of the C functions that call back into Lua.
slice.library = { table = { sort = sort }, string = { gsub = gsub } }

slice.may_be_left()

for _, fn in ipairs({ sift, less, sort, expand, replacement, replace_match, gsub }) do jit.off(fn) end

return slice
