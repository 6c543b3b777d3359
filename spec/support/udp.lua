-- SPDX-License-Identifier: Apache-2.0
--- A UDP receiver (a collector, a flow's destination) and sender.
---
---     local sink = udp.open(b, b.address, 10514)
---     local datagrams = sink:collect(2, 5)     -- waits for two
---     assert.equal('{"version":1', datagrams[1].text:match("{.-1"))
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
int socket(int, int, int);
int setsockopt(int, int, int, const void *, uint32_t);
int bind(int, const void *, uint32_t);
int getsockname(int, void *, uint32_t *);
int inet_pton(int, const char *, void *);
const char *inet_ntop(int, const void *, char *, uint32_t);
long sendto(int, const void *, size_t, int, const void *, uint32_t);
struct lab_iovec { void *base; size_t len; };
struct lab_msghdr { void *name; uint32_t namelen; struct lab_iovec *iov; size_t iovlen; void *control; size_t controllen; int flags; };
struct lab_mmsghdr { struct lab_msghdr hdr; unsigned int len; };
int recvmmsg(int, struct lab_mmsghdr *, unsigned int, int, void *);
struct lab_socket_address { uint16_t family; uint8_t port[2]; uint32_t flow; uint8_t octet[16]; uint32_t scope; uint8_t spare[4]; };
]])
local C = ffi.C

local AF_INET, AF_INET6 = 2, 10
local SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK = 2, 0x80000, 0x800
local SOL_SOCKET, SO_RCVBUFFORCE, SO_TIMESTAMPNS, SO_RXQ_OVFL = 1, 33, 35, 40
local MSG_DONTWAIT, MSG_TRUNC = 0x40, 0x20
local BATCH, SIZE = 64, 4096
local DRAIN_CALLS = 4096

local udp = {}
local methods = {}
local meta = { __index = methods }

-- A sockaddr for both families: IPv4's address stands where IPv6's flow information is.
local function socket_address(host, port)
  local address = ffi.new("struct lab_socket_address")
  address.port[0], address.port[1] = math.floor(port / 256), port % 256
  if C.inet_pton(AF_INET6, host, address.octet) == 1 then
    address.family = AF_INET6
    return address, 28
  end
  if C.inet_pton(AF_INET, host, ffi.cast("uint8_t *", address) + 4) ~= 1 then error("not an address: " .. host) end
  address.family = AF_INET
  return address, 16
end

local text = ffi.new("char[64]")
local function read_address(address)
  local v6 = address.family == AF_INET6
  local octets = v6 and address.octet or ffi.cast("uint8_t *", address) + 4
  return ffi.string(C.inet_ntop(address.family, octets, text, 64)), address.port[0] * 256 + address.port[1]
end

--- Bind a socket. Port 0: any free one (see .port).
---@param ns table|nil namespace; nil: where this process is
---@param host string address
---@param port integer
---@return table socket
function udp.open(ns, host, port)
  local self = setmetatable({ host = host, received = {}, taken = 0, kernel_drops = 0 }, meta)
  local function open()
    local address, length = socket_address(host, port)
    self.fd = C.socket(address.family, bit.bor(SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK), 0)
    if self.fd < 0 then error("socket: " .. process.errno_text()) end
    C.setsockopt(self.fd, SOL_SOCKET, SO_RCVBUFFORCE, ffi.new("int[1]", 256 * 1048576), 4)
    C.setsockopt(self.fd, SOL_SOCKET, SO_RXQ_OVFL, ffi.new("int[1]", 1), 4)
    C.setsockopt(self.fd, SOL_SOCKET, SO_TIMESTAMPNS, ffi.new("int[1]", 1), 4)
    if C.bind(self.fd, address, length) ~= 0 then
      error(("bind %s port %d: %s"):format(host, port, process.errno_text()))
    end
    local size = ffi.new("uint32_t[1]", ffi.sizeof(address))
    C.getsockname(self.fd, address, size)
    self.port = select(2, read_address(address))
  end
  self.token = cleanup.add(function() self:close() end)
  if ns then ns:enter(open) else open() end
  return self
end

