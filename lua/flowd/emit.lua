-- SPDX-License-Identifier: Apache-2.0
--- Events made in Lua: a table goes in, one event of the next batch comes out.
--
-- Events that are emitted in one turn of the loop go through the pipeline together at the
-- turn's end, or at once when a batch is full.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")
local counters = require("flowd.counters")
local log = require("flowd.log")
local loop = require("flowd.loop")

local emit = {}

local BATCH_MAX = ffi.C.FLOW_BATCH_MAX
local HAS_BYTES = ffi.C.EVENT_HAS_BYTES
local APPLICATION_MAX = ffi.C.FLOW_APPLICATION_SIZE - 1

local states = { start = 1, ongoing = 2, ["end"] = 3 }
local protocols = { tcp = 6, udp = 17 }

local known = {
  state = true, protocol = true, src = true, src_port = true, dst = true, dst_port = true,
  experiment = true, activity = true, application = true, time = true, bytes_sent = true, bytes_received = true,
}

local function bad(field, value, expected)
  error(("event.%s: expected %s, got %s"):format(field, expected,
    type(value) == "string" and ("%q"):format(value) or tostring(value)), 0)
end

local function check_integer(event, field, min, max)
  local value = event[field]
  if type(value) ~= "number" or value % 1 ~= 0 or value < min or value > max then
    bad(field, value, ("an integer from %d to %d"):format(min, max))
  end
  return value
end

local function set_address(event, field, out)
  local text = event[field]
  local family = type(text) == "string" and api.address_parse(text, #text, out) or -1
  if family < 0 then bad(field, text, "an IPv4 or IPv6 address") end
  return family
end

local function fill(registry, event, out)
  if type(event) ~= "table" then error("event: expected a table, got " .. type(event), 0) end
  for field in pairs(event) do
    if not known[field] then error(("event: unknown field '%s'"):format(tostring(field)), 0) end
  end
  out.state = states[event.state] or bad("state", event.state, "start, ongoing or end")
  local key = out.key
  key.protocol = protocols[event.protocol] or bad("protocol", event.protocol, "tcp or udp")
  key.family = set_address(event, "src", key.src)
  if set_address(event, "dst", key.dst) ~= key.family then
    bad("dst", event.dst, "an address of the family of src, " .. tostring(event.src))
  end
  key.src_port = check_integer(event, "src_port", 1, 65535)
  key.dst_port = check_integer(event, "dst_port", 1, 65535)

  if event.experiment ~= nil and event.experiment ~= 0 then
    local id, message = registry:experiment_id(event.experiment)
    if not id then error("event.experiment: " .. message, 0) end
    out.experiment = id
  end
  if event.activity ~= nil and event.activity ~= 0 then
    local id, message = registry:activity_id(out.experiment, event.activity)
    if not id then error("event.activity: " .. message, 0) end
    out.activity = id
  end
  if event.application ~= nil then
    if type(event.application) ~= "string" then bad("application", event.application, "a string") end
    ffi.copy(out.application, event.application, math.min(#event.application, APPLICATION_MAX))
  end
  if event.time ~= nil then
    if type(event.time) ~= "number" or event.time <= 0 then bad("time", event.time, "seconds of UNIX time") end
    out.time_us = event.time * 1e6
  end
  if event.bytes_sent ~= nil or event.bytes_received ~= nil then
    out.bytes_sent = event.bytes_sent and check_integer(event, "bytes_sent", 0, 2 ^ 53) or 0
    out.bytes_received = event.bytes_received and check_integer(event, "bytes_received", 0, 2 ^ 53) or 0
    out.flags = bit.bor(out.flags, HAS_BYTES)
  end
end

local function failed(message)
  local counter = counters.get("flowd_input_errors_total", { plugin = "" })
  counter.value = counter.value + 1
  log.error("events of plugins: internal error: %s", tostring(message))
end

--- An inbox that collects events and runs them as batches.
---@param registry table names of experiments and activities
---@param run fun(batch: ffi.cdata*) the pipeline; never entered from within itself
---@return fun(source_id: integer, event: table): boolean|nil, string? put true, or nil and what is wrong
---@return fun(): boolean flush runs what is waiting now; was there anything?
function emit.inbox(registry, run)
  local batches = {} -- all but the last one are full
  local scheduled, running = false, false

  local function flush()
    local any = false
    scheduled = false
    if running then return any end
    running = true
    while batches[1] do
      local batch = table.remove(batches, 1)
      batch.now_us = api.clock_realtime_us()
      -- A batch is empty when its only event was refused.
      if batch.count > 0 then
        any = true
        local ok, message = xpcall(run, debug.traceback, batch)
        -- A defect of the pipeline's: these events are gone, those that follow are not.
        if not ok then failed(message) end
      end
    end
    running = false
    return any
  end

  local function put(source_id, event)
    local batch = batches[#batches]
    if not batch or batch.count == BATCH_MAX then
      batch = ffi.new("struct flow_batch")
      batches[#batches + 1] = batch
    end
    local out = batch.event[batch.count]
    ffi.fill(out, ffi.sizeof("struct flow_event"))
    out.route, out.slot, out.source = -1, -1, source_id
    out.time_us = api.clock_realtime_us()
    local ok, message = pcall(fill, registry, event, out)
    if not ok then return nil, message end
    batch.count = batch.count + 1
    if not scheduled then
      scheduled = true
      loop.after(0, flush)
    end
    return true
  end

  return put, flush
end

return emit
