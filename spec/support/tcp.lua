-- SPDX-License-Identifier: Apache-2.0
--- TCP connections within this process, in a namespace.
---
---     local listener, client, server = tcp.connection(ns, "::1", 5777)
---     assert.equal(12345ULL, tcp.cookie(client))
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
require("spec.support.udp") -- declares what sockets need

ffi.cdef([[
int listen(int, int);
int connect(int, const void *, uint32_t);
int accept4(int, void *, uint32_t *, int);
int getsockopt(int, int, int, void *, uint32_t *);
struct lab_linger { int on, seconds; };
]])
local C = ffi.C

local AF_INET, AF_INET6 = 2, 10
local SOCK_STREAM, SOCK_CLOEXEC = 1, 0x80000
local SOL_SOCKET, SO_REUSEADDR, SO_LINGER, SO_COOKIE = 1, 2, 13, 57

local tcp = {}
local methods = {}
local meta = { __index = methods }

local function address_of(host, port)
  local address = ffi.new("struct lab_socket_address")
  address.port[0], address.port[1] = math.floor(port / 256), port % 256
  if host:find(":", 1, true) then
    address.family = AF_INET6
    assert(C.inet_pton(AF_INET6, host, address.octet) == 1)
    return address, 28
  end
  address.family = AF_INET
  assert(C.inet_pton(AF_INET, host, ffi.cast("uint8_t *", address) + 4) == 1)
  return address, 16
end

local function own(fd)
  if fd < 0 then error("socket: " .. process.errno_text(), 3) end
  local self = setmetatable({ fd = fd }, meta)
  self.token = cleanup.add(function() self:close() end)
  local address, size = ffi.new("struct lab_socket_address"), ffi.new("uint32_t[1]", 32)
  C.getsockname(fd, address, size)
  self.port = address.port[0] * 256 + address.port[1]
  return self
end

local function new_socket(host, port)
  local address, length = address_of(host, port)
  local fd = C.socket(address.family, bit.bor(SOCK_STREAM, SOCK_CLOEXEC), 0)
  C.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, ffi.new("int[1]", 1), 4)
  if C.bind(fd, address, length) ~= 0 then
    local message = process.errno_text()
    C.close(fd)
    error(("bind %s port %d: %s"):format(host, port, message))
  end
  return fd
end

--- A listening socket.
---@param ns table
---@param host string address
---@param port integer
function tcp.listen(ns, host, port)
  return ns:enter(function()
    local fd = new_socket(host, port)
    if C.listen(fd, 128) ~= 0 then error("listen: " .. process.errno_text()) end
    return own(fd)
  end)
end

--- Connect to a listening socket of this process. src_port 0: any.
---@return table client, table server the two ends
function tcp.connect(ns, listener, src, src_port, dst, dst_port)
  return ns:enter(function()
    local fd = new_socket(src, src_port)
    local address, length = address_of(dst, dst_port)
    if C.connect(fd, address, length) ~= 0 then
      local message = process.errno_text()
      C.close(fd)
      error("connect: " .. message)
    end
    return own(fd), own(C.accept4(listener.fd, nil, nil, SOCK_CLOEXEC))
  end)
end

--- A connection, both ends on one address.
---@return table listener, table client, table server
function tcp.connection(ns, host, port)
  local listener = tcp.listen(ns, host, port)
  return listener, tcp.connect(ns, listener, host, 0, host, port)
end

--- The kernel's number for the socket.
---@return ffi.cdata* uint64
function tcp.cookie(socket)
  local value, size = ffi.new("uint64_t[1]"), ffi.new("uint32_t[1]", 8)
  assert(C.getsockopt(socket.fd, SOL_SOCKET, SO_COOKIE, value, size) == 0)
  return value[0]
end

--- Send to the other end, and take it there.
---@param other table the other end
---@param data string
function methods:send(other, data)
  local taken = ffi.new("char[?]", #data)
  assert(tonumber(C.write(self.fd, data, #data)) == #data, "write: " .. process.errno_text())
  local at = 0
  while at < #data do
    local n = tonumber(C.read(other.fd, taken, #data - at))
    if n <= 0 then error("read: " .. (n == 0 and "closed" or process.errno_text()), 2) end
    at = at + n
  end
end

--- Close at once, with a reset.
function methods:reset()
  assert(C.setsockopt(self.fd, SOL_SOCKET, SO_LINGER, ffi.new("struct lab_linger", 1, 0), 8) == 0)
  self:close()
end

function methods:close()
  if not self.fd then return end
  C.close(self.fd)
  self.fd = nil
  cleanup.forget(self.token)
end

return tcp
