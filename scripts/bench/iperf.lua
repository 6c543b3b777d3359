-- SPDX-License-Identifier: Apache-2.0
--- TCP goodput between two namespaces (iperf3), with the flow marked and without the daemon, in turn.
package.path = "./?.lua"
local bench = require("scripts.bench.bench")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")

local ROUNDS = tonumber(arg[1] or 11)
local SECONDS = tonumber(arg[2] or 1)
local SOURCE_PORT, PORT = 45000, 5201

local a, b = netns.pair()

local function goodput()
  local server = b:start({ "iperf3", "-s", "-1", "--forceflush", "-p", PORT })
  server:expect("Server listening")
  local out = a:must({ "iperf3", "-c", b.address, "-p", PORT, "--cport", SOURCE_PORT, "-t", SECONDS, "-J" })
  server:wait(10)
  return tonumber(out:match('"sum_received":%s*{.-"bits_per_second":%s*([%d.e+]+)')) / 1e9
end

local with, without, ratios = {}, {}, {}
for i = 1, ROUNDS do
  local function marked()
    local d = daemon.start({ namespace = a, log_level = "info", config = { backends = { marker = { interfaces = { "eth0" } } } } })
    d:write(("start tcp %s %d %s %d atlas Data_Challenge\n"):format(a.address, SOURCE_PORT, b.address, PORT))
    d:wait_for_counter("flowd_flows_open", 1)
    with[i] = goodput()
    d:stop()
  end
  -- In turn, and each first half of the time: a drift of the machine hits both alike.
  if i % 2 == 0 then marked() end
  without[i] = goodput()
  if i % 2 == 1 then marked() end
  ratios[i] = with[i] / without[i]
  bench.note("iperf: round %d: %.2f Gbit/s marked, %.2f Gbit/s without; ratio %.3f", i, with[i], without[i], ratios[i])
end
local ratio = bench.median(ratios)
bench.row("iperf3: goodput of a marked flow", ("%.2f Gbit/s"):format(bench.median(with)),
  ("%.2f Gbit/s without"):format(bench.median(without)), ratio, ">= 0.98", ratio >= 0.98)
return 0
