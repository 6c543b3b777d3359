-- SPDX-License-Identifier: Apache-2.0
--- Packets as they pass a device, header by header.
---
---     local seen = capture.start(b, "eth0")
---     ... traffic ...
---     for _, packet in ipairs(seen:packets({ src_port = 5000 })) do
---       assert.equal(0x10008, packet.flow_label)
---     end
---     assert.equal(0, seen:dropped())
---
--- The kernel writes them into a ring that holds `frames` packets (their first octets: header
--- fields are what this is for), so nothing needs to read while traffic flows.
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
int socket(int, int, int);
int setsockopt(int, int, int, const void *, uint32_t);
int getsockopt(int, int, int, void *, uint32_t *);
int bind(int, const void *, uint32_t);
unsigned int if_nametoindex(const char *);
void *mmap(void *, size_t, int, int, int, int64_t);
int munmap(void *, size_t);
const char *inet_ntop(int, const void *, char *, uint32_t);
struct lab_packet_address { uint16_t family, protocol; int32_t ifindex; uint16_t hatype; uint8_t pkttype, halen, addr[8]; };
struct lab_ring { uint32_t block_size, block_nr, frame_size, frame_nr; };
struct lab_frame {
  uint32_t status, len, snaplen;
  uint16_t mac, net;
  uint32_t sec, nsec;
  uint16_t vlan_tci, vlan_tpid;
  uint8_t padding[4];
  struct lab_packet_address from;
};
struct lab_packet_stats { uint32_t packets, drops; };
]])
local C = ffi.C
local band, lshift, rshift = bit.band, bit.lshift, bit.rshift

local AF_PACKET, SOCK_RAW, SOCK_CLOEXEC = 17, 3, 0x80000
local SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V2 = 263, 5, 6, 10, 1
local ETH_P_ALL = 0x0300 -- in network order
local STATUS_USER, STATUS_VLAN = 1, 0x10
local PACKET_OUTGOING = 4
local ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
local BLOCK_SIZE = 1048576
local AF_INET, AF_INET6 = 2, 10

local HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, TCP, UDP = 0, 43, 44, 60, 6, 17

local capture = {}
local methods = {}
local meta = { __index = methods }

local function u16(p, at) return p[at] * 256 + p[at + 1] end

local text = ffi.new("char[64]")
local function address(family, p)
  return ffi.string(C.inet_ntop(family, p, text, 64))
end

local function transport(packet, p, size, at)
  if packet.next_header_last ~= TCP and packet.next_header_last ~= UDP then return end
  packet.protocol = packet.next_header_last == TCP and "tcp" or "udp"
  if packet.fragment_offset and packet.fragment_offset > 0 or at + 4 > size then return end
  packet.src_port, packet.dst_port = u16(p, at), u16(p, at + 2)
  if packet.protocol == "tcp" and at + 14 <= size then
    local flags = p[at + 13]
    packet.fin, packet.syn, packet.rst, packet.ack =
      band(flags, 1) ~= 0, band(flags, 2) ~= 0, band(flags, 4) ~= 0, band(flags, 16) ~= 0
    packet.transport_header = rshift(p[at + 12], 4) * 4
  else
    packet.transport_header = 8
  end
  packet.data = ffi.string(p + math.min(at + packet.transport_header, size),
    math.max(size - at - packet.transport_header, 0))
end

