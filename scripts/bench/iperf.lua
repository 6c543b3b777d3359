-- SPDX-License-Identifier: Apache-2.0
--- TCP goodput between two namespaces (iperf3) of one connection that is marked, with the marker
--- attached and detached in turn, less than a tenth of a second each: a machine's own drift, larger than what is
--- measured, hits both alike.
package.path = "./?.lua"
local api = require("flowd.api")
local bench = require("scripts.bench.bench")
local capture = require("spec.support.capture")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local process = require("spec.support.process")

local PAIRS = tonumber(arg[1] or 150)
local SLICE_MS = tonumber(arg[2] or 80)
local SOURCE_PORT, PORT = 45000, 5201
local OTHERS = 100000 -- flows that share addresses and ports with it, and send nothing

local a, b = netns.pair()
local marker = marking.open(200000)
marker:events({ { state = "start", src = a.address, dst = b.address, src_port = SOURCE_PORT, dst_port = PORT, protocol = "tcp",
  slot = 0, label = 0x10068 } })

local function attach() return a:enter(marker.attach, marker, "eth0", "auto") end
local function detach() return a:enter(marker.detach, marker, "eth0") end

local function received()
  return a:enter(function()
    local file = assert(io.open("/proc/net/dev"))
    local text = file:read("*a")
    file:close()
    return tonumber(text:match("eth0:" .. ("%s+%d+"):rep(8) .. "%s+(%d+)"))
  end)
end

local function pause(milliseconds)
  local until_ns = api.clock_monotonic_ns() + milliseconds * 1000000ULL
  process.wait_for("the end of a slice", 10, function() return api.clock_monotonic_ns() >= until_ns end)
end

-- Gbit/s of one slice.
local function slice()
  pause(20)
  local octets, start = received(), api.clock_monotonic_ns()
  pause(SLICE_MS)
  octets = received() - octets
  return octets * 8 / tonumber(api.clock_monotonic_ns() - start)
end

-- The marker does mark this connection while it is attached.
local function check_marked()
  local seen = capture.start(b, "eth0")
  seen:wait_for({ src_port = SOURCE_PORT, flow_label = 0x10068 }, 10, 10)
  seen:close()
end

local server = b:start({ "iperf3", "-s", "-1", "--forceflush", "-p", PORT })
server:expect("Server listening")
local client = a:start({ "iperf3", "-c", b.address, "-p", PORT, "--cport", SOURCE_PORT, "-t", 1000 })
process.wait_for("traffic", 10, function() return received() > 1e7 end)
attach()
check_marked()
detach()

local function measure(name)
  local with, without, ratios = {}, {}, {}
  for i = 1, PAIRS do
    local function marked()
      attach()
      with[i] = slice()
      detach()
    end
    if i % 2 == 0 then marked() end
    without[i] = slice()
    if i % 2 == 1 then marked() end
    ratios[i] = with[i] / without[i]
  end
  local ratio = bench.median(ratios)
  local spread = bench.percentile(ratios, 75) - bench.percentile(ratios, 25)
  -- Standard error of a median, with the standard deviation as the quartiles tell it.
  local uncertain = 1.25 * spread / 1.35 / math.sqrt(PAIRS)
  bench.note("iperf, %s: ratio of %d pairs of slices: median %.3f +- %.3f, half of them within %.3f", name, PAIRS, ratio,
    uncertain, spread)
  bench.row("iperf3: goodput of a marked flow, " .. name, ("%.2f Gbit/s"):format(bench.median(with)),
    ("%.2f Gbit/s without"):format(bench.median(without)), ratio, (">= 0.99 (+- %.2f)"):format(uncertain),
    ratio + uncertain >= 0.99)
end

measure("1 flow")
for first = 1, OTHERS, 1000 do
  local list = {}
  for i = first, first + 999 do
    list[#list + 1] = { src = a.address, dst = b.address, src_port = SOURCE_PORT + i % 16, dst_port = 6000 + math.floor(i / 16),
      protocol = "tcp", slot = i, label = 0x10008 }
  end
  marker:events(list)
end
measure(("%d flows"):format(OTHERS + 1))
client:stop()
server:stop()
return 0
