-- SPDX-License-Identifier: Apache-2.0
--- Flows in the log, at level debug: what each event was taken for, and where it went.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local log = require("flowd.log")
local view = require("flowd.view")

local band = bit.band
local DELIVER, DROPPED = ffi.C.EVENT_DELIVER, ffi.C.EVENT_DROPPED
local DEBUG = log.level("debug")

local flow_log = {}

local function sorted_by_bit(backends)
  local list = {}
  for name, mask in pairs(backends) do list[#list + 1] = { name = name, mask = mask } end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

--- A function that logs a batch's events, once they are decided.
---@param registry flowd.Registry
---@param backends table<string, integer> bit of a route by name
---@return fun(events: ffi.cdata*, count: integer)
function flow_log.new(registry, backends)
  local ordered = sorted_by_bit(backends)

  local function receivers(route)
    local names = {}
    for _, backend in ipairs(ordered) do
      if band(route, backend.mask) ~= 0 then names[#names + 1] = backend.name end
    end
    return #names > 0 and "to " .. table.concat(names, ", ") or "to no backend"
  end

  local function outcome(e)
    if band(e.flags, DELIVER) ~= 0 then
      return ("%s, label 0x%05x, %s"):format(registry:describe(e.experiment, e.activity), e.label, receivers(e.route))
    elseif band(e.flags, DROPPED) ~= 0 then
      return "dropped by a rule"
    elseif e.experiment == 0 then
      return "its experiment is unknown: ignored"
    end
    return "ignored"
  end

  return function(events, count)
    if not api.log_enabled(DEBUG) then return end
    for i = 0, count - 1 do
      local e = events[i]
      log.debug("%s: %s", view.describe(e), outcome(e))
    end
  end
end

return flow_log
