-- SPDX-License-Identifier: Apache-2.0
--- Datagrams: UDP and Unix sockets.
local ffi = require("ffi")
local api = require("flowd.api")
local accounts = require("flowd.net.accounts")

local datagram = {}

local EAGAIN, EAFNOSUPPORT = 11, 97
local SIZE = 9216 -- octets of a datagram that is received whole
local QUEUE = 1000 -- datagrams that wait for the system to take them
local BATCHES_PER_TURN = 16 -- of the loop; then others have their turn
local RETRY_SECONDS = 0.05 -- for a Unix socket whose reader's queue is full

---@class flowd.Datagrams
---@field port integer|nil of a UDP socket
local Socket = {}
Socket.__index = Socket

local address_text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)
local parsed = ffi.new("struct flow_address")

local function text_of(status) return ffi.string(api.error_text(status)) end

local function counter(self, base, reason)
  return self.ctx:counter(base, { kind = self.ctx.kind, name = self.ctx.name, reason = reason })
end

local function add(c, n) c.value = c.value + n end

-- -- in ----------------------------------------------------------------------------------

function Socket:deliver(count)
  local unix = self.unix
  add(self.received, count)
  for i = 0, count - 1 do
    local d = api.datagram_at(self.reader, i)
    if d.cut ~= 0 then
      add(self.cut, 1)
    elseif unix then
      self.ctx:protected(self.on_datagram, self, ffi.string(d.data, d.length))
    else
      self.ctx:protected(self.on_datagram, self, ffi.string(d.data, d.length),
        ffi.string(address_text, api.address_format(d.from, address_text)), d.port)
    end
    if self.closed then return end
    api.watchdog_progress()
  end
end

function Socket:readable()
  for _ = 1, BATCHES_PER_TURN do
    local count = api.datagram_receive(self.reader, self.fd)
    if count == 0 then return end
    if count < 0 then
      -- What an earlier datagram of ours met on its way.
      add(self.errors, 1)
      self.last_error = text_of(count)
      return
    end
    local lost = api.datagram_lost(self.reader)
    if lost ~= self.lost then
      add(self.overflow, (lost - self.lost) % 2 ^ 32)
      self.lost = lost
    end
    self:deliver(count)
    if self.closed or count < ffi.C.DATAGRAM_BATCH then return end
  end
end

-- -- out ---------------------------------------------------------------------------------

