-- SPDX-License-Identifier: Apache-2.0
--- What is tried on every kernel. A check's function gets the context of guest.lua and returns
--- what to show in the table, and "fallback" when the kernel cannot do it and something else
--- serves; an error is a failure.
local capture = require("spec.support.capture")
local daemon = require("spec.support.daemon")
local marked = require("scripts.kernels.marked")
local privileges = require("scripts.kernels.privileges")
local process = require("spec.support.process")
local tcp = require("scripts.kernels.tcp")
local temp = require("spec.support.temp")
local topology = require("scripts.kernels.topology")
local udp = require("spec.support.udp")

local checks = {}

-- 12345 as 12,345
local function grouped(n)
  local text = ("%d"):format(n)
  repeat
    local count
    text, count = text:gsub("^(%d+)(%d%d%d)", "%1,%2")
  until count == 0
  return text
end

-- -- programs ----------------------------------------------------------------------

-- A check for every program that the binary holds: a new one joins by itself.
local function add_programs(list)
  local result = process.run({ daemon.binary(), "lua", "scripts/kernels/programs.lua", seconds = 60 })
  if result.stderr ~= "" then io.stderr:write(result.stderr) end
  local count = 0
  for name, errno, instructions, verified, machine_code in
    result.stdout:gmatch("(%S+) (%d+) (%d+) (%d+) (%d+)\n") do
    count = count + 1
    list[#list + 1] = { name = "program `" .. name .. "`", run = function()
      if tonumber(errno) ~= 0 then error("the kernel refuses it: errno " .. errno, 0) end
      if tonumber(machine_code) == 0 then error("the kernel interprets it: no machine code", 0) end
      if tonumber(verified) == 0 then return grouped(instructions) .. " instructions" end
      return ("%s instructions, %s verified"):format(grouped(instructions), grouped(verified))
    end }
  end
  if result.code ~= 0 or count == 0 then
    list[#list + 1] = { name = "programs", run = function()
      error(("the binary tells of %d programs, status %s: %s"):format(count, tostring(result.code), result.stderr), 0)
    end }
  end
end

-- The packets of spec/bpf, through the programs on this kernel.
local function golden_packets(context)
  local result = process.run({ "bin/flowd-lua", "lua", "spec/run.lua", "spec/bpf", seconds = 120,
    env = { FLOWD_RANDOM_PACKETS = context.guest and 1000 } })
  local passed, failed, rest = result.stdout:match("(%d+) passed, (%d+) failed([^\n]*)\n?$")
  if result.code ~= 0 or failed ~= "0" or rest ~= "" then
    io.stderr:write(result.stdout, result.stderr)
    error(("%s passed, %s failed%s (status %s)"):format(passed or "?", failed or "?", rest or "",
      tostring(result.code or result.signal)), 0)
  end
  return passed .. " tests"
end

-- -- attaching -----------------------------------------------------------------------

local function attach_auto(context)
  local t = topology.veth()
  local d = marked.daemon(t)
  local method = marked.method(t)
  d:stop()
  if context.has_tcx then
    if method ~= "TCX" then error("attached by " .. method .. " although the kernel has TCX", 0) end
    return method
  end
  if method ~= "clsact" then error("no clsact qdisc", 0) end
  return "clsact", "fallback"
end

local function attach_tcx(context)
  local t = topology.veth()
  local d = daemon.start({ namespace = t.from, ready = false,
    config = { backends = { marker = { interfaces = { "eth0" }, method = "tcx" } } } })
  if context.has_tcx then
    d:expect("is ready: ", 20)
    if marked.method(t) ~= "TCX" then error("attached by clsact", 0) end
    d:stop()
    return "TCX"
  end
  d:expect("TCX: .*Linux 6%.6", 20)
  d:stop()
  return "refused: needs 6.6", "fallback"
end

-- -- traffic -------------------------------------------------------------------------

local function traffic(name, method)
  return function()
    local t = topology[name]()
    local d = marked.daemon(t, { method = method })
    marked.tell(d, t, "start", { marked.TCP_FLOW, marked.UDP_FLOW }, 2)
    local packets = t.to and marked.tcp(t, 200000) or 0
    packets = packets + marked.udp(t)
    marked.tell(d, t, "end", { marked.TCP_FLOW, marked.UDP_FLOW }, 0)
    marked.udp(t, true)
    local status = d:stop()
    if status.code ~= 0 then error(("the daemon ended with status %s"):format(tostring(status.code or status.signal)), 0) end
    return grouped(packets) .. " packets"
  end
end

