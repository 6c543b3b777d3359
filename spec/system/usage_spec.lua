-- SPDX-License-Identifier: Apache-2.0
-- What the program counted of a flow gets to the collector, in the flow's end firefly.
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local decoder = require("spec.support.firefly_decoder")
local firefly = require("spec.support.firefly")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local tcp = require("spec.support.tcp")
local udp = require("spec.support.udp")

local HEADERS = 48 -- IPv6 and UDP
local FAR = "2001:db8:2::2" -- b's

describe("usage of a flow", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)
  local marked = marked_it(it)
  local a, r, b, d, sink, seen

  -- a, the router r with the daemon, b; the collector is on b.
  before_each(function()
    a, r = netns.pair()
    b = netns.new("b")
    netns.veth(r, "eth1", b, "eth0")
    r:add_address("eth1", "2001:db8:2::1/64")
    b:add_address("eth0", FAR .. "/64")
    for ns, device in pairs({ [a] = "eth0", [b] = "eth0" }) do
      -- Packets on the wire, not the large ones that virtual devices pass on.
      ns:must({ "ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off" })
      ns:sysctl("net.ipv6.auto_flowlabels", 0)
    end
    r:sysctl("net.ipv6.conf.all.forwarding", 1)
    a:ip("-6 route add default via %s", r.address)
    b:ip("-6 route add default via 2001:db8:2::1")
    sink, seen = udp.open(b, FAR, 10514), nil
  end)

  local function start(dir)
    d = daemon.start({ namespace = r, dir = dir, again = dir ~= nil, log_level = "info", config = { backends = {
      marker = { interfaces = { "eth1" } },
      firefly = { to_destination = false, collectors = { ("[%s]:10514"):format(FAR) } },
    } } })
    seen = seen or capture.start(b, "eth0")
  end

  local function tell(state, protocol, src, src_port, dst_port)
    d:write(("%s %s %s %d %s %d 2 2\n"):format(state, protocol, src, src_port, FAR, dst_port))
  end

  -- The usage that the end firefly of a flow tells, which is valid.
  local function usage_of(protocol, src, src_port, dst_port)
    local flow = ("%s %d %s %d %s"):format(src, src_port, FAR, dst_port, protocol)
    local text = process.wait_for("the end of " .. flow, 10, function()
      return (firefly.by_flow(sink:datagrams(), "end"))[flow]
    end)
    local decoded, problem = decoder.decode(text)
    assert.is_truthy(decoded, problem)
    return decoded.message.usage
  end

  -- Octets from the IPv6 headers on of the packets that b got from there, and how many packets.
  local function received(src, src_port)
    local octets, packets = 0, seen:packets({ src = src, src_port = src_port })
    for _, packet in ipairs(packets) do octets = octets + 40 + packet.payload_length end
    return octets, #packets
  end

  local function marks_line(src, src_port)
    local flows = d:command("marker", "flows").stdout
    local line = flows:match(("[^\n]*%%[%s%%]:%d [^\n]*"):format((src:gsub("%p", "%%%0")), src_port))
    assert.is_truthy(line, flows)
    return tonumber(line:match("([%d.]+) packets")), tonumber(line:match("([%d.]+) octets"))
  end

  marked("of UDP is what was sent, also before and while no daemon ran after a kill -9", function()
    start()
    tell("start", "udp", r.address, 4000, 5000)
    d:wait_for_counter("flowd_marker_flows", 1)
    local socket, target = udp.open(r, r.address, 4000), udp.open(b, FAR, 5000)
    local want, count = 0, 0
    local function send(n)
      for _ = 1, n do
        local length = math.random(0, 1400)
        socket:send(("x"):rep(length), FAR, 5000)
        want, count = want + HEADERS + length, count + 1
      end
    end
    send(100)
    d:signal("KILL")
    d:wait(10)
    send(50)
    start(d.dir)
    send(70)
    target:collect(count, 10)
    local packets, octets = marks_line(r.address, 4000)
    assert.equal(count, packets)
    assert.equal(want, octets)
    tell("end", "udp", r.address, 4000, 5000)
    assert.same({ sent = want }, usage_of("udp", r.address, 4000, 5000))
    assert.same({ want, count }, { received(r.address, 4000) })
    -- The next flow of the same ports begins with nothing.
    sink:clear()
    want, count = 0, 0
    tell("start", "udp", r.address, 4000, 5000)
    d:wait_for_counter("flowd_marker_flows", 1)
    send(3)
    tell("end", "udp", r.address, 4000, 5000)
    assert.same({ sent = want }, usage_of("udp", r.address, 4000, 5000))
    d:wait_for_counter('flowd_marker_marked_packets_total{activity="2",experiment="2"}', 223)
    assert.equal(223, d:counter('flowd_marker_packets_total{result="marked"}'))
    assert.same({ code = 0 }, d:stop())
  end)

  marked("of what is forwarded is what was forwarded, TCP and UDP", function()
    start()
    tell("start", "tcp", a.address, 4000, 5000)
    tell("start", "udp", a.address, 4001, 5001)
    d:wait_for_counter("flowd_marker_flows", 2)
    local target, socket = udp.open(b, FAR, 5001), udp.open(a, a.address, 4001)
    for i = 1, 200 do socket:send(("x"):rep(i), FAR, 5001) end
    target:collect(200, 10)
    local near, far = tcp.connect(a, tcp.listen(b, FAR, 5000), a.address, 4000, FAR, 5000)
    for i = 1, 50 do near:send(far, ("y"):rep(i * 50)) end
    near:reset()
    seen:wait_for({ src = a.address, src_port = 4000, rst = true }, 10)
    far:close()
    tell("end", "udp", a.address, 4001, 5001)
    tell("end", "tcp", a.address, 4000, 5000)
    assert.same({ sent = 200 * HEADERS + 200 * 201 / 2 }, usage_of("udp", a.address, 4001, 5001))
    local octets, packets = received(a.address, 4000)
    assert.is_true(packets > 52 and octets > 50 * 51 / 2 * 50)
    assert.same({ sent = octets }, usage_of("tcp", a.address, 4000, 5000))
    assert.same({ code = 0 }, d:stop())
  end)

  marked("is told of large packets as they are on the wire", function()
    start()
    tell("start", "tcp", a.address, 4000, 5000)
    d:wait_for_counter("flowd_marker_flows", 1)
    -- They leave a, and the router, in one piece; b's device gets them in one piece, too.
    a:must({ "ethtool", "-K", "eth0", "tso", "on", "gso", "on" })
    local near, far = tcp.connect(a, tcp.listen(b, FAR, 5000), a.address, 4000, FAR, 5000)
    for _ = 1, 20 do near:send(far, ("y"):rep(60000)) end
    near:reset()
    seen:wait_for({ src = a.address, src_port = 4000, rst = true }, 10)
    tell("end", "tcp", a.address, 4000, 5000)
    local sent = usage_of("tcp", a.address, 4000, 5000).sent
    -- What b's capture saw has one header for many segments of 1,428 octets.
    local want, large = 0, 0
    for _, packet in ipairs(seen:packets({ src = a.address, src_port = 4000 })) do
      local header = 40 + packet.transport_header
      local data = 40 + packet.payload_length - header
      local segments = math.max(math.ceil(data / (1500 - header)), 1)
      if segments > 1 then large = large + 1 end
      want = want + data + segments * header
    end
    assert.is_true(large > 0, "no large packet")
    assert.equal(want, sent)
    assert.same({ code = 0 }, d:stop())
  end)

  marked("is not told where others know better: a TCP connection of this host", function()
    start()
    tell("start", "tcp", "2001:db8:2::1", 4000, 5000)
    d:wait_for_counter("flowd_marker_flows", 1)
    local near, far = tcp.connect(r, tcp.listen(b, FAR, 5000), "2001:db8:2::1", 4000, FAR, 5000)
    near:send(far, "data")
    tell("end", "tcp", "2001:db8:2::1", 4000, 5000)
    assert.is_nil(usage_of("tcp", "2001:db8:2::1", 4000, 5000))
    assert.same({ code = 0 }, d:stop())
  end)
end)
