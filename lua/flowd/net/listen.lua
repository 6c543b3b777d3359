-- SPDX-License-Identifier: Apache-2.0
--- Servers: sockets that listen, TCP or Unix, with or without TLS.
local ffi = require("ffi")
local api = require("flowd.api")
local accounts = require("flowd.net.accounts")
local stream = require("flowd.net.stream")
local tls = require("flowd.net.tls")

local listen = {}

local EAGAIN = 11
local BACKLOG = 512
local ACCEPTS_PER_TURN = 64 -- of the loop; then others have their turn
local PAUSE_SECONDS = 1 -- without descriptors or memory, before it is tried again
local HANDSHAKE_SECONDS = 10
local MAX_CONNECTIONS = 1000

local Listener = {}
Listener.__index = Listener

local function text_of(status) return ffi.string(api.error_text(status)) end

local address_text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)

local function refuse(self, fd, reason)
  api.descriptor_close(fd)
  local counter = self.ctx:counter("flowd_connections_refused_total",
    { kind = self.ctx.kind, name = self.ctx.name, reason = reason })
  counter.value = counter.value + 1
end

function Listener:adopt(fd, address, port)
  if self.count >= self.max then return refuse(self, fd, "too_many") end
  local made, message = stream.accepted(self.ctx, fd, self.options)
  if not made then
    self.ctx:log("warn", "%s: a connection is refused: %s", self.name, message)
    return
  end
  if not self.path then made.peer_address, made.peer_port = address, port end
  self.count = self.count + 1
  made.on_closed = function() self.count = self.count - 1 end
  if not self.tls then return self.ctx:protected(self.options.on_connection, made) end
  local timer
  timer = self.ctx:after(HANDSHAKE_SECONDS, function()
    timer = nil
    made:close()
  end)
  local context = tls.server(self.tls) or self.context
  made:start_tls(context, true, nil, function(secured, why)
    if timer then self.ctx:release(timer) end
    if secured then return self.options.on_connection(secured) end
    local counter = self.ctx:counter("flowd_connections_refused_total",
      { kind = self.ctx.kind, name = self.ctx.name, reason = "tls" })
    counter.value = counter.value + 1
    self.ctx:log("debug", "%s: %s: %s", self.name, made.peer_address or "a client", why)
  end)
end

function Listener:accept()
  local from, port = ffi.new("struct flow_address"), ffi.new("uint16_t[1]")
  for _ = 1, ACCEPTS_PER_TURN do
    local fd = api.socket_accept(self.fd, from, port)
    if fd == -EAGAIN then return end
    if fd < 0 then
      -- Out of descriptors: the socket stays readable, and would wake us all the time.
      self.ctx:log("error", "%s: no connection can be taken: %s (tried again in %d s)", self.name, text_of(fd),
        PAUSE_SECONDS)
      self.ctx:release(self.watcher)
      self.watcher = self.ctx:after(PAUSE_SECONDS, function() self:watch() end)
      return
    end
    self:adopt(fd, ffi.string(address_text, api.address_format(from, address_text)), port[0])
    if self.closed then return end
  end
end

function Listener:watch() self.watcher = self.ctx:fd(self.fd, "r", function() self:accept() end) end

--- Take no new connections; those that are there go on.
function Listener:close()
  if self.closed then return end
  self.closed = true
  self.ctx.handles[self] = nil
  if self.watcher then self.ctx:release(self.watcher) end
  api.descriptor_close(self.fd)
  if self.path then api.socket_unix_remove(self.path, self.made) end
end

local parsed = ffi.new("struct flow_address")

local function open(options)
  if options.path then
    local made = ffi.new("struct socket_path")
    local fd = api.socket_unix(options.path, false, accounts.mode(options.mode), accounts.user(options.owner),
      accounts.group(options.group), BACKLOG, made)
    return fd, options.path, made
  end
  local address, port = options.address or "::1", options.port or 0
  if api.address_parse(address, #address, parsed) < 0 then
    error(("listen: expected address to be an IPv4 or IPv6 address, got %q"):format(address), 0)
  end
  return api.socket_listen(parsed, port, BACKLOG), (address:find(":") and "[%s]:%d" or "%s:%d"):format(address, port)
end

--- Listen for connections.
---@param ctx table the owner
---@param options table address ("::1"; "::" is every address, of both families) and port (0: any, see the handle's
---  field port), or path with mode ("0660"), owner, group; tls: a table of certificate, key, client_ca (files);
---  max_connections (1000), more are closed at once and counted; on_connection(stream); on_data, on_line,
---  line_max, on_end, on_drained, output_max as for connect
---@return table handle with port, count and close(); raises a message for the operator when it cannot listen
function listen.open(ctx, options)
  if type(options.on_connection) ~= "function" then error("listen: expected on_connection to be a function", 2) end
  local context, message
  if options.tls then
    context, message = tls.server(options.tls)
    if not context then error(message, 0) end
  end
  local fd, name, made = open(options)
  if fd < 0 then error(("%s: cannot listen: %s"):format(name, text_of(fd)), 0) end
  local self = setmetatable({
    ctx = ctx, options = options, fd = fd, name = name, made = made, path = options.path, tls = options.tls,
    context = context, count = 0, max = options.max_connections or MAX_CONNECTIONS,
    port = not options.path and api.socket_port(fd) or nil,
  }, Listener)
  ctx:own(self)
  self:watch()
  return self
end

return listen