local function ipv6(packet, p, size)
  if size < 40 then return end
  packet.version = 6
  packet.traffic_class = band(u16(p, 0), 0x0ff0) / 16
  packet.flow_label = lshift(band(p[1], 0x0f), 16) + u16(p, 2)
  packet.payload_length = u16(p, 4)
  packet.next_header = p[6]
  packet.hop_limit = p[7]
  packet.src, packet.dst = address(AF_INET6, p + 8), address(AF_INET6, p + 24)
  packet.extensions = {}
  local kind, at = p[6], 40
  while (kind == HOP_BY_HOP or kind == DESTINATION or kind == ROUTING or kind == FRAGMENT) and at + 8 <= size do
    local length = kind == FRAGMENT and 8 or 8 + p[at + 1] * 8
    if kind == FRAGMENT then packet.fragment_offset = band(u16(p, at + 2), 0xfff8) end
    packet.extensions[#packet.extensions + 1] = { kind = kind, octets = ffi.string(p + at, math.min(length, size - at)) }
    kind, at = p[at], at + length
  end
  packet.next_header_last = kind
  transport(packet, p, size, at)
end

local function ipv4(packet, p, size)
  if size < 20 then return end
  packet.version = 4
  packet.traffic_class = p[1]
  packet.src, packet.dst = address(AF_INET, p + 12), address(AF_INET, p + 16)
  packet.next_header, packet.next_header_last = p[9], p[9]
  packet.fragment_offset = band(u16(p, 6), 0x1fff) * 8
  transport(packet, p, size, band(p[0], 0x0f) * 4)
end

--- Read the headers of one packet.
---@param p ffi.cdata* uint8_t *
---@param size integer octets that are there
---@param ethernet boolean starts with an Ethernet header (else with the IP header)
---@return table packet: version, traffic_class, flow_label, payload_length, next_header, hop_limit, src, dst,
---  extensions {kind, octets}, protocol, src_port, dst_port, syn, ack, fin, rst, data, vlan (list), octets
function capture.decode(p, size, ethernet)
  local packet = { octets = ffi.string(p, size), vlan = {} }
  local at, ether_type = 0, nil
  if ethernet then
    if size < 14 then return packet end
    ether_type, at = u16(p, 12), 14
    while (ether_type == 0x8100 or ether_type == 0x88a8) and at + 4 <= size do
      packet.vlan[#packet.vlan + 1] = band(u16(p, at), 0xfff)
      ether_type, at = u16(p, at + 2), at + 4
    end
  elseif size > 0 then
    ether_type = rshift(p[0], 4) == 6 and 0x86dd or rshift(p[0], 4) == 4 and 0x0800 or nil
  end
  packet.ether_type, packet.link_header = ether_type, at
  if ether_type == 0x86dd then
    ipv6(packet, p + at, size - at)
  elseif ether_type == 0x0800 then
    ipv4(packet, p + at, size - at)
  end
  return packet
end

--- Start to capture. options: frames (65536) the ring holds; snap (160) octets of each.
---@param ns table|nil namespace; nil: where this process is
---@param device string|nil nil: all, also those that come later
---@param options table|nil
---@return table capture
function capture.start(ns, device, options)
  options = options or {}
  local frame_size = 128
  while frame_size < (options.snap or 160) + 80 do frame_size = frame_size * 2 end
  local per_block = BLOCK_SIZE / frame_size
  local blocks = math.ceil((options.frames or 65536) / per_block)
  local self = setmetatable({ device = device, list = {}, next = 0, lost = 0, frame_size = frame_size,
    frames = blocks * per_block, size = blocks * BLOCK_SIZE }, meta)

  local function open()
    -- Protocol 0: nothing arrives before the ring is there.
    self.fd = C.socket(AF_PACKET, bit.bor(SOCK_RAW, SOCK_CLOEXEC), 0)
    if self.fd < 0 then error("packet socket: " .. process.errno_text()) end
    local version = ffi.new("int[1]", TPACKET_V2)
    local ring = ffi.new("struct lab_ring", BLOCK_SIZE, blocks, frame_size, self.frames)
    if C.setsockopt(self.fd, SOL_PACKET, PACKET_VERSION, version, 4) ~= 0
      or C.setsockopt(self.fd, SOL_PACKET, PACKET_RX_RING, ring, ffi.sizeof(ring)) ~= 0 then
      error("packet ring: " .. process.errno_text())
    end
    local index = device and C.if_nametoindex(device) or 0
    if device and index == 0 then error("no device " .. device) end
    local map = C.mmap(nil, self.size, 3, 1, self.fd, 0)
    if ffi.cast("intptr_t", map) == -1 then error("packet ring: " .. process.errno_text()) end
    self.map = ffi.cast("uint8_t *", map)
    local at = ffi.new("struct lab_packet_address", AF_PACKET, ETH_P_ALL, index)
    if C.bind(self.fd, at, ffi.sizeof(at)) ~= 0 then error("bind to " .. (device or "all") .. ": " .. process.errno_text()) end
  end
  self.token = cleanup.add(function() self:close() end)
  if ns then ns:enter(open) else open() end
  return self
end

-- Take what the ring holds.
local function drain(self)
  while self.fd do
    local frame = ffi.cast("struct lab_frame *", self.map + self.next * self.frame_size)
    if band(frame.status, STATUS_USER) == 0 then break end
    local hatype = frame.from.hatype
    local packet = capture.decode(ffi.cast("uint8_t *", frame) + frame.mac, frame.snaplen,
      hatype == ARPHRD_ETHER or hatype == ARPHRD_LOOPBACK)
    packet.length = frame.len
    packet.time_us = 1000000ULL * frame.sec + frame.nsec / 1000
    packet.time_ns = 1000000000ULL * frame.sec + frame.nsec
    packet.outgoing = frame.from.pkttype == PACKET_OUTGOING
    if band(frame.status, STATUS_VLAN) ~= 0 then table.insert(packet.vlan, 1, band(frame.vlan_tci, 0xfff)) end
    self.list[#self.list + 1] = packet
    frame.status = 0
    self.next = (self.next + 1) % self.frames
  end
end

local function matches(packet, want)
  for name, value in pairs(want) do
    if packet[name] ~= value then return false end
  end
  return true
end

--- Packets so far, in order; those whose fields equal all in `want`.
---@param want table|nil for example { src_port = 5000, protocol = "tcp" }
---@return table[]
function methods:packets(want)
  drain(self)
  local found = {}
  for _, packet in ipairs(self.list) do
    if not want or matches(packet, want) then found[#found + 1] = packet end
  end
  return found
end

--- Wait until `count` packets match.
---@param want table
---@param seconds number
---@param count integer|nil default 1
---@return table[] packets
function methods:wait_for(want, seconds, count)
  return process.wait_for(function()
    local parts = {}
    for name, value in pairs(want) do parts[#parts + 1] = ("%s %s"):format(name, tostring(value)) end
    return ("%d packets with %s on %s (%d seen)"):format(count or 1, table.concat(parts, ", "), self.device, #self.list)
  end, seconds, function()
    local found = self:packets(want)
    return #found >= (count or 1) and found
  end)
end

--- The flow labels of packets so far, each once, in the order in which they came first.
---@param want table|nil as for packets()
---@return integer[]
function methods:labels(want)
  local list, known = {}, {}
  for _, packet in ipairs(self:packets(want)) do
    if not known[packet.flow_label] then
      known[packet.flow_label] = true
      list[#list + 1] = packet.flow_label
    end
  end
  return list
end

--- Forget what was seen so far.
function methods:clear()
  drain(self)
  self.list = {}
end

--- Packets for which the ring had no room.
---@return integer
function methods:dropped()
  if self.fd then
    local stats = ffi.new("struct lab_packet_stats")
    local size = ffi.new("uint32_t[1]", ffi.sizeof(stats))
    if C.getsockopt(self.fd, SOL_PACKET, PACKET_STATISTICS, stats, size) ~= 0 then
      error("packet statistics: " .. process.errno_text())
    end
    -- Reading them resets them.
    self.lost = self.lost + stats.drops
  end
  return self.lost
end

--- Stop; what was captured stays readable.
function methods:close()
  if not self.fd then return end
  if self.map then
    drain(self)
    C.munmap(self.map, self.size)
    self.map = nil
  end
  C.close(self.fd)
  self.fd = nil
  cleanup.forget(self.token)
end

return capture
