-- SPDX-License-Identifier: Apache-2.0
--- What a plugin or backend gets: its options and the daemon's services.
--
-- Everything made through a context (timers, descriptors, FIFOs, look-ups) ends when its
-- plugin stops: a callback that comes late finds its handle closed and is not called.
local loop = require("flowd.loop")
local log = require("flowd.log")
local counters = require("flowd.counters")
local watch = require("flowd.watch")

local Context = {}
Context.__index = Context

local context = {}

--- A context for one instance.
---@param fields table name, kind ("plugin" or "backend"), options, and the daemon's services:
---  batch, state, source_id, route_bit, run_batch, put (see flowd.emit), registry, max_flows,
---  runtime_dir
function context.new(fields)
  fields.handles = {}
  return setmetatable(fields, Context)
end

--- Log a message, prefixed with the plugin's name.
---@param level "trace"|"debug"|"info"|"warn"|"error"
---@param format string as string.format
function Context:log(level, format, ...)
  log.write(level, self.kind .. " " .. self.name .. ": " .. format, ...)
end

--- A named counter; add to its field `value`.
---@param base string "flowd_…_total"
---@param labels? table<string, string>
function Context:counter(base, labels) return counters.get(base, labels) end

--- Hand an event to the pipeline; it runs with others at the end of the loop's turn.
---@param event table state, protocol, src, src_port, dst, dst_port; experiment, activity (id or name),
---  application, time (seconds of UNIX time), bytes_sent, bytes_received where known
function Context:emit(event)
  local ok, message = self.put(self.source_id, event)
  if not ok then error(message, 2) end
end

--- Tie a handle (something with a close method) to the plugin's life.
---@generic T
---@param handle T
---@return T handle
function Context:own(handle)
  if self.closed then
    handle:close()
    error("this plugin was stopped: it cannot open anything any more", 2)
  end
  self.handles[handle] = true
  return handle
end

--- Close a handle before the plugin stops.
function Context:release(handle)
  self.handles[handle] = nil
  handle:close()
end

--- A callback of the plugin's: the watchdog knows whose it is.
---@param callback function
---@return function
function Context:watched(callback) return watch.callback(self.kind, self.name, callback) end

--- Call back once, after `seconds`.
---@param seconds number
---@param callback fun()
function Context:after(seconds, callback)
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
function Context:every(seconds, callback) return self:own(loop.every(seconds, self:watched(callback))) end

--- Watch a descriptor, which stays the caller's.
---@param fd integer
---@param mode "r"|"w"|"rw"
---@param callback fun(readable: boolean, writable: boolean)
function Context:fd(fd, mode, callback) return self:own(loop.fd(fd, mode, self:watched(callback))) end

--- Resolve a host name without blocking. See flowd.resolver.
function Context:resolve(...) return require("flowd.resolver").resolve(self, ...) end

--- Read a FIFO. See flowd.fifo.
function Context:fifo(options) return require("flowd.fifo").open(self, options) end

--- Close everything this context opened.
function Context:close()
  self.closed = true
  for handle in pairs(self.handles) do
    self.handles[handle] = nil
    handle:close()
  end
end

return context