-- -- a network that loses, delays, reorders and doubles -----------------------------------

local DATAGRAMS = 600

-- What happened to numbered datagrams on their way.
local function arrivals(packets)
  local count, lost, doubled, late, last = {}, 0, 0, 0, 0
  for _, packet in ipairs(packets) do
    local n = tonumber(packet.data:match("^%d+"))
    if count[n] then
      doubled = doubled + 1
    elseif n < last then
      late = late + 1
    end
    count[n] = (count[n] or 0) + 1
    last = math.max(last, n)
  end
  for n = 1, DATAGRAMS do if not count[n] then lost = lost + 1 end end
  return lost, doubled, late
end

local function netem_udp(t)
  local flow = marked.UDP_FLOW
  local seen = capture.start(t.seen[1], t.seen[2])
  local sink = t.to and udp.open(t.to, t.dst, flow.dst_port)
  local socket = udp.open(t.from, t.src, flow.src_port)
  for n = 1, DATAGRAMS do socket:send(("%d"):format(n), t.dst, flow.dst_port) end
  local want, settled = { src = t.src, protocol = "udp", src_port = flow.src_port }, 0
  -- All has arrived when for half a second nothing more came.
  local count, since = -1, process.now()
  process.wait_for("the last datagram", 20, function()
    settled = #seen:packets(want)
    if settled ~= count then count, since = settled, process.now() end
    return process.now() - since > 0.5
  end)
  local packets = seen:packets(want)
  marked.expect_label(packets, flow)
  local lost, doubled, late = arrivals(packets)
  if lost == 0 or doubled == 0 or late == 0 then
    error(("netem did nothing: %d lost, %d doubled, %d late"):format(lost, doubled, late), 0)
  end
  socket:close()
  if sink then sink:close() end
  return #packets, lost, doubled, late
end

local function netem(name)
  return function()
    local t = topology[name]()
    -- Packets on the wire, not the large ones that virtual devices pass on.
    t.from:must({ "ethtool", "-K", t.device, "tso", "off", "gso", "off" })
    t.from:tc("qdisc add dev %s root netem delay 2ms 1ms loss 5%% duplicate 5%% reorder 25%% 50%%", t.device)
    local d = marked.daemon(t)
    marked.tell(d, t, "start", { marked.TCP_FLOW, marked.UDP_FLOW }, 2)
    local packets = t.to and marked.tcp(t, 100000) or 0
    local datagrams, lost, doubled, late = netem_udp(t)
    if not t.from:tc("qdisc show dev %s", t.device):find("netem", 1, true) then error("the netem qdisc is gone", 0) end
    d:stop()
    if not t.from:tc("qdisc show dev %s", t.device):find("netem", 1, true) then error("the netem qdisc is gone", 0) end
    return ("%s packets (UDP: %d lost, %d twice, %d late)"):format(grouped(packets + datagrams), lost, doubled, late)
  end
end

-- -- fireflies ---------------------------------------------------------------------------

local function fireflies()
  local t, flows = topology.veth(), 300
  local collector = udp.open(t.to, t.dst, 10514)
  local d = marked.daemon(t, { backends = {
    firefly = { to_destination = false, collectors = { { host = t.dst, port = 10514 } } } } })
  for _, state in ipairs({ "start", "end" }) do
    local lines = {}
    for i = 1, flows do
      lines[i] = ("%s tcp %s %d %s 443 2 2\n"):format(state, t.src, 20000 + i, t.dst)
    end
    d:write(table.concat(lines))
  end
  local count = { start = 0, ["end"] = 0 }
  for _, datagram in ipairs(collector:collect(2 * flows, 20)) do
    local state = datagram.text:match('"state":"(%a+)"')
    count[state] = (count[state] or 0) + 1
  end
  if count.start ~= flows or count["end"] ~= flows then
    error(("%d of start and %d of end, not %d each"):format(count.start, count["end"], flows), 0)
  end
  d:stop()
  return grouped(2 * flows) .. " received"
end

-- -- killed, started again, ended ------------------------------------------------------------

-- A connection that goes on while `fn` runs; returns the packets seen meanwhile.
local function during(connection, seen, t, fn)
  seen:clear()
  fn()
  connection:transfer(20000)
  return seen:packets({ src = t.src, src_port = marked.TCP_FLOW.src_port, protocol = "tcp" })
end

