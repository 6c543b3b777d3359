-- SPDX-License-Identifier: Apache-2.0
--- Fireflies of the real daemon, from the pipe to the receivers.
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local decoder = require("spec.support.firefly_decoder")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local stopwatch = require("spec.support.stopwatch")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

-- Instrumented code is slower; what is promised is promised of the real one.
local SLOWER = os.getenv("ASAN_OPTIONS") and 5 or 1

local function decoded(datagram)
  local firefly, message = decoder.decode(datagram.text)
  if not firefly then error(message .. "\n" .. datagram.text, 2) end
  return firefly
end

local function seconds_of(timestamp)
  local y, mo, d, h, mi, s = timestamp:match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)%+00:00$")
  return os.time({ year = y, month = mo, day = d, hour = h, min = mi, sec = 0, isdst = false }) + tonumber(s)
end

describe("a firefly", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b
  before_each(function() a, b = netns.pair() end)
  after_each(cleanup.all)

  local function start(firefly, options)
    options = options or {}
    options.namespace, options.config = a, { backends = { firefly = firefly } }
    return daemon.start(options)
  end

  it("of each state is valid, and the same to the destination and to every collector", function()
    local sinks = { udp.open(b, b.address, 10514), udp.open(b, b.address4, 10514), udp.open(b, b.address, 5001),
      udp.open(b, b.address4, 5001) }
    local d = start({ collectors = { ("[%s]:5001"):format(b.address), { host = b.address4, port = 5001 } } })
    local began = tonumber(api.clock_realtime_us()) / 1e6
    d:write(("start tcp %s 40001 %s 1094 atlas Data_Challenge\n"):format(a.address, b.address))
    d:write(("START udp %s 40002 %s 1094 511 63\n"):format(a.address4, b.address4))
    sinks[3]:collect(2, 5)
    d:write(("end tcp %s 40001 %s 1094 atlas Data_Challenge\n"):format(a.address, b.address))
    d:write(("end udp %s 40002 %s 1094 511 63\n"):format(a.address4, b.address4))
    -- IPv6 destination, IPv4 destination, both collectors.
    for i, count in ipairs({ 2, 2, 4, 4 }) do
      assert.equal(count, #sinks[i]:collect(count, 5))
    end
    local ended = tonumber(api.clock_realtime_us()) / 1e6

    local host = process.must({ "uname", "-n" }):gsub("%s", "")
    for i, expected in ipairs({
      { state = "start", afi = "ipv6", src = a.address, dst = b.address, protocol = "tcp", port = 40001, tag = { 2, 26 } },
      { state = "start", afi = "ipv4", src = a.address4, dst = b.address4, protocol = "udp", port = 40002, tag = { 511, 63 } },
      { state = "end", afi = "ipv6", src = a.address, dst = b.address, protocol = "tcp", port = 40001, tag = { 2, 26 } },
      { state = "end", afi = "ipv4", src = a.address4, dst = b.address4, protocol = "udp", port = 40002, tag = { 511, 63 } },
    }) do
      local got = decoded(sinks[3]:datagrams()[i])
      local header, lifecycle, id = got.header, got.message["flow-lifecycle"], got.message["flow-id"]
      local context = got.message.context
      assert.same({ 134, 1, host, "flowd-lua", "-", "firefly-json" },
        { header.priority, header.version, header.hostname, header.app, header.procid, header.msgid })
      assert.equal(lifecycle["current-time"], header.time)
      assert.same({ expected.state, expected.afi, expected.src, expected.dst, expected.protocol, expected.port, 1094 },
        { lifecycle.state, id.afi, id["src-ip"], id["dst-ip"], id.protocol, id["src-port"], id["dst-port"] })
      assert.same(expected.tag, { context["experiment-id"], context["activity-id"] })
      assert.equal("flowd-lua " .. _flowd.version, context.application)
      local times = { seconds_of(lifecycle["start-time"]), seconds_of(lifecycle["end-time"] or lifecycle["current-time"]),
        seconds_of(lifecycle["current-time"]) }
      local offset = os.time() - os.time(os.date("!*t")) -- os.time above took UTC for local time
      for k = 1, 3 do times[k] = times[k] + offset end
      assert.is_true(began - 0.001 <= times[1] and times[1] <= times[2] and times[2] <= times[3] and times[3] <= ended + 0.001,
        got.json)
      -- The other collector and the destination got the very same octets.
      local text = got.json
      assert.equal(text, decoded(sinks[4]:datagrams()[i]).json)
      local destination = sinks[(i - 1) % 2 + 1]:datagrams()[math.ceil(i / 2)]
      assert.equal(text, decoded(destination).json)
    end
    local first = decoded(sinks[3]:datagrams()[1]).message["flow-lifecycle"]
    local last = decoded(sinks[3]:datagrams()[3]).message["flow-lifecycle"]
    assert.equal(first["start-time"], last["start-time"])
    assert.equal(0, d:stop().code)
  end)

  it("goes out by one socket for each collector, connected to it, and one for all destinations of a family", function()
    local sink = udp.open(b, b.address, 5001)
    local d = start({ collectors = { ("[%s]:5001"):format(b.address), ("[%s]:5002"):format(b.address), b.address4 .. ":5003" } })
    local lines = {}
    for i = 1, 50 do
      lines[#lines + 1] = ("start tcp %s 40001 2001:db8:1::%x 1094 atlas 1\n"):format(a.address, 16 + i)
      lines[#lines + 1] = ("start tcp %s 40001 192.0.2.%d 1094 atlas 1\n"):format(a.address4, 100 + i)
    end
    d:write(table.concat(lines))
    sink:collect(100, 5)
    -- The port of the peer; 0: none.
    local function peers()
      local list = {}
      for _, file in ipairs({ "udp", "udp6" }) do
        for remote in temp.read(("/proc/%d/net/%s"):format(d.pid, file)):gmatch("\n *%d+: %x+:%x+ (%x+:%x+)") do
          list[#list + 1] = ("%s %d"):format(file, tonumber(remote:match("%x+$"), 16))
        end
      end
      table.sort(list)
      return table.concat(list, ", ")
    end
    -- Destinations have their turn behind collectors, each family when there is something for it.
    process.wait_for("all of them to be sent", 10, function() return select(2, peers():gsub(",", "")) >= 4 end)
    d:wait_for_counter("flowd_flows_open", 100)
    assert.equal("udp 0, udp 5003, udp6 0, udp6 5001, udp6 5002", peers())
    assert.same({ code = 0 }, d:stop())
  end)

  it("of a large batch shares a system call and a message with others", function()
    local sink = udp.open(b, b.address, 10514)
    local d = start({ to_destination = false, collectors = { b.address } })
    d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 0, 0))
    sink:collect(1, 5)
    sink:clear()
    local trace = process.start({ "strace", "-f", "-e", "trace=sendmmsg,sendmsg,sendto", "-s", "16", "-p", d.pid })
    trace:expect("attached")
    local FLOWS = 5000
    d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 1, FLOWS))
    for _, datagram in ipairs(sink:collect(FLOWS, 30)) do decoded(datagram) end
    assert.equal(FLOWS, #sink:datagrams())
    trace:stop(2)
    local calls, segmented = 0, 0
    for line in trace:stderr():gmatch("[^\n]+") do
      if line:find("^sendmmsg") then calls = calls + 1 end
      if line:find("cmsg_type=UDP_SEGMENT") or line:find("cmsg_type=0x67") then segmented = segmented + 1 end
      -- The questions to the kernel about sockets are no fireflies.
      assert.is_nil(not line:find("nlmsg_type") and (line:find("^sendmsg") or line:find("^sendto%(")) or nil, line)
    end
    assert.is_true(calls > 0 and calls < FLOWS / 20, calls .. " calls for " .. FLOWS .. " fireflies:\n" .. trace:stderr():sub(1, 2000))
    assert.is_true(segmented > calls / 2, segmented .. " calls with segments of " .. calls)
  end)

  it("waits for a collector that is down, and reaches it when it is back", function()
    local other = udp.open(b, b.address4, 10514)
    local collector = udp.open(b, b.address, 10514)
    local d = start({ to_destination = false, collectors = { b.address, b.address4 } })
    d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 0, 0))
    decoded(collector:receive(5))
    collector:close()
    for i = 1, 20 do
      d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", i, i))
      other:collect(i + 1, 5)
    end
    d:expect("firefly collector %[" .. b.address:gsub("%-", "%%-") .. "%]:10514: Connection refused")
    collector = udp.open(b, b.address, 10514)
    d:expect("no longer refuses", 10)
    -- At most what was under way when the first refusal came back is missing.
    local got = collector:collect(15, 10)
    process.wait_for("the last one", 10, function()
      got = collector:datagrams()
      return decoded(got[#got]).message["flow-id"]["src-port"] == flow_lines.ports(20)
    end)
    for i = 2, #got do
      assert.equal(decoded(got[i - 1]).message["flow-id"]["src-port"] + 1, decoded(got[i]).message["flow-id"]["src-port"])
    end
    assert.equal(1, select(2, d:log():gsub("Connection refused", "")), "logged once")
    d:write(flow_lines.lines("end", a.address, b.address, "atlas 1", 0, 20))
    other:collect(42, 5)
    collector:collect(#got + 21, 5)
    assert.equal(0, d:stop().code)
  end)

  it("goes on to the others when a collector's name does not resolve, from the start on", function()
    local sink = udp.open(b, b.address, 10514)
    local before = process.now()
    local d = start({ to_destination = false, collectors = { "nowhere.invalid", b.address } })
    assert.is_true(process.now() - before - stopwatch.queued(d.pid) < 2 * SLOWER, "the start waited for the name")
    d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 0, 99))
    sink:collect(100, 5)
    d:expect("collector nowhere.invalid:10514: cannot resolve the name", 30)
    local watch = stopwatch.start(d.pid)
    d:signal("TERM")
    process.wait_for("its end", 20, function() return process.ended(d.pid) end)
    assert.is_true(watch:seconds() < 2 * SLOWER, "the stop waited for the name")
    assert.equal(0, d:wait(1).code)
    assert.matches("nowhere.invalid:10514: 200 fireflies were not sent", d:log())
  end)

  it("of every open flow gets over a slow link before the daemon ends, within its deadline", function()
    local FLOWS = 40000
    local sink = udp.open(b, b.address, 10514)
    local d = start({ to_destination = false, queue_length = 4000, collectors = { b.address } }, { log_level = "info" })
    for i = 0, FLOWS - 1, 2000 do
      d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", i, i + 1999))
      sink:collect(i + 2000, 30 * SLOWER)
    end
    sink:clear()
    -- 40,000 of about 560 octets take two seconds.
    a:tc("qdisc add dev eth0 root tbf rate 90mbit burst 64kb limit 100mb")
    assert.equal(0, d:stop(20).code)
    assert.equal(FLOWS, #sink:collect(FLOWS, 5))
    assert.not_matches("were not sent", d:log())
  end)

  it("flood to a dead collector costs bounded memory, and the others nothing", function()
    local FLOWS = 60000
    local sink = udp.open(b, b.address, 10514)
    local d = start({ to_destination = false, queue_length = 1000,
      collectors = { ("[%s]:1"):format(b.address), "nowhere.invalid", b.address } }, { log_level = "info" })
    local function send(state)
      for i = 0, FLOWS - 1, 5000 do
        d:write(flow_lines.lines(state, a.address, b.address, "atlas 1", i, i + 4999))
        sink:collect(i + 5000, 30 * SLOWER)
      end
      sink:clear()
    end
    send("start")
    local memory = d.child:memory()
    send("end")
    assert.is_true(d.child:memory() < memory + 4 * 1048576, ("%d octets became %d"):format(memory, d.child:memory()))
    assert.equal(0, d:stop().code)
  end)
end)
