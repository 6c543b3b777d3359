-- SPDX-License-Identifier: Apache-2.0
--- Traffic of two marked flows and two others, looked at where it arrives.
local bit = require("bit")
local capture = require("spec.support.capture")
local daemon = require("spec.support.daemon")
local frames = require("scripts.kernels.frames")
local process = require("spec.support.process")
local tcp = require("scripts.kernels.tcp")
local udp = require("spec.support.udp")

local marked = {}

local ENTROPY = 0xC0103
-- Ids and the labels that they make, from the documented table.
local TCP_FLOW = { protocol = "tcp", src_port = 5001, dst_port = 5201, tag = "2 2", label = 0x10008 }
local UDP_FLOW = { protocol = "udp", src_port = 5002, dst_port = 5202, tag = "16 14", label = 0x02038 }
local OTHER_TCP = { protocol = "tcp", src_port = 5003, dst_port = 5201, label = 0 }
local OTHER_UDP = { protocol = "udp", src_port = 5004, dst_port = 5202, label = 0 }
-- DSCP and ECN, which share an octet with the label: CS2 and ECT(0).
local CLASS = 0x42

marked.TCP_FLOW, marked.UDP_FLOW = TCP_FLOW, UDP_FLOW

--- A daemon that marks the topology's device.
---@param t table topology
---@param options table|nil method ("auto"), backends (more of them), config (more of it), dir, prefix
---@return table daemon
function marked.daemon(t, options)
  options = options or {}
  local backends = { marker = { interfaces = { t.device }, method = options.method or "auto" } }
  for name, value in pairs(options.backends or {}) do backends[name] = value end
  local config = { backends = backends }
  for name, value in pairs(options.config or {}) do config[name] = value end
  return daemon.start({ namespace = t.from, config = config, dir = options.dir, prefix = options.prefix, seconds = 20 })
end

--- What holds the marker on a device, as tc sees it: "clsact", or "TCX" when there is no such qdisc.
---@param t table topology
---@return string
function marked.method(t)
  return t.from:tc("qdisc show dev %s", t.device):find("clsact", 1, true) and "clsact" or "TCX"
end

local function line(t, state, flow)
  return ("%s %s %s %d %s %d %s\n"):format(state, flow.protocol, t.src, flow.src_port, t.dst, flow.dst_port, flow.tag)
end

--- Tell the daemon that flows start or end, and wait until it knows.
---@param d table daemon
---@param t table topology
---@param state "start"|"end"
---@param flows table[]
---@param open integer flows that are open afterwards
function marked.tell(d, t, state, flows, open)
  local lines = {}
  for i, flow in ipairs(flows) do lines[i] = line(t, state, flow) end
  d:write(table.concat(lines))
  process.wait_for(function() return ("%d open flows; the log:\n%s"):format(open, d:log()) end, 10,
    function() return d:counter("flowd_flows_open") == open end)
end

local function capture_of(t)
  return capture.start(t.seen[1], t.seen[2], { snap = 1600, frames = 8192 })
end

local function of_flow(seen, t, flow)
  return seen:packets({ src = t.src, dst = t.dst, protocol = flow.protocol, src_port = flow.src_port })
end

--- All packets carry the flow's label, with one and the same entropy; those of others carry none.
---@param packets table[]
---@param flow table
---@param entropy integer|nil that it must be
---@return integer entropy
function marked.expect_label(packets, flow, entropy)
  if #packets == 0 then error("no packet of port " .. flow.src_port .. " arrived", 0) end
  entropy = entropy or bit.band(packets[1].flow_label, ENTROPY)
  local want = flow.label == 0 and 0 or flow.label + entropy
  for i, packet in ipairs(packets) do
    if packet.flow_label ~= want then
      error(("packet %d of %d of port %d has label 0x%05x, not 0x%05x"):format(i, #packets, flow.src_port,
        packet.flow_label, want), 0)
    end
  end
  return entropy
end

local function expect_class(packets, class)
  for _, packet in ipairs(packets) do
    -- The kernel's own answers in the handshake may lack ECN.
    if bit.band(packet.traffic_class, 0xfc) ~= bit.band(class, 0xfc) then
      error(("traffic class 0x%02x, not 0x%02x"):format(packet.traffic_class, class), 0)
    end
  end
end

--- Connections of a marked and of another flow: every octet arrives, every packet is labelled or not.
---@param t table topology
---@param octets integer
---@return integer packets of the marked flow
function marked.tcp(t, octets)
  local seen = capture_of(t)
  for _, flow in ipairs({ TCP_FLOW, OTHER_TCP }) do
    local connection = tcp.connect({ ns = t.from, host = t.src, port = flow.src_port },
      { ns = t.to, host = t.dst, port = flow.dst_port }, { class = CLASS })
    connection:transfer(octets)
    connection:close()
  end
  local packets = of_flow(seen, t, TCP_FLOW)
  marked.expect_label(packets, TCP_FLOW)
  expect_class(packets, CLASS)
  marked.expect_label(of_flow(seen, t, OTHER_TCP), OTHER_TCP)
  if seen:dropped() > 0 then error("the capture lost packets", 0) end
  seen:close()
  return #packets
end

-- A datagram for every traffic class, of many lengths.
local function send_classes(t, flow)
  local socket = udp.open(t.from, t.src, flow.src_port)
  for class = 0, 255 do
    tcp.set_class(socket.fd, class)
    socket:send(flow.data(class), t.dst, flow.dst_port)
  end
  socket:close()
end

function UDP_FLOW.data(class) return ("%03d "):format(class) .. ("x"):rep((class * 41) % 1190) end

OTHER_UDP.data = UDP_FLOW.data

local function expect_octets(t, packets, flow, entropy)
  for class = 0, 255 do
    local want = frames.udp({ src = t.src, dst = t.dst, src_port = flow.src_port, dst_port = flow.dst_port, class = class,
      label = flow.label + entropy, data = flow.data(class), src_mac = t.src_mac, dst_mac = t.dst_mac })
    local got = packets[class + 1].octets
    if got ~= want then error(("traffic class %d: %s"):format(class, frames.difference(got, want)), 0) end
  end
end

--- A datagram of every traffic class, of a marked and of another flow, octet by octet.
---@param t table topology
---@param unmarked boolean|nil the flow has ended: no label any more
---@return integer packets of the marked flow
function marked.udp(t, unmarked)
  local sink = t.to and udp.open(t.to, t.dst, UDP_FLOW.dst_port)
  -- The checksum is the sender's, not left to a network card that is none.
  t.from:must({ "ethtool", "-K", t.device, "tx", "off" })
  local seen = capture_of(t)
  for _, flow in ipairs({ UDP_FLOW, OTHER_UDP }) do
    send_classes(t, flow)
    local packets = seen:wait_for({ src = t.src, protocol = "udp", src_port = flow.src_port }, 10, 256)
    local label = unmarked and 0 or flow.label
    local now = { src_port = flow.src_port, dst_port = flow.dst_port, data = flow.data, label = label }
    expect_octets(t, packets, now, marked.expect_label(packets, now))
  end
  seen:close()
  if sink then sink:close() end
  return 256
end

return marked
