-- SPDX-License-Identifier: Apache-2.0
--- UDP outputs over real devices: segmentation seen on the wire, paths that do not allow it, links
-- that are slow, hosts that are not there.
local ffi = require("ffi")
local api = require("flowd.api")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local netns = require("spec.support.netns")
local udp = require("spec.support.udp")
local udp_out = require("spec.support.udp_out")

local C = ffi.C
local LENGTH = 450

local function text(n) return ("%06d:"):format(n) .. (string.char(97 + n % 26)):rep(LENGTH - 7) end

describe("fireflies on a wire", function()
  local available, reason = netns.available()
  if not available then
    pending("needs network namespaces: " .. reason)
    return
  end

  local level = api.log_get_level()
  before_each(function() api.log_setup(C.LOG_LEVEL_ERROR, false) end)
  after_each(function()
    cleanup.all()
    api.log_setup(level, false)
  end)

  local function connect(ns, host, port, queue_max)
    local out = udp_out.new(queue_max)
    ns:enter(function() assert.equal(0, out:connect(host, port)) end)
    return out
  end

  local function open(ns, family)
    local out = udp_out.new()
    ns:enter(function() assert.equal(0, api.udp_out_open(out.out, family)) end)
    return out
  end

  local function push(out, first, last, host, port)
    for i = first, last do out:push(text(i), host, port) end
  end

  local function check(sink, first, last)
    local got = sink:collect(last - first + 1, 10)
    assert.equal(last - first + 1, #got)
    for i, datagram in ipairs(got) do assert.equal(text(first + i - 1), datagram.text) end
  end

  for _, family in ipairs({ 4, 6 }) do
    local key = family == 4 and "address4" or "address"

    it("leave as one message for 64 of them: IPv" .. family, function()
      local a, b = netns.pair()
      local sink = udp.open(b, b[key], 0)
      local out = connect(a, b[key], sink.port)
      push(out, 0, 0)
      out:flush()
      sink:collect(1, 5)
      sink:clear()
      local seen = capture.start(a, "eth0")
      push(out, 1, 640)
      assert.equal("ready", out:flush())
      check(sink, 1, 640)
      local packets = seen:wait_for({ dst_port = sink.port, outgoing = true }, 5, 10)
      assert.equal(10, #packets, "packets that the device was given")
      for _, packet in ipairs(packets) do
        assert.is_true(packet.length > 64 * LENGTH, "of " .. packet.length .. " octets")
      end
    end)

    it("leave one by one, cut by IP, where the device takes no segment of their length: IPv" .. family, function()
      local a, b = netns.pair()
      -- IPv6 needs 1,280 octets at least: longer fireflies there.
      local mtu, long = family == 4 and 400 or 1280, family == 4 and LENGTH or 1400
      a:ip("link set eth0 mtu %d", mtu)
      local sink = udp.open(b, b[key], 0)
      local out = connect(a, b[key], sink.port)
      local function message(i) return text(i) .. ("."):rep(long - LENGTH) end
      for round = 1, 2 do
        for i = 1, 100 do out:push(message(i)) end
        out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
        for i, datagram in ipairs(sink:collect(100, 10)) do assert.equal(message(i), datagram.text) end
        sink:clear()
        assert.equal(0, out:count("segmented"), "round " .. round)
      end
      assert.equal(0, out:count("failed"))
      assert.equal(2, out:count("calls"))
      -- When the path has changed and that is forgotten, segments are tried again.
      a:ip("link set eth0 mtu 1500")
      if family == 6 then a:ip("-6 route flush cache") end
      api.udp_out_segments(out.out, true)
      for i = 1, 100 do out:push(message(i)) end
      out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
      assert.equal(100, #sink:collect(100, 10))
      assert.equal(100, out:count("segmented"))
    end)
  end

  it("leave one by one to the destination whose path is narrow, and segmented to others", function()
    local a, b = netns.pair()
    a:add_address("eth0", "198.51.100.1/24")
    b:add_address("eth0", "198.51.100.2/24")
    a:ip("route add 198.51.100.2/32 dev eth0 mtu 400")
    local narrow = udp.open(b, "198.51.100.2", 0)
    local wide = udp.open(b, b.address4, narrow.port)
    local out = open(a, 4)
    for i = 1, 400 do
      local host = math.floor((i - 1) / 20) % 2 == 0 and "198.51.100.2" or b.address4
      out:push(text(i), host, narrow.port)
    end
    out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
    assert.equal(200, #narrow:collect(200, 10))
    assert.equal(200, #wide:collect(200, 10))
    assert.equal(200, out:count("segmented"))
    assert.equal(0, out:count("failed"))
    assert.equal(0, out:count("dropped_unsendable"))
    for i, datagram in ipairs(narrow:datagrams()) do
      assert.equal(text(math.floor((i - 1) / 20) * 40 + (i - 1) % 20 + 1), datagram.text)
    end
  end)

  it("wait in the queue while the link is slow, and all arrive, in order", function()
    local a, b = netns.pair()
    a:tc("qdisc add dev eth0 root tbf rate 40mbit burst 64kb limit 10mb")
    local sink = udp.open(b, b.address4, 0)
    local out = connect(a, b.address4, sink.port, 20000)
    local blocked = false
    for i = 1, 10000 do
      out:push(text(i))
      if i % 500 == 0 then blocked = out:flush() == "blocked" and out:queued() > 500 or blocked end
    end
    assert.is_true(blocked, "the link was never too slow: the test tests nothing")
    out:turn_until("the queue to leave", 20, function() return out:queued() == 0 end)
    check(sink, 1, 10000)
    assert.equal(0, out:count("dropped_full"))
  end)

  it("lose only the oldest when the link is too slow for the queue, and each is counted", function()
    local a, b = netns.pair()
    a:tc("qdisc add dev eth0 root tbf rate 40mbit burst 64kb limit 10mb")
    local sink = udp.open(b, b.address4, 0)
    local out = connect(a, b.address4, sink.port, 1000)
    for i = 1, 20000 do
      out:push(text(i))
      if i % 500 == 0 then out:flush() end
    end
    local dropped = out:count("dropped_full")
    assert.is_true(dropped > 0, "nothing was dropped: the test tests nothing")
    out:turn_until("the queue to leave", 20, function() return out:queued() == 0 end)
    local got = sink:collect(20000 - dropped, 20)
    assert.equal(20000 - dropped, #got)
    local last = 0
    for _, datagram in ipairs(got) do
      local n = tonumber(datagram.text:match("^%d+"))
      assert.is_true(n > last)
      assert.equal(text(n), datagram.text)
      last = n
    end
    assert.equal(20000, last)
  end)

  it("wait while a device's own queue has no room", function()
    local a, b = netns.pair()
    -- A queue that takes two packets and sends slowly: what exceeds it is refused (ENOBUFS).
    a:tc("qdisc add dev eth0 root tbf rate 20mbit burst 40kb limit 40kb")
    local sink = udp.open(b, b.address4, 0)
    local out = connect(a, b.address4, sink.port, 20000)
    push(out, 1, 2000)
    local waited = false
    out:turn_until("the queue to leave", 20, function()
      waited = waited or out:state() == "waiting"
      return out:queued() == 0
    end)
    assert.is_true(waited, "there was always room: the test tests nothing")
    assert.is_true(out:count("failed") > 0)
    check(sink, 1, 2000)
  end)

  it("are kept while there is no route, and leave when there is one", function()
    local a, b = netns.pair()
    local sink = udp.open(b, "::", 0)
    local out = connect(a, "2001:db8:99::1", sink.port)
    push(out, 1, 50)
    out:flush()
    assert.equal("down", out:state())
    assert.is_true(out:count("failed") >= 1)
    b:add_address("eth0", "2001:db8:99::1/128")
    a:ip("route add 2001:db8:99::1/128 dev eth0")
    out:turn_until("the queue to leave", 10, function() return out:queued() == 0 end)
    check(sink, 1, 50)
  end)

  it("are kept while the host is not there, and leave when it is", function()
    local a, b = netns.pair()
    -- Nobody answers for the address: the kernel gives up after three questions.
    a:sysctl("net.ipv4.neigh.eth0.retrans_time_ms", 20)
    local sink = udp.open(b, "0.0.0.0", 0)
    local out = connect(a, "192.0.2.77", sink.port)
    push(out, 1, 1)
    out:flush()
    out:turn_until("the error", 10, function() return out:state() == "down" end)
    assert.is_true(out:count("refused") >= 1)
    push(out, 2, 50)
    b:add_address("eth0", "192.0.2.77/24")
    a:ip("neigh flush dev eth0")
    out:turn_until("the queue to leave", 15, function() return out:queued() == 0 end)
    local last = sink:collect(49, 10)
    assert.equal(text(50), last[#last].text)
  end)

  it("go on after the source address has changed", function()
    local a, b = netns.pair()
    local sink = udp.open(b, b.address4, 0)
    local out = connect(a, b.address4, sink.port)
    push(out, 1, 1)
    out:flush()
    assert.equal(a.address4, sink:receive(5).src)
    a:remove_address("eth0", a.address4 .. "/24")
    a:add_address("eth0", "192.0.2.9/24")
    push(out, 2, 2)
    out:turn_until("the queue to leave", 10, function() return out:queued() == 0 end)
    assert.equal("192.0.2.9", sink:receive(5).src)
  end)

  it("of unconnected outputs go on when one destination has no route", function()
    local a, b = netns.pair()
    local sink = udp.open(b, b.address, 0)
    local out = open(a, 6)
    for i = 1, 40 do out:push(text(i), i % 2 == 0 and b.address or "2001:db8:99::1", sink.port) end
    out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
    assert.equal(20, #sink:collect(20, 5))
    assert.equal(20, out:count("dropped_unsendable"))
  end)
end)
