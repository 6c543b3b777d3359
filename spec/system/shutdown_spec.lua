-- SPDX-License-Identifier: Apache-2.0
local bit = require("bit")
local pins = require("flowd.pins")
local bpf = require("spec.support.bpf")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local stopwatch = require("spec.support.stopwatch")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

local marked_it = require("spec.support.marked")(it)

-- Instrumented code is slower; what is promised is promised of the real one.
local SLOWER = os.getenv("ASAN_OPTIONS") and 5 or 1

local function collector(host, port) return ("[%s]:%d"):format(host, port) end

-- Write as other software does, from a process of its own: this one receives meanwhile.
local function write_lines(d, text)
  local path = temp.write(d.dir .. "/lines", text)
  return process.start({ "dd", "if=" .. path, "of=" .. d.pipe, "bs=64k", "conv=notrunc,nocreat", "status=none" })
end

describe("a daemon that is told to end", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b
  before_each(function() a, b = netns.pair() end)
  after_each(cleanup.all)

  for _, signal in ipairs({ "TERM", "INT" }) do
    it("by SIG" .. signal .. " sends the end of every open flow, with its true start", function()
      local sink = udp.open(b, b.address, 10514)
      local d = daemon.start({ namespace = a, config = { backends = { firefly = { port = 10514 } } } })
      d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 0, 2))
      d:write(flow_lines.lines("start", a.address, b.address, "cms 4", 3, 4) ..
        flow_lines.lines("end", a.address, b.address, "cms 4", 4, 4))
      local starts = firefly.by_flow(sink:collect(6, 10), "start")
      sink:clear()
      assert.same({ code = 0 }, d:stop(5, signal))
      local ends, count = firefly.by_flow(sink:datagrams(), "end")
      assert.equal(4, count)
      assert.equal(4, #sink:datagrams())
      for flow, text in pairs(ends) do
        assert.equal(firefly.member(starts[flow], "start-time"), firefly.member(text, "start-time"))
        assert.is_true(firefly.member(text, "end-time") > firefly.member(text, "start-time"))
        assert.equal(firefly.member(starts[flow], "experiment-id"), firefly.member(text, "experiment-id"))
      end
    end)
  end

  for _, signal in ipairs({ "TERM", "INT" }) do
    marked_it("by SIG" .. signal .. " leaves no mark, link, pin, pipe, state or pid file", function()
      local function programs(device) return a:enter(bpf.egress_programs, device) end
      local pid_file = temp.dir() .. "/pid"
      local d = daemon.start({ namespace = a, config = { pid_file = pid_file,
        backends = { marker = { interfaces = { "eth0", "lo" } } } } })
      assert.equal(1, #programs("eth0"))
      assert.equal(tostring(d.pid), (temp.read(pid_file):gsub("%s", "")))
      assert.is_true(temp.exists(d.pipe))
      local pinned = pins.directory(d.runtime_dir)
      assert.is_true(temp.exists(pinned))
      d:write(("start tcp %s 6000 %s 5000 atlas 1\n"):format(a.address, b.address))
      d:wait_for_counter("flowd_flows_open", 1)
      local seen = capture.start(b, "eth0")
      local server = b:start({ "socat", "-d", "-d", "-u", "TCP6-LISTEN:5000", "STDOUT" })
      server:expect("listening on")
      local client = a:start({ "socat", "-u", "STDIN", ("TCP6:[%s]:5000,bind=:6000"):format(b.address), stdin = "pipe" })
      client:write("marked ")
      server:expect("marked")
      assert.is_true(#seen:packets({ src_port = 6000 }) > 0)
      for _, packet in ipairs(seen:packets({ src_port = 6000 })) do assert.equal(0x10004, bit.band(packet.flow_label, 0x3fefc)) end

      assert.same({ code = 0 }, d:stop(5, signal))
      seen:clear()
      client:write("plain")
      server:expect("plain")
      assert.is_true(#seen:packets({ src_port = 6000 }) > 0)
      for _, packet in ipairs(seen:packets({ src_port = 6000 })) do
        assert.not_equal(0x10004, bit.band(packet.flow_label, 0x3fefc))
      end
      assert.same({}, programs("eth0"))
      assert.same({}, programs("lo"))
      assert.not_matches("clsact", a:tc("qdisc show"))
      assert.is_false(temp.exists(d.pipe))
      assert.equal("", process.must({ "ls", "-A", d.runtime_dir }))
      assert.is_false(temp.exists(pid_file))
    end)
  end

  -- Have it end. Seconds, and those on its own watch.
  local function seconds_to_end(d)
    local watch, began = stopwatch.start(d.pid), process.now()
    d:signal("TERM")
    process.wait_for("the end", 10 * SLOWER, function() return process.ended(d.pid) end)
    local seconds, own = process.now() - began, watch:seconds()
    assert.same({ code = 0 }, d:wait(1))
    return seconds, own
  end

  it("ends 100,000 open flows within two seconds, one collector being dead", function()
    local FLOWS = 100000
    local sink = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, log_level = "info", config = { backends = {
      marker = { interfaces = { "eth0" } },
      firefly = { to_destination = false, collectors = {
        collector(b.address, 10514),
        collector(b.address, 10515), -- nobody there: ECONNREFUSED
        collector("2001:db8:1::dead", 10514), -- no such host: no neighbour answers
      } },
    } } })
    write_lines(d, flow_lines.lines("start", a.address, b.address, "atlas 1", 0, FLOWS - 1))
    sink:collect(FLOWS, 60 * SLOWER)
    local starts = firefly.by_flow(sink:take(), "start")
    d:wait_for_counter("flowd_flows_open", FLOWS)

    -- As on a machine of its own: tests run on others too.
    local _, seconds = seconds_to_end(d)
    assert.is_true(seconds <= 2 * SLOWER, ("took %.2f s"):format(seconds))

    -- All of it waits in the sink's buffer.
    local ends, count = firefly.by_flow(sink:take(), "end")
    assert.equal(0, sink:dropped())
    assert.equal(FLOWS, count)
    for flow, text in pairs(ends) do
      if firefly.member(starts[flow], "start-time") ~= firefly.member(text, "start-time") then
        error("start-time differs: " .. starts[flow] .. "\n" .. text)
      end
    end
  end)

  it("with on_stop = keep reads what waits in its pipe, and leaves all flows to the next start", function()
    local FLOWS = 5000
    local sink = udp.open(b, b.address, 10514)
    local function start(dir)
      return daemon.start({ namespace = a, dir = dir, again = dir ~= nil, log_level = "info", config = { on_stop = "keep",
        backends = { firefly = { to_destination = false, collectors = { collector(b.address, 10514) } } } } })
    end
    local d = start()
    d:signal("STOP")
    d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 0, FLOWS - 1))
    d:signal("TERM")
    d:signal("CONT")
    assert.same({ code = 0 }, d:wait(10 * SLOWER))
    assert.equal(FLOWS, select(2, firefly.by_flow(sink:take(), "start")))
    d = start(d.dir)
    assert.equal(FLOWS, d:counter("flowd_flows_open"))
    d:write(flow_lines.lines("end", a.address, b.address, "atlas 1", 0, FLOWS - 1))
    sink:collect(FLOWS, 30 * SLOWER)
    assert.same({ code = 0 }, d:stop())
    assert.equal(FLOWS, select(2, firefly.by_flow(sink:take(), "end")))
  end)

  it("stops sending at stop_deadline, and tells what was not sent", function()
    local FLOWS = 5000
    local sink = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, log_level = "info", config = { stop_deadline = 0.5, backends = {
      firefly = { to_destination = false, collectors = { collector(b.address, 10514) } },
    } } })
    write_lines(d, flow_lines.lines("start", a.address, b.address, "atlas 1", 0, FLOWS - 1))
    sink:collect(FLOWS, 30 * SLOWER)
    sink:clear()
    -- A link of 1 Mbit/s: the socket's buffer fills, the end fireflies cannot all leave in half a second.
    a:tc("qdisc add dev eth0 root tbf rate 1mbit burst 10kb limit 100mb")
    local seconds, own = seconds_to_end(d)
    assert.is_true(seconds > 0.4 and own < 0.5 + 1.5 * SLOWER, ("took %.2f s, %.2f on its own watch"):format(seconds, own))
    local unsent = tonumber(d:log():match("(%d+) fireflies were not sent"))
    assert.is_truthy(unsent, d:log())
    -- What the daemon sent is still on its way through the narrow link.
    a:tc("qdisc del dev eth0 root")
    sink:collect(1, 5)
    assert.is_true(unsent > 0 and unsent + #sink:datagrams() <= FLOWS)
  end)
end)

describe("a daemon that gets SIGUSR1", function()
  after_each(cleanup.all)

  it("logs its counters and goes on", function()
    local d = daemon.start({ config = {} })
    d:write("start tcp ::1 1000 ::1 2000 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 1)
    d:signal("USR1")
    d:expect("%f[%d]1%s+flowd_flows_open")
    d:expect("%f[%d]1%s+flowd_lines_total{plugin=\"pipe\"}")
    assert.is_true(d:running())
    d:write("end tcp ::1 1000 ::1 2000 atlas 1\n")
    d:wait_for_counter("flowd_flows_ended_total", 1)
    assert.same({ code = 0 }, d:stop())
  end)
end)
