-- SPDX-License-Identifier: Apache-2.0
--- A stream of datagrams from port 5000 of one namespace to port 6000 of another, every packet of which has
--- to carry the label of one flow, whatever becomes of the daemon.
---
---     local stream = unbroken.start(a, b)
---     stream:pass(100)
---     ... kill, start ...
---     stream:pass(100)
---     stream:check(0x10008)
local bit = require("bit")
local capture = require("spec.support.capture")
local process = require("spec.support.process")

local SEMANTIC = 0x3FEFC

local unbroken = {}
local Stream = {}
Stream.__index = Stream

--- The flow's line for the pipe.
---@param state "start"|"end"
function unbroken.line(state, a, b)
  return ("%s udp %s 5000 %s 6000 2 2\n"):format(state, a.address, b.address)
end

--- Start it: 2,000 datagrams a second until the test is over.
---@param a table namespace with .address
---@param b table
function unbroken.start(a, b)
  local self = setmetatable({ seen = capture.start(b, "eth0") }, Stream)
  local server = b:start({ "iperf3", "-s", "-p", "6000", "-1", "--forceflush" })
  server:expect("listening", 10)
  a:start({ "iperf3", "-c", b.address, "-p", "6000", "--cport", "5000", "-u", "-b", "8M", "-l", "500", "-t", "300" })
  return self
end

function Stream:packets() return self.seen:packets({ protocol = "udp", src_port = 5000, dst_port = 6000 }) end

--- Wait until `count` more packets have passed.
---@param count integer
function Stream:pass(count)
  local want = #self:packets() + count
  process.wait_for("packets of the stream", 20, function() return #self:packets() >= want end)
end

--- Every packet carries the first one's label, and that is of this experiment and activity.
---@param semantic integer
function Stream:check(semantic)
  local packets = self:packets()
  local label, other = packets[1].flow_label, 0
  assert(bit.band(label, SEMANTIC) == semantic, ("the first label is 0x%05x"):format(label))
  for _, packet in ipairs(packets) do
    if packet.flow_label ~= label then other = other + 1 end
  end
  assert(other == 0, ("%d of %d packets without their label"):format(other, #packets))
  assert(self.seen:dropped() == 0, "the capture lost packets")
end

return unbroken
