-- SPDX-License-Identifier: Apache-2.0
-- What can be asked about marking while it goes on: marker status, marker flows, stats.
local bpf = require("spec.support.bpf")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local pins = require("flowd.pins")
local process = require("spec.support.process")
local udp = require("spec.support.udp")

local HEADERS = 48 -- IPv6 and UDP

describe("what the marker does", function()
  after_each(cleanup.all)
  local marked = netns.available() and marked_it(it) or pending
  local a, b, d

  local function start(options)
    options.namespace, options.config = a, { backends = { marker = { interfaces = { "eth0", "eth1" } } } }
    d = daemon.start(options)
  end

  -- A command's lines, as a set.
  local function lines(...)
    local result, set = d:command(...), {}
    assert(result.code == 0, result.stderr)
    for text in result.stdout:gmatch("[^\n]+") do set[text] = true end
    return set, result.stdout
  end

  local function send(count, octets)
    local socket = udp.open(a, a.address, 5000)
    for _ = 1, count do socket:send(("x"):rep(octets), b.address, 6000) end
    socket:close()
  end

  marked("is told by marker status: daemon, interfaces, method, program, marks, counters, and whether they were taken over", function()
    a, b = netns.pair()
    netns.veth(a, "eth1", b, "eth1")
    start({})
    d:write(("start udp %s 5000 %s 6000 2 26\nstart udp %s 5001 %s 6000 3 4\n"):format(a.address, b.address, a.address, b.address))
    d:wait_for_counter("flowd_marker_flows", 2)
    send(7, 100)
    d:wait_for_counter('flowd_marker_packets_total{result="marked"}', 7)

    local function expect(first, taken_over)
      local status, text = lines("marker", "status")
      for _, want in ipairs({
        first,
        "pins        " .. pins.directory(d.runtime_dir),
        "marks       2",
        "taken over  " .. taken_over,
        'flowd_marker_packets_total{result="marked"} 7',
        'flowd_marker_marked_packets_total{activity="26",experiment="2"} 7',
        ('flowd_marker_marked_octets_total{activity="26",experiment="2"} %d'):format(7 * (HEADERS + 100)),
        "flowd_marker_flows 2",
      }) do assert.is_true(status[want], ("no line %q in\n%s"):format(want, text)) end
      for _, device in ipairs({ "eth0", "eth1" }) do
        local method, program = text:match("\ninterface   " .. device .. ": (%a+), program (%d+)\n")
        assert.equal(bpf.has_tcx() and "tcx" or "clsact", method)
        if bpf.has_tcx() then assert.equal(a:enter(bpf.egress_programs, device)[1].id, tonumber(program)) end
      end
    end

    expect(("daemon      runs, pid %d"):format(d.pid), "no: a fresh start")
    d:signal("KILL")
    d:wait(10)
    expect("daemon      does not run", "no: a fresh start")
    start({ dir = d.dir, again = true })
    expect(("daemon      runs, pid %d"):format(d.pid), "from the process before")

    local flows, text = lines("marker", "flows")
    local label = text:match(":5000 [^\n]* label (0x%x+)")
    assert.is_true(flows[("udp [%s]:5000 [%s]:6000 label %s atlas (2) / Data Challenge (26), 7 packets, %d octets"):format(
      a.address, b.address, label, 7 * (HEADERS + 100))], text)
    assert.truthy(text:find("]:5001 [^\n]* cms %(3%) / Data Challenge %(4%), 0 packets, 0 octets\n"), text)

    -- Seen from another namespace, and for an interface that is gone.
    local elsewhere = process.run({ daemon.binary(), "--conf", d.conf, "marker", "status", namespace = b })
    assert.truthy(elsewhere.stdout:find("interface   number %d+ of another network namespace: "), elsewhere.stdout)
    d:signal("STOP")
    a:ip("link del eth1")
    if bpf.has_tcx() then
      assert.truthy(select(2, lines("marker", "status")):find("interface   number %d+, which is gone: tcx, nothing is attached"))
    end
    d:signal("CONT")
    assert.equal(0, d:stop().code)
    local nothing, none = lines("marker", "status")
    assert.is_true(nothing[("pins        %s (there are none)"):format(pins.directory(d.runtime_dir))], none)
  end)

  marked("is counted in stats: packets that were marked, or not, by the reason why", function()
    a, b = netns.pair()
    start({})
    d:write(("start udp %s 5000 %s 6000 2 26\n"):format(a.address, b.address))
    d:wait_for_counter("flowd_marker_flows", 1)
    local before = d:stats()
    udp.open(b, b.address, 6000)
    send(3, 10)
    send(1, 4000) -- three fragments; the first one has the ports
    -- Of no marked flow: from a port that one has, and from another, which is not counted.
    udp.open(a, a.address, 5000):send("x", b.address, 6001)
    udp.open(a, a.address, 5007):send("x", b.address, 6000)
    udp.open(a, a.address4, 5000):send("x", b.address4, 6000)
    -- By ICMPv6: nobody is there.
    udp.open(b, b.address, 7000):send("x", a.address, 7000)
    local function grew(labels, least)
      local name = ("flowd_marker_packets_total{%s}"):format(labels)
      d:wait_for_counter(name, before[name] + least)
      return d:counter(name) - before[name]
    end
    assert.equal(4, grew('result="marked"', 4))
    assert.equal(1, grew('result="missed"', 1))
    assert.equal(2, grew('reason="fragment",result="skipped"', 2))
    assert.is_true(grew('reason="not_ipv6",result="skipped"', 1) >= 1)
    assert.is_true(grew('reason="protocol",result="skipped"', 1) >= 1)
    -- All reasons that there are, also those that did not come.
    for _, reason in ipairs({ "truncated", "extensions", "write", "reused", "expired" }) do
      assert.equal(0, d:stats()[('flowd_marker_packets_total{reason="%s",result="skipped"}'):format(reason)], reason)
    end
    assert.equal(0, d:stop().code)
  end)
end)
