-- SPDX-License-Identifier: Apache-2.0
--- The memory of the Lua state that this runs in: what scripts may use of it (src/heap.h). The main state's
--- is not limited; there these functions do nothing.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")

local memory = {}

local MIB = 2 ^ 20

local heap = _flowd.policy and ffi.cast("struct heap *", _flowd.policy.heap)

--- Is memory limited here?
memory.limited = heap ~= nil

--- From here on a script runs; the result goes to memory.leave().
---@return integer before
function memory.enter() return heap and api.heap_enter_script(heap) or 0 end

--- Whatever it raised, the script has returned.
---@param before integer
function memory.leave(before)
  if heap then api.heap_leave_script(heap, before) end
end

--- The limit of scripts, in MiB.
---@param mebibytes number
function memory.set_limit(mebibytes)
  if heap then api.heap_set_limit(heap, mebibytes * MIB) end
end

--- In MiB; nil: none.
---@return number|nil
function memory.limit() return heap and tonumber(api.heap_limit(heap)) / MIB or nil end

--- In MiB.
---@return number
function memory.used() return heap and tonumber(api.heap_used(heap)) / MIB or collectgarbage("count") / 1024 end

--- What was allocated while the note's number was this one, and is still in use; in MiB.
---@param owner integer
---@return number
function memory.used_by(owner) return heap and tonumber(api.heap_used_by(heap, owner)) / MIB or 0 end

--- How often memory was refused.
---@return integer
function memory.refusals() return heap and tonumber(api.heap_refusals(heap)) or 0 end

--- Where the number of the owner stands.
---@param owner ffi.cdata* const uint32_t *
function memory.set_owner(owner)
  if heap then api.heap_set_owner(heap, owner) end
end

--- What is to be set when memory is refused.
---@param refused ffi.cdata* bool *, for as long as this Lua state
function memory.set_refused(refused)
  if heap then api.heap_set_refused(heap, refused) end
end

--- Is this error the one that LuaJIT raises when memory is refused?
---@param message any
---@return boolean
function memory.is_refusal(message) return type(message) == "string" and message:find("not enough memory", 1, true) ~= nil end

---@class flowd.MemoryAccount memory of C primitives that belongs to something of a script's
---@field octets number
---@field owner integer|nil
local Account = {}
Account.__index = Account

--- An account, with nothing in it yet.
---@return flowd.MemoryAccount
function memory.account() return setmetatable({ octets = 0 }, Account) end

-- Whoever makes it, the limit is that of scripts.
local function charge(octets)
  local before = api.heap_enter_script(heap)
  local owner = api.heap_charge(heap, octets)
  api.heap_leave_script(heap, before)
  return owner
end

--- It has come to so many octets. All of it is the owner's who made it grow last.
---@param octets number
---@return boolean ok false: they are too many
function Account:grow(octets)
  if not heap or octets <= self.octets then return true end
  local owner = charge(octets - self.octets)
  if owner >= 0 and self.owner and owner ~= self.owner then
    api.heap_discharge(heap, owner, octets - self.octets)
    self:close()
    owner = charge(octets)
  end
  if owner < 0 then return false end
  self.owner, self.octets = owner, octets
  return true
end

--- It is free.
function Account:close()
  if self.owner then api.heap_discharge(heap, self.owner, self.octets) end
  self.owner, self.octets = nil, 0
end

-- LuaJIT starts to collect when memory has doubled since the last time, whatever the limit is. That is lazy, and may
-- be enough of the time.
local near, eager = false, false
local gauge

local function tune()
  collectgarbage("setpause", eager and 100 or near and 110 or 200)
  collectgarbage("setstepmul", (eager or near) and 400 or 200)
end

--- Much is made and thrown away for a while, as when a configuration is loaded: what is garbage must not become much,
--- or tables of LuaJIT's grow for it, in one go.
---@param on boolean
function memory.collect_eagerly(on)
  eager = on
  tune()
end

--- Once per batch: near the limit the collector is to be in time.
function memory.watch()
  if not heap then return end
  local used = api.heap_used(heap)
  gauge = gauge or counters.get("flowd_policy_memory_octets")
  gauge.value = used
  local is_near = used * 2 > api.heap_limit(heap)
  if is_near == near then return end
  near = is_near
  tune()
end

return memory
