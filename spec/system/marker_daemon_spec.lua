-- SPDX-License-Identifier: Apache-2.0
-- The real daemon: a line in the pipe marks real packets; at its end nothing of it is left.
local bit = require("bit")
local bpf = require("spec.support.bpf")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local traffic = require("spec.support.traffic")

local available, reason = netns.available()
if available then available, reason = marking.available() end
if not available then
  describe("the daemon's marker", function()
    it("marks real traffic", function() pending(reason) end)
  end)
  return
end

local SEMANTIC = 0x3FEFC

local function pair()
  local a, b = netns.pair()
  a:sysctl("net.ipv6.auto_flowlabels", 0)
  b:sysctl("net.ipv6.auto_flowlabels", 0)
  return a, b
end

local function start(a, options, log_level)
  return daemon.start({ namespace = a, log_level = log_level, config = { backends = { marker = options } } })
end

local function line(state, a, b, src_port, dst_port, experiment, activity, protocol)
  return ("%s %s %s %d %s %d %s %s\n"):format(state, protocol or "tcp", a.address, src_port, b.address, dst_port,
    experiment, activity)
end

local function shown(ns)
  local all = { ns:tc("qdisc show dev eth0"), ns:tc("filter show dev eth0 egress"), ns:tc("filter show dev eth0 ingress") }
  if bpf.has_tcx() then
    for _, program in ipairs(ns:enter(bpf.egress_programs, "eth0")) do all[#all + 1] = program.id .. " " .. program.name end
  end
  return table.concat(all, "\n")
end

for _, method in ipairs(bpf.has_tcx() and { "tcx", "clsact" } or { "clsact" }) do
  describe("the daemon's marker by " .. method, function()
    after_each(cleanup.all)

    it("labels every packet of the flow of a line, by its tag, and none of another; nothing is left", function()
      local a, b = pair()
      local before = shown(a)
      local d = start(a, { interfaces = { "eth0" }, method = method })
      assert.is_truthy(d:log():find("interface eth0: marking what leaves it (" .. method .. ")", 1, true))
      d:write(line("start", a, b, 5000, 6000, 2, 2) .. line("start", a, b, 5000, 6001, "cms", "Cache"))
      d:wait_for_counter("flowd_marker_flows", 2)
      local seen = capture.start(b, "eth0")
      for _, wait in ipairs({ traffic.tcp(a, b, 5000, 6000), traffic.tcp(a, b, 5000, 6001), traffic.tcp(a, b, 5000, 6002) }) do
        wait()
      end
      local first = seen:labels({ src = a.address, src_port = 5000, dst_port = 6000 })
      assert.are.equal(1, #first)
      assert.are.equal(0x10008, bit.band(first[1], SEMANTIC))
      local second = seen:labels({ src = a.address, src_port = 5000, dst_port = 6001 })
      assert.are.equal(1, #second)
      assert.are.equal(0x30000, bit.band(second[1], 0x3FE00)) -- cms is 3
      assert.are.same({ 0 }, seen:labels({ src = a.address, src_port = 5000, dst_port = 6002 }))
      assert.are.same({ 0 }, seen:labels({ src = b.address }))
      local with = #seen:packets({ src = a.address, src_port = 5000 })
      assert.is_true(with > 20)

      -- Counters; then the end of one flow and of the daemon.
      d:wait_for_counter('flowd_marker_packets_total{result="marked"}', 20)
      d:wait_for_counter('flowd_marker_packets_total{result="missed"}', 1)
      assert.are.equal(1, d:counter('flowd_marker_interface_marked{interface="eth0"}'))
      d:write(line("end", a, b, 5000, 6000, 2, 2))
      d:wait_for_counter("flowd_marker_removed_total", 1)
      seen:clear()
      traffic.tcp(a, b, 5000, 6000)()
      assert.are.same({ 0 }, seen:labels({ src = a.address, src_port = 5000, dst_port = 6000 }))
      assert.are_not.equal(before, shown(a))
      assert.are.equal(0, d:stop().code)
      assert.are.equal(before, shown(a))
    end)

    it("leaves a qdisc, a filter and a program of others as they are, which see every packet, before, during and after", function()
      local a, b = pair()
      a:tc("qdisc add dev eth0 root handle 7: pfifo limit 50")
      a:tc("qdisc add dev eth0 clsact")
      a:tc("filter add dev eth0 egress prio 10 u32 match u32 0 0 classid 1:2")
      local foreign = bpf.has_tcx() and bpf.counting_program(-1)
      if foreign then
        finally(function() foreign:close() end)
        a:enter(function() foreign:attach("eth0") end)
      end
      local before = shown(a)
      local d = start(a, { interfaces = { "eth0" }, method = method })
      d:write(line("start", a, b, 5000, 6000, 2, 2, "udp"))
      d:wait_for_counter("flowd_marker_flows", 1)
      for there in before:gmatch("[^\n]+") do assert.is_truthy(shown(a):find(there, 1, true), "gone meanwhile: " .. there) end
      local packets = foreign and foreign:packets() or 0
      local seen = capture.start(b, "eth0")
      traffic.udp(a, b, 5000, 6000, 10)()
      local sent = seen:wait_for({ src_port = 5000, protocol = "udp" }, 10, 10)
      for _, packet in ipairs(sent) do assert.are.equal(0x10008, bit.band(packet.flow_label, SEMANTIC)) end
      if foreign then assert.is_true(foreign:packets() >= packets + 10) end
      assert.are.same({ code = 0 }, d:stop())
      assert.are.equal(before, shown(a))
    end)

    it("labels UDP", function()
      local a, b = pair()
      local d = start(a, { interfaces = { "eth0" }, method = method })
      d:write(line("start", a, b, 5000, 6000, 16, 14, "udp"))
      d:wait_for_counter("flowd_marker_flows", 1)
      local seen = capture.start(b, "eth0")
      traffic.udp(a, b, 5000, 6000, 1)()
      local packet = seen:wait_for({ src_port = 5000, protocol = "udp" }, 10)[1]
      assert.are.equal(0x02038, bit.band(packet.flow_label, SEMANTIC))
      d:stop()
    end)

    it("marks an interface that comes late, or comes back", function()
      local a, b = pair()
      local d = start(a, { interfaces = { "eth0", "eth1" }, method = method })
      d:expect("interface eth1: there is none of that name; trying again", 5)
      assert.are.equal(0, d:counter('flowd_marker_interface_marked{interface="eth1"}'))
      netns.veth(a, "eth1", b, "eth1")
      d:expect("interface eth1: marking what leaves it", 10)
      a:ip("link del eth1")
      d:expect("interface eth1: it has vanished", 10)
      netns.veth(a, "eth1", b, "eth1")
      d:wait_for_counter('flowd_marker_interface_marked{interface="eth1"}', 1)
      a.address, b.address = "2001:db8:2::1", "2001:db8:2::2"
      a:add_address("eth1", a.address .. "/64")
      b:add_address("eth1", b.address .. "/64")
      d:write(line("start", a, b, 5000, 6000, 2, 2, "udp"))
      d:wait_for_counter("flowd_marker_flows", 1)
      local seen = capture.start(b, "eth1")
      traffic.udp(a, b, 5000, 6000, 1)()
      local packet = seen:wait_for({ src_port = 5000, protocol = "udp" }, 10)[1]
      assert.are.equal(0x10008, bit.band(packet.flow_label, SEMANTIC))
      assert.are.equal(0, d:stop().code)
    end)
  end)
end

describe("the daemon's marker", function()
  after_each(cleanup.all)

  it("is listed as failed, with the reason, when none of its interfaces is there", function()
    local a = pair()
    local d = start(a, { interfaces = { "eth7" } })
    assert.is_truthy(d:log():find("error backend 'marker' did not start: none of its interfaces can be marked: "
      .. "interface eth7: there is none of that name\n", 1, true), d:log())
    assert.is_nil(d:log():find("trying again", 1, true))
    assert.are.equal(1, d:counter("flowd_modules_failed"))
    assert.are.equal(0, d:stop().code)
  end)

  it("takes back its filters when it is the second interface that fails and Ctrl-C comes", function()
    local a = pair()
    local before = shown(a)
    local d = start(a, { interfaces = { "eth0", "eth7" }, method = "clsact" })
    d:stop(10, "INT")
    assert.are.equal(before, shown(a))
  end)

  it("counts flows that IPv4 cannot label", function()
    local a, b = pair()
    local d = start(a, { interfaces = { "eth0" } })
    d:write(("start tcp %s 5000 %s 6000 2 2\n"):format(a.address4, b.address4))
    d:wait_for_counter("flowd_marker_ipv4_total", 1)
    assert.are.equal(0, d:counter("flowd_marker_flows"))
    d:stop()
  end)

  it("names wrong options", function()
    local dir = temp.dir()
    local function check(options)
      local conf = daemon.write_config(dir, { backends = { marker = options } })
      local result = process.run({ daemon.binary(), "--conf", conf, "check" })
      assert.are_not.equal(0, result.code)
      return result.stdout .. result.stderr
    end
    assert.is_truthy(check({ strategy = "lable" }):find('backends.marker.strategy: expected one of label; got "lable"', 1, true))
    assert.is_truthy(check({ method = "tc" }):find("backends.marker.method: expected one of auto, tcx, clsact", 1, true))
    assert.is_truthy(check({ interfaces = {} }):find("backends.marker.interfaces", 1, true))
    assert.is_truthy(check({ interfaces = { "a b" } }):find("backends.marker.interfaces[1]", 1, true))
  end)

  it("says which privileges it lacks", function()
    local script = temp.write("/tmp/flowd-lua-marker-" .. require("ffi").C.getpid() .. ".lua", [[
      local ffi = require("ffi")
      local message = ffi.new("char[300]")
      assert(require("flowd.api").marker_open(10, message, 300) == nil)
      print(ffi.string(message))]])
    cleanup.add(function() os.remove(script) end)
    local out = process.must({ "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", daemon.public_binary(), "lua", script })
    assert.is_truthy(out:find("cannot load the marking program: Operation not permitted: needs CAP_BPF", 1, true), out)
    assert.is_truthy(out:find("which user 65534 does not have here", 1, true), out)
  end)
end)
