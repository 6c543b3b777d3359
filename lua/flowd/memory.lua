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
---@return boolean before
function memory.enter() return heap and api.heap_enter_script(heap) or false end

--- Whatever it raised, the script has returned.
---@param before boolean
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

--- Is this error the one that LuaJIT raises when memory is refused?
---@param message any
---@return boolean
function memory.is_refusal(message) return type(message) == "string" and message:find("not enough memory", 1, true) ~= nil end

-- LuaJIT starts to collect when memory has doubled since the last time, whatever the limit is.
local tuned = false
local gauge

--- Once per batch: near the limit the collector is to be in time.
function memory.watch()
  if not heap then return end
  local used = api.heap_used(heap)
  gauge = gauge or counters.get("flowd_policy_memory_octets")
  gauge.value = used
  local near = used * 2 > api.heap_limit(heap)
  if near == tuned then return end
  tuned = near
  collectgarbage("setpause", near and 110 or 200)
  collectgarbage("setstepmul", near and 400 or 200)
end

return memory
