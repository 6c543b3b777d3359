-- SPDX-License-Identifier: Apache-2.0
--- Connections: TCP and Unix sockets, with or without TLS, for plugins and backends.
--
-- Input comes to on_data or on_line, or is asked for with read() and read_line(). Both directions are
-- bounded: what is not read waits with the peer, and write() refuses what does not fit.
local ffi = require("ffi")
local api = require("flowd.api")
local core = require("flowd.stream_core")
local module_memory = require("flowd.module_memory")
local pages = require("flowd.pages")
local task = require("flowd.task")
local tls = require("flowd.net.tls")

local stream = {}

local EAGAIN, EMSGSIZE, ENOBUFS, EDQUOT = 11, 90, 105, 122
local INPUT_MAX, OUTPUT_MAX = 65536, 1048576
local LINGER_SECONDS = 2 -- for the peer's end, after ours
local FLUSH_SECONDS = 30 -- for a peer to take what was written before finish()

local EVENT = {
  CONNECTED = ffi.C.STREAM_CONNECTED, INPUT = ffi.C.STREAM_INPUT, DRAINED = ffi.C.STREAM_DRAINED,
  END = ffi.C.STREAM_END, FAILED = ffi.C.STREAM_FAILED, STARVED = ffi.C.STREAM_STARVED,
}

-- Number -> stream, of all that are open.
local streams = {}

core.listen(function(id, event)
  local self = streams[id]
  if self then self.tell(event) end
end)

local room = pages.new("char", INPUT_MAX)

---@class flowd.Stream
---@field peer_address string|nil the other end's address; nil: a Unix socket
---@field peer_port integer|nil
---@field closed boolean|nil
local Stream = {}
Stream.__index = Stream

local function text_of(status) return ffi.string(api.error_text(status)) end

local function new(ctx, options)
  local input_max = math.min(options.line_max or options.input_max or INPUT_MAX, INPUT_MAX)
  local output_max = options.output_max or OUTPUT_MAX
  -- Room for a line and its end, so that one that is too long can be told from one that is not there yet.
  local raw = api.stream_new(input_max + 2, output_max)
  if raw == nil then return nil, "not enough memory for a connection" end
  module_memory.own_stream(raw, ctx.kind, ctx.name)
  local self = setmetatable({
    ctx = ctx, raw = raw, id = api.stream_id(raw), input_max = input_max,
    on_data = options.on_data, on_line = options.on_line, on_end = options.on_end, on_drained = options.on_drained,
    refused = ctx:counter("flowd_writes_refused_total", { kind = ctx.kind, name = ctx.name }),
  }, Stream)
  self.tell = ctx:watched(function(event)
    self.delivering = false
    self:happened(event)
  end)
  streams[self.id] = self
  ctx:own(self)
  return self
end

-- -- events ------------------------------------------------------------------------------

local function read_text(self)
  local n = tonumber(api.stream_read(self.raw, room, self.input_max))
  return n > 0 and ffi.string(room, n) or nil
end

-- A line; nil when there is none; false when it is longer than it may be.
local function take_line(self)
  local n = tonumber(api.stream_read_line(self.raw, room, self.input_max))
  if n >= 0 then return ffi.string(room, n) end
  if n == -EMSGSIZE then return false end
  if n == -EAGAIN and self.ended then return read_text(self) end
  return nil
end

local function too_long(self)
  self:fail(("a line of more than %d octets"):format(self.input_max))
end

-- Give what waits to whoever wants it. A read() from within a callback is served by the loop below.
function Stream:deliver()
  if self.delivering then return end
  self.delivering = true
  self:deliver_all()
  self.delivering = false
end

function Stream:deliver_all()
  local ctx = self.ctx
  while not self.closed and not self.paused and not self.finishing do
    if self.waiter then
      local waiter = self.waiter
      local text
      if waiter.line then text = take_line(self) else text = read_text(self) end
      if text == false then return too_long(self) end
      if not text and not self.ended then return end
      self.waiter = nil
      ctx:protected(waiter.callback, text, nil)
    elseif self.on_line then
      local line = take_line(self)
      if line == false then return too_long(self) end
      if not line then return end
      ctx:protected(self.on_line, self, line)
    elseif self.on_data then
      local text = read_text(self)
      if not text then return end
      ctx:protected(self.on_data, self, text)
    else
      return
    end
  end
