-- SPDX-License-Identifier: Apache-2.0
-- The marker on devices: real traffic between namespaces, beside the programs, filters and qdiscs of others.
local bpf = require("spec.support.bpf")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local device = require("spec.support.device")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local packets = require("spec.support.packets")
local temp = require("spec.support.temp")
local traffic = require("spec.support.traffic")

local available, reason = netns.available()
if available then available, reason = marking.available() end
if not available then
  describe("the marker on devices", function()
    it("marks real traffic", function() pending(reason) end)
  end)
  return
end

local LABEL = 0x30038
local methods = bpf.has_tcx() and { "tcx", "clsact" } or { "clsact" }

-- Namespaces joined by eth0; what the kernel would put into flow labels by itself stays 0.
local function pair()
  local a, b = netns.pair()
  a:sysctl("net.ipv6.auto_flowlabels", 0)
  b:sysctl("net.ipv6.auto_flowlabels", 0)
  return a, b
end

-- A marker on eth0 of a, detached and closed (in a) after the test.
local function marker_on(a, method, name)
  local m = marking.open(1000)
  cleanup.add(function()
    if m.handle then a:enter(function() m:close() end) end
  end)
  local r, message = a:enter(function() return m:attach(name or "eth0", method) end)
  assert.are.equal(0, r, message)
  return m
end

local function close(a, m) a:enter(function() m:close() end) end

local function event(a, b, fields)
  fields.src, fields.dst = a.address, b.address
  fields.label = fields.label or LABEL
  return fields
end

-- A filter of kind bpf that matches nothing.
local function add_bpf_filter(ns, priority, handle)
  ns:must({ "tc", "filter", "add", "dev", "eth0", "egress", "prio", priority, "handle", handle, "bpf", "bytecode",
    "1,6 0 0 0,", "classid", "1:1" })
end

