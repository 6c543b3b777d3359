-- SPDX-License-Identifier: Apache-2.0
--- Packets as octets, built header by header.
---
---     packets.ethernet(packets.ipv6({ next = 6, payload = packets.tcp(5000, 443) }))
---
--- Nothing is checked or completed on the way but lengths, so that wrong packets can be built too.
local api = require("flowd.api")
local bit = require("bit")
local ffi = require("ffi")

local packets = {}

packets.TCP, packets.UDP, packets.ICMPV6, packets.NO_NEXT, packets.ESP = 6, 17, 58, 59, 50
packets.HOP_BY_HOP, packets.ROUTING, packets.FRAGMENT, packets.DESTINATION, packets.AUTHENTICATION = 0, 43, 44, 60, 51
packets.IPV4, packets.IPV6, packets.VLAN, packets.QINQ, packets.OLD_QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x9100

--- Big-endian numbers.
function packets.u16(n) return string.char(bit.rshift(n, 8) % 256, n % 256) end

function packets.u32(n) return packets.u16(math.floor(n / 65536)) .. packets.u16(n % 65536) end

local u16, u32 = packets.u16, packets.u32

local address = ffi.new("struct flow_address")

--- 16 octets of an address.
---@param text string
function packets.address(text)
  if api.address_parse(text, #text, address) < 0 then error("address: " .. text, 2) end
  return ffi.string(address, 16)
end

packets.src, packets.dst = "2001:db8::1", "2001:db8::2"

--- An Ethernet frame around `payload`. tags: ethertypes of VLAN tags inside it, outermost first.
---@param payload string
---@param options table|nil type, tags
function packets.ethernet(payload, options)
  options = options or {}
  local head = { "\2\0\0\0\0\2\2\0\0\0\0\1" }
  for i, tag in ipairs(options.tags or {}) do head[#head + 1] = u16(tag) .. u16(0x2064 + i) end
  head[#head + 1] = u16(options.type or packets.IPV6)
  return table.concat(head) .. payload
end

--- fields: next, payload, class (0), label (0), src, dst, hop_limit, payload_length, version
---@param fields table
function packets.ipv6(fields)
  local class, label = fields.class or 0, fields.label or 0
  local payload = fields.payload or ""
  return u32((fields.version or 6) * 0x10000000 + class * 0x100000 + label) .. u16(fields.payload_length or #payload)
    .. string.char(fields.next, fields.hop_limit or 64) .. packets.address(fields.src or packets.src)
    .. packets.address(fields.dst or packets.dst) .. payload
end

--- An IPv4 packet, without options.
function packets.ipv4(protocol, payload)
  return "\69\0" .. u16(20 + #payload) .. "\0\0\64\0\64" .. string.char(protocol) .. "\0\0"
    .. packets.address("192.0.2.1"):sub(13) .. packets.address("192.0.2.2"):sub(13) .. payload
end

---@param src_port integer
---@param dst_port integer
---@param data string|nil
function packets.tcp(src_port, dst_port, data)
  return u16(src_port) .. u16(dst_port) .. u32(0x01020304) .. u32(0x05060708) .. "\80\24" .. u16(0xFFFF)
    .. u16(0xBEEF) .. u16(0) .. (data or "")
end

function packets.udp(src_port, dst_port, data)
  return u16(src_port) .. u16(dst_port) .. u16(8 + #(data or "")) .. u16(0xBEEF) .. (data or "")
end

--- An extension header that is counted in units of 8 octets: options padded with PadN, or `body`.
---@param next_header integer
---@param body string|nil its octets from the third on
function packets.extension(next_header, body)
  body = body or ""
  local missing = -(#body + 2) % 8
  if missing == 1 then
    body = body .. "\0"
  elseif missing > 1 then
    body = body .. string.char(1, missing - 2) .. ("\0"):rep(missing - 2)
  end
  return string.char(next_header, (#body + 2) / 8 - 1) .. body
end

--- Hop-by-hop header with the jumbo option (RFC 2675), as BIG TCP puts it into packets.
function packets.jumbo(next_header, length)
  return packets.extension(next_header, "\194\4" .. u32(length))
end

--- offset: in units of 8 octets; more: further fragments follow.
function packets.fragment(next_header, offset, more)
  return string.char(next_header, 0) .. u16(offset * 8 + (more and 1 or 0)) .. u32(0xCAFE)
end

--- RFC 4302, with an integrity value of `words` 32-bit words.
function packets.authentication(next_header, words)
  return string.char(next_header, words + 1) .. u16(0) .. u32(0x100) .. u32(1) .. ("\170"):rep(words * 4)
end

--- Octets as hexadecimal digits, for messages.
function packets.hex(octets)
  return (octets:gsub(".", function(ch) return ("%02x"):format(ch:byte()) end))
end

return packets
