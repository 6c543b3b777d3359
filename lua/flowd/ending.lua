-- SPDX-License-Identifier: Apache-2.0
--- How a running daemon (flowd.daemon) comes to its end: all flows ended, or left to the next start.
local ffi = require("ffi")
local api = require("flowd.api")
local log = require("flowd.log")
local loop = require("flowd.loop")
local notify = require("flowd.notify")
local plugins = require("flowd.plugins")
local privileges = require("flowd.privileges")
local reload = require("flowd.reload")

local READ_SECONDS = 0.5 -- for what waits in pipes when we leave

local ending = {}

--- Backends whose queues are not empty get turns of the loop until the deadline.
---@param self table flowd.daemon's
---@param deadline_ns ffi.cdata* of clock_monotonic_ns
---@return integer messages that are left
function ending.finish_backends(self, deadline_ns)
  local pipeline = self.pipeline
  local left = pipeline:pending()
  while left > 0 and api.clock_monotonic_ns() < deadline_ns do
    pipeline:flush()
    loop.turn()
    left = pipeline:pending()
  end
  return left
end

local NAME = "ending"

-- Should a script hang from here on: the process that takes over ends, too.
local function tell_next()
  local fd = api.memory_file_make("flowd-lua ending", "", 0)
  local status = fd < 0 and fd or api.handover_offer(NAME, fd)
  if status < 0 then log.warn("a script that hangs now would keep the daemon from ending: %s", ffi.string(api.error_text(status))) end
end

--- Did the process before this one come to its end when a script hung?
---@return boolean
function ending.under_way()
  local fd = api.handover_take(NAME)
  if fd >= 0 then api.descriptor_close(fd) end
  return fd >= 0
end

-- What waits in pipes is lost when nobody has them open any more: read it, while there is something.
local function read_inputs(self)
  local deadline_ns = api.clock_monotonic_ns() + ffi.cast("uint64_t", READ_SECONDS * 1e9)
  local header, idle = api.state_header(self.state), 0
  repeat
    local before = header.batch
    loop.turn()
    idle = header.batch == before and idle + 1 or 0
  until idle == 3 or api.clock_monotonic_ns() > deadline_ns
end

--- Go, and leave everything to the next process: what a killed daemon leaves, in good order.
---@param self flowd.Daemon
---@return integer status of the process
function ending.leave(self)
  tell_next()
  reload.cancel(self)
  notify("STOPPING=1\nSTATUS=leaving open flows to the next start")
  self.sockets:close()
  self.console:close(true)
  read_inputs(self)
  local unsent = ending.finish_backends(self, api.clock_monotonic_ns() + ffi.cast("uint64_t", self.values.stop_deadline * 1e9))
  if unsent > 0 then log.error("stop_deadline: %d fireflies were not sent", unsent) end
  log.info("%d open flows are left to the next start", api.flow_table_count(self.table))
  -- Before the state: their heaps look into it, for whom memory is taken.
  self.builder:close()
  if self.policy then self.policy:close() end
  api.watchdog_stop()
  api.state_close(self.state, false)
  if self.pid_file then api.process_remove_pid_file(self.pid_file) end
  return 0
end

--- End all flows, stop everything, remove what is ours.
---@param self flowd.Daemon
---@return integer status of the process
function ending.stop(self)
  tell_next()
  reload.cancel(self)
  notify("STOPPING=1\nSTATUS=ending open flows")
  local deadline_ns = api.clock_monotonic_ns() + ffi.cast("uint64_t", self.values.stop_deadline * 1e9)
  for _, handle in ipairs(self.signals or {}) do handle:close() end
  if self.sockets then self.sockets:close() end
  if self.console then self.console:close(true) end
  for i = #self.instances, 1, -1 do
    if self.instances[i].kind == "plugin" then plugins.stop(self.instances[i].instance) end
  end
  if self.pipeline then
    self.flush_emitted()
    local ended, left = self.pipeline:drain(deadline_ns)
    local unsent = ending.finish_backends(self, deadline_ns)
    log.info("ended %d open flows", ended)
    if left > 0 then log.error("stop_deadline: %d flows were left without an end", left) end
    if unsent > 0 then log.error("stop_deadline: %d fireflies were not sent", unsent) end
  end
  for i = #self.instances, 1, -1 do
    if self.instances[i].kind == "backend" then plugins.stop(self.instances[i].instance) end
  end
  ending.release(self)
  return 0
end

--- Give back what a daemon has, also one whose start came only half the way.
---@param self flowd.Daemon
function ending.release(self)
  if self.registry_updates then self.registry_updates:close() end
  if self.console then self.console:close(true) end
  reload.cancel(self)
  self.builder:close()
  if self.policy then self.policy:close() end
  api.watchdog_stop()
  if self.sockets then self.sockets:close() end
  if self.table and self.table ~= nil then api.flow_table_close(self.table) end
  if self.state and self.state ~= nil then api.state_close(self.state, true) end
  if self.rule_names then self.rule_names:remove() end
  if self.pid_file then api.process_remove_pid_file(self.pid_file) end
  privileges.close()
end

return ending
