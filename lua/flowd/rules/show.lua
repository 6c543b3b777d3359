-- SPDX-License-Identifier: Apache-2.0
--- What an event says, and what a rule's match asks for, as a person would write it.
--
-- `names`: registry, backends (masks by name), source_name (id to name).
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")

local show = {}

local ITEMS_MAX = 8
local protocols = { [ffi.C.FLOW_TCP] = "tcp", [ffi.C.FLOW_UDP] = "udp" }
local states = { [ffi.C.FLOW_START] = "start", [ffi.C.FLOW_ONGOING] = "ongoing", [ffi.C.FLOW_END] = "end" }
local text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)

local function address(a) return ffi.string(text, api.address_format(a, text)) end

function show.experiment(e, names)
  if e.experiment == 0 then return "unset" end
  return ("%s (%d)"):format(names.registry:experiment_name(e.experiment) or "unknown", e.experiment)
end

function show.activity(e, names)
  if e.activity == 0 then return "unset" end
  return ("%s (%d)"):format(names.registry:activity_name(e.experiment, e.activity) or "unknown", e.activity)
end

function show.application(e)
  local name = ffi.string(e.application)
  return name == "" and "unknown" or ("%q"):format(name)
end

--- Experiment and activity.
function show.tag(e, names)
  if e.experiment == 0 and e.activity == 0 then return "unset" end
  return show.experiment(e, names) .. " / " .. show.activity(e, names)
end

--- Names of the backends in a route, sorted.
function show.route_names(route, names)
  local list = {}
  for name, mask in pairs(names.backends) do
    if bit.band(route, mask) ~= 0 then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

function show.route(e, names)
  if e.route == ffi.C.FLOW_ROUTE_ALL then return "all backends" end
  local list = show.route_names(e.route, names)
  return #list > 0 and table.concat(list, ", ") or "no backend"
end

local function time(us)
  us = tonumber(us)
  return os.date("!%Y-%m-%dT%H:%M:%S", math.floor(us / 1e6)) .. (us % 1e6 ~= 0 and (".%06d"):format(us % 1e6) or "") .. "Z"
end

local function octets(e, field)
  if bit.band(e.flags, ffi.C.EVENT_HAS_BYTES) == 0 then return "unknown" end
  return ("%.0f"):format(tonumber(e[field]))
end

local values = {
  protocol = function(e) return protocols[e.key.protocol] end,
  family = function(e) return tostring(e.key.family) end,
  state = function(e) return states[e.state] end,
  plugin = function(e, names)
    local name = e.source ~= 0 and names.source_name(e.source)
    return name or "unknown"
  end,
  src_port = function(e) return tostring(e.key.src_port) end,
  dst_port = function(e) return tostring(e.key.dst_port) end,
  src = function(e) return address(e.key.src) end,
  dst = function(e) return address(e.key.dst) end,
  experiment = show.experiment, activity = show.activity, application = show.application,
  time = function(e) return time(e.time_us) end,
  start_time = function(e) return time(e.start_us) end,
  end_time = function(e) return e.state == ffi.C.FLOW_END and time(e.time_us) or "unknown (it has not ended)" end,
  duration = function(e) return ("%g s"):format(math.max(tonumber(e.time_us) - tonumber(e.start_us), 0) / 1e6) end,
  bytes_sent = function(e) return octets(e, "bytes_sent") end,
  bytes_received = function(e) return octets(e, "bytes_received") end,
}

--- A field of an event.
---@param field string as in match
---@param e ffi.cdata*
---@param names table
---@return string
function show.value(field, e, names)
  local value = values[field]
  return value and value(e, names) or "unknown"
end

local function gather(value, list)
  if type(value) ~= "table" then
    list[#list + 1] = tostring(value)
    return
  end
  local inside = tostring(value):match("^prefixes{(.*)}$")
  if inside then
    for prefix in inside:gmatch("[^, ]+") do list[#list + 1] = prefix end
    return
  end
  for _, item in ipairs(value) do gather(item, list) end
end

--- What a condition of match asks for, as it was written.
---@param value any
---@return string
function show.expected(value)
  local list = {}
  gather(value, list)
  local count = #list
  if count > ITEMS_MAX then
    for i = count, ITEMS_MAX, -1 do list[i] = nil end
    list[ITEMS_MAX] = ("or one of %d more"):format(count - ITEMS_MAX + 1)
  end
  return table.concat(list, ", ")
end

return show
