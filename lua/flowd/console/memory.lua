-- SPDX-License-Identifier: Apache-2.0
--- Memory of the console's clients: what it is, whose it is, and the collector's turns (src/heap.h).
--
-- LuaJIT's table of all texts doubles in one go, and events wait for it. So that it stays small, the collector has its
-- turn when clients have made many objects, before their code goes on; more texts than that allows are refused.
jit.off(true, true)

local ffi = require("ffi")
local api = require("flowd.api")

local memory = {}

-- What may be new since the collector's last round.
local BLOCKS_MAX, OCTETS_MAX = 20000, 4 * 2 ^ 20
local STEPS = 20 -- of the collector between two looks at the clock
local FULL = 0.75
-- Texts that a slice may make: so many before there are too many the collector looks whether they are in use, unless
-- nearly as many are.
local TEXTS_SOON, TEXTS_LEFT, TEXTS_NEW = 8192, 1024, 1000
local OWNERS = ffi.C.HEAP_OWNERS_MAX - ffi.C.HEAP_OWNER_CONSOLE

local heap = _flowd.policy and ffi.cast("struct heap *", _flowd.policy.heap)

local blocks, octets = 0, 0 -- the fewest since the last round
local rounds = 0 -- that are still to be made

local function now_ns() return tonumber(api.clock_monotonic_ns()) end

local function owner_of(client) return ffi.C.HEAP_OWNER_CONSOLE + client % OWNERS end

-- To look a function of C up makes an object, which may be refused while clients' code runs.
local enter, leave = api.heap_enter_console, api.heap_leave_console

local function left(...)
  leave(heap)
  return ...
end

local function call(client, reads, fn, ...)
  if not heap then return pcall(fn, ...) end
  enter(heap, owner_of(client), reads)
  return left(pcall(fn, ...))
end

--- Inside of memory.call: from here on it is nobody's, or the client's again.
---@param client integer|nil
function memory.set_client(client)
  if not heap then return end
  if client then enter(heap, owner_of(client), false) else leave(heap) end
end

--- Call a function for a client: what it takes of memory is that client's.
---@param client integer
---@param fn function
---@return boolean ok
---@return any ... its results, or the error
function memory.call(client, fn, ...) return call(client, false, fn, ...) end

--- The same for a function that reads code, which may be as long as requests are.
---@param client integer
---@param fn function
---@return boolean ok
---@return any ... its results, or the error
function memory.read(client, fn, ...) return call(client, true, fn, ...) end

--- Octets that a client holds.
---@param client integer
---@return number
function memory.used_by(client) return heap and tonumber(api.heap_used_by(heap, owner_of(client))) or 0 end

--- Do clients hold nearly as much as they may?
---@return integer|nil why HEAP_CONSOLE_…; nil: no
function memory.full()
  if not heap then return nil end
  if tonumber(api.heap_console_used(heap)) > FULL * tonumber(api.heap_console_limit(heap)) then return ffi.C.HEAP_CONSOLE_MEMORY end
  return api.heap_console_texts_full(heap, TEXTS_LEFT) and ffi.C.HEAP_CONSOLE_TEXTS or nil
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
    local new = tonumber(api.heap_blocks(heap)) - blocks
    if new < BLOCKS_MAX and tonumber(api.heap_used(heap)) - octets < OCTETS_MAX
      and (new < TEXTS_NEW or not api.heap_console_texts_full(heap, TEXTS_SOON)) then
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
---@param why integer|nil as full() tells it; nil: what was refused last
---@return string
function memory.message(why)
  if not heap then return "not enough memory" end
  why = why or api.heap_console_refusal(heap)
  if why == ffi.C.HEAP_CONSOLE_SIZE then
    return ("too large: events would wait for it; a text has at most %d octets at the prompt, a list %d entries, another table "
      .. "%d"):format(ffi.C.HEAP_CONSOLE_TEXT_MAX, ffi.C.HEAP_CONSOLE_LIST_MAX, ffi.C.HEAP_CONSOLE_TABLE_MAX)
  elseif why == ffi.C.HEAP_CONSOLE_TEXTS then
    return ("too many texts: events would wait for LuaJIT's table of them; %d different ones may be in use, rules and their data "
      .. "included"):format(ffi.C.HEAP_CONSOLE_TEXTS_MAX)
  end
  return ("not enough memory: all clients of the console together may hold %.0f MB (an eighth of memory_limit)"):format(
    tonumber(api.heap_console_limit(heap)) / 2 ^ 20)
end

return memory