-- What tc and bpf(2) show of eth0.
local function shown(ns)
  local all = { ns:tc("qdisc show dev eth0"), ns:tc("filter show dev eth0 egress"), ns:tc("filter show dev eth0 ingress") }
  if bpf.has_tcx() then
    for _, program in ipairs(ns:enter(bpf.egress_programs, "eth0")) do all[#all + 1] = program.id .. " " .. program.name end
  end
  return table.concat(all, "\n")
end

-- Of the captured packets of a flow, how many carry `label` and how many another one.
local function tally(seen, want, label)
  local with, without = 0, 0
  for _, packet in ipairs(seen:packets(want)) do
    if packet.flow_label == label then with = with + 1 else without = without + 1 end
  end
  return with, without
end

for _, method in ipairs(methods) do
  describe("the marker by " .. method, function()
    after_each(cleanup.all)

    it("labels every packet of a TCP flow and none of another", function()
      local a, b = pair()
      local m = marker_on(a, method)
      assert.are.equal(method, a:enter(function() return m:attached("eth0") end))
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
      local seen = capture.start(b, "eth0")
      local finish = { traffic.tcp(a, b, 5000, 6000), traffic.tcp(a, b, 5000, 6001), traffic.tcp(a, b, 5001, 6002) }
      for _, wait in ipairs(finish) do wait() end
      assert.are.equal(0, seen:dropped())
      local with, without = tally(seen, { src = a.address, src_port = 5000, dst_port = 6000 }, LABEL)
      assert.is_true(with > 10)
      assert.are.equal(0, without)
      -- Other flows: same port to another, other ports, the way back.
      local others = 0
      for _, packet in ipairs(seen:packets({ version = 6 })) do
        if not (packet.src == a.address and packet.src_port == 5000 and packet.dst_port == 6000) then
          others = others + 1
          assert.are.equal(0, packet.flow_label)
        end
      end
      assert.is_true(others > 30)
      assert.is_true(m:counts().marked >= with)
    end)

    it("labels every packet of a UDP flow", function()
      local a, b = pair()
      local m = marker_on(a, method)
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000, protocol = "udp" }) })
      local seen = capture.start(b, "eth0")
      traffic.udp(a, b, 5000, 6000, 150)()
      local with, without = tally(seen, { src = a.address, src_port = 5000, dst_port = 6000, protocol = "udp" }, LABEL)
      assert.is_true(with > 100)
      assert.are.equal(0, without)
    end)

    it("labels what is cut into segments only after it, or before it", function()
      for _, offload in ipairs({ "on", "off" }) do
        local a, b = pair()
        a:must({ "ethtool", "-K", "eth0", "tso", offload, "gso", offload })
        local m = marker_on(a, method)
        m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
        local seen = capture.start(b, "eth0")
        traffic.tcp(a, b, 5000, 6000)()
        local with, without = tally(seen, { src = a.address, src_port = 5000 }, LABEL)
        assert.is_true(with > 10)
        assert.are.equal(0, without)
        close(a, m)
      end
    end)

    it("labels BIG TCP", function()
      local a, b = pair()
      for _, ns in ipairs({ a, b }) do ns:ip("link set dev eth0 mtu 9000 gso_max_size 185000") end
      local m = marker_on(a, method)
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
      local seen = capture.start(b, "eth0")
      traffic.tcp(a, b, 5000, 6000, 200000000)()
      local with, without = tally(seen, { src = a.address, src_port = 5000 }, LABEL)
      assert.is_true(with > 100)
      assert.are.equal(0, without)
      local longest = 0
      for _, packet in ipairs(seen:packets({ src_port = 5000 })) do longest = math.max(longest, packet.length) end
      assert.is_true(longest > 65536, "no packet is longer than " .. longest)
    end)

    it("stops with the flow's end", function()
      local a, b = pair()
      local m = marker_on(a, method)
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000, state = "end", known = true, decided = true }) })
      local seen = capture.start(b, "eth0")
      traffic.tcp(a, b, 5000, 6000)()
      local with, without = tally(seen, { src = a.address, src_port = 5000 }, LABEL)
      assert.are.equal(0, with)
      assert.is_true(without > 10)
    end)

    -- Shorter than what BPF_PROG_TEST_RUN accepts, too.
    it("leaves frames of every length as they are, but for the label of those that have their ports", function()
      local a, b = netns.new("a"), netns.new("b")
      for _, ns in ipairs({ a, b }) do ns:sysctl("net.ipv6.conf.default.disable_ipv6", 1) end
      netns.veth(a, "eth0", b, "eth0")
      local m = marker_on(a, method)
      m:events({ { slot = 0, src_port = 5000, dst_port = 443, label = 0xFFFFF } })
      local seen = capture.start(b, "eth0")
      local frames = {}
      for _, tags in ipairs({ {}, { packets.VLAN }, { packets.QINQ, packets.VLAN } }) do
        local whole = packets.ethernet(packets.ipv6({ next = 6, payload = packets.tcp(5000, 443), class = 0x4A }),
          { tags = tags })
        -- A receiver drops a frame whose tag is cut off.
        for length = #tags > 0 and 20 or 14, #whole do
          frames[#frames + 1] = { octets = whole:sub(1, length), network = 14 + 4 * #tags }
        end
      end
      device.send(a, "eth0", frames)
      local arrived = seen:wait_for({}, 10, #frames)
      assert.are.equal(#frames, #arrived)
      for i, frame in ipairs(frames) do
        local expected, at = frame.octets, frame.network
        if #expected >= at + 44 then expected = expected:sub(1, at + 1) .. "\175\255\255" .. expected:sub(at + 5) end
        -- A tag may travel beside the frame: the kernel takes the outermost one out.
        local got = arrived[i].octets
        if #got == #expected - 4 then
          assert.are.equal(0x65, arrived[i].vlan[1])
          got = got:sub(1, 12) .. expected:sub(13, 16) .. got:sub(13)
        end
        assert.are.equal(packets.hex(expected), packets.hex(got))
      end
    end)

    it("labels on devices without Ethernet header", function()
      local a = netns.new("a")
      local tun = device.tun(a, "tun0")
      a:sysctl("net.ipv6.conf.tun0.addr_gen_mode", 1)
      a:ip("link set tun0 up")
      a:add_address("tun0", packets.src .. "/64")
      local m = marker_on(a, method, "tun0")
      m:events({ { slot = 0, protocol = "udp", src_port = 5000, dst_port = 443, label = LABEL } })
      local sender = a:start({ "socat", "-u", "-", ("UDP6:[%s]:443,sourceport=5000"):format(packets.dst),
        stdin = "pipe" })
      sender:write("hello")
      local packet = tun:wait_for({ src_port = 5000 }, 10)
      assert.are.equal(LABEL, packet.flow_label)
      assert.are.equal("hello", packet.data)
      assert.are.equal(1, m:counts().marked)
    end)

    it("leaves nothing behind", function()
      local a = pair()
      local before = shown(a)
      local m = marker_on(a, method)
      assert.are_not.equal(before, shown(a))
      close(a, m)
      assert.are.equal(before, shown(a))
      m = marker_on(a, method)
      assert.are.equal(0, a:enter(function() return m:detach("eth0") end))
      assert.are.equal(before, shown(a))
      assert.is_nil(a:enter(function() return m:attached("eth0") end))
    end)

    it("lives beside a qdisc and a clsact filter of others, and leaves them as they were", function()
      local a, b = pair()
      a:tc("qdisc add dev eth0 root handle 7: pfifo limit 50")
      a:tc("qdisc add dev eth0 clsact")
      add_bpf_filter(a, "1", "1")
      a:tc("filter add dev eth0 egress prio 10 u32 match u32 0 0 classid 1:2")
      a:tc("filter add dev eth0 ingress prio 5 u32 match u32 0 0 classid 1:3")
      local before = shown(a)
      local m = marker_on(a, method)
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
      local seen = capture.start(b, "eth0")
      traffic.tcp(a, b, 5000, 6000)()
      local with, without = tally(seen, { src = a.address, src_port = 5000 }, LABEL)
      assert.is_true(with > 10)
      assert.are.equal(0, without)
      for line in before:gmatch("[^\n]+") do
        assert.is_truthy(shown(a):find(line, 1, true), "gone meanwhile: " .. line)
      end
      close(a, m)
      assert.are.equal(before, shown(a))
    end)

    it("names what it cannot attach to", function()
      local a = pair()
      local m = marker_on(a, method)
      local r, message = a:enter(function() return m:attach("eth0", method) end)
      assert.are.equal(-17, r)
      assert.are.equal("interface eth0: marked already", message)
    end)

    it("notices that the interface has gone, and attaches to the next of that name", function()
      local a = pair()
      local m = marker_on(a, method)
      a:ip("link del eth0")
      assert.is_nil(a:enter(function() return m:attached("eth0") end))
      a:ip("link add eth0 type veth peer name other")
      assert.is_nil(a:enter(function() return m:attached("eth0") end))
      local before = shown(a)
      a:enter(function()
        assert.are.equal(0, m:detach("eth0"))
        assert.are.equal(before, shown(a))
        assert.are.equal(0, (m:attach("eth0", method)))
        assert.are.equal(method, m:attached("eth0"))
      end)
      close(a, m)
      assert.are.equal(before, shown(a))
    end)
  end)
end

describe("the marker by tcx", function()
  after_each(cleanup.all)
  local it_tcx = bpf.has_tcx() and it or function(name) pending(name .. " (no TCX)") end

  -- Verdict 0 (pass) ends the way through the programs, -1 goes on.
  for name, first in pairs({ ["that was there before"] = false, ["that came later and went first"] = true }) do
    it_tcx("lives beside a program " .. name, function()
      local a, b = pair()
      local foreign = bpf.counting_program(first and -1 or 0)
      finally(function() foreign:close() end)
      local before
      if not first then
        a:enter(function() foreign:attach("eth0") end)
        before = shown(a)
      end
      local m = marker_on(a, "tcx")
      if first then a:enter(function() foreign:attach("eth0", true) end) end
      local order = a:enter(bpf.egress_programs, "eth0")
      assert.are.equal(2, #order)
      assert.are.equal(foreign.id, order[first and 1 or 2].id)
      assert.are.equal("label_ethernet", order[first and 2 or 1].name)
      m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
      local seen = capture.start(b, "eth0")
      traffic.tcp(a, b, 5000, 6000)()
      local with, without = tally(seen, { src = a.address, src_port = 5000 }, LABEL)
      assert.is_true(with > 10)
      assert.are.equal(0, without)
      assert.is_true(foreign:packets() >= with)
      close(a, m)
      order = a:enter(bpf.egress_programs, "eth0")
      assert.are.equal(1, #order)
      assert.are.equal(foreign.id, order[1].id)
      if before then assert.are.equal(before, shown(a)) end
    end)
  end

  it_tcx("is what auto chooses", function()
    local a = pair()
    local m = marker_on(a, "auto")
    assert.are.equal("tcx", a:enter(function() return m:attached("eth0") end))
    assert.is_nil(a:tc("qdisc show dev eth0"):find("clsact"))
  end)
end)

describe("the marker by clsact", function()
  after_each(cleanup.all)

  it("keeps the qdisc that it made when others have begun to use it", function()
    for _, side in ipairs({ "egress", "ingress" }) do
      local a = pair()
      local m = marker_on(a, "clsact")
      a:tc("filter add dev eth0 %s prio 10 u32 match u32 0 0 classid 1:2", side)
      close(a, m)
      assert.is_truthy(a:tc("qdisc show dev eth0"):find("clsact", 1, true))
      assert.is_truthy(a:tc("filter show dev eth0 %s", side):find("u32", 1, true))
      assert.is_nil(a:tc("filter show dev eth0 egress"):find("label_ethernet", 1, true))
    end
  end)

  it("keeps a clsact qdisc that was there, also an empty one", function()
    local a = pair()
    a:tc("qdisc add dev eth0 clsact")
    local before = shown(a)
    close(a, marker_on(a, "clsact"))
    assert.are.equal(before, shown(a))
  end)

  it("keeps a clsact qdisc that somebody made after removing ours", function()
    local a = pair()
    local m = marker_on(a, "clsact")
    a:tc("qdisc del dev eth0 clsact")
    assert.is_nil(a:enter(function() return m:attached("eth0") end))
    a:tc("qdisc add dev eth0 clsact")
    local before = shown(a)
    close(a, m)
    assert.are.equal(before, shown(a))
  end)

  -- clsact cannot be had; the message is found so, and the device left as it was.
  local function assert_refused(a, ...)
    local before = shown(a)
    local m = marking.open(10)
    local r, message = a:enter(function() return m:attach("eth0", "clsact") end)
    assert.is_true(r < 0)
    assert.is_truthy(message:find(...), message)
    m:close()
    assert.are.equal(before, shown(a))
  end

  it("refuses to replace another's filter with its priority and handle", function()
    local a = pair()
    a:tc("qdisc add dev eth0 clsact")
    add_bpf_filter(a, "3", "0xf10d")
    assert_refused(a, "^interface eth0: clsact filter with priority 3 and handle 0xf10d: ")
  end)

  it("says so when another kind of filter has its priority", function()
    local a = pair()
    a:tc("qdisc add dev eth0 clsact")
    a:tc("filter add dev eth0 egress prio 3 u32 match u32 0 0 classid 1:2")
    assert_refused(a, "^interface eth0: clsact filter with priority 3")
  end)

  it("says so when an ingress qdisc has clsact's place", function()
    local a = pair()
    a:tc("qdisc add dev eth0 ingress")
    assert_refused(a, "ingress qdisc", 1, true)
  end)

  it("replaces the filter of a marker that was killed", function()
    local a, b = pair()
    local path = temp.write(temp.dir() .. "/attach.lua", [[
      package.path = "./?.lua"
      local marking = require("spec.support.marking")
      assert(marking.open(10):attach("eth0", "clsact") == 0)
      io.stdout:write("attached\n")
      io.stdout:flush()
      io.read()]])
    local child = a:start({ daemon.binary(), "lua", path, stdin = "pipe" })
    child:expect("attached", 10)
    child:signal("KILL")
    child:wait(5)
    assert.is_truthy(a:tc("filter show dev eth0 egress"):find("label_ethernet", 1, true))
    local m = marker_on(a, "clsact")
    m:events({ event(a, b, { slot = 0, src_port = 5000, dst_port = 6000 }) })
    local seen = capture.start(b, "eth0")
    traffic.tcp(a, b, 5000, 6000)()
    local with, without = tally(seen, { src = a.address, src_port = 5000 }, LABEL)
    assert.is_true(with > 10)
    assert.are.equal(0, without)
    close(a, m)
    assert.are.equal("", a:tc("filter show dev eth0 egress"))
  end)
end)
