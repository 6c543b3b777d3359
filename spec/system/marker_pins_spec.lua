-- SPDX-License-Identifier: Apache-2.0
-- Marks do not stop with the daemon: killed, replaced, started anew, its flows' packets stay labelled.
local api = require("flowd.api")
local bit = require("bit")
local ffi = require("ffi")
local bpf = require("spec.support.bpf")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local pins = require("flowd.pins")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local traffic = require("spec.support.traffic")

local available, reason = netns.available()
if available then available, reason = marking.available() end
if not available then
  describe("pinned marks", function()
    it("outlive the daemon", function() pending(reason) end)
  end)
  return
end

local SEMANTIC = 0x3FEFC
local ATLAS = 0x10008 -- experiment 2, activity 2
local RESTARTS = tonumber(os.getenv("FLOWD_RESTARTS")) or 20

local function pair()
  local a, b = netns.pair()
  a:sysctl("net.ipv6.auto_flowlabels", 0)
  b:sysctl("net.ipv6.auto_flowlabels", 0)
  return a, b
end

local function start(a, method, more)
  more = more or {}
  local d = daemon.start({ namespace = a, dir = more.dir, config = {
    max_flows = more.max_flows, on_stop = more.on_stop,
    backends = { marker = { interfaces = more.interfaces or { "eth0" }, method = method, lease = more.lease } } } })
  d.pins = pins.directory(d.runtime_dir)
  return d
end

local function line(state, a, b, src_port, dst_port, experiment)
  return ("%s udp %s %d %s %d %d 2\n"):format(state, a.address, src_port, b.address, dst_port, experiment or 2)
end

local function kill(d)
  d:signal("KILL")
  d:wait(10)
end

-- 2,000 datagrams a second from a's port 5000 to b's port 6000, until the test is over.
local function stream(a, b)
  local server = b:start({ "iperf3", "-s", "-p", "6000", "-1", "--forceflush" })
  server:expect("listening", 10)
  a:start({ "iperf3", "-c", b.address, "-p", "6000", "--cport", "5000", "-u", "-b", "8M", "-l", "500", "-t", "300" })
end

local function flow_packets(seen) return seen:packets({ protocol = "udp", src_port = 5000, dst_port = 6000 }) end