local buffers = ffi.new("uint8_t[?]", BATCH * SIZE)
local controls = ffi.new("uint64_t[?]", BATCH * 8)
local vectors = ffi.new("struct lab_iovec[?]", BATCH)
local senders = ffi.new("struct lab_socket_address[?]", BATCH)
local messages = ffi.new("struct lab_mmsghdr[?]", BATCH)

-- With each datagram the kernel says when it came, and how many it had to drop before.
local function read_control(self, datagram, hdr)
  local at, left = ffi.cast("uint8_t *", hdr.control), tonumber(hdr.controllen)
  while left >= 16 do
    local length, word = tonumber(ffi.cast("uint64_t *", at)[0]), ffi.cast("uint32_t *", at)
    if word[2] == SOL_SOCKET and word[3] == SO_RXQ_OVFL then self.kernel_drops = word[4] end
    if word[2] == SOL_SOCKET and word[3] == SO_TIMESTAMPNS then
      local time = ffi.cast("int64_t *", at + 16)
      datagram.time = tonumber(time[0]) + tonumber(time[1]) / 1e9
    end
    length = math.ceil(length / 8) * 8
    at, left = at + length, left - length
  end
end

-- What is there; of a sender that is faster than we are, not all that comes meanwhile.
local function drain(self)
  for _ = 1, DRAIN_CALLS do
    if not self.fd then return end
    for i = 0, BATCH - 1 do
      vectors[i].base, vectors[i].len = buffers + i * SIZE, SIZE
      local hdr = messages[i].hdr
      hdr.name, hdr.namelen = senders + i, ffi.sizeof("struct lab_socket_address")
      hdr.iov, hdr.iovlen = vectors + i, 1
      hdr.control, hdr.controllen = controls + i * 8, 64
    end
    local n = C.recvmmsg(self.fd, messages, BATCH, MSG_DONTWAIT, nil)
    if n <= 0 then return end
    for i = 0, n - 1 do
      if bit.band(messages[i].hdr.flags, MSG_TRUNC) ~= 0 then error("a datagram of over " .. SIZE .. " octets") end
      local host, port = read_address(senders[i])
      local datagram = { text = ffi.string(buffers + i * SIZE, messages[i].len), src = host, src_port = port }
      self.received[#self.received + 1] = datagram
      read_control(self, datagram, messages[i].hdr)
    end
  end
end

--- All datagrams since the socket was opened (or clear): { text =, src =, src_port =, time = when the kernel got it,
--- in seconds since 1970 }.
---@return table[]
function methods:datagrams()
  drain(self)
  return self.received
end

--- Wait until `count` datagrams are there in all.
---@param count integer
---@param seconds number
---@return table[] datagrams
function methods:collect(count, seconds)
  return process.wait_for(function()
    return ("%d datagrams at %s port %d (%d came)"):format(count, self.host, self.port, #self.received)
  end, seconds, function()
    drain(self)
    return #self.received >= count and self.received
  end)
end

--- The next datagram that was not taken yet.
---@param seconds number
---@return table datagram
function methods:receive(seconds)
  self:collect(self.taken + 1, seconds)
  self.taken = self.taken + 1
  return self.received[self.taken]
end

--- All datagrams since the last time: these are forgotten, and none that comes meanwhile.
---@return table[]
function methods:take()
  drain(self)
  local received = self.received
  self.received, self.taken = {}, 0
  return received
end

--- Forget what came so far.
function methods:clear()
  drain(self)
  self.received, self.taken = {}, 0
end

--- Datagrams that this socket's buffer had no room for.
---@return integer
function methods:dropped()
  drain(self)
  return self.kernel_drops
end

---@param data string
---@param host string
---@param port integer
function methods:send(data, host, port)
  local address, length = socket_address(host, port)
  if C.sendto(self.fd, data, #data, 0, address, length) ~= #data then
    error(("send to %s port %d: %s"):format(host, port, process.errno_text()), 2)
  end
end

function methods:close()
  if not self.fd then return end
  drain(self)
  C.close(self.fd)
  self.fd = nil
  cleanup.forget(self.token)
end

return udp
