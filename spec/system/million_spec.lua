-- SPDX-License-Identifier: Apache-2.0
-- A million flows at once: all marked, all there after kill -9, all ended in time. FLOWD_FLOWS says how many.
local bit = require("bit")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local stopwatch = require("spec.support.stopwatch")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

local ASAN = os.getenv("ASAN_OPTIONS") ~= nil
local SLOWER = ASAN and 5 or 1
local MEMORY_KIB = 4 * 1048576 -- with the test's own

-- Without that much memory, fewer.
local function default_flows()
  local kib = tonumber((temp.read("/proc/meminfo") or ""):match("MemAvailable:%s*(%d+)"))
  return (ASAN or not kib or kib < MEMORY_KIB) and 100000 or 1000000
end

local FLOWS = tonumber(os.getenv("FLOWD_FLOWS")) or default_flows()
local CHUNK, SAMPLES, REPORTED = 50000, 60, 16
local SEMANTIC, ATLAS = 0x3FEFC, 0x10008 -- experiment 2, activity 2
-- Of the kernel's memory. A table that has just been doubled is five sixteenths full.
local OCTETS_PER_FLOW = FLOWS == 1000000 and 200 or 81 * 16 / 5
local STOP_DEADLINE = 10

describe(("%d flows"):format(FLOWS), function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)
  local a, b, d, sink, count

  local function start(dir)
    d = daemon.start({ namespace = a, dir = dir, again = dir ~= nil, log_level = "info", seconds = 60 * SLOWER,
      config = { max_flows = FLOWS, stop_deadline = STOP_DEADLINE, backends = {
        marker = { interfaces = { "eth0" } },
        firefly = { to_destination = false, collectors = { ("[%s]:10514"):format(b.address) } },
      } },
      -- The collector is a test: one flow in 16 is reported.
      rules = ('rule "some" (function(flow) if flow.src_port %% %d ~= 0 then flow:route("marker") end end)'):format(REPORTED) })
  end

  local function tally()
    for _, datagram in ipairs(sink:take()) do
      local state = firefly.member(datagram.text, "state")
      count[state] = (count[state] or 0) + 1
    end
  end

  local function tell(state, from, to)
    for first = from, to, CHUNK do
      d:write(flow_lines.lines(state, a.address, b.address, "atlas 2", first, math.min(first + CHUNK - 1, to), "udp"))
      tally()
    end
  end

  -- Labels of datagrams of these flows, sent now, in their order.
  local function labels(flows)
    local seen = capture.start(b, "eth0")
    for _, flow in ipairs(flows) do
      local src_port, dst_port = flow_lines.ports(flow)
      local socket = udp.open(a, a.address, src_port)
      socket:send("x", b.address, dst_port)
      socket:close()
    end
    local packets = seen:wait_for({ src = a.address, protocol = "udp" }, 10, #flows)
    local list = {}
    for i, packet in ipairs(packets) do
      local src_port, dst_port = flow_lines.ports(flows[i])
      assert.equal(src_port, packet.src_port)
      assert.equal(dst_port, packet.dst_port)
      list[i] = packet.flow_label
    end
    seen:close()
    return list
  end

  -- Some flows from here to there, the first and the last among them.
  local function sample(from, to)
    local flows = { from, to }
    for i = 3, SAMPLES do flows[i] = math.random(from, to) end
    return flows
  end

  local function reported(from, to)
    local total = 0
    for i = from, to do
      if flow_lines.ports(i) % REPORTED == 0 then total = total + 1 end
    end
    return total
  end

  marked_it(it)("are open, marked, taken over after kill -9, and end within stop_deadline", function()
    math.randomseed(4713)
    a, b = netns.pair()
    a:sysctl("net.ipv6.auto_flowlabels", 0)
    sink, count = udp.open(b, b.address, 10514), {}
    start()
    tell("start", 0, FLOWS - 1)
    d:wait_for_counter("flowd_marker_flows", FLOWS, 60 * SLOWER)
    assert.equal(FLOWS, d:counter("flowd_flows_open"))
    assert.equal(0, d:counter("flowd_flows_refused_total") + d:counter("flowd_marker_refused_total"))
    local octets = d:counter("flowd_marker_memory_octets") / FLOWS
    assert.is_true(octets <= OCTETS_PER_FLOW, octets .. " octets for a flow")

    local flows, others = sample(0, FLOWS - 1), sample(FLOWS, FLOWS + 50000)
    local before = labels(flows)
    for i, label in ipairs(before) do assert.equal(ATLAS, bit.band(label, SEMANTIC), "flow " .. flows[i]) end
    for i, label in ipairs(labels(others)) do assert.equal(0, label, "flow " .. others[i]) end

    -- One more is refused, and counted; nothing else changes.
    tell("start", FLOWS, FLOWS)
    d:wait_for_counter('flowd_flows_refused_total{reason="table_full"}', 1)
    assert.equal(FLOWS, d:counter("flowd_flows_open"))

    d:signal("KILL")
    d:wait(10)
    assert.same(before, labels(flows))
    start(d.dir)
    d:expect(("took over %d marks"):format(FLOWS), 60 * SLOWER)
    assert.equal(FLOWS, d:counter("flowd_flows_open"))
    assert.equal(0, d:counter("flowd_flows_missed_ends_total"))
    assert.same(before, labels(flows))
    local status = d:command("marker", "status").stdout
    assert.is_truthy(status:find(("marks       %d\n"):format(FLOWS), 1, true), status)

    -- Some end by their lines: their marks go, the others' stay.
    local ended = math.floor(FLOWS / 4)
    tell("end", 0, ended - 1)
    d:wait_for_counter("flowd_marker_removed_total", ended, 60 * SLOWER)
    for _, label in ipairs(labels(sample(0, ended - 1))) do assert.equal(0, label) end
    for _, label in ipairs(labels(sample(ended, FLOWS - 1))) do assert.equal(ATLAS, bit.band(label, SEMANTIC)) end

    local watch = stopwatch.start(d.pid)
    d:signal("TERM")
    process.wait_for("its end", 60 * SLOWER, function()
      tally()
      return process.ended(d.pid)
    end)
    local seconds = watch:seconds()
    assert.same({ code = 0 }, d:wait(10))
    tally()
    assert.is_true(seconds < STOP_DEADLINE * SLOWER, ("took %.1f s"):format(seconds))
    assert.is_truthy(d:log():find(("ended %d open flows"):format(FLOWS - ended), 1, true), d:log())
    assert.is_nil(d:log():find("stop_deadline", 1, true))
    assert.equal(0, sink:dropped())
    local all = reported(0, FLOWS - 1)
    assert.same({ start = all, ["end"] = all }, count)
    for _, label in ipairs(labels(flows)) do assert.equal(0, label) end
    assert.is_false(temp.exists(d.runtime_dir .. "/state"))
  end)
end)
