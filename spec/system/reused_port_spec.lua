-- SPDX-License-Identifier: Apache-2.0
-- A connection is closed, and the next one at once has the same addresses and ports.
local bit = require("bit")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local tcp = require("spec.support.tcp")
local udp = require("spec.support.udp")

local ROUNDS = 20
local SEMANTIC = 0x3FEFC
-- Experiment 2 (atlas), activities 2 and 3.
local TAGS = { [0] = { line = "2 2", label = 0x10008 }, { line = "2 3", label = 0x1000C } }

describe("the next connection with the addresses and ports of a closed one", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)
  local marked = marked_it(it)
  local a, b, d, sink, listener, seen, near, far

  before_each(function()
    a, b = netns.pair()
    a:sysctl("net.ipv6.auto_flowlabels", 0)
    b:sysctl("net.ipv6.auto_flowlabels", 0)
    sink = udp.open(b, b.address, 10514)
    listener = tcp.listen(b, b.address, 5000)
    d = daemon.start({ namespace = a, log_level = "info", config = { backends = {
      marker = { interfaces = { "eth0" } }, firefly = { port = 10514 },
    } } })
    seen = capture.start(b, "eth0")
  end)

  local function connect()
    process.wait_for("the port to be free", 10, function()
      local ok, one, other = pcall(tcp.connect, a, listener, a.address, 4000, b.address, 5000)
      near, far = ok and one, ok and other
      return ok
    end)
  end

  -- Labels of what the connection sends from now on, or has sent since the last call.
  local function labels()
    near:send(far, "some data")
    local want = { protocol = "tcp", src = a.address, src_port = 4000 }
    process.wait_for("data", 10, function()
      for _, packet in ipairs(seen:packets(want)) do
        if packet.data:find("some data", 1, true) then return true end
      end
    end)
    local list = seen:labels(want)
    seen:clear()
    return list
  end

  -- Tell its start, and wait until it has taken effect. Returns the fireflies that came.
  local function tell(tag, count)
    d:write(("start tcp %s 4000 %s 5000 %s\n"):format(a.address, b.address, tag.line))
    sink:collect(count, 10)
    local fireflies = sink:take()
    assert.equal(count, #fireflies)
    -- When something of the next batch comes, that one is through.
    d:write(("start udp %s 4001 %s 5001 2 2\n"):format(a.address, b.address))
    sink:collect(1, 10)
    sink:clear()
    return fireflies
  end

  local closings = {
    ["a reset"] = function()
      near:reset()
      seen:wait_for({ protocol = "tcp", src = a.address, rst = true }, 10)
      far:close()
    end,
    ["an orderly end"] = function()
      -- The side that closes first keeps the port for a minute: let it be the other one.
      far:close()
      near:close()
      seen:wait_for({ protocol = "tcp", src = a.address, fin = true }, 10)
      -- Its acknowledgement belongs to the old one, too.
      process.wait_for("the end of the connection", 10, function()
        return a:must({ "ss", "-tnH", "sport = :4000" }) == ""
      end)
    end,
  }

  for name, close in pairs(closings) do
    marked(("never carries its mark, after %s; its own start gives it its own, and ends the old flow"):format(name), function()
      local began
      for round = 1, ROUNDS do
        local tag = TAGS[round % 2]
        connect()
        -- The first one is not announced yet; later ones follow a flow that nobody has ended.
        assert.same({ 0 }, labels(), "round " .. round)
        local fireflies = tell(tag, round == 1 and 1 or 2)
        local start = fireflies[#fireflies].text
        assert.equal("start", firefly.member(start, "state"))
        if round > 1 then
          local old = fireflies[1].text
          assert.equal("end", firefly.member(old, "state"))
          assert.equal(began, firefly.member(old, "start-time"))
          assert.equal(TAGS[(round - 1) % 2].line:match("%d+$"), firefly.member(old, "activity-id"))
        end
        assert.equal(tag.line:match("%d+$"), firefly.member(start, "activity-id"))
        began = firefly.member(start, "start-time")
        local own = labels()
        assert.equal(1, #own)
        assert.equal(tag.label, bit.band(own[1], SEMANTIC))
        assert.equal(round - 1, d:counter('flowd_flows_missed_ends_total{reason="succeeded"}'))
        assert.equal(2, d:counter("flowd_flows_open"))
        close()
        seen:clear()
      end
      d:wait_for_counter('flowd_marker_packets_total{reason="reused",result="skipped"}', ROUNDS - 1)
      assert.same({ code = 0 }, d:stop())
      local ends = firefly.by_flow(sink:datagrams(), "end")
      assert.equal(began, firefly.member(ends[("%s 4000 %s 5000 tcp"):format(a.address, b.address)], "start-time"))
    end)
  end

  marked("is not marked either when the one before sent nothing after its mark was set", function()
    connect()
    tell(TAGS[0], 1)
    near:reset()
    seen:wait_for({ protocol = "tcp", src = a.address, rst = true }, 10)
    far:close()
    seen:clear()
    connect()
    assert.same({ 0 }, labels())
    assert.same({ code = 0 }, d:stop())
  end)
end)
