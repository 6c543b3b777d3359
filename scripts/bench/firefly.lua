-- SPDX-License-Identifier: Apache-2.0
--- The firefly part alone: encoding, and encoding and sending in batches to the counting sink, against
--- a bare sendmmsg loop that sends equally long datagrams to the same sink.
package.path = "./?.lua"
local bench = require("scripts.bench.bench")
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local netns = require("spec.support.netns")
local process = require("spec.support.process")

local C = ffi.C
local PORT = 10514
local BATCHES, ROUNDS = tonumber(arg[1] or 300), tonumber(arg[2] or 3)
local BATCH = C.FLOW_BATCH_MAX
local SENDER_CPU, SINK_CPU = 0, 1
-- The sink's buffer holds this many: then it must have caught up.
local AHEAD = 50 * BATCH

local function make_events()
  local events = ffi.new("struct flow_event[?]", BATCH)
  for i = 0, BATCH - 1 do
    local e = events[i]
    local src, dst = "2001:db8:1::17", "::1"
    e.key.family, e.key.protocol = 6, C.FLOW_TCP
    api.address_parse(src, #src, e.key.src)
    api.address_parse(dst, #dst, e.key.dst)
    e.key.src_port, e.key.dst_port = 40000 + i, 1094
    e.state = i % 2 == 0 and C.FLOW_START or C.FLOW_END
    e.time_us = api.clock_realtime_us()
    e.start_us = e.time_us - 1000000
    e.flags, e.route = C.EVENT_DELIVER, C.FLOW_ROUTE_ALL
    e.experiment, e.activity = 2, 26
  end
  return events
end

local style = ffi.new("struct firefly_style")
api.firefly_style_init(style, true, "transfer1.example.org")

local function encode_cost(events)
  local room = ffi.new("char[?]", C.FIREFLY_SIZE_IPV4)
  local encode, now = api.firefly_encode, api.clock_realtime_us()
  local costs = {}
  for round = 1, 50 do
    local start = api.clock_monotonic_ns()
    for i = 0, BATCH - 1 do encode(room, C.FIREFLY_SIZE_IPV4, style, events + i, now) end
    costs[round] = tonumber(api.clock_monotonic_ns() - start) / BATCH
  end
  return bench.median(costs)
end

local fields = { "sent", "octets", "segmented", "calls", "refused", "failed", "dropped_full", "dropped_too_big",
  "dropped_unsendable", "dropped_stopped", "queued" }

local function new_out(segments)
  local c = ffi.new("struct udp_out_counters")
  for _, field in ipairs(fields) do c[field] = counters.get("flowd_fireflies_sent_total", { to = field }) end
  local out = api.udp_out_new("bench", 10000, c)
  api.udp_out_segments(out, segments)
  return out
end

local function new_sender(ns, kind, segments)
  local sender = api.firefly_sender_new(style)
  ns:enter(function()
    if kind == "collector" then
      local out, address = new_out(segments), ffi.new("struct flow_address")
      api.address_parse("::1", 3, address)
      assert(api.udp_out_connect(out, address, PORT, false) == 0)
      api.firefly_sender_add(sender, out)
    else
      local ipv4, ipv6 = new_out(segments), new_out(segments)
      assert(api.udp_out_open(ipv4, 4) == 0 and api.udp_out_open(ipv6, 6) == 0)
      api.firefly_sender_destinations(sender, PORT, ipv4, ipv6, counters.get("flowd_fireflies_sent_total"))
    end
  end)
  return sender
end

-- Fireflies a second while sending, the sink's catching up left out.
local function run(sink, sender, events)
  sink:reset()
  local queue, flush, now = api.firefly_queue, api.firefly_flush, api.clock_realtime_us
  local took, sent = 0, 0
  for _ = 1, BATCHES do
    local start = api.clock_monotonic_ns()
    queue(sender, events, BATCH, now(), 1)
    assert(flush(sender) == 0)
    took = took + tonumber(api.clock_monotonic_ns() - start)
    sent = sent + BATCH
    if sent % AHEAD == 0 then sink:settle(sent) end
  end
  local arrived = sink:settle(sent)
  if arrived ~= sent then error(("%d sent, %d arrived"):format(sent, arrived), 0) end
  return sent / took * 1e9, tonumber(sink.counters.octets) / sent
end

local ns = netns.new()
local sink = bench.sink(ns, PORT, SINK_CPU)
process.must({ "taskset", "-cp", SENDER_CPU, C.getpid() })
local events = make_events()
local ways = {
  { name = "to a collector, segmented", sender = new_sender(ns, "collector", true) },
  { name = "to a collector, one by one", sender = new_sender(ns, "collector", false) },
  { name = "to one destination, segmented", sender = new_sender(ns, "destination", true) },
  { name = "to one destination, one by one", sender = new_sender(ns, "destination", false) },
}
local baselines = {}
for round = 1, ROUNDS do
  local length
  for _, way in ipairs(ways) do
    way.rates, way.ratios = way.rates or {}, way.ratios or {}
    way.rates[round], length = run(sink, way.sender, events)
    sink:reset()
    local taken = tonumber(ns:must({ "taskset", "-c", SENDER_CPU, bench.tool("blast"), PORT, math.floor(length + 0.5),
      AHEAD, seconds = 60 }))
    sink:settle(AHEAD)
    baselines[#baselines + 1] = AHEAD / taken * 1e9
    way.ratios[round] = way.rates[round] / baselines[#baselines]
  end
end
bench.row("firefly: encode", ("%.0f ns"):format(encode_cost(events)), "", nil)
for _, way in ipairs(ways) do
  bench.row("firefly: encode and send " .. way.name, ("%.0f /s"):format(bench.median(way.rates)),
    ("%.0f /s bare sendmmsg"):format(bench.median(baselines)), bench.median(way.ratios))
end
return 0
