-- SPDX-License-Identifier: Apache-2.0
--- TCP goodput between two namespaces (iperf3) of one connection that is marked, with the marker
--- attached and detached in turn, for a fiftieth of a second each: a machine's own drift, larger than what is
--- measured, hits both alike. Both ends share a processor, which is what limits them: what the marker takes of it
--- is missing in the goodput. So many pairs are measured as it takes to tell the ratio from 0.99. The first row is
--- what the kernel takes for having any program there at all: one that only counts.
--- Usage: scripts/bench/run iperf   or, one of them: lua scripts/bench/iperf.lua any|1|many [PAIRS_MAX]
package.path = "./?.lua"
local api = require("flowd.api")
local bench = require("scripts.bench.bench")
local bpf = require("spec.support.bpf")
local capture = require("spec.support.capture")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local process = require("spec.support.process")

local ONLY = arg[1] -- that row only
local PAIRS_MIN, PAIRS_MAX = 400, tonumber(arg[2] or 1600)
local SLICE_MS, SETTLE_MS = 20, 3
local WANTED = 0.99
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
  pause(SETTLE_MS)
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

local server = b:start({ "taskset", "-c", "0", "iperf3", "-s", "-1", "--forceflush", "-p", PORT })
server:expect("Server listening")
local client = a:start({ "taskset", "-c", "0", "iperf3", "-c", b.address, "-p", PORT, "--cport", SOURCE_PORT, "-t", 1000 })
process.wait_for("traffic", 10, function() return received() > 1e7 end)
attach()
check_marked()
detach()

-- 1: the ratio is what is wanted or more, -1: it is less, 0: cannot tell yet (or 99 times in 100).
local function verdict(ratio, uncertain)
  if ratio - 2.5 * uncertain >= WANTED then return 1 end
  return ratio + 2.5 * uncertain < WANTED and -1 or 0
end

local function measure(what, put_on, take_off, wanted)
  local with, without, ratios = {}, {}, {}
  local ratio, uncertain
  bench.pin(1)
  repeat
    local i = #ratios + 1
    local function marked()
      put_on()
      with[i] = slice()
      take_off()
    end
    if i % 2 == 0 then marked() end
    without[i] = slice()
    if i % 2 == 1 then marked() end
    ratios[i] = with[i] / without[i]
    if i % 100 == 0 then ratio, uncertain = bench.median_of(ratios) end
  until i == PAIRS_MAX or (i % 100 == 0 and i >= PAIRS_MIN and verdict(ratio, uncertain) ~= 0)
  ratio, uncertain = bench.median_of(ratios)
  bench.pin(nil)
  bench.note("iperf, %s: ratio of %d pairs of slices: median %.4f +- %.4f", what, #ratios, ratio, uncertain)
  local known = verdict(ratio, uncertain)
  local required = wanted and (">= %.2f (+- %.3f%s)"):format(WANTED, uncertain, known == 0 and ": cannot tell" or "")
    or ("(+- %.3f)"):format(uncertain)
  bench.row("iperf3: goodput " .. what, ("%.2f Gbit/s"):format(bench.median(with)),
    ("%.2f Gbit/s without"):format(bench.median(without)), ratio, required, wanted and ({ [-1] = false, [1] = true })[known] or nil)
end

if bpf.has_tcx() and (ONLY == nil or ONLY == "any") then
  local any = bpf.counting_program()
  measure("behind a program that only counts", function() a:enter(any.attach, any, "eth0") end,
    function() any:detach() end, false)
  any:close()
end
if ONLY == nil or ONLY == "1" then measure("of a marked flow, 1 flow", attach, detach, true) end
local many = ONLY == nil or ONLY == "many"
for first = 1, many and OTHERS or 0, 1000 do
  local list = {}
  for i = first, first + 999 do
    list[#list + 1] = { src = a.address, dst = b.address, src_port = SOURCE_PORT + i % 16, dst_port = 6000 + math.floor(i / 16),
      protocol = "tcp", slot = i, label = 0x10008 }
  end
  marker:events(list)
end
if many then measure(("of a marked flow, %d flows"):format(OTHERS + 1), attach, detach, true) end
client:stop()
server:stop()
return 0
