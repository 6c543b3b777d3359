-- SPDX-License-Identifier: Apache-2.0
--- A TCP connection with both of its ends in this process, and a check of what arrives.
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
int socket(int, int, int);
int setsockopt(int, int, int, const void *, uint32_t);
int getsockopt(int, int, int, void *, uint32_t *);
int bind(int, const void *, uint32_t);
int listen(int, int);
int accept4(int, void *, uint32_t *, int);
int connect(int, const void *, uint32_t);
int inet_pton(int, const char *, void *);
struct kernels_address { uint16_t family; uint8_t port[2]; uint32_t flow; uint8_t octet[16]; uint32_t scope; };
]])
local C = ffi.C

local AF_INET6, SOCK_STREAM, NONBLOCK_CLOEXEC = 10, 1, 0x80800
local SOL_SOCKET, SO_REUSEADDR, SO_ERROR, IPPROTO_IPV6, IPV6_TCLASS = 1, 2, 4, 41, 67
local EAGAIN, EINPROGRESS = 11, 115
local CHUNK = 16384

local tcp = {}
local methods = {}
local meta = { __index = methods }

local function socket_address(host, port)
  local address = ffi.new("struct kernels_address", { family = AF_INET6 })
  address.port[0], address.port[1] = math.floor(port / 256), port % 256
  if C.inet_pton(AF_INET6, host, address.octet) ~= 1 then error("not an IPv6 address: " .. host) end
  return address
end

local function check(result, what)
  if result < 0 then error(what .. ": " .. process.errno_text(), 0) end
  return result
end

local function new_socket(ns, host, port)
  return ns:enter(function()
    local fd = check(C.socket(AF_INET6, bit.bor(SOCK_STREAM, NONBLOCK_CLOEXEC), 0), "socket")
    C.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, ffi.new("int[1]", 1), 4)
    local address = socket_address(host, port)
    check(C.bind(fd, address, ffi.sizeof(address)), ("bind %s port %d"):format(host, port))
    return fd
  end)
end

--- A class of traffic (DSCP and ECN) for a socket.
---@param fd integer
---@param class integer
function tcp.set_class(fd, class)
  check(C.setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, ffi.new("int[1]", class), 4), "IPV6_TCLASS")
end

--- Connect. from, to: { ns =, host =, port = }. options: class (traffic class of the sender), seconds (20).
---@param from table
---@param to table
---@param options table|nil
---@return table connection
function tcp.connect(from, to, options)
  options = options or {}
  local seconds = options.seconds or 20
  local self = setmetatable({ sent = 0, received = 0 }, meta)
  self.token = cleanup.add(function() self:close() end)
  self.listener = new_socket(to.ns, to.host, to.port)
  check(C.listen(self.listener, 1), "listen")
  self.client = new_socket(from.ns, from.host, from.port)
  if options.class then tcp.set_class(self.client, options.class) end
  local address = socket_address(to.host, to.port)
  if C.connect(self.client, address, ffi.sizeof(address)) ~= 0 and ffi.errno() ~= EINPROGRESS then
    error("connect: " .. process.errno_text(), 2)
  end
  process.wait_for("a connection to " .. to.host, seconds, function()
    local fd = C.accept4(self.listener, nil, nil, NONBLOCK_CLOEXEC)
    if fd < 0 then return false end
    self.server = fd
    return true
  end)
  if not process.ready(self.client, seconds, "w") then error("connect: no answer", 2) end
  local status, size = ffi.new("int[1]"), ffi.new("uint32_t[1]", 4)
  C.getsockopt(self.client, SOL_SOCKET, SO_ERROR, status, size)
  if status[0] ~= 0 then error("connect: " .. ffi.string(C.strerror(status[0])), 2) end
  return self
end

-- Octets that tell their place in the stream: a shift or a loss shows.
local pattern = ffi.new("uint8_t[?]", CHUNK + 251)
for i = 0, CHUNK + 250 do pattern[i] = i % 251 end

--- Send `octets` more and wait until they have arrived as they were sent.
---@param octets integer
---@param seconds number|nil deadline, default 30
function methods:transfer(octets, seconds)
  local goal = self.sent + octets
  local buffer = ffi.new("uint8_t[?]", CHUNK)
  process.wait_for(function()
    return ("%d octets of TCP (%d sent, %d received)"):format(goal, self.sent, self.received)
  end, seconds or 30, function()
    local more = true
    while more do
      more = false
      if self.sent < goal then
        local n = tonumber(C.write(self.client, pattern + self.sent % 251, math.min(CHUNK, goal - self.sent)))
        if n < 0 and ffi.errno() ~= EAGAIN then error("send: " .. process.errno_text(), 0) end
        if n > 0 then self.sent, more = self.sent + n, true end
      end
      local n = tonumber(C.read(self.server, buffer, CHUNK))
      if n < 0 and ffi.errno() ~= EAGAIN then error("receive: " .. process.errno_text(), 0) end
      if n > 0 then
        if ffi.string(buffer, n) ~= ffi.string(pattern + self.received % 251, n) then
          error(("the stream was damaged behind octet %d"):format(self.received), 0)
        end
        self.received, more = self.received + n, true
      end
    end
    return self.received == goal
  end)
end

function methods:close()
  for _, name in ipairs({ "client", "server", "listener" }) do
    if self[name] then C.close(self[name]) end
    self[name] = nil
  end
  cleanup.forget(self.token)
end

return tcp
