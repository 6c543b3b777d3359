-- SPDX-License-Identifier: Apache-2.0
--- What a plugin or backend gets: its options and the daemon's services.
--
-- Everything made through a context (timers, descriptors, connections, look-ups) ends when its plugin stops: a
-- callback that comes late finds its handle closed and is not called. An error in a callback is logged and
-- counted, and everything goes on.
--
-- Services may be called as ctx:after(1, fn) or ctx.after(1, fn). Inside of ctx.spawn those that take a
-- callback may be called without one (flowd.task).
local loop = require("flowd.loop")
local log = require("flowd.log")
local counters = require("flowd.counters")
local module_memory = require("flowd.module_memory")
local task = require("flowd.task")
local watch = require("flowd.watch")

local call_as = require("flowd.protect").call_as
local watch_memory = module_memory.watch

local methods = {}

local context = {}

-- The first argument may be the context or not.
local function bind(self, fn)
  return function(first, ...)
    if rawequal(first, self) then return fn(self, ...) end
    return fn(self, first, ...)
  end
end

local Context = {
  __index = function(self, key)
    local fn = methods[key]
    if fn == nil then return nil end
    local bound = bind(self, fn)
    rawset(self, key, bound)
    return bound
  end,
}

-- Loaded by those that use it.
local function http_of(self)
  return {
    get = function(...) return require("flowd.net.http").get(self, ...) end,
    post = function(...) return require("flowd.net.http").post(self, ...) end,
    request = function(...) return require("flowd.net.http").request(self, ...) end,
    serve = function(...) return require("flowd.net.http_server").open(self, ...) end,
  }
end

--- A context for one instance.
---@param fields table name, kind ("plugin" or "backend"), options, and the daemon's services:
---  batch, state, source_id, route_bit, run_batch, put (see flowd.emit), registry, max_flows,
---  runtime_dir, state_dir
function context.new(fields)
  fields.handles = {}
  fields.report = log.limited(10, 10)
  local self = setmetatable(fields, Context)
  self.http = http_of(self)
  return self
end

-- -- its life ------------------------------------------------------------------------------

--- Log a message, prefixed with the plugin's name.
---@param level "trace"|"debug"|"info"|"warn"|"error"
---@param format string as string.format
function methods:log(level, format, ...)
  log.write(level, self.kind .. " " .. self.name .. ": " .. format, ...)
end

--- A named counter; add to its field `value`.
---@param base string "flowd_…_total"
---@param labels? table<string, string>
function methods:counter(base, labels) return counters.get(base, labels) end

--- Hand an event to the pipeline; it runs with others at the end of the loop's turn.
---@param event table state, protocol, src, src_port, dst, dst_port; experiment, activity (id or name),
---  application, time (seconds of UNIX time), bytes_sent, bytes_received where known
function methods:emit(event)
  local ok, message = self.put(self.source_id, event)
  if not ok then error(message, 2) end
end

--- Tie a handle (something with a close method) to the plugin's life.
---@generic T
---@param handle T
---@return T handle
function methods:own(handle)
  if self.closed then
    handle:close()
    error("this plugin was stopped: it cannot open anything any more", 2)
  end
  self.handles[handle] = true
  return handle
end

--- Close a handle before the plugin stops.
function methods:release(handle)
  self.handles[handle] = nil
  handle:close()
end

--- Close everything this context opened.
function methods:close()
  self.closed = true
  for handle in pairs(self.handles) do
    self.handles[handle] = nil
    handle:close()
  end
end

-- -- callbacks -----------------------------------------------------------------------------

local function traceback(err) return type(err) == "string" and debug.traceback(err, 2) or err end

--- A callback raised: log and count it.
---@param message any what it raised, with its traceback
---@param thread? thread of which the traceback is to be made
function methods:failed(message, thread)
  if thread and type(message) == "string" then message = debug.traceback(thread, message) end
  local counter = counters.get("flowd_callback_errors_total", { kind = self.kind, name = self.name })
  counter.value = counter.value + 1
  self.report("error", "%s %s: a callback raised: %s", self.kind, self.name, tostring(message))
  module_memory.failed(self.kind, self.name)
