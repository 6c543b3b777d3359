-- SPDX-License-Identifier: Apache-2.0
--- Memory of the console's clients: what it is, whose it is, and the collector's turns (src/heap.h).
--
-- LuaJIT's table of all texts doubles in one go, and events wait for it. So that it stays small, the collector has its
-- turn when clients have made many objects, before their code goes on.
jit.off(true, true)

local ffi = require("ffi")
local api = require("flowd.api")

local memory = {}

-- What may be new since the collector's last round.
local BLOCKS_MAX, OCTETS_MAX = 20000, 4 * 2 ^ 20
local STEPS = 20 -- of the collector between two looks at the clock
local FULL = 0.75
local OWNERS = ffi.C.HEAP_OWNERS_MAX - ffi.C.HEAP_OWNER_CONSOLE

local heap = _flowd.policy and ffi.cast("struct heap *", _flowd.policy.heap)

local blocks, octets = 0, 0 -- the fewest since the last round
local rounds = 0 -- that are still to be made

local function now_ns() return tonumber(api.clock_monotonic_ns()) end

local function owner_of(client) return ffi.C.HEAP_OWNER_CONSOLE + client % OWNERS end

local function left(...)
  api.heap_leave_console(heap)
  return ...
end

--- Call a function for a client: what it takes of memory is that client's.
---@param client integer
---@param fn function
---@return boolean ok
---@return any ... its results, or the error
function memory.call(client, fn, ...)
  if not heap then return pcall(fn, ...) end
  api.heap_enter_console(heap, owner_of(client))
  return left(pcall(fn, ...))
end

--- Octets that a client holds.
---@param client integer
---@return number
function memory.used_by(client) return heap and tonumber(api.heap_used_by(heap, owner_of(client))) or 0 end

--- Do clients hold nearly as much as they may?
---@return boolean
function memory.full()
  return heap ~= nil and tonumber(api.heap_console_used(heap)) > FULL * tonumber(api.heap_console_limit(heap))
end

-- Twice: what was made during a round is not looked at by it.
--- Memory was refused: the collector is to look for all there is.
function memory.refused()
  if heap then rounds = 2 end
end

--- The collector's turn, if it is its turn.
---@param ends_ns number when others have theirs
---@return boolean done clients may go on
---@return boolean collected
function memory.collect(ends_ns)
  if not heap then return true, false end
  blocks = math.min(blocks, tonumber(api.heap_blocks(heap)))
  octets = math.min(octets, tonumber(api.heap_used(heap)))
  if rounds == 0 then
    if tonumber(api.heap_blocks(heap)) - blocks < BLOCKS_MAX and tonumber(api.heap_used(heap)) - octets < OCTETS_MAX then
      return true, false
    end
    rounds = 1
  end
  while rounds > 0 do
    for _ = 1, STEPS do
      if collectgarbage("step", 0) then
        rounds = rounds - 1
        if rounds == 0 then break end
      end
    end
    if rounds > 0 and now_ns() >= ends_ns then return false, false end
  end
  blocks, octets = tonumber(api.heap_blocks(heap)), tonumber(api.heap_used(heap))
  return true, true
end

--- What to say when memory was refused.
---@return string
function memory.message()
  if not heap then return "not enough memory" end
  return ("not enough memory: all clients of the console together may hold %.0f MB (an eighth of memory_limit), and none of them a "
    .. "table of more than 65,536 entries, a list of more than 262,144 or a text of more than 2 MB"):format(
    tonumber(api.heap_console_limit(heap)) / 2 ^ 20)
end

return memory
