-- SPDX-License-Identifier: Apache-2.0
--- A name server for tests: answers A and AAAA questions from a table.
---
---     local server = dns.open()
---     server.names["collector.example.org"] = { "192.0.2.7", "2001:db8::7" }
---     resolver.resolv_conf = server:resolv_conf(directory)
---     ... server:answer() in every turn of the loop ...
local ffi = require("ffi")
local api = require("flowd.api")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

local dns = {}
local methods = {}
local meta = { __index = methods }

local NXDOMAIN, SERVFAIL = 3, 2
local A, AAAA = 1, 28

--- names: name -> list of addresses; false: no such name; "servfail"; "silent"
function dns.open()
  local self = setmetatable({ names = {}, questions = {} }, meta)
  self.socket = udp.open(nil, "127.0.0.1", 0)
  return self
end

--- Write a resolv.conf that names this server.
---@param extra string|nil more lines
---@return string path
function methods:resolv_conf(directory, extra)
  return temp.write(directory .. "/resolv.conf",
    ("nameserver 127.0.0.1:%d\noptions timeout:1 attempts:2\n%s"):format(self.socket.port, extra or ""))
end

local function u16(n) return string.char(math.floor(n / 256), n % 256) end

local function question(packet)
  local labels, at = {}, 13
  while packet:byte(at) ~= 0 do
    labels[#labels + 1] = packet:sub(at + 1, at + packet:byte(at))
    at = at + 1 + packet:byte(at)
  end
  local kind = packet:byte(at + 1) * 256 + packet:byte(at + 2)
  return table.concat(labels, "."):lower(), kind, packet:sub(13, at + 4)
end

local function records(addresses, kind)
  local list = {}
  local parsed = ffi.new("struct flow_address")
  for _, text in ipairs(addresses) do
    local family = api.address_parse(text, #text, parsed)
    local data = family == 4 and ffi.string(parsed.octet + 12, 4) or ffi.string(parsed.octet, 16)
    if (family == 4) == (kind == A) then
      list[#list + 1] = "\192\12" .. u16(kind) .. u16(1) .. "\0\0\0\60" .. u16(#data) .. data
    end
  end
  return list
end

--- Answer every question that has come.
function methods:answer()
  for _, datagram in ipairs(self.socket:take()) do
    local name, kind, asked = question(datagram.text)
    self.questions[#self.questions + 1] = name
    local found = self.names[name]
    if found ~= "silent" then
      local list = type(found) == "table" and (kind == A or kind == AAAA) and records(found, kind) or {}
      local code = found == "servfail" and SERVFAIL or not found and NXDOMAIN or 0
      self.socket:send(datagram.text:sub(1, 2) .. string.char(0x81, 0x80 + code) .. u16(1) .. u16(#list) .. u16(0)
        .. u16(0) .. asked .. table.concat(list), datagram.src, datagram.src_port)
    end
  end
end

return dns