local function send_now(self, item)
  if item.path then return api.datagram_send_unix(self.fd, item.text, #item.text, item.path) end
  local to
  if item.address then
    api.address_parse(item.address, #item.address, parsed)
    to = parsed
  end
  return api.datagram_send(self.fd, item.text, #item.text, to, item.port or 0)
end

function Socket:flush()
  while self.first <= self.last do
    local status = send_now(self, self.queue[self.first])
    if status == -EAGAIN then return self:wait() end
    self.queue[self.first] = nil
    self.first = self.first + 1
    if status == 0 then
      add(self.sent, 1)
    else
      add(self.unsent, 1)
      self.last_error = text_of(status)
    end
  end
  if self.writer then self.ctx:release(self.writer) end
  self.writer = nil
end

-- A Unix socket is always writable: who has no room is the reader.
function Socket:wait()
  if self.writer then return end
  if self.unix then
    self.writer = self.ctx:every(RETRY_SECONDS, function() self:flush() end)
  else
    self.writer = self.ctx:fd(self.fd, "w", function() self:flush() end)
  end
end

--- Send a datagram. What the system does not take at once waits in a queue of `queue` datagrams (1000); a full one
--- drops its oldest, which is counted.
---@param text string
---@param to string|nil address, or path of a Unix socket; not for a socket that is connected (to_address, to)
---@param port integer|nil
---@return boolean|nil ok
---@return string|nil message why it was not sent
function Socket:send(text, to, port)
  if self.closed then return nil, "the socket is closed" end
  local item = { text = text }
  if self.unix then
    item.path = to or self.to
    if not item.path then error("send: expected the path of a socket", 2) end
  elseif to then
    if api.address_parse(to, #to, parsed) < 0 then error(("send: expected an address, got %q"):format(tostring(to)), 2) end
    item.address, item.port = to, port or error("send: expected a port", 2)
  elseif not self.connected then
    error("send: expected an address and a port", 2)
  end
  if self.first > self.last then
    local status = send_now(self, item)
    if status == 0 then
      add(self.sent, 1)
      return true
    elseif status ~= -EAGAIN then
      add(self.unsent, 1)
      self.last_error = text_of(status)
      return nil, self.last_error
    end
  end
  if self.last - self.first + 1 >= self.queue_max then
    self.queue[self.first] = nil
    self.first = self.first + 1
    add(self.dropped, 1)
  end
  self.last = self.last + 1
  self.queue[self.last] = item
  self:wait()
  return true
end

--- Datagrams that wait to be sent.
---@return integer
function Socket:queued() return self.last - self.first + 1 end

function Socket:close()
  if self.closed then return end
  self.closed = true
  self.ctx.handles[self] = nil
  add(self.stopped, self:queued())
  for _, name in ipairs({ "watcher", "writer" }) do
    if self[name] then self.ctx:release(self[name]) end
  end
  api.descriptor_close(self.fd)
  if self.made then api.socket_unix_remove(self.path, self.made) end
end

-- -- opening -----------------------------------------------------------------------------

local function wrap(ctx, fd, options, fields)
  local self = setmetatable(fields, Socket)
  self.ctx, self.fd, self.on_datagram = ctx, fd, options.on_datagram
  self.queue, self.first, self.last, self.queue_max, self.lost = {}, 1, 0, options.queue or QUEUE, 0
  self.sent = counter(self, "flowd_datagrams_sent_total")
  self.unsent = counter(self, "flowd_datagrams_dropped_total", "unsendable")
  self.dropped = counter(self, "flowd_datagrams_dropped_total", "queue_full")
  self.stopped = counter(self, "flowd_datagrams_dropped_total", "stopped")
  if options.on_datagram then
    self.received = counter(self, "flowd_datagrams_received_total")
    self.cut = counter(self, "flowd_datagrams_dropped_total", "too_long")
    self.overflow = counter(self, "flowd_datagrams_dropped_total", "system_queue_full")
    self.errors = counter(self, "flowd_datagram_errors_total")
    self.reader = api.datagram_reader_new(options.size or SIZE)
    if self.reader == nil then
      api.descriptor_close(fd)
      error(("a socket of datagrams of size = %s: expected 1 to %d octets, and enough memory"):format(
        tostring(options.size), ffi.C.DATAGRAM_SIZE_MAX), 0)
    end
    ffi.gc(self.reader, api.datagram_reader_free)
  end
  ctx:own(self)
  if self.reader then self.watcher = ctx:fd(fd, "r", function() self:readable() end) end
  return self
end

local function address_of(what, text)
  if type(text) ~= "string" or api.address_parse(text, #text, parsed) < 0 then
    error(("udp: expected %s to be an IPv4 or IPv6 address, got %s"):format(what, tostring(text)), 0)
  end
  return parsed
end

--- A UDP socket.
---@param ctx table the owner
---@param options table address ("::": every address, of both families) and port (0: any, see the handle's field
---  port); to_address, to_port: the only peer; on_datagram(socket, text, address, port); size: octets of the longest
---  datagram (9216), longer ones are dropped and counted; queue: datagrams that may wait to be sent (1000)
---@return flowd.Datagrams handle with port, send(), queued() and close(); raises when it cannot be had
function datagram.udp(ctx, options)
  local address = options.address or (options.to_address and options.to_address:find(":", 1, true) == nil and "0.0.0.0")
    or "::"
  local fd = api.socket_udp(address_of("address", address), options.port or 0)
  if fd == -EAFNOSUPPORT and not options.address then
    address = "0.0.0.0"
    fd = api.socket_udp(address_of("address", address), options.port or 0)
  end
  if fd < 0 then error(("UDP %s port %d: %s"):format(address, options.port or 0, text_of(fd)), 0) end
  if options.to_address then
    local status = api.socket_connect(fd, address_of("to_address", options.to_address), options.to_port)
    if status < 0 then
      api.descriptor_close(fd)
      error(("UDP to %s port %d: %s"):format(options.to_address, options.to_port, text_of(status)), 0)
    end
  end
  return wrap(ctx, fd, options, { port = api.socket_port(fd), connected = options.to_address ~= nil })
end

--- A Unix socket of datagrams: one that receives at a path, or one that only sends.
---@param ctx table the owner
---@param options table path, with mode ("0660"), owner, group: where it receives; to: the path that send() means;
---  on_datagram(socket, text), size, queue as for udp
---@return flowd.Datagrams handle with send(), queued() and close(); raises when it cannot be had
function datagram.unix(ctx, options)
  if not options.path then
    local fd = api.socket_unix_sender()
    if fd < 0 then error("a Unix socket: " .. text_of(fd), 0) end
    return wrap(ctx, fd, options, { unix = true, to = options.to })
  end
  local made = ffi.new("struct socket_path")
  local fd = api.socket_unix(options.path, true, accounts.mode(options.mode), accounts.user(options.owner),
    accounts.group(options.group), 0, made)
  if fd < 0 then error(("%s: cannot be a socket: %s"):format(options.path, text_of(fd)), 0) end
  return wrap(ctx, fd, options, { unix = true, to = options.to, path = options.path, made = made })
end

return datagram
