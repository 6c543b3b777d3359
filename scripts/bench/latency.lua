-- SPDX-License-Identifier: Apache-2.0
--- From the write of a line to the first labelled packet of a running stream: idle, and while
--- other lines come at half of the top rate. The baseline is the wake-up of a bare reader.
package.path = "./?.lua"
local bench = require("scripts.bench.bench")
local daemon = require("spec.support.daemon")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local temp = require("spec.support.temp")

local ROUNDS = tonumber(arg[1] or 1000)
local FLOWS = 50000
local PORT = 10514

local function probe(ns, pipe, what)
  local out = ns:must({ bench.tool("probe"), pipe, ROUNDS, seconds = 120 })
  local list = {}
  for word in out:gmatch("%d+") do list[#list + 1] = tonumber(word) / 1e6 end
  bench.note("latency: %s: p50 %.3f ms, p99 %.3f ms, worst %.3f ms", what, bench.percentile(list, 50),
    bench.percentile(list, 99), bench.percentile(list, 100))
  return bench.percentile(list, 50), bench.percentile(list, 99)
end

-- Lines per second when they come as fast as they are taken: starts and ends of other flows.
local function top_rate(ns, sink, d, lines)
  sink:reset()
  local feed = ns:start({ bench.tool("feed"), lines, d.pipe })
  sink:settle(2 * FLOWS)
  feed:wait(20)
  return 2 * FLOWS / (tonumber(sink.counters.last_ns) - tonumber(feed:stdout())) * 1e9
end

local ns = netns.new()
local sink = bench.sink(ns, PORT)
local d = daemon.start({ namespace = ns, log_level = "info", config = { backends = {
  marker = { interfaces = { "lo" } },
  firefly = { to_destination = false, collectors = { "[::1]:" .. PORT } },
} } })

local bare50, bare99 = probe(ns, "-", "a bare reader")
local idle50, idle99 = probe(ns, d.pipe, "idle")
local parts = {}
for from = 0, FLOWS - 1, 1000 do
  parts[#parts + 1] = flow_lines.lines("start", "2001:db8:1::1", "2001:db8:1::2", "atlas 1", from, from + 999)
  parts[#parts + 1] = flow_lines.lines("end", "2001:db8:1::1", "2001:db8:1::2", "atlas 1", from, from + 999)
end
local lines = temp.write(d.dir .. "/lines", table.concat(parts))
local rate = top_rate(ns, sink, d, lines)
local feed = ns:start({ bench.tool("feed"), lines, d.pipe, math.floor(rate / 2) })
feed:expect("%d+")
local busy50, busy99 = probe(ns, d.pipe, ("at %.0f lines/s"):format(rate / 2))
feed:stop()
d:stop()

local function row(what, value, baseline, required, ok)
  bench.row("latency: line to labelled packet, " .. what, ("%.2f ms"):format(value), ("%.2f ms a bare reader"):format(baseline),
    value / baseline, required, ok)
end
row("idle, p50", idle50, bare50)
-- On a machine where even a bare reader is woken late, that is what there is.
row("idle, p99", idle99, bare99, "<= 2 ms, or 1.5 bare", idle99 <= math.max(2, 1.5 * bare99))
row("half of the top rate, p50", busy50, bare50)
row("half of the top rate, p99", busy99, bare99)
return 0
