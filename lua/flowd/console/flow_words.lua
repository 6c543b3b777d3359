-- SPDX-License-Identifier: Apache-2.0
--- Events from what is typed, and in words.
jit.off(true, true)

local ffi = require("ffi")
local api = require("flowd.api")
local fields = require("flowd.console.flow_fields")
local place = require("flowd.console.place")

local words = {}

local protocols = { tcp = ffi.C.FLOW_TCP, udp = ffi.C.FLOW_UDP }
local protocol_names = { [ffi.C.FLOW_TCP] = "tcp", [ffi.C.FLOW_UDP] = "udp" }
local states = { start = true, ongoing = true, ["end"] = true }
local text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)

local function address_text(address) return ffi.string(text, api.address_format(address, text)) end

--- A 5-tuple in words as a key; nil: it is none.
---@param line string "tcp ::1 2345 ::1 5777"
---@return ffi.cdata*|nil struct flow_key
function words.key(line)
  local protocol, src, src_port, dst, dst_port = line:match("^%s*(%S+)%s+(%S+)%s+(%d+)%s+(%S+)%s+(%d+)%s*$")
  if not protocol then return nil end
  return words.event_key({ protocol = protocol, src = src, src_port = tonumber(src_port), dst = dst,
    dst_port = tonumber(dst_port) })
end

--- The key of an event.
---@param event table
---@return ffi.cdata* struct flow_key
function words.event_key(event)
  local key = ffi.new("struct flow_key")
  key.protocol = protocols[event.protocol] or error(('protocol: expected "tcp" or "udp"; got %s'):format(tostring(event.protocol)), 0)
  for _, side in ipairs({ "src", "dst" }) do
    local address = tostring(event[side])
    local family = api.address_parse(address, #address, key[side])
    if family < 0 then error(("%s: expected an address; got %s"):format(side, address), 0) end
    key.family = family
    local port = event[side .. "_port"]
    if type(port) ~= "number" or port < 1 or port > 65535 then
      error(("%s_port: expected a port from 1 to 65535; got %s"):format(side, tostring(port)), 0)
    end
    key[side .. "_port"] = port
  end
  return key
end

local function name(word)
  if not word then return nil end
  return tonumber(word) or (word:gsub("_", " "))
end

--- An event from a line as the pipe takes it, or from named arguments.
---@param given string|table
---@param command string for messages
---@return table event as ctx:emit takes it
function words.event(given, command)
  if type(given) == "string" then
    local list = {}
    for word in given:gmatch("%S+") do list[#list + 1] = word end
    if not states[list[1]] then table.insert(list, 1, "start") end
    if #list < 6 then
      error(('%s: expected "[start|end] tcp|udp SOURCE PORT DESTINATION PORT [EXPERIMENT ACTIVITY]"; got %q'):format(command, given), 0)
    end
    return {
      state = list[1], protocol = list[2], src = list[3], src_port = tonumber(list[4]), dst = list[5], dst_port = tonumber(list[6]),
      experiment = name(list[7]), activity = name(list[8]),
    }
  end
  require("flowd.console.commands").check_arguments(command, given)
  local event = {}
  for key, value in pairs(given) do event[key] = value end
  event.state, event.protocol = event.state or "start", event.protocol or "tcp"
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
  local flow = fields.open(words.event_key(event))
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
