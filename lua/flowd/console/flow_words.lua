-- SPDX-License-Identifier: Apache-2.0
--- Events from what is typed, and in words.
jit.off(true, true)

local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local fields = require("flowd.console.flow_fields")
local flow_text = require("flowd.flow_text")
local place = require("flowd.console.place")

local words = {}

local protocols = { tcp = ffi.C.FLOW_TCP, udp = ffi.C.FLOW_UDP }
local protocol_names = { [ffi.C.FLOW_TCP] = "tcp", [ffi.C.FLOW_UDP] = "udp" }
local states = { start = true, ongoing = true, ["end"] = true }
local text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)

local function address_text(address) return ffi.string(text, api.address_format(address, text)) end

--- A 5-tuple in words as a key; nil: it is none.
---@param line string "tcp ::1 2345 ::1 5777"
---@param command string for messages
---@return ffi.cdata*|nil struct flow_key
function words.key(line, command)
  local protocol, src, src_port, dst, dst_port = line:match("^%s*(%S+)%s+(%S+)%s+(%d+)%s+(%S+)%s+(%d+)%s*$")
  if not protocol then return nil end
  return words.event_key({ protocol = protocol, src = src, src_port = tonumber(src_port), dst = dst,
    dst_port = tonumber(dst_port) }, command)
end

--- The key of an event.
---@param event table
---@param command string for messages
---@return ffi.cdata* struct flow_key
function words.event_key(event, command)
  local key = ffi.new("struct flow_key")
  key.protocol = protocols[event.protocol]
    or error(('%s: protocol: expected "tcp" or "udp"; got %s'):format(command, tostring(event.protocol)), 0)
  for _, side in ipairs({ "src", "dst" }) do
    local address = tostring(event[side])
    local family = api.address_parse(address, #address, key[side])
    if family < 0 then error(("%s: %s: expected an address; got %s"):format(command, side, address), 0) end
    key.family = family
    local port = event[side .. "_port"]
    if type(port) ~= "number" or port < 1 or port > 65535 then
      error(("%s: %s_port: expected a port from 1 to 65535; got %s"):format(command, side, tostring(port)), 0)
    end
    key[side .. "_port"] = port
  end
  return key
end

local state_names = { [ffi.C.FLOW_START] = "start", [ffi.C.FLOW_ONGOING] = "ongoing", [ffi.C.FLOW_END] = "end" }
local read = ffi.new("struct flow_event[1]")

-- A line: the words are those of explain.
local function event_of_line(line, command)
  local registry, e = place.registry(), read[0]
  local ok, failure = flow_text.read(line, e, { registry = registry })
  if not ok then error(("%s: %s"):format(command, flow_text.show(line, failure)), 0) end
  if e.start_us ~= e.time_us then error(command .. ": start_time cannot be given here: it is that of the start", 0) end
  local has_bytes = bit.band(e.flags, ffi.C.EVENT_HAS_BYTES) ~= 0
  return {
    state = state_names[e.state], protocol = protocol_names[e.key.protocol],
    src = address_text(e.key.src), src_port = e.key.src_port, dst = address_text(e.key.dst), dst_port = e.key.dst_port,
    experiment = e.experiment ~= 0 and (registry:experiment_name(e.experiment) or e.experiment) or nil,
    activity = e.activity ~= 0 and (registry:activity_name(e.experiment, e.activity) or e.activity) or nil,
    application = e.application[0] ~= 0 and ffi.string(e.application) or nil,
    time = tonumber(e.time_us) / 1e6,
    bytes_sent = has_bytes and tonumber(e.bytes_sent) or nil, bytes_received = has_bytes and tonumber(e.bytes_received) or nil,
  }
end

--- An event from a line as the pipe takes it, or from named arguments.
---@param given string|table
---@param command string for messages
---@return table event as ctx:emit takes it
function words.event(given, command)
  if type(given) == "string" then return event_of_line(given, command) end
  require("flowd.console.commands").check_arguments("inject", given, command)
  local event = {}
  for key, value in pairs(given) do event[key] = value end
  event.state, event.protocol = event.state or "start", event.protocol or "tcp"
  if not states[event.state] then
    error(('%s: state: expected "start", "ongoing" or "end"; got %s'):format(command, tostring(event.state)), 0)
  end
  if type(event.application) == "string" and #event.application >= ffi.C.FLOW_APPLICATION_SIZE then
    error(("%s: application: expected at most %d octets; got %d"):format(command, ffi.C.FLOW_APPLICATION_SIZE - 1,
      #event.application), 0)
  end
  event.src, event.dst = event.src and tostring(event.src), event.dst and tostring(event.dst)
  return event
end

local function counter(series) return tonumber(api.counter_get(series).value) end

--- Announce an event.
---@param event table
---@return ffi.cdata*|nil flow a copy of the open flow; nil: there is none
---@return string|nil became what else became of it
function words.inject(event)
  local dropped, unmapped = counter("flowd_events_dropped_total"), counter("flowd_events_unmapped_total")
  local ok, message = place.call("console_inject", event)
  if not ok then error("inject: " .. message:gsub("^event%.", ""), 0) end
  local flow = fields.open(words.event_key(event, "inject"))
  if flow then return flow end
  if event.state == "end" then return nil, "ended" end
  if counter("flowd_events_dropped_total") > dropped then return nil, "dropped by a rule: explain(…) tells which" end
  if counter("flowd_events_unmapped_total") > unmapped then
    return nil, "unmapped: its experiment is unset after all rules; it is neither marked nor reported"
  end
  return nil, "not opened: stats(\"refused\") may tell why"
end

--- The end of an open flow.
---@param slot ffi.cdata* const struct flow_slot *
---@return table event
function words.end_of(slot)
  local key = slot.key
  return {
    state = "end", protocol = protocol_names[key.protocol], src = address_text(key.src), src_port = key.src_port,
    dst = address_text(key.dst), dst_port = key.dst_port,
  }
end

--- An event in a line.
---@param event table
---@return string
function words.describe(event)
  return ("%s %s %s %s %s %s %s %s"):format(event.state, event.protocol, event.src, tostring(event.src_port), event.dst,
    tostring(event.dst_port), tostring(event.experiment or 0), tostring(event.activity or 0))
end

return words
