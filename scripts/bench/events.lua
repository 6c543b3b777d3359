-- SPDX-License-Identifier: Apache-2.0
--- Lines through a real FIFO, ten rules, label marks on, a firefly for each to a counting sink;
--- against a bare sendmmsg loop that sends equally long datagrams to the same sink.
package.path = "./?.lua"
local bench = require("scripts.bench.bench")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local PORT = 10514
local FLOWS = tonumber(arg[1] or 150000)
local WINDOW = 10000 -- flows that are open at a time
local ROUNDS = tonumber(arg[2] or 3)
local SENDER_CPU, SINK_CPU = 0, 1

local PREAMBLE = [[
local storage = flowd.prefixes { "2001:db8:5::/48", "2001:db8:6::/48", "10.0.0.0/8" }
local services = flowd.map.ports { [1094] = "atlas/Data Challenge", ["2811-2911"] = "cms" }
local sites = flowd.map.prefixes { ["2001:db8:a::/48"] = "alice", ["2001:db8:b::/48"] = "lhcb", ["192.0.2.0/24"] = "atlas" }
]]

-- As sites have them: most look at an event and leave it alone, a few change or route it.
local RULES = [[
  rule "not our tests" { match = { dst_port = { 5001, 5201 } }, drop = true },
  rule "not our reports" { match = { protocol = "udp", dst_port = 10514 }, drop = true },
  rule "storage network" (function(flow) if flow.src:within(storage) then flow:tag(services:find(flow.src_port)) end end),
  rule "by site" (function(flow) flow:tag(sites:find(flow.dst)) end),
  rule "by service" (function(flow) flow:tag(services:find(flow.dst_port)) end),
  rule "backup stays at home" { match = { src_port = "2811-2911", dst = "10.0.0.0/8" }, drop = true },
  rule "lhcb" { match = { src = "2001:db8:1b::/48" }, set = { experiment = "lhcb" } },
  rule "small ports" (function(flow) if flow.protocol == "udp" and flow.dst_port < 1024 then return drop end end),
  rule "challenge by name" (function(flow)
    if flow.experiment_name == "atlas" and flow.activity == 26 then flow.activity = "Data_Challenge" end
  end),
  rule "only reported" { match = { dst_port = 8443 }, route = "firefly" },
]]

-- start of flow i, end of flow i - WINDOW; then the ends that are left.
local function write_lines(path)
  local file = assert(io.open(path, "w"))
  local function line(state, i)
    file:write(state, " tcp 2001:db8:1::", ("%x"):format(i % 251), " ", 1024 + i % 60000, " 2001:db8:2::",
      ("%x"):format(i % 241), " ", 20000 + math.floor(i / 60000), " atlas Data_Challenge\n")
  end
  for i = 0, FLOWS + WINDOW - 1 do
    if i < FLOWS then line("start", i) end
    if i >= WINDOW then line("end", i - WINDOW) end
  end
  file:close()
  return path
end

local function run_daemon(ns, sink, d, lines)
  sink:reset()
  local feed = ns:start({ "taskset", "-c", SINK_CPU, bench.tool("feed"), lines, d.pipe })
  sink:settle(2 * FLOWS)
  assert(feed:wait(20).code == 0, feed:output())
  local c = sink.counters
  if c.starts ~= FLOWS or c.ends ~= FLOWS then
    error(("%d lines made %d start and %d end fireflies (the sink dropped %d)"):format(2 * FLOWS, tonumber(c.starts),
      tonumber(c.ends), sink:dropped()), 0)
  end
  return 2 * FLOWS / (tonumber(c.last_ns) - tonumber(feed:stdout())) * 1e9, tonumber(c.octets) / tonumber(c.datagrams)
end

local function run_baseline(ns, sink, length)
  sink:reset()
  local ns_taken = tonumber(ns:must({ "taskset", "-c", SENDER_CPU, bench.tool("blast"), PORT, math.floor(length + 0.5),
    2 * FLOWS, seconds = 60 }))
  sink:settle(2 * FLOWS)
  return 2 * FLOWS / ns_taken * 1e9
end

local ns = netns.new()
local sink = bench.sink(ns, PORT, SINK_CPU)
local dir = temp.dir()
local conf = daemon.write_config(dir, { backends = {
  marker = { interfaces = { "lo" } },
  firefly = { to_destination = false, collectors = { "[::1]:" .. PORT } },
} }, RULES)
temp.write(conf, PREAMBLE .. temp.read(conf))
local lines = write_lines(dir .. "/lines")
local d = daemon.start({ namespace = ns, dir = dir, conf = conf, log_level = "info" })
process.must({ "taskset", "-cp", SENDER_CPU, d.pid })

local rates, baselines, ratios = {}, {}, {}
local length
for i = 1, ROUNDS do
  rates[i], length = run_daemon(ns, sink, d, lines)
  baselines[i] = run_baseline(ns, sink, length)
  ratios[i] = rates[i] / baselines[i]
  bench.note("events: round %d: %.0f lines/s; sendmmsg %.0f datagrams/s of %.0f octets; ratio %.2f", i, rates[i], baselines[i],
    length, ratios[i])
end
d:stop()
local ratio = bench.median(ratios)
bench.row("events: lines to fireflies, 10 rules, marks on", ("%.0f /s"):format(bench.median(rates)),
  ("%.0f /s bare sendmmsg"):format(bench.median(baselines)), ratio, ">= 0.60 (aim > 1.0)", ratio >= 0.6)
return 0
