-- SPDX-License-Identifier: Apache-2.0
--- Numbers that stand for C memory where scripts can see them.
--
-- A set or map that a rule holds contains a number, never a pointer. Any number that a script
-- puts there is the number of something valid, if only of the empty thing: so nothing that a
-- script does reaches memory that is not meant for it. One load from a constant address takes a
-- number to its pointer.
local ffi = require("ffi")

local numbers = {}

---@class flowd.Numbers
---@field pointers ffi.cdata* by number; valid from 0 to max - 1
---@field max integer
local Numbers = {}
Numbers.__index = Numbers

--- Numbers for pointers of one type.
---@param ctype string of the pointers
---@param max integer how many, number 0 included, which is never taken
---@param empty ffi.cdata* what free numbers stand for
---@return flowd.Numbers
function numbers.new(ctype, max, empty)
  local array = ffi.new(ctype .. "[?]", max)
  array[0] = empty
  -- Twice as many each time: nothing is compiled yet when this runs.
  local done = 1
  while done < max do
    local more = math.min(done, max - done)
    ffi.copy(array + done, array, more * ffi.sizeof("void *"))
    done = done + more
  end
  -- As a pointer it is a constant of the machine code; an array is not.
  return setmetatable({ pointers = ffi.cast(ctype .. " *", array), array = array, empty = empty, max = max, used = 0, free = {} },
    Numbers)
end

--- Take a number for `object`, until the collector takes that.
---@param object ffi.cdata* the memory, or a pointer to it; kept alive by the caller
---@param release? fun(object: ffi.cdata*) frees what the object points to
---@return integer? number
---@return string? message
function Numbers:take(object, release)
  local number = table.remove(self.free)
  if not number and self.used == self.max - 1 then
    -- What nobody holds any more gives its number back.
    collectgarbage()
    number = table.remove(self.free)
    if not number then return nil, ("there are %d already"):format(self.used) end
  elseif not number then
    self.used = self.used + 1
    number = self.used
  end
  self.pointers[number] = object
  ffi.gc(object, function(dead)
    self.pointers[number] = self.empty
    self.free[#self.free + 1] = number
    if release then release(dead) end
  end)
  return number
end

return numbers
