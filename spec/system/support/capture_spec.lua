-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local udp = require("spec.support.udp")

describe("a capture", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b
  before_each(function() a, b = netns.pair() end)
  after_each(cleanup.all)

  it("shows every packet of a transfer, with its ports and flags", function()
    local seen = capture.start(b, "eth0")
    local server = b:start({ "socat", "-d", "-d", "-u", "TCP6-LISTEN:5000", "OPEN:/dev/null" })
    server:expect("listening on")
    a:must({ "socat", "-u", "SYSTEM:head -c 1000000 /dev/zero", "TCP6:[" .. b.address .. "]:5000,bind=:6000" })
    server:wait()
    local forth = seen:packets({ src = a.address, dst = b.address, src_port = 6000, dst_port = 5000, protocol = "tcp" })
    assert.is_true(forth[1].syn)
    assert.is_true(forth[#forth].fin or forth[#forth - 1].fin)
    local octets = 0
    for _, packet in ipairs(forth) do octets = octets + packet.length - 54 - packet.transport_header end
    assert.equal(1000000, octets)
    assert.is_true(#seen:packets({ src = b.address, src_port = 5000 }) > 1)
    assert.equal(0, seen:dropped())
  end)

  it("shows flow label and traffic class as they were set", function()
    local seen = capture.start(b, "eth0")
    local sender = udp.open(a, a.address, 6001)
    a:enter(function()
      -- IPV6_TCLASS
      assert(ffi.C.setsockopt(sender.fd, 41, 67, ffi.new("int[1]", 0x4a), 4) == 0)
      -- IPV6_AUTOFLOWLABEL on: some label that is not zero
      assert(ffi.C.setsockopt(sender.fd, 41, 70, ffi.new("int[1]", 1), 4) == 0)
    end)
    sender:send("hello", b.address, 6002)
    local packet = seen:wait_for({ src_port = 6001 }, 5)[1]
    assert.equal(0x4a, packet.traffic_class)
    assert.is_true(packet.flow_label > 0 and packet.flow_label <= 0xfffff)
    assert.equal("udp", packet.protocol)
    assert.equal("hello", packet.data)
    assert.is_false(packet.outgoing)
  end)

  it("reads tags inside the frame, extension headers and fragments", function()
    local ethernet = "\2\0\0\0\0\1\2\0\0\0\0\2" .. "\136\168\0\7" .. "\129\0\0\9" .. "\134\221"
    local ip = "\99\74\188\222" .. "\0\24" .. "\0\64" .. ("\0"):rep(15) .. "\1" .. ("\0"):rep(15) .. "\2"
    local hop = "\44\0\30\3\0\2\26\0"
    local fragment = "\17\0\0\1\1\2\3\4"
    local octets = ethernet .. ip .. hop .. fragment .. "\19\136\23\112\0\8\0\0"
    local p = ffi.cast("const uint8_t *", octets)
    local packet = capture.decode(p, #octets, true)
    assert.same({ 7, 9 }, packet.vlan)
    assert.equal(0x34, packet.traffic_class)
    assert.equal(0xabcde, packet.flow_label)
    assert.equal("::1", packet.src)
    assert.equal("::2", packet.dst)
    assert.same({ { kind = 0, octets = hop }, { kind = 44, octets = fragment } }, packet.extensions)
    assert.equal(0, packet.fragment_offset)
    assert.same({ "udp", 5000, 6000 }, { packet.protocol, packet.src_port, packet.dst_port })
  end)

  it("counts what its ring could not hold", function()
    local seen = capture.start(b, "eth0", { frames = 1 })
    local sender = udp.open(a, a.address, 6001)
    for _ = 1, 10000 do sender:send("x", b.address, 6002) end
    assert.is_true(seen:dropped() > 0)
    assert.is_true(seen:dropped() + #seen:packets({ src_port = 6001 }) >= 10000)
  end)
end)

describe("a UDP sink", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)

  for _, host in ipairs({ "::1", "127.0.0.1" }) do
    it("at " .. host .. " gives each datagram with its sender, in order", function()
      local ns = netns.new()
      local sink, sender = udp.open(ns, host, 0), udp.open(ns, host, 4000)
      local before = os.time() -- of which datagrams tell fractions, too
      for i = 1, 200 do sender:send("datagram " .. i, host, sink.port) end
      local all = sink:collect(200, 5)
      for i = 1, 200 do
        assert.same({ text = "datagram " .. i, src = host, src_port = 4000, time = all[i].time }, all[i])
        assert.is_true(all[i].time >= (i > 1 and all[i - 1].time or before))
      end
      assert.equal("datagram 1", sink:receive(1).text)
      assert.equal("datagram 2", sink:receive(1).text)
    end)
  end

  it("tells what is missing when it waits in vain", function()
    local sink = udp.open(netns.new(), "::1", 0)
    local ok, message = pcall(sink.collect, sink, 2, 0.01)
    assert.is_false(ok)
    assert.matches("2 datagrams at ::1 port %d+ %(0 came%)", message)
  end)

  it("counts what its buffer could not hold", function()
    local ns = netns.new()
    local sink, sender = udp.open(ns, "::1", 0), udp.open(ns, "::1", 0)
    ffi.C.setsockopt(sink.fd, 1, 8, ffi.new("int[1]", 2000), 4)
    for _ = 1, 100 do sender:send(("x"):rep(500), "::1", sink.port) end
    sink:datagrams()
    sender:send("last", "::1", sink.port)
    process.wait_for("count", 5, function() return sink:dropped() > 0 end)
    assert.equal(101, sink:dropped() + #sink:datagrams())
  end)
end)