end

function Stream:happened(event)
  if event == EVENT.INPUT then
    if self.finishing then
      while read_text(self) do end -- nobody wants it any more
      return
    end
    self:deliver()
  elseif event == EVENT.DRAINED then
    self:drained()
  elseif event == EVENT.CONNECTED then
    local callback = self.on_ready
    self.on_ready = nil
    if callback then callback(self) end
  elseif event == EVENT.END then
    self:peer_ended()
  else
    self:fail(event == EVENT.STARVED and module_memory.no_room(self.ctx) or ffi.string(api.stream_error(self.raw)))
  end
end

-- The streams' own end: everybody who waits is told, then it is closed.
function Stream:fail(message)
  local ready, waiter, flushed, on_end = self.on_ready, self.waiter, self.flushed, self.on_end
  self.failure = message
  if ready or not self.established then on_end = nil end
  self:close()
  if ready then self.ctx:protected(ready, nil, message) end
  if waiter then self.ctx:protected(waiter.callback, nil, message) end
  if flushed then self.ctx:protected(flushed, nil, message) end
  if on_end then self.ctx:protected(on_end, self, message) end
end

-- To be told once, when all input was taken.
function Stream:tell_end()
  if not self.ended or self.told or self.closed or tonumber(api.stream_waiting(self.raw)) > 0 then return end
  self.told = true
  if self.on_end then self.ctx:protected(self.on_end, self, nil) end
  if not self.closed and (self.on_data or self.on_line) then self:finish() end
end

function Stream:peer_ended()
  self.ended = true
  if self.finishing then
    if tonumber(api.stream_queued(self.raw)) == 0 then self:close() end
    return
  end
  if self.on_ready then return self:fail("the peer closed the connection") end
  self:deliver()
  if not self.closed then self:tell_end() end
end

function Stream:drained()
  if tonumber(api.stream_queued(self.raw)) > 0 then return end
  if self.flushed then
    local callback = self.flushed
    self.flushed = nil
    callback(true)
  end
  if self.closed then return end
  if self.finishing then return self:linger() end
  if self.on_drained then self.on_drained(self) end
end

-- -- what its user calls -------------------------------------------------------------------

