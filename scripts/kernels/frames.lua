-- SPDX-License-Identifier: Apache-2.0
--- The octets that a UDP datagram over IPv6 must have, computed from the standards and nothing
--- of the project (RFC 8200, RFC 768).
local ffi = require("ffi")
local bit = require("bit")

ffi.cdef("int inet_pton(int, const char *, void *);")

local frames = {}

local function u16(n) return string.char(bit.rshift(n, 8), bit.band(n, 0xff)) end

local function address(text)
  local octets = ffi.new("uint8_t[16]")
  if ffi.C.inet_pton(10, text, octets) ~= 1 then error("not an IPv6 address: " .. text) end
  return ffi.string(octets, 16)
end

-- RFC 1071; 0 is sent as 0xFFFF.
local function checksum(text)
  if #text % 2 == 1 then text = text .. "\0" end
  local sum = 0
  for at = 1, #text, 2 do sum = sum + text:byte(at) * 256 + text:byte(at + 1) end
  while sum > 0xffff do sum = sum % 65536 + math.floor(sum / 65536) end
  return sum == 0xffff and 0xffff or 0xffff - sum
end

local function mac(text)
  return (text:gsub("(%x%x):?", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- fields: src, dst, src_port, dst_port, class, label, data; with an Ethernet header: src_mac, dst_mac
---@param fields table
---@return string octets
function frames.udp(fields)
  local src, dst = address(fields.src), address(fields.dst)
  local length = 8 + #fields.data
  local head = u16(fields.src_port) .. u16(fields.dst_port) .. u16(length)
  local sum = checksum(src .. dst .. u16(0) .. u16(length) .. u16(0) .. u16(17) .. head .. u16(0) .. fields.data)
  local word = 6 * 0x10000000 + fields.class * 0x100000 + fields.label
  local ip = u16(math.floor(word / 65536)) .. u16(word % 65536) .. u16(length) .. "\17\64" .. src .. dst
  local link = fields.src_mac and mac(fields.dst_mac) .. mac(fields.src_mac) .. "\134\221" or ""
  return link .. ip .. head .. u16(sum) .. fields.data
end

--- First octet in which two strings differ, for messages.
---@param a string
---@param b string
---@return string
function frames.difference(a, b)
  if #a ~= #b then return ("%d octets instead of %d"):format(#a, #b) end
  for i = 1, #a do
    if a:byte(i) ~= b:byte(i) then return ("octet %d is 0x%02x, not 0x%02x"):format(i - 1, a:byte(i), b:byte(i)) end
  end
  return "no difference"
end

return frames
