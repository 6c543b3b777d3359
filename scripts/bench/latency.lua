-- SPDX-License-Identifier: Apache-2.0
--- From the write of a line to the first labelled packet of a running stream: idle, and while
--- other lines come at half of the top rate. The baseline is the wake-up of a bare reader. Both, and the
--- stream, run with real-time priority where that is allowed, so that a busy machine counts as an idle one;
--- the requirement is for the figure itself, whatever the baseline is.
package.path = "./?.lua"
local bench = require("scripts.bench.bench")
local daemon = require("spec.support.daemon")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local temp = require("spec.support.temp")

local ROUNDS = tonumber(arg[1] or 1000)
local FLOWS = 50000
local PORT = 10514

local realtime = bench.realtime()

local function probe(ns, pipe, what)
  local command = { unpack(realtime) }
  for _, word in ipairs({ bench.tool("probe"), pipe, ROUNDS }) do command[#command + 1] = word end
  command.seconds = 120
  local out = ns:must(command)
  local list = {}
  for word in out:gmatch("%d+") do list[#list + 1] = tonumber(word) / 1e6 end
  bench.note("latency: %s: p50 %.3f ms, p99 %.3f ms, worst %.3f ms", what, bench.percentile(list, 50),
    bench.percentile(list, 99), bench.percentile(list, 100))
  return bench.percentile(list, 50), bench.percentile(list, 99)
end

-- Time that a process has had a CPU, in nanoseconds.
local function cpu_ns(pid) return tonumber(temp.read(("/proc/%d/schedstat"):format(pid)):match("^%d+")) end

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
local d = daemon.start({ namespace = ns, prefix = realtime, log_level = "info", config = { backends = {
  marker = { interfaces = { "lo" } },
  firefly = { to_destination = false, collectors = { "[::1]:" .. PORT } },
} } })

local bare50, bare99 = probe(ns, "-", "a bare reader")
local worked = cpu_ns(d.pid)
local idle50, idle99 = probe(ns, d.pipe, "idle")
bench.note("latency: idle: the daemon's own work: %.3f ms for each of %d lines", (cpu_ns(d.pid) - worked) / 2e6 / ROUNDS,
  2 * ROUNDS)
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
row("idle, p99", idle99, bare99, "<= 2 ms", idle99 <= 2)
row("half of the top rate, p50", busy50, bare50)
row("half of the top rate, p99", busy99, bare99)
return 0
