-- SPDX-License-Identifier: Apache-2.0
-- The label program on golden packets (BPF_PROG_TEST_RUN), octet for octet: a marked flow's packet
-- comes out with the label in its 20 bits, everything else as it went in.
local bit = require("bit")
local marking = require("spec.support.marking")
local packets = require("spec.support.packets")

local available, reason = marking.available()
if not available then
  describe("the label program", function()
    it("runs on golden packets", function() pending(reason) end)
  end)
  return
end

local LABEL = 0x9ABCD
local SRC_PORT, DST_PORT = 5000, 443
local ETHERNET = 14
local NEXT = -1
local EINVAL = -22

local tcp, udp = packets.tcp(SRC_PORT, DST_PORT, "GET / HTTP/1.0\r\n"), packets.udp(SRC_PORT, DST_PORT, "datagram")

-- The packet with the marked flow's label; the IPv6 header begins after `offset` octets.
local function labelled(packet, offset)
  local second = packet:byte(offset + 2)
  return packet:sub(1, offset + 1)
    .. string.char(second - second % 16 + math.floor(LABEL / 65536), math.floor(LABEL / 256) % 256, LABEL % 256)
    .. packet:sub(offset + 5)
end

describe("the label program", function()
  local m

  setup(function()
    m = marking.open(100)
    m:events({
      { slot = 0, src_port = SRC_PORT, dst_port = DST_PORT, label = LABEL },
      { slot = 1, src_port = SRC_PORT, dst_port = DST_PORT, label = LABEL, protocol = "udp" },
    })
  end)
  teardown(function() m:close() end)

  -- Run and compare; `kind` is the counter that must go up by one, and no other.
  local function expect(expected, packet, kind, bare)
    local counts = m:counts()
    local out, verdict = m:run(packet, bare)
    if not out then error(("the kernel refuses to run %s: %d"):format(packets.hex(packet), verdict), 2) end
    assert.are.equal(packets.hex(expected), packets.hex(out))
    assert.are.equal(NEXT, verdict)
    if kind then counts[kind] = counts[kind] + 1 end
    assert.are.same(counts, m:counts())
  end

  local function marks(packet, offset, bare)
    expect(labelled(packet, offset), packet, "marked", bare)
  end

  local function leaves(packet, kind, bare)
    expect(packet, packet, kind, bare)
  end

  local function frame(fields, options)
    return packets.ethernet(packets.ipv6(fields), options)
  end

  describe("marks", function()
    it("TCP", function() marks(frame({ next = 6, payload = tcp }), ETHERNET) end)

    it("UDP", function() marks(frame({ next = 17, payload = udp }), ETHERNET) end)

    it("whatever label the packet had", function()
      for _, label in ipairs({ 0, 1, 0xFFFFF, 0x55555, LABEL }) do
        marks(frame({ next = 6, payload = tcp, label = label }), ETHERNET)
      end
    end)

    it("with all 256 traffic classes kept bit for bit", function()
      for class = 0, 255 do
        local packet = frame({ next = 6, payload = tcp, class = class, label = 0xFFFFF })
        marks(packet, ETHERNET)
        local out = m:run(packet)
        assert.are.equal(class, (out:byte(15) % 16) * 16 + math.floor(out:byte(16) / 16))
      end
    end)

    it("any hop limit", function()
      for _, limit in ipairs({ 0, 1, 255 }) do
        marks(frame({ next = 6, payload = tcp, hop_limit = limit }), ETHERNET)
      end
    end)

    it("behind a VLAN tag inside the frame", function()
      for _, tag in ipairs({ packets.VLAN, packets.QINQ, packets.OLD_QINQ }) do
        marks(frame({ next = 6, payload = tcp, class = 0x4A }, { tags = { tag } }), ETHERNET + 4)
      end
    end)

    it("behind two tags (QinQ)", function()
      marks(frame({ next = 17, payload = udp }, { tags = { packets.QINQ, packets.VLAN } }), ETHERNET + 8)
      marks(frame({ next = 6, payload = tcp }, { tags = { packets.VLAN, packets.VLAN } }), ETHERNET + 8)
    end)

    it("behind each extension header, of any length", function()
      for _, kind in ipairs({ packets.HOP_BY_HOP, packets.ROUTING, packets.DESTINATION }) do
        for _, body in ipairs({ "", ("\1\4abcd"):rep(2), ("\30\3\0\3\14\0"):rep(20), ("\0"):rep(2046) }) do
          marks(frame({ next = kind, payload = packets.extension(6, body) .. tcp }), ETHERNET)
          marks(frame({ next = kind, payload = packets.extension(17, body) .. udp }), ETHERNET)
        end
      end
      for _, words in ipairs({ 0, 3, 8 }) do
        marks(frame({ next = packets.AUTHENTICATION, payload = packets.authentication(6, words) .. tcp }), ETHERNET)
      end
    end)

    it("behind all of them in the order of RFC 8200", function()
      local x = packets.extension
      marks(frame({
        next = packets.HOP_BY_HOP,
        payload = x(packets.DESTINATION) .. x(packets.ROUTING) .. x(packets.FRAGMENT)
          .. packets.fragment(packets.AUTHENTICATION, 0, false) .. packets.authentication(packets.DESTINATION, 3) .. x(6)
          .. tcp,
      }), ETHERNET)
    end)

    it("behind as many as are walked", function()
      local chain = packets.extension(packets.DESTINATION):rep(7) .. packets.extension(6)
      marks(frame({ next = packets.DESTINATION, payload = chain .. tcp }), ETHERNET)
    end)

    it("the first fragment, which has the ports, and an unfragmented packet with a fragment header", function()
      marks(frame({ next = packets.FRAGMENT, payload = packets.fragment(17, 0, true) .. udp }), ETHERNET)
      marks(frame({ next = packets.FRAGMENT, payload = packets.fragment(6, 0, false) .. tcp }), ETHERNET)
    end)

    it("BIG TCP: payload length 0 and the jumbo option", function()
      local fields = { next = packets.HOP_BY_HOP, payload_length = 0, payload = packets.jumbo(6, 8 + #tcp) .. tcp }
      marks(frame(fields), ETHERNET)
      marks(frame(fields, { tags = { packets.VLAN } }), ETHERNET + 4)
    end)

    it("without an Ethernet header", function()
      marks(packets.ipv6({ next = 6, payload = tcp, class = 0xB9 }), 0, true)
      marks(packets.ipv6({ next = 17, payload = udp }), 0, true)
      marks(packets.ipv6({ next = packets.HOP_BY_HOP, payload = packets.extension(6) .. tcp }), 0, true)
    end)

    it("large packets", function()
      marks(frame({ next = 6, payload = packets.tcp(SRC_PORT, DST_PORT, ("x"):rep(3000)) }), ETHERNET)
    end)
  end)

  describe("leaves alone", function()
    it("other flows", function()
      local function other(fields, src_port, dst_port)
        fields.next = 6
        fields.payload = packets.tcp(src_port or SRC_PORT, dst_port or DST_PORT)
        -- Of ports that no marked flow has nothing is counted.
        leaves(frame(fields), (src_port or SRC_PORT) == SRC_PORT and "missed" or nil)
      end
      other({}, SRC_PORT + 1)
      other({}, nil, DST_PORT + 1)
      other({}, DST_PORT, SRC_PORT)
      other({}, 0, 0)
      other({ src = packets.dst, dst = packets.src })
      other({ src = packets.dst, dst = packets.src }, DST_PORT, SRC_PORT)
      -- One bit away, in each octet of either address.
      for octet = 0, 15 do
        for side, last in pairs({ src = "1", dst = "2" }) do
          local groups = { "2001", "db8", "0", "0", "0", "0", "0", last }
          local group = math.floor(octet / 2) + 1
          groups[group] = bit.tohex(bit.bxor(tonumber(groups[group], 16), octet % 2 == 0 and 0x100 or 1), 4)
          other({ [side] = table.concat(groups, ":") })
        end
      end
    end)

    it("a flow of the other protocol with the same addresses and ports", function()
      local one = marking.open(1)
      one:events({ { slot = 0, src_port = SRC_PORT, dst_port = DST_PORT, label = LABEL } })
      local packet = frame({ next = 17, payload = udp })
      assert.are.equal(packet, (one:run(packet)))
      one:close()
    end)

    it("every other protocol", function()
      local walked = { [0] = true, [6] = true, [17] = true, [43] = true, [44] = true, [51] = true, [60] = true }
      for protocol = 0, 255 do
        if not walked[protocol] then leaves(frame({ next = protocol, payload = tcp }), "protocol") end
      end
      leaves(frame({ next = packets.DESTINATION, payload = packets.extension(packets.ICMPV6) .. tcp }), "protocol")
      leaves(frame({ next = packets.HOP_BY_HOP, payload = packets.extension(packets.NO_NEXT) .. tcp }), "protocol")
      leaves(frame({ next = packets.AUTHENTICATION, payload = packets.authentication(packets.ESP, 3) .. tcp }), "protocol")
    end)

    it("later fragments", function()
      for _, offset in ipairs({ 1, 2, 185, 8191 }) do
        for _, more in ipairs({ true, false }) do
          leaves(frame({ next = packets.FRAGMENT, payload = packets.fragment(17, offset, more) .. udp }), "fragment")
        end
      end
    end)

    it("more extension headers than are walked", function()
      local chain = packets.extension(packets.DESTINATION):rep(8) .. packets.extension(6)
      leaves(frame({ next = packets.DESTINATION, payload = chain .. tcp }), "extensions")
    end)

    it("IPv4", function()
      leaves(packets.ethernet(packets.ipv4(6, tcp), { type = packets.IPV4 }), "not_ipv6")
      leaves(packets.ethernet(packets.ipv4(6, tcp), { type = packets.IPV4, tags = { packets.VLAN } }), "not_ipv6")
      leaves(packets.ipv4(6, tcp), "not_ipv6", true)
    end)

    it("what calls itself IPv6 and is not", function()
      for version = 0, 15 do
        if version ~= 6 then leaves(frame({ next = 6, payload = tcp, version = version }), "not_ipv6") end
      end
    end)

    it("other kinds of frames", function()
      for _, kind in ipairs({ 0x0806, 0x8847, 0x8864, 0x88CC, 0x002E, 0xFFFF }) do
        leaves(packets.ethernet(packets.ipv6({ next = 6, payload = tcp }), { type = kind }), "not_ipv6")
      end
    end)

    it("three tags", function()
      leaves(frame({ next = 6, payload = tcp }, { tags = { packets.QINQ, packets.VLAN, packets.VLAN } }), "not_ipv6")
    end)

    it("ports that are not in the payload but behind it", function()
      for length = 1, 3 do leaves(frame({ next = 6, payload = tcp, payload_length = length }), "truncated") end
      leaves(frame({ next = packets.DESTINATION, payload = packets.extension(6) .. tcp, payload_length = 11 }), "truncated")
      marks(frame({ next = 6, payload = tcp, payload_length = 4 }), ETHERNET)
    end)

    it("a header that says it is longer than the packet", function()
      for _, kind in ipairs({ packets.HOP_BY_HOP, packets.ROUTING, packets.DESTINATION, packets.AUTHENTICATION }) do
        leaves(frame({ next = kind, payload = "\6\255" .. packets.extension(6):sub(3) .. tcp }), "truncated")
      end
    end)
  end)

  -- Every length that the kernel runs; what it refuses to run is sent through a device in spec/system.
  describe("of a packet cut off at any length", function()
    local function cut(packet, needed, offset, bare)
      local ran = 0
      for length = #packet, 0, -1 do
        local short = packet:sub(1, length)
        local out, r = m:run(short, bare)
        if not out then
          assert.are.equal(EINVAL, r)
        else
          ran = ran + 1
          assert.are.equal(packets.hex(length >= needed and labelled(short, offset) or short), packets.hex(out),
            "cut to " .. length)
          assert.are.equal(NEXT, r)
        end
      end
      return ran
    end

    it("marks what has its ports, leaves the rest", function()
      assert.is_true(cut(frame({ next = 6, payload = tcp }), 14 + 40 + 4, 14) > 20)
    end)

    it("behind two tags", function()
      local tags = { packets.QINQ, packets.VLAN }
      assert.is_true(cut(frame({ next = 6, payload = tcp }, { tags = tags }), 22 + 40 + 4, 22) > 50)
    end)

    it("behind extension headers", function()
      local chain = packets.extension(packets.FRAGMENT) .. packets.fragment(packets.AUTHENTICATION, 0, true)
        .. packets.authentication(6, 3)
      assert.is_true(cut(frame({ next = packets.HOP_BY_HOP, payload = chain .. tcp }), 14 + 40 + 40 + 4, 14) > 50)
    end)

    it("without an Ethernet header", function()
      assert.is_true(cut(packets.ipv6({ next = 6, payload = tcp }), 40 + 4, 0, true) > 10)
    end)
  end)

  it("says next for random octets and leaves them as they are", function()
    math.randomseed(42)
    -- Emulated machines (make test-kernels) are content with less.
    local ran, rounds = 0, tonumber(os.getenv("FLOWD_RANDOM_PACKETS")) or 20000
    for _ = 1, rounds do
      local octets = {}
      for i = 1, math.random(14, 120) do octets[i] = string.char(math.random(0, 255)) end
      -- Often something that gets further than the first test.
      if math.random() < 0.7 and #octets > 60 then
        octets[13], octets[14], octets[15] = "\134", "\221", string.char(96 + math.random(0, 15))
        octets[21] = string.char(({ 0, 6, 17, 43, 44, 51, 60 })[math.random(7)])
      end
      local packet = table.concat(octets)
      local out, verdict = m:run(packet, math.random() < 0.3)
      if out then
        ran = ran + 1
        assert.are.equal(packet, out)
        assert.are.equal(NEXT, verdict)
      end
    end
    assert.is_true(ran > rounds / 2)
  end)
end)
