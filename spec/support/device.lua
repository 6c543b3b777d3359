-- SPDX-License-Identifier: Apache-2.0
--- Packets straight into and out of devices.
local ffi = require("ffi")
local bit = require("bit")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
long sendto(int, const void *, size_t, int, const void *, uint32_t);
int ioctl(int, unsigned long, ...);
struct lab_tun_request { char name[16]; short flags; char spare[22]; };
]])
local C = ffi.C

local AF_PACKET, SOCK_RAW, SOCK_CLOEXEC = 17, 3, 0x80000
local ETH_P_IPV6 = 0xDD86 -- in network order
local O_RDWR, O_NONBLOCK, O_CLOEXEC = 2, 0x800, 0x80000
local TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000

local device = {}

--- Send frames as they are, at least 14 octets each.
---@param ns table namespace
---@param name string device
---@param frames { octets: string }[]
function device.send(ns, name, frames)
  ns:enter(function()
    local fd = C.socket(AF_PACKET, bit.bor(SOCK_RAW, SOCK_CLOEXEC), 0)
    if fd < 0 then error("packet socket: " .. process.errno_text()) end
    local to = ffi.new("struct lab_packet_address", AF_PACKET, ETH_P_IPV6, C.if_nametoindex(name))
    for _, frame in ipairs(frames) do
      if C.sendto(fd, frame.octets, #frame.octets, 0, to, ffi.sizeof(to)) ~= #frame.octets then
        local message = process.errno_text()
        C.close(fd)
        error(("send %d octets: %s"):format(#frame.octets, message))
      end
    end
    C.close(fd)
  end)
end

local Tun = {}
Tun.__index = Tun

--- A device without link header, whose other end is here. It goes with the test.
---@param ns table namespace
---@param name string
function device.tun(ns, name)
  local self = setmetatable({}, Tun)
  self.token = cleanup.add(function() self:close() end)
  -- It belongs to the namespace in which the file is opened.
  ns:enter(function()
    self.fd = C.open("/dev/net/tun", bit.bor(O_RDWR, O_NONBLOCK, O_CLOEXEC))
    if self.fd < 0 then error("/dev/net/tun: " .. process.errno_text()) end
    local request = ffi.new("struct lab_tun_request")
    request.name, request.flags = name, bit.bor(IFF_TUN, IFF_NO_PI)
    if C.ioctl(self.fd, TUNSETIFF, request) ~= 0 then error("tun device: " .. process.errno_text()) end
  end)
  return self
end

--- The first packet that left through it whose decoded fields equal all in `want`.
---@param want table as in capture.lua
---@param seconds number
function Tun:wait_for(want, seconds)
  local buffer = ffi.new("uint8_t[65536]")
  return process.wait_for("a packet on the tun device", seconds, function()
    local n = tonumber(C.read(self.fd, buffer, 65536))
    if n <= 0 then return nil end
    local packet = capture.decode(buffer, n, false)
    for field, value in pairs(want) do
      if packet[field] ~= value then return nil end
    end
    return packet
  end)
end

function Tun:close()
  if self.fd then C.close(self.fd) end
  self.fd = nil
  cleanup.forget(self.token)
end

return device