end


--- Call a function of the plugin's; what it raises is logged and counted.
---@param fn function
---@return boolean ok
function methods:protected(fn, ...)
  local ok, message = xpcall(fn, traceback, ...)
  if not ok then self:failed(message) end
  return ok
end

--- A callback of the plugin's, for the loop: the watchdog knows whose it is, what it raises is logged and counted,
--- and when the plugin has stopped it is not called any more.
---@param callback function
---@return function
function methods:watched(callback)
  local number = watch.number(self.kind, self.name)
  return watch.callback(self.kind, self.name, function(...)
    if self.closed then return end
    local ok, message = call_as(number, callback, ...)
    if not ok then self:failed(message) end
    watch_memory()
  end)
end

-- -- services ------------------------------------------------------------------------------

--- Call back once, after `seconds`.
---@param seconds number
---@param callback fun()
---@return table handle with close()
function methods:after(seconds, callback)
  local handle
  callback = self:watched(callback)
  handle = loop.after(seconds, function()
    self.handles[handle] = nil
    callback()
  end)
  return self:own(handle)
end

--- Call back every `seconds`, until the handle is closed.
---@param seconds number
---@param callback fun()
---@return table handle with close()
function methods:every(seconds, callback) return self:own(loop.every(seconds, self:watched(callback))) end

--- Run a function that may wait in straight-line style. See flowd.task.
---@param fn function
---@param ... any its arguments
---@return table handle with close()
function methods:spawn(fn, ...) return task.spawn(self, fn, ...) end

--- Wait, inside of spawn.
---@param seconds number
function methods:sleep(seconds)
  task.wait("sleep", function(resume) self:after(seconds, resume) end)
end

--- Wait, inside of spawn, until somebody calls the function that `start` is given; returns what it is called with.
---@param start fun(wake: fun(...))
function methods:wait(start) return task.wait("wait", start) end

--- Watch a descriptor, which stays the caller's.
---@param fd integer
---@param mode "r"|"w"|"rw"
---@param callback fun(readable: boolean, writable: boolean)
---@return table handle with close()
function methods:fd(fd, mode, callback) return self:own(loop.fd(fd, mode, self:watched(callback))) end

--- Resolve a host name without blocking. See flowd.resolver.
---@param host string a name or an address
---@param callback? fun(addresses: string[]|nil, message: string|nil)
---@return table handle with close()
function methods:resolve(host, callback)
  if not callback then return task.wait("resolve", function(resume) self:resolve(host, resume) end) end
  return require("flowd.resolver").resolve(self, host, callback)
end

--- Run a program. See flowd.subprocess.
---@param argv string[] argv[1] is a path
---@param options? { seconds: number?, limit: integer? } deadline (60) and octets of output kept
---@param callback? fun(status: integer|nil, output: string) nil and why it could not be started
---@return table|nil handle with close()
function methods:run(argv, options, callback)
  if type(options) == "function" then options, callback = nil, options end
  if not callback then return task.wait("run", function(resume) self:run(argv, options, resume) end) end
  return require("flowd.subprocess").owned(self, argv, options or {}, callback)
end

--- Read a FIFO. See flowd.fifo.
function methods:fifo(options) return require("flowd.fifo").open(self, options) end

--- Follow a log file. See flowd.follow.
function methods:follow(options) return require("flowd.follow").open(self, options) end

--- Connect by TCP or to a Unix socket, with or without TLS. See flowd.net.stream.
function methods:connect(options, callback) return require("flowd.net.stream").connect(self, options, callback) end

--- Listen on TCP or a Unix socket, with or without TLS. See flowd.net.listen.
function methods:listen(options) return require("flowd.net.listen").open(self, options) end

--- A UDP socket. See flowd.net.datagram.
function methods:udp(options) return require("flowd.net.datagram").udp(self, options) end

--- A Unix socket of datagrams. See flowd.net.datagram.
function methods:unix_datagrams(options) return require("flowd.net.datagram").unix(self, options) end

return context
