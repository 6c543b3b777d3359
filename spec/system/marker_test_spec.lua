-- SPDX-License-Identifier: Apache-2.0
-- `flowd-lua marker test`: says whether what leaves an interface can be marked, and sends nothing that goes far.
local bpf = require("spec.support.bpf")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local function test(ns, ...)
  local dir = temp.dir()
  local command = { daemon.binary(), "--conf", daemon.write_config(dir), "marker", "test", ... }
  command.namespace = ns
  return process.run(command)
end

describe("marker test", function()
  after_each(cleanup.all)
  local marked = netns.available() and marked_it(it) or pending

  marked("shows that packets of a marked flow, and no others, leave with its label", function()
    local a, b = netns.pair()
    local seen = capture.start(b, "eth0")
    local result = test(a, "eth0")
    assert.same({ 0, "" }, { result.code, result.stderr })
    assert.truthy(result.stdout:find("daemon      does not mark eth0", 1, true), result.stdout)
    assert.truthy(result.stdout:find("unmarked    5 sent, 5 captured behind the program: 0 with label", 1, true), result.stdout)
    local label = tonumber(result.stdout:match("marked      5 sent, 5 captured behind the program: 5 with label (0x%x+)\n"))
    assert.truthy(result.stdout:find("result      what leaves eth0 can be marked", 1, true))
    -- The other end saw the same; and nothing else of it.
    local list = seen:packets({ protocol = "udp", dst_port = 9 })
    assert.equal(10, #list)
    for i, packet in ipairs(list) do
      assert.equal(i > 5, packet.flow_label == label)
      assert.equal(1, packet.hop_limit)
      assert.equal("ff02::114", packet.dst)
    end
    assert.same({}, a:enter(function() return bpf.has_tcx() and bpf.egress_programs("eth0") or {} end))
    assert.is_nil(a:tc("qdisc show dev eth0"):find("clsact", 1, true))
  end)

  marked("works on the loopback interface, and beside the daemon", function()
    local ns = netns.new()
    local d = daemon.start({ namespace = ns, config = { backends = { marker = { interfaces = { "lo" } } } } })
    d:write("start tcp ::1 1 ::1 2 2 2\n")
    d:wait_for_counter("flowd_marker_flows", 1)
    local result = d:command("marker", "test", "lo")
    if bpf.has_tcx() then
      assert.same({ 0, "" }, { result.code, result.stderr })
      assert.truthy(result.stdout:find("daemon      marks lo: program %d+, tcx"), result.stdout)
    else
      assert.equal(1, result.code)
      assert.truthy(result.stderr:find("try it while the daemon does not run", 1, true))
    end
    assert.equal(1, d:counter("flowd_marker_flows"))
    assert.equal(1, d:counter("flowd_marker_interface_marked"))
    assert.equal(0, d:stop().code)
  end)

  it("says when there is nothing to try it with", function()
    if not netns.available() then return pending("namespaces need root") end
    local ns = netns.new()
    local function refused(text, ...)
      local result = test(ns, ...)
      assert.equal(1, result.code, text)
      assert.truthy(result.stderr:find(text, 1, true), result.stderr)
    end
    refused("interface nope: there is none of that name", "nope")
    refused("interface a-name-that-is-too-long: there is none of that name", "a-name-that-is-too-long")
    ns:ip("link add veth0 type veth peer name veth1")
    refused("interface veth0: it is down (ip link set veth0 up)", "veth0")
    ns:sysctl("net.ipv6.conf.veth0.disable_ipv6", 1)
    ns:ip("addr add 192.0.2.1/24 dev veth0")
    ns:ip("link set veth0 up")
    refused("interface veth0: its link is down: no carrier", "veth0")
    ns:ip("link set veth1 up")
    process.wait_for("the carrier", 10, function() return ns:ip("link show veth0"):find("LOWER_UP", 1, true) end)
    refused("interface veth0: it has no IPv6 address to send from (IPv4 has no flow label: there is nothing to mark)", "veth0")
  end)

  marked("says when packets do not get out", function()
    if not bpf.has_tcx() then return pending("another's program in its way is attached by TCX") end
    local a = netns.pair()
    local TC_ACT_SHOT = 2
    local program = bpf.counting_program(TC_ACT_SHOT)
    a:enter(function() program:attach("eth0") end)
    local result = test(a, "eth0")
    assert.equal(1, result.code)
    assert.truthy(result.stderr:find("interface eth0: what was sent did not leave it", 1, true), result.stderr)
  end)

  it("is used with an interface, and only it is", function()
    for _, words in ipairs({ { "test" }, { "status", "eth0" } }) do
      local result = process.run({ daemon.binary(), "marker", unpack(words) })
      assert.equal(2, result.code)
    end
  end)
end)
