-- SPDX-License-Identifier: Apache-2.0
--- Outputs over the loopback, with real sockets.
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local udp = require("spec.support.udp")
local udp_out = require("spec.support.udp_out")

-- "n:" and filling up to a length: tells itself apart, and shows when it is damaged.
local function text(n, length)
  local head = ("%d:"):format(n)
  return head .. (string.char(97 + n % 26)):rep(length - #head)
end

-- What arrived, without the blanks that pad it.
local function arrived(sink, count)
  local list = {}
  for i, datagram in ipairs(sink:collect(count, 5)) do list[i] = datagram.text:match("^(.-) *$") end
  assert.equal(count, #list)
  return list
end

local function free_port(host)
  local socket = udp.open(nil, host, 0)
  local port = socket.port
  socket:close()
  return port
end

describe("udp_out", function()
  local level = api.log_get_level()
  before_each(function() api.log_setup(ffi.C.LOG_LEVEL_ERROR, false) end)
  after_each(function()
    cleanup.all()
    api.log_setup(level, false)
  end)

  it("sends what was pushed, in order, by one system call", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    local out = udp_out.new()
    assert.equal("closed", out:state())
    assert.equal(0, out:connect("127.0.0.1", sink.port))
    local expected = {}
    for i = 1, 1000 do
      expected[i] = text(i, 300 + i % 170)
      out:push(expected[i])
    end
    assert.equal("ready", out:flush())
    assert.same(expected, arrived(sink, 1000))
    assert.equal(1, out:count("calls"))
    assert.equal(1000, out:count("sent"))
    assert.equal(1000, out:count("segmented"))
    assert.equal(0, out:queued())
  end)

  it("pads with blanks only, to the longest of 64, and not the last one", function()
    for _, host in ipairs({ "127.0.0.1", "::1" }) do
      local sink = udp.open(nil, host, 0)
      local out = udp_out.new()
      out:connect(host, sink.port)
      for i = 1, 100 do out:push(text(i, 200 + (i == 30 and 50 or 0) + (i == 90 and 100 or 0))) end
      out:flush()
      local octets = 0
      for i, datagram in ipairs(sink:collect(100, 5)) do
        local wanted = i <= 63 and 250 or i == 64 and 200 or i <= 99 and 300 or 200
        assert.equal(wanted, #datagram.text, "datagram " .. i)
        octets = octets + #datagram.text
      end
      assert.equal(octets, out:count("octets"))
    end
  end)

  it("leaves a single datagram as it is", function()
    local sink = udp.open(nil, "::1", 0)
    local out = udp_out.new()
    out:connect("::1", sink.port)
    out:push("one")
    out:flush()
    assert.equal("one", sink:receive(5).text)
    assert.equal(0, out:count("segmented"))
  end)

  it("sends datagrams of their own length when segmentation is off", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    local out = udp_out.new()
    out:connect("127.0.0.1", sink.port)
    api.udp_out_segments(out.out, false)
    for i = 1, 200 do out:push(text(i, 100 + i)) end
    out:flush()
    for i, datagram in ipairs(sink:collect(200, 5)) do assert.equal(text(i, 100 + i), datagram.text) end
    assert.equal(0, out:count("segmented"))
    assert.equal(1, out:count("calls"))
  end)

  it("keeps a segmented message below what one packet can be", function()
    local sink = udp.open(nil, "::1", 0)
    local out = udp_out.new()
    out:connect("::1", sink.port)
    for i = 1, 128 do out:push(text(i, 1472)) end
    assert.equal("ready", out:flush())
    assert.equal(text(128, 1472), arrived(sink, 128)[128])
    assert.equal(128, out:count("segmented"))
  end)

  it("refuses a datagram that fits no packet", function()
    local out = udp_out.new()
    out:push(("x"):rep(1473))
    assert.equal(1, out:count("dropped_too_big"))
    assert.equal(0, out:queued())
  end)

  it("gives way to the loop in a long backlog, and goes on", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    local out = udp_out.new(40000)
    out:connect("127.0.0.1", sink.port)
    for i = 1, 20000 do out:push(text(i, 40)) end
    assert.equal("blocked", out:flush())
    assert.is_true(out:queued() > 0)
    assert.equal("ready", out:flush())
    assert.equal(20000, #arrived(sink, 20000))
  end)

  describe("queue", function()
    it("drops its oldest when full, counts it, and keeps the rest whole", function()
      local out = udp_out.new(7)
      local seed = 7
      for i = 1, 30000 do
        seed = (seed * 1103515245 + 12345) % 2147483648
        out:push(text(i, 10 + seed % 1463))
        assert.equal(math.min(i, 7), out:queued())
      end
      assert.equal(29993, out:count("dropped_full"))
      local sink = udp.open(nil, "127.0.0.1", 0)
      out:connect("127.0.0.1", sink.port)
      out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
      for i, got in ipairs(arrived(sink, 7)) do
        local n = 29993 + i
        assert.equal(tostring(n), got:match("^%d+"))
        assert.equal(text(n, #got), got)
      end
    end)

    it("of one datagram works", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local out = udp_out.new(1)
      out:connect("127.0.0.1", sink.port)
      for i = 1, 3 do out:push(text(i, 20)) end
      assert.equal("ready", out:flush())
      assert.same({ text(1, 20), text(2, 20), text(3, 20) }, arrived(sink, 3))
    end)

    it("is sent early when a batch is longer than it is", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local out = udp_out.new(100)
      out:connect("127.0.0.1", sink.port)
      for i = 1, 1024 do out:push(text(i, 50)) end
      out:flush()
      assert.equal(text(1024, 50), arrived(sink, 1024)[1024])
      assert.equal(0, out:count("dropped_full"))
      assert.equal(11, out:count("calls"))
    end)

    it("can be had from 1 to a million long, not longer", function()
      local c = ffi.new("struct udp_out_counters")
      assert.is_true(api.udp_out_new("x", 0, c) == nil)
      assert.is_true(api.udp_out_new("x", ffi.C.UDP_OUT_QUEUE_MAX + 1, c) == nil)
      local longest = api.udp_out_new("x", ffi.C.UDP_OUT_QUEUE_MAX, c)
      assert.is_true(longest ~= nil)
      api.udp_out_free(longest)
    end)

    it("is counted as dropped when it is given up", function()
      local out = udp_out.new()
      for i = 1, 5 do out:push(text(i, 20)) end
      assert.equal(5, api.udp_out_give_up(out.out))
      assert.equal(5, out:count("dropped_stopped"))
      assert.equal(0, out:queued())
    end)

    it("is sent before it is given up, when that can be", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local out = udp_out.new()
      for i = 1, 5 do out:push(text(i, 20)) end
      out:connect("127.0.0.1", sink.port)
      assert.equal(0, api.udp_out_give_up(out.out))
      assert.equal(5, #arrived(sink, 5))
    end)
  end)

  describe("with a peer that refuses", function()
    for _, host in ipairs({ "127.0.0.1", "::1" }) do
      it("keeps what comes and delivers it when the peer is back: " .. host, function()
        local port = free_port(host)
        local out = udp_out.new()
        out:connect(host, port)
        out:push(text(1, 50))
        assert.equal("ready", out:flush())
        assert.equal("down", out:notice())
        assert.equal(1, out:count("refused"))
        for i = 2, 300 do out:push(text(i, 50)) end
        assert.equal("down", out:flush())
        assert.equal(299, out:queued())
        out:turn_until("an attempt", 5, function() return out:state() == "probing" end)
        out:turn_until("its refusal", 5, function() return out:state() == "down" end)
        assert.equal(299, out:queued(), "what was sent to try is still there")

        local sink = udp.open(nil, host, port)
        out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
        assert.equal("ready", out:state())
        local got = arrived(sink, 299)
        for i = 2, 300 do assert.equal(text(i, 50), got[i - 1]) end
        assert.equal(0, out:count("dropped_full"))
      end)
    end

    it("never holds up the others, nor takes more than a bounded time", function()
      local dead, alive = udp_out.new(1000), udp_out.new(1000)
      local sink = udp.open(nil, "127.0.0.1", 0)
      dead:connect("127.0.0.1", free_port("127.0.0.1"))
      alive:connect("127.0.0.1", sink.port)
      for i = 1, 20000 do
        dead:push(text(i, 60))
        alive:push(text(i, 60))
        if i % 100 == 0 then
          dead:flush()
          assert.equal("ready", alive:flush())
        end
      end
      assert.equal(20000, #arrived(sink, 20000))
      assert.equal(0, alive:count("refused"))
      assert.is_true(dead:count("refused") >= 1)
      assert.equal(1000, dead:queued())
      -- Each of them is accounted for: sent, dropped or queued.
      local probing = dead:state() == "probing" and 1 or 0
      assert.equal(20000, dead:count("sent") + dead:count("dropped_full") + dead:queued() - probing)
      assert.is_true(dead:count("calls") < 10, "calls for a dead peer: " .. dead:count("calls"))
    end)

    it("does not pop twice when the datagram sent to try was dropped meanwhile", function()
      local host, port = "127.0.0.1", free_port("127.0.0.1")
      local out = udp_out.new(3)
      for i = 1, 3 do out:push(text(i, 20)) end
      local sink = udp.open(nil, host, port)
      out:connect(host, port)
      assert.equal("probing", out:flush())
      for i = 4, 5 do out:push(text(i, 20)) end
      out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
      assert.same({ text(1, 20), text(3, 20), text(4, 20), text(5, 20) }, arrived(sink, 4))
    end)

    it("is tried with the first datagram alone when asked to", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local out = udp_out.new()
      out:connect("127.0.0.1", sink.port, true)
      for i = 1, 10 do out:push(text(i, 20)) end
      assert.equal("probing", out:flush())
      assert.equal(1, #arrived(sink, 1))
      assert.is_true(out:retry_in() > 0 and out:retry_in() < 1)
      out:turn_until("the rest to leave", 5, function() return out:queued() == 0 end)
      assert.equal(10, #arrived(sink, 10))
    end)

    it("goes to another address with its queue", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local out = udp_out.new()
      out:connect("::1", free_port("::1"), true)
      for i = 1, 10 do out:push(text(i, 20)) end
      out:flush()
      out:turn_until("the refusal", 5, function() return out:state() == "down" end)
      out:connect("127.0.0.1", sink.port, true)
      out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
      assert.equal(10, #arrived(sink, 10))
    end)
  end)

  it("throws away what is sent to it", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    local out = udp_out.new()
    out:connect("127.0.0.1", sink.port)
    out:push("hello")
    out:flush()
    local from = sink:receive(5)
    for _ = 1, 100 do sink:send("noise", from.src, from.src_port) end
    for _ = 1, 3 do assert.equal("ready", out:notice()) end
    local octet = ffi.new("char[1]")
    ffi.cdef("long recv(int, void *, size_t, int);")
    assert.equal(-1, tonumber(ffi.C.recv(api.udp_out_fd(out.out), octet, 1, 0x40)))
  end)

  describe("not connected", function()
    local function open(family)
      local out = udp_out.new()
      assert.equal(0, api.udp_out_open(out.out, family))
      return out
    end

    it("sends each datagram to its own address, runs of one address segmented", function()
      local sinks = {}
      for i = 1, 4 do sinks[i] = udp.open(nil, "127.0.0." .. i, i == 1 and 0 or sinks[1].port) end
      local out = open(4)
      for i = 0, 399 do
        local to = math.floor(i / 10) % 4 + 1
        out:push(text(i, 100 + i % 7), "127.0.0." .. to, sinks[1].port)
      end
      assert.equal("ready", out:flush())
      for to = 1, 4 do
        local got, n = arrived(sinks[to], 100), 0
        for i = 0, 399 do
          if math.floor(i / 10) % 4 + 1 == to then
            n = n + 1
            assert.equal(text(i, 100 + i % 7), got[n])
          end
        end
      end
      assert.equal(1, out:count("calls"))
      assert.equal(400, out:count("segmented"))
    end)

    it("tells ports of one address apart", function()
      local a, b = udp.open(nil, "::1", 0), udp.open(nil, "::1", 0)
      local out = open(6)
      for i = 1, 10 do out:push(text(i, 20), "::1", i % 2 == 0 and a.port or b.port) end
      out:flush()
      assert.equal(5, #arrived(a, 5))
      assert.equal(5, #arrived(b, 5))
    end)

    it("gives up what has no way to its address, counts it, and sends the rest", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local out = open(4)
      for i = 1, 30 do out:push(text(i, 20), i % 3 == 0 and "255.255.255.255" or "127.0.0.1", sink.port) end
      for i = 1, 10 do out:push(text(i, 20), "255.255.255.255", sink.port) end
      out:push(text(31, 20), "127.0.0.1", sink.port)
      out:turn_until("the queue to leave", 5, function() return out:queued() == 0 end)
      assert.equal("ready", out:state())
      assert.equal(21, #arrived(sink, 21))
      assert.equal(20, out:count("dropped_unsendable"))
      assert.is_true(out:count("failed") >= 1)
      assert.equal(21, out:count("sent"))
    end)

    it("hears of no refusal and is never down", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      local dead = free_port("127.0.0.1")
      local out = open(4)
      for i = 1, 100 do
        out:push(text(i, 20), "127.0.0.1", i % 2 == 0 and sink.port or dead)
        assert.equal("ready", out:flush())
        assert.equal("ready", out:notice())
      end
      assert.equal(50, #arrived(sink, 50))
      assert.equal(0, out:count("failed"))
    end)
  end)
end)
