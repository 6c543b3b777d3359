-- SPDX-License-Identifier: Apache-2.0
--- A daemon that is killed and started again, in the middle of traffic and of events: what must hold then.
---
--- One stream of packets runs all the time, over links of its own; flows come and go by lines in the pipe, each
--- with fireflies to a collector.
local ffi = require("ffi")
local bit = require("bit")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

local C = ffi.C
local O_RDONLY, O_NONBLOCK, O_CLOEXEC = 0, 0x800, 0x80000

local SEMANTIC, ATLAS = 0x3FEFC, 0x10008 -- experiment 2, activity 2
local STREAM_SRC, STREAM_DST = "2001:db8:2::1", "2001:db8:2::2"

local restarts = {}
local methods = {}
local meta = { __index = methods }

--- Two namespaces, a stream of packets between them, a collector, a daemon that marks the stream.
---@param options { marked: boolean, rules: string? }
---@return table scene with a, b, d (the daemon), sink
function restarts.new(options)
  local a, b = netns.pair()
  local self = setmetatable({ a = a, b = b, marked = options.marked, rules = options.rules, dir = temp.dir(),
    next_flow = 0, ended = 0, packets = 0 },
    meta)
  netns.veth(a, "eth1", b, "eth1")
  a:add_address("eth1", STREAM_SRC .. "/64")
  b:add_address("eth1", STREAM_DST .. "/64")
  a:sysctl("net.ipv6.auto_flowlabels", 0)
  self.sink = udp.open(b, b.address, 10514)
  self.backends = { firefly = { to_destination = false, collectors = { ("[%s]:10514"):format(b.address) } } }
  if self.marked then self.backends.marker = { interfaces = { "eth0", "eth1" } } end
  self:start()
  self:hold_pipe()
  if self.marked then
    self.d:write(("start udp %s 5000 %s 6000 2 2\n"):format(STREAM_SRC, STREAM_DST))
    self.d:wait_for_counter("flowd_marker_flows", 1)
    self.seen = capture.start(b, "eth1")
    local server = b:start({ "iperf3", "-s", "-B", STREAM_DST, "-p", "6000", "-1", "--forceflush" })
    server:expect("listening", 10)
    a:start({ "iperf3", "-c", STREAM_DST, "-p", "6000", "--cport", "5000", "-u", "-b", "2M", "-l", "500", "-t", "1000" })
    self:pass(20)
  end
  return self
end

-- As systemd's store does: what is in the pipe outlives the daemon, which owns the only other reading end.
function methods:hold_pipe()
  local fd = C.open(self.d.pipe, bit.bor(O_RDONLY, O_NONBLOCK, O_CLOEXEC))
  if fd < 0 then error(self.d.pipe .. ": " .. process.errno_text()) end
  cleanup.add(function() C.close(fd) end)
end

--- Start the daemon (again).
---@param options { ready: boolean? }|nil
function methods:start(options)
  self.d = daemon.start({ namespace = self.a, dir = self.dir, log_level = "info", again = self.d ~= nil,
    ready = (options or {}).ready, rules = self.rules, config = { backends = self.backends } })
  return self.d
end

function methods:kill()
  self.d:signal("KILL")
  self.d:wait(5)
  self.d.child:stop()
end

--- Lines: `starts` new flows, and ends of the `ends` oldest that are open.
---@return string
function methods:lines(starts, ends)
  local text = {}
  if ends > 0 then
    text[#text + 1] = flow_lines.lines("end", self.a.address, self.b.address, "atlas 2", self.ended, self.ended + ends - 1)
    self.ended = self.ended + ends
  end
  if starts > 0 then
    text[#text + 1] = flow_lines.lines("start", self.a.address, self.b.address, "atlas 2", self.next_flow, self.next_flow + starts - 1)
    self.next_flow = self.next_flow + starts
  end
  return table.concat(text)
end

--- Flows that should be open once all lines are through.
---@return integer
function methods:open() return self.next_flow - self.ended + (self.marked and 1 or 0) end

local function stream(self) return self.seen:packets({ protocol = "udp", src_port = 5000, dst_port = 6000 }) end

--- Wait until `count` more packets of the stream have passed.
function methods:pass(count)
  local want = #stream(self) + count
  process.wait_for("packets of the stream", 20, function() return #stream(self) >= want end)
end

--- Every packet of the stream since the last call had the flow's one label.
function methods:check_stream()
  if not self.marked then return end
  local packets, other = stream(self), 0
  self.label = self.label or packets[1].flow_label
  if bit.band(self.label, SEMANTIC) ~= ATLAS then error(("label 0x%05x is not the flow's"):format(self.label), 2) end
  for _, packet in ipairs(packets) do
    if packet.flow_label ~= self.label then other = other + 1 end
  end
  if other > 0 then error(("%d of %d packets without their label"):format(other, #packets), 2) end
  if self.seen:dropped() > 0 then error("the capture lost packets", 2) end
  self.packets = self.packets + #packets
  self.seen:clear()
end

--- Of every flow whose start was told came a start firefly, of every one that ended an end, of no other; all of
--- a flow with the same start. Call it when all flows have ended.
---@return integer starts that came more than once
---@return integer ends
function methods:check_fireflies()
  local datagrams, flows = self.sink:datagrams(), self.next_flow + (self.marked and 1 or 0)
  if self.sink:dropped() > 0 then error("the collector lost fireflies", 2) end
  local starts, count, again = firefly.at_least_once(datagrams, "start")
  if count ~= flows then error(("%d of %d flows have a start firefly"):format(count, flows), 2) end
  local ends, ended, ended_again = firefly.at_least_once(datagrams, "end")
  if ended ~= flows then error(("%d of %d flows have an end firefly"):format(ended, flows), 2) end
  for flow, text in pairs(ends) do
    local began, start, finish = firefly.member(starts[flow], "start-time"), firefly.member(text, "start-time"),
      firefly.member(text, "end-time")
    if start ~= began or finish < start then error("an end that does not fit:\n" .. starts[flow] .. "\n" .. text, 2) end
  end
  return again, ended_again
end

--- Marks by flow: "udp [SRC]:PORT [DST]:PORT" -> "0xLABEL".
---@return table<string, string>
function methods:marks()
  local marks = {}
  local result = self.d:command("marker", "flows")
  if result.code ~= 0 then error(result.stderr, 2) end
  for flow, label in result.stdout:gmatch("(%l+ %S+ %S+) label (0x%x+)") do marks[flow] = label end
  return marks
end

return restarts