-- Wait until `count` more packets of the stream have passed.
local function pass(seen, count)
  local want = #flow_packets(seen) + count
  process.wait_for("packets of the stream", 20, function() return #flow_packets(seen) >= want end)
end

-- Start the daemon's flow and a stream of its packets that goes on; wait for `count` of them.
local function mark_stream(a, b, d, count)
  d:write(line("start", a, b, 5000, 6000))
  d:wait_for_counter("flowd_marker_flows", 1)
  local seen = capture.start(b, "eth0")
  stream(a, b)
  pass(seen, count)
  return seen
end

-- eth0 anew, with all that a packet needs to leave, within a fraction of a millisecond.
local function make_at_once(a, b)
  a:ip_batch({
    "link add eth0 type veth peer name far0",
    "link set far0 up",
    "link set eth0 up",
    ("addr add %s/64 dev eth0 nodad"):format(a.address),
    ("neigh replace %s lladdr 02:00:00:00:00:02 dev eth0 nud permanent"):format(b.address),
  })
end

-- From the first marked packet of a new interface on all are. Returns the seconds that others came before.
local function wait_for_marks(seen)
  local packets, first
  process.wait_for("marked packets", 10, function()
    packets, first = flow_packets(seen), nil
    for i, packet in ipairs(packets) do
      if packet.flow_label ~= 0 then
        first = i
        break
      end
    end
    return first and #packets >= first + 100
  end)
  for i = first, #packets do assert.are.equal(ATLAS, bit.band(packets[i].flow_label, SEMANTIC)) end
  assert.are.equal(0, seen:dropped())
  return tonumber(packets[first].time_us - packets[1].time_us) / 1e6
end

-- Every packet carries the first one's label, and that is the flow's.
local function assert_unbroken(seen)
  local packets = flow_packets(seen)
  local label = packets[1].flow_label
  assert.are.equal(ATLAS, bit.band(label, SEMANTIC))
  local other = 0
  for _, packet in ipairs(packets) do
    if packet.flow_label ~= label then other = other + 1 end
  end
  assert.are.equal(0, other, ("%d of %d packets without their label"):format(other, #packets))
  assert.are.equal(0, seen:dropped())
end

local function names(path)
  local result = process.run({ "ls", "-A", path })
  return result.code == 0 and result.stdout or nil
end

-- What tc and bpf(2) show of a device.
local function shown(ns, device)
  device = device or "eth0"
  local all = { ns:tc("qdisc show dev " .. device), ns:tc("filter show dev " .. device .. " egress") }
  if bpf.has_tcx() then
    for _, program in ipairs(ns:enter(bpf.egress_programs, device)) do all[#all + 1] = program.id .. " " .. program.name end
  end
  return table.concat(all, "\n")
end

for _, method in ipairs(bpf.has_tcx() and { "tcx", "clsact" } or { "clsact" }) do
  describe("pinned marks by " .. method, function()
    after_each(cleanup.all)

    it(("label every packet of a stream through %d times kill -9 and start"):format(RESTARTS), function()
      local a, b = pair()
      local before = shown(a)
      local d = start(a, method)
      local seen = mark_stream(a, b, d, 100)
      for _ = 1, RESTARTS do
        kill(d)
        pass(seen, 100) -- nobody there
        d = start(a, method, { dir = d.dir })
        d:expect("took over 1 marks", 5)
        pass(seen, 100)
      end
      assert_unbroken(seen)
      assert.are.equal(1, d:counter("flowd_marker_adopted"))
      assert.are.equal(1, d:counter("flowd_marker_added_total"))
      -- What was marked while nobody ran is counted too.
      local packets = #flow_packets(seen)
      d:wait_for_counter('flowd_marker_packets_total{result="marked"}', packets)
      -- The flow that was taken over can end.
      d:write(line("end", a, b, 5000, 6000))
      d:wait_for_counter("flowd_marker_removed_total", 1)
      seen:clear()
      pass(seen, 100)
      assert.are.equal(0, flow_packets(seen)[100].flow_label)
      assert.are.equal(0, d:stop().code)
      assert.are.equal(before, shown(a))
      assert.is_nil(names(d.pins))
    end)

    it("label every packet when SIGUSR2 replaces the daemon", function()
      local a, b = pair()
      local d = start(a, method)
      local seen = mark_stream(a, b, d, 100)
      for i = 1, 3 do
        d:signal("USR2")
        process.wait_for("the new process", 20, function()
          local _, count = d:log():gsub("is ready", "")
          return count == i + 1
        end)
        pass(seen, 100)
      end
      assert_unbroken(seen)
      assert.are.equal(0, d:stop().code)
    end)

    it("label every packet when the tables must be rebuilt: another layout", function()
      local a, b = pair()
      local d = start(a, method, { max_flows = 1000 })
      local seen = mark_stream(a, b, d, 100)
      kill(d)
      -- Another number of flows is no reason.
      d = start(a, method, { dir = d.dir, max_flows = 2000 })
      d:expect("took over 1 marks", 5)
      pass(seen, 100)
      kill(d)
      process.must({ "ln", "-sfn", "999", d.pins .. "/layout" })
      d = start(a, method, { dir = d.dir, max_flows = 2000 })
      d:expect("are rebuilt: they have another layout", 5)
      pass(seen, 100)
      kill(d)
      -- And what was rebuilt can be taken over.
      d = start(a, method, { dir = d.dir, max_flows = 2000 })
      d:expect("took over 1 marks", 5)
      pass(seen, 100)
      assert_unbroken(seen)
      assert.are.equal(0, d:stop().code)
      assert.is_nil(names(d.pins))
    end)

    it("label every packet while a hundred thousand flows make the table grow, and are taken over then", function()
      local a, b = pair()
      local d = start(a, method, { max_flows = 150000 })
      local seen = mark_stream(a, b, d, 100)
      local memory = d:counter("flowd_marker_memory_octets")
      for port = 1, 50 do
        local lines = {}
        for i = 1, 2000 do lines[i] = line("start", a, b, 10000 + port, 10000 + i) end
        d:write(table.concat(lines))
      end
      d:wait_for_counter("flowd_marker_flows", 100001)
      assert.is_true(d:counter("flowd_marker_memory_octets") >= 4 * memory)
      pass(seen, 100)
      kill(d)
      pass(seen, 100)
      d = start(a, method, { dir = d.dir, max_flows = 150000 })
      d:expect("took over 100001 marks", 20)
      pass(seen, 100)
      assert_unbroken(seen)
      -- None of its packets was forgotten by the flow's own counter either.
      local packets = #flow_packets(seen)
      local flow = d:command("marker", "flows").stdout:match("%]:5000 [^\n]* ([%d.]+) packets")
      assert.is_true(tonumber(flow) >= packets, flow .. " of " .. packets)
      assert.are.equal(0, d:stop().code)
      assert.is_nil(names(d.pins))
    end)

    it("end by themselves when the daemon does not come back within the lease, and go on when it does", function()
      local a, b = pair()
      local d = start(a, method, { lease = 2 })
      local seen = mark_stream(a, b, d, 5000) -- longer than the lease
      assert_unbroken(seen)
      local killed = process.now()
      kill(d)
      local function label()
        seen:clear()
        pass(seen, 1)
        return flow_packets(seen)[1].flow_label
      end
      assert.are.equal(ATLAS, bit.band(label(), SEMANTIC))
      process.wait_for("an unmarked packet", 20, function() return label() == 0 end)
      local marked = process.now() - killed
      assert.is_true(marked > 0.9, marked .. " s")
      d = start(a, method, { dir = d.dir, lease = 2 })
      process.wait_for("a marked packet", 20, function() return bit.band(label(), SEMANTIC) == ATLAS end)
      d:wait_for_counter('flowd_marker_packets_total{reason="expired",result="skipped"}', 1)
      assert.are.equal(0, d:stop().code)
    end)

    it("stay with on_stop = keep; a start without the open flows removes them", function()
      local a, b = pair()
      local before = shown(a)
      local d = start(a, method, { on_stop = "keep" })
      d:write(line("start", a, b, 5000, 6000) .. line("start", a, b, 5001, 6001))
      d:wait_for_counter("flowd_marker_flows", 2)
      assert.are.equal(0, d:stop().code)
      local seen = capture.start(b, "eth0")
      traffic.udp(a, b, 5000, 6000, 1)()
      assert.are.equal(ATLAS, bit.band(seen:wait_for({ src_port = 5000, protocol = "udp" }, 10)[1].flow_label, SEMANTIC))
      process.must({ "rm", d.runtime_dir .. "/state" })
      d = start(a, method, { dir = d.dir })
      d:expect("took over 0 marks", 5)
      assert.are.equal(0, d:counter("flowd_marker_flows"))
      seen:clear()
      traffic.udp(a, b, 5001, 6001, 1)()
      assert.are.equal(0, seen:wait_for({ src_port = 5001, protocol = "udp" }, 10)[1].flow_label)
      assert.are.equal(0, d:stop().code)
      assert.are.equal(before, shown(a))
    end)

    it("go from an interface that the next configuration does not name", function()
      local a, b = pair()
      netns.veth(a, "eth1", b, "eth1")
      local before = shown(a, "eth1")
      local d = start(a, method, { interfaces = { "eth0", "eth1" } })
      kill(d)
      assert.are_not.equal(before, shown(a, "eth1"))
      d = start(a, method, { dir = d.dir, interfaces = { "eth0" } })
      assert.are.equal(before, shown(a, "eth1"))
      assert.are.equal(0, d:stop().code)
    end)

    it("are removed by marker clean, which leaves what others have pinned, and a running daemon", function()
      local a, b = pair()
      local before = shown(a)
      local d = start(a, method)
      d:write(line("start", a, b, 5000, 6000))
      d:wait_for_counter("flowd_marker_flows", 1)
      local refused = d:command("marker", "clean")
      assert.are.equal(1, refused.code)
      assert.is_truthy(refused.stderr:find(("runs (pid %d)"):format(d.pid), 1, true))
      local shows = d:command("marker", "status").stdout
      assert.is_truthy(shows:find(("runs, pid %d"):format(d.pid), 1, true))
      assert.is_truthy(shows:find("interface   eth0: " .. method .. ", program %d+"))
      local flows = d:command("marker", "flows").stdout
      assert.is_truthy(flows:find(("udp [%s]:5000 [%s]:6000 label 0x"):format(a.address, b.address), 1, true))
      assert.is_truthy(flows:find("atlas", 1, true))
      kill(d)
      assert.is_truthy(d:command("marker", "status").stdout:find("does not run", 1, true))
      process.must({ "mkdir", d.pins .. "/others" })
      local cleaned = d:command("marker", "clean")
      assert.are.equal(0, cleaned.code, cleaned.stderr)
      assert.are.equal(before, shown(a))
      assert.are.equal("others\n", names(d.pins))
      process.must({ "rmdir", d.pins .. "/others" })
      assert.are.equal(0, d:command("marker", "clean").code)
      assert.is_nil(names(d.pins))
    end)

    it("are set again at once on an interface that is deleted and made anew under traffic", function()
      local a, b = pair()
      local d = start(a, method)
      d:write(line("start", a, b, 5000, 6000))
      d:wait_for_counter("flowd_marker_flows", 1)
      a:start({ daemon.binary(), "lua", "spec/support/stubborn.lua", "5000", b.address, "6000" })
      local slow = {}
      for _ = 1, 5 do
        a:ip("link del eth0")
        local seen = capture.start(a)
        make_at_once(a, b)
        local waited = wait_for_marks(seen)
        seen:close()
        if waited > 0.25 then slow[#slow + 1] = waited end
      end
      -- Mostly from the first packet on; the timer, which looks every second, would need longer nearly every time.
      assert.is_true(#slow <= 1, "seconds without marks: " .. table.concat(slow, ", "))
      kill(d)
      a:ip("link del eth0")
      netns.veth(a, "eth0", b, "eth0")
      d = start(a, method, { dir = d.dir })
      d:expect("took over 1 marks", 5)
      assert.are.equal(0, d:stop().code)
      assert.is_nil(names(d.pins))
    end)
  end)
end

describe("pinned marks", function()
  after_each(cleanup.all)

  it("of two daemons do not meet", function()
    local a, b = pair()
    netns.veth(a, "eth1", b, "eth1")
    local first = start(a, "auto")
    local second = start(a, "auto", { interfaces = { "eth1" } })
    local with_both = shown(a)
    assert.are_not.equal(first.pins, second.pins)
    assert.are.equal(0, second:stop().code)
    assert.are.equal(with_both, shown(a))
    assert.are.equal("700\n", process.must({ "stat", "-c", "%a", first.pins }))
    assert.are.equal(0, first:stop().code)
    assert.is_nil(names(first.pins))
  end)

  it("are asked for by a command that names its actions", function()
    local conf = daemon.write_config(temp.dir())
    local result = process.run({ daemon.binary(), "--conf", conf, "marker", "clear" })
    assert.are.equal(2, result.code)
    assert.is_truthy(result.stderr:find("expected status, flows, clean or test", 1, true))
  end)
end)

-- Without a daemon: what stands in front of the table outlives the process with it.
describe("the set of ports", function()
  after_each(cleanup.all)

  it("keeps, of marks taken over, the bits of those that stay", function()
    local directory = "/sys/fs/bpf/fl-sets-" .. ffi.C.getpid()
    local first, sets = bpf.with_bss(function() return marking.open(100, directory) end)
    api.marker_settle(first.handle)
    local function flow(i) return { slot = i, src_port = 5000 + i % 10, dst_port = 1000 + i } end
    local all, odd, ended = {}, {}, {}
    for i = 1, 40 do
      all[i] = flow(i)
      if i % 2 == 1 then
        odd[#odd + 1], ended[#ended + 1] = flow(i), flow(i)
        ended[#ended].state, ended[#ended].known, ended[#ended].decided = "end", true, true
      end
    end
    first:events(all)
    first:account() -- what their tag is counted as is noted beside the set
    local with_all = sets:bits()

    local second = marking.open(100, directory)
    cleanup.add(function()
      second:close()
      -- Its pins are gone.
      local level = api.log_get_level()
      api.log_setup(ffi.C.LOG_LEVEL_ERROR, false)
      first:close()
      api.log_setup(level, false)
    end)
    assert.is_true(api.marker_adopted(second.handle))
    second:events(odd)
    assert.are.equal(with_all, sets:bits())
    api.marker_settle(second.handle)
    assert.are.equal(with_all - 5, sets:bits())
    assert.are.equal(20, second:counts().open)
    second:events(ended)
    assert.are.equal(with_all - 10, sets:bits())
  end)
end)