--- Write. Nothing is taken of what does not fit into the queue of `output_max` octets (1 MiB), or into memory_limit.
---@param text string
---@return boolean|nil ok
---@return string|nil message why not
function Stream:write(text)
  if self.closed or self.finishing then return nil, self.failure or "the connection is closed" end
  local status = api.stream_write(self.raw, text, #text)
  if status == 0 then return true end
  self.refused.value = self.refused.value + 1
  if status == -EDQUOT then return nil, module_memory.no_room(self.ctx) end
  if status ~= -ENOBUFS then return nil, text_of(status) end
  return nil, ("%d octets do not fit: the peer has not taken %d octets yet"):format(#text, self:queued())
end

--- Octets written that the system has not taken yet.
---@return integer
function Stream:queued() return self.closed and 0 or tonumber(api.stream_queued(self.raw)) end

local function wait_input(self, line, callback)
  if self.waiter then error("read: another read is waiting", 3) end
  if self.closed then return callback(nil, self.failure) end
  self.waiter = { line = line, callback = callback }
  self:deliver()
  if not self.closed then self:tell_end() end
end

--- Read what there is, at least one octet. Calls back with text; nil at the end; nil and a message when the
--- connection broke.
---@param callback? fun(text: string|nil, message: string|nil)
function Stream:read(callback)
  if not callback then return task.wait("read", function(resume) wait_input(self, false, resume) end) end
  wait_input(self, false, callback)
end

--- Read one line, without its end; the last one may have none.
---@param callback? fun(line: string|nil, message: string|nil)
function Stream:read_line(callback)
  if not callback then return task.wait("read_line", function(resume) wait_input(self, true, resume) end) end
  wait_input(self, true, callback)
end

--- Wait until the system has taken everything that was written.
---@param callback? fun(ok: boolean|nil, message: string|nil)
function Stream:flush(callback)
  if not callback then return task.wait("flush", function(resume) self:flush(resume) end) end
  if self.closed then return callback(nil, self.failure or "the connection is closed") end
  if self:queued() == 0 then return callback(true) end
  self.flushed = callback
  api.stream_tell_drained(self.raw, true)
end

--- Deliver no input for now: the peer has to wait.
function Stream:pause()
  if self.closed then return end
  self.paused = true
  api.stream_reading(self.raw, false)
end

function Stream:resume()
  if self.closed or not self.paused then return end
  self.paused = false
  api.stream_reading(self.raw, true)
  -- Not from within the caller's own callback.
  self.ctx:after(0, function()
    self.delivering = false
    if self.closed then return end
    self:deliver()
    if not self.closed then self:tell_end() end
  end)
end

function Stream:linger()
  if self.ended then return self:close() end
  if self.shut then return end
  self.shut = true
  api.stream_shutdown(self.raw)
  api.stream_reading(self.raw, true)
  self:close_in(LINGER_SECONDS)
end

function Stream:close_in(seconds)
  if self.timer then self.ctx:release(self.timer) end
  self.timer = self.ctx:after(seconds, function() self:close() end)
end

--- Close it when everything that was written has left.
function Stream:finish()
  if self.closed or self.finishing then return end
  self.finishing = true
  while read_text(self) do end
  if self:queued() == 0 then return self:linger() end
  api.stream_tell_drained(self.raw, true)
  self:close_in(FLUSH_SECONDS)
end

--- Close it at once. Nothing is called back any more.
function Stream:close()
  if self.closed then return end
  self.closed = true
  streams[self.id] = nil
  self.ctx.handles[self] = nil
  if self.timer then self.ctx:release(self.timer) end
  api.stream_free(self.raw)
  self.raw, self.waiter, self.flushed, self.on_ready = nil, nil, nil, nil
  if self.on_closed then self.on_closed(self) end
end

--- Speak TLS from here on. Nothing may be waiting in either direction.
---@param context any what flowd.net.tls made
---@param server boolean
---@param host string|nil for a client: whom the certificate must be for
---@param callback fun(stream: flowd.Stream|nil, message: string|nil)
function Stream:start_tls(context, server, host, callback)
  local status = api.stream_start_tls(self.raw, context, server, host)
  self.tls = context
  if status == 0 then
    self.on_ready = callback
    return
  end
  self:close()
  callback(nil, status == -22 and ("TLS: %q cannot be the name of a host"):format(tostring(host)) or text_of(status))
end

-- -- making them -------------------------------------------------------------------------

local Connecting = {}
Connecting.__index = Connecting

local parsed = ffi.new("struct flow_address")

function Connecting:finish(made, message)
  if self.closed then return end
  local callback = self.callback
  if made then made.established = true end
  self.stream = nil
  self:close()
  callback(made, message)
  if made and not made.closed and tonumber(api.stream_waiting(made.raw)) > 0 then made:deliver() end
end

--- Give it up.
function Connecting:close()
  if self.closed then return end
  self.closed = true
  self.ctx.handles[self] = nil
  for _, name in ipairs({ "deadline", "attempt", "query", "stream" }) do
    if self[name] then self.ctx:release(self[name]) end
    self[name] = nil
  end
end

function Connecting:secure(made)
  local options = self.options
  if not options.tls then return self:finish(made) end
  local settings = type(options.tls) == "table" and options.tls or {}
  local context, message = tls.client(settings)
  if not context then return self:finish(nil, message) end
  made:start_tls(context, false, settings.host or options.host, function(secured, why)
    if not secured then self.stream = nil end
    self:finish(secured, why and self.name .. ": " .. why)
  end)
end

function Connecting:try(start, following)
  local made, message = new(self.ctx, self.options)
  if not made then return self:finish(nil, message) end
  self.stream = made
  made.on_ready = function(ready, why)
    if self.attempt then self.ctx:release(self.attempt) end
    self.attempt = nil
    if ready then return self:secure(made) end
    self.stream = nil
    following(why)
  end
  local status = start(made.raw)
  -- Told later, as all other failures are.
  if status ~= 0 then
    self.ctx:after(0, function()
      if not made.closed then made:fail(text_of(status)) end
    end)
  end
end

-- One address after the other, each with its share of the time.
function Connecting:try_addresses(addresses, position, last)
  local address = addresses[position]
  if not address then return self:finish(nil, ("%s: %s"):format(self.name, last or "the name has no address")) end
  local function following(why) self:try_addresses(addresses, position + 1, ("%s: %s"):format(address, why)) end
  if position < #addresses then
    self.attempt = self.ctx:after(self.timeout / #addresses, function()
      self.attempt = nil
      self.stream:close()
      self.stream = nil
      following("no answer")
    end)
  end
  self:try(function(raw)
    api.address_parse(address, #address, parsed)
    return api.stream_connect(raw, parsed, self.options.port)
  end, following)
  if self.stream then self.stream.peer_address, self.stream.peer_port = address, self.options.port end
end

local function check(options)
  if type(options) ~= "table" then error("connect: expected a table, got " .. type(options), 3) end
  if options.path then return options.path end
  local port = options.port
  if type(options.host) ~= "string" then error("connect: expected host, a name or an address, or path", 3) end
  if type(port) ~= "number" or port % 1 ~= 0 or port < 1 or port > 65535 then
    error(("connect: expected port to be an integer from 1 to 65535, got %s"):format(tostring(port)), 3)
  end
  return (options.host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(options.host, port)
end

--- Connect. The callback gets the stream, or nil and why not.
---@param ctx table the owner
---@param options table host and port, or path (of a Unix socket); tls: true, or a table of ca, certificate, key
---  (files) and host (whom the certificate must be for); timeout (10 s) for all of it; on_data(stream, text) or
---  on_line(stream, line), line_max (at most 65536 octets); on_end(stream, message): the peer has ended, or with a
---  message, the connection broke; on_drained(stream); output_max (1 MiB)
---@param callback? fun(stream: flowd.Stream|nil, message: string|nil)
---@return table handle with close(); inside a task and without callback, what the callback would get
function stream.connect(ctx, options, callback)
  local name = check(options)
  if not callback then return task.wait("connect", function(resume) stream.connect(ctx, options, resume) end) end
  local self = setmetatable({
    ctx = ctx, options = options, name = name, timeout = options.timeout or 10, callback = callback,
  }, Connecting)
  ctx:own(self)
  self.deadline = ctx:after(self.timeout, function()
    self.deadline = nil
    self:finish(nil, ("%s: not connected within %g s"):format(name, self.timeout))
  end)
  if options.path then
    self:try(function(raw) return api.stream_connect_unix(raw, options.path) end,
      function(why) self:finish(nil, ("%s: %s"):format(name, why)) end)
    return self
  end
  self.query = ctx:resolve(options.host, function(addresses, message)
    self.query = nil
    if not addresses then return self:finish(nil, ("%s: %s"):format(name, message)) end
    self:try_addresses(addresses, 1)
  end)
  return self
end

--- A stream of a connection that was accepted; the descriptor is the stream's, also on failure.
---@param ctx table the owner
---@param fd integer
---@param options table as for connect
---@return flowd.Stream|nil
---@return string|nil message
function stream.accepted(ctx, fd, options)
  local self, message = new(ctx, options)
  if not self then
    api.descriptor_close(fd)
    return nil, message
  end
  self.established = true
  local status = api.stream_take(self.raw, fd)
  if status == 0 then return self end
  self:close()
  return nil, text_of(status)
end

return stream