local function killed()
  local t = topology.veth()
  local flow, other = marked.TCP_FLOW, { protocol = "tcp", src_port = 5003, dst_port = 5203, tag = "2 2" }
  local d = marked.daemon(t)
  local seen = capture.start(t.seen[1], t.seen[2])
  local function connect(to)
    return tcp.connect({ ns = t.from, host = t.src, port = to.src_port }, { ns = t.to, host = t.dst, port = to.dst_port })
  end
  local connection, gone = connect(flow), connect(other)
  marked.tell(d, t, "start", { flow, other }, 2)
  d:wait_for_counter("flowd_flows_sockets_total", 2, 20)
  local before = during(connection, seen, t, function() end)
  local entropy = marked.expect_label(before, flow)

  local again
  local gap = during(connection, seen, t, function()
    d:signal("KILL")
    d:wait()
    connection:transfer(20000)
    gone:close()
    again = marked.daemon(t, { dir = d.dir })
  end)
  local unlabelled = 0
  for _, packet in ipairs(gap) do
    if packet.flow_label ~= flow.label + entropy then unlabelled = unlabelled + 1 end
  end
  -- The flow is still the one that it was: so is its label when its start is told again.
  again:wait_for_counter('flowd_flows_missed_ends_total{reason="restart"}', 1, 20)
  marked.tell(again, t, "start", { flow }, 1)
  marked.expect_label(during(connection, seen, t, function() end), flow, entropy)
  marked.tell(again, t, "end", { flow }, 0)
  marked.expect_label(during(connection, seen, t, function() end), { src_port = flow.src_port, label = 0 })
  local status = again:stop()
  if status.code ~= 0 then
    error(("the second daemon ended with status %s; its log:\n%s"):format(tostring(status.code or status.signal), again:log()), 0)
  end
  return ("label kept; %d of %d packets unlabelled meanwhile; an end found that was missed"):format(unlabelled, #gap)
end

-- Programs of ours that the kernel still holds.
local function programs_left()
  local names = {}
  for name in process.must({ "bpftool", "prog", "list" }):gmatch("name (%S+)") do
    if name:match("^label_") then names[#names + 1] = name end
  end
  return names
end

local function ended(context)
  local t = topology.veth()
  local d = marked.daemon(t)
  marked.tell(d, t, "start", { marked.TCP_FLOW, marked.UDP_FLOW }, 2)
  local status = d:stop(10)
  if status.code ~= 0 then error("status " .. tostring(status.code or status.signal), 0) end
  if marked.method(t) == "clsact" then error("the clsact qdisc is left", 0) end
  for _, name in ipairs({ "/run/np", "/run/state" }) do
    if temp.exists(d.dir .. name) then error(name .. " is left", 0) end
  end
  -- The kernel lets go of them a moment later. Elsewhere others may have programs of that name.
  if context.guest then
    process.wait_for(function() return "the end of " .. table.concat(programs_left(), ", ") end, 10, function()
      return #programs_left() == 0
    end)
  end
  return "nothing left"
end

local function kernel_log(context)
  if not context.guest then return "its log is not only ours", "absent" end
  local found, log = {}, process.must({ "dmesg" })
  for line in log:gmatch("[^\n]+") do
    if line:find("WARNING:", 1, true) or line:find("BUG:", 1, true) or line:find("Oops", 1, true) or
      line:find("Call Trace", 1, true) or line:find("rcu: INFO", 1, true) then
      found[#found + 1] = line
    end
  end
  if #found > 0 then
    io.stderr:write(log)
    error(found[1], 0)
  end
  return "clean"
end

--- context: release, guest (else on a machine that is not ours alone), has_tcx, needs_perfmon, counts_memory
---@return table[] checks { name =, run = function(context) }, in order
function checks.list()
  local list = {}
  local function add(name, run) list[#list + 1] = { name = name, run = run } end
  add_programs(list)
  add("golden packets, octet by octet", golden_packets)
  add("attached by (`method = \"auto\"`)", attach_auto)
  add("`method = \"tcx\"`", attach_tcx)
  add("veth", traffic("veth"))
  add("veth, `method = \"clsact\"`", traffic("veth", "clsact"))
  add("vlan", traffic("vlan"))
  add("vlan, tag inside the frame", traffic("vlan_in_frame"))
  add("tunnel without Ethernet header", traffic("tunnel"))
  add("dummy", traffic("dummy"))
  add("netem on veth", netem("veth"))
  add("netem on vlan", netem("vlan"))
  add("netem on dummy", netem("dummy"))
  add("fireflies", fireflies)
  add("daemon killed and started again", killed)
  for _, check in ipairs(privileges.checks) do add(check[1], check[2]) end
  add("daemon ended by SIGTERM", ended)
  add("kernel log", kernel_log)
  return list
end

return checks
