-- SPDX-License-Identifier: Apache-2.0
--- Policy states: Lua states of their own for rules, maps and configuration files, which can be thrown
--- away. This is their handle in the main state.
--
--     local p = policy_state.new({ limit = 256 * 2 ^ 20 })
--     local text = p:call("flowd.explain.text", "tcp 2001:db8::1 1094 2001:db8::2 40000")
--     p:close()
--
-- What goes across is copied: nil, booleans, numbers, strings, 64-bit integers and tables of these.
local ffi = require("ffi")
local api = require("flowd.api")
local core = require("flowd.policy_core")
local counters = require("flowd.counters")
local log = require("flowd.log")
local loop = require("flowd.loop")

local policy_state = {}

-- For what scripts may not: telling what went wrong, compiling rules without one of them.
local RESERVE = 32 * 2 ^ 20

--- What policy states can call by require("flowd.host").call(NAME, …).
---@type table<string, function>
policy_state.host = {}

core.host(function(name, ...)
  local fn = policy_state.host[name]
  if not fn then error(("host: there is no function %s"):format(name), 0) end
  return fn(...)
end)

---@class flowd.PolicyState
---@field closed boolean
local PolicyState = {}
PolicyState.__index = PolicyState

--- A new policy state, with nothing loaded.
---@param options? { limit: number } octets that its scripts may use
---@return flowd.PolicyState
function policy_state.new(options)
  options = options or {}
  local handle = core.new(options.limit or 256 * 2 ^ 20, RESERVE)
  handle:call("flowd.policy_inside.set_module_path", package.path)
  return setmetatable({ handle = handle, heap = ffi.cast("struct heap *", handle:heap()), closed = false }, PolicyState)
end

--- Call a function of a module there: "flowd.rules.explain.run".
---@param name string
---@return any ... its results; what it raises is raised, as text with a traceback
function PolicyState:call(name, ...) return self.handle:call(name, ...) end

--- Run its rules on a batch.
---@param batch ffi.cdata* struct flow_batch *
function PolicyState:run(batch)
  self.handle:run(tonumber(ffi.cast("intptr_t", ffi.cast("struct flow_batch *", batch))))
end

--- Run its rules on a batch, on trial: nothing but the batch changes.
---@param batch ffi.cdata* struct flow_batch *
function PolicyState:try(batch)
  self.handle:call("flowd.policy_inside.try", tonumber(ffi.cast("intptr_t", ffi.cast("struct flow_batch *", batch))))
end

--- Octets in use, and octets that the system has given for them.
---@return number used
---@return number mapped
function PolicyState:memory() return tonumber(api.heap_used(self.heap)), tonumber(api.heap_mapped(self.heap)) end

--- End it: its timers, its maps, its memory.
function PolicyState:close()
  if self.closed then return end
  self.closed, self.heap = true, nil
  self.handle:close()
end

-- ---- ends that take a while ------------------------------------------------------------

-- Of a turn of the loop.
local SLICE_NS = 2e6

local retired = {} -- in order

local function milliseconds(since) return tonumber(api.clock_monotonic_ns() - since) / 1e6 end

local function turn()
  local first, before = retired[1], api.clock_monotonic_ns()
  local done = first.handle:close_some(SLICE_NS)
  local took = milliseconds(before)
  first.turns, first.longest = first.turns + 1, math.max(first.longest, took)
  if done then
    table.remove(retired, 1)
    log.debug("a policy of %.1f MB is closed: %d turns, the longest %.1f ms", first.octets / 2 ^ 20, first.turns, first.longest)
  end
  local pause = counters.get("flowd_reload_pause_microseconds")
  pause.value = math.max(tonumber(pause.value), took * 1000)
  if retired[1] then loop.after(0, turn) end
end

--- End it while events go on: what it holds is given back a little in each turn of the loop. Its timers and maps end
--- at once.
function PolicyState:retire()
  if self.closed then return end
  local octets = self:memory()
  self.closed, self.heap = true, nil
  self.handle:retire()
  retired[#retired + 1] = { handle = self.handle, octets = octets, turns = 0, longest = 0 }
  if #retired == 1 then loop.after(0, turn) end
end

return policy_state
