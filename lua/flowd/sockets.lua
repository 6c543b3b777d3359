-- SPDX-License-Identifier: Apache-2.0
--- The local TCP sockets of open flows (src/sock_diag.h): recorded while the daemon runs, so that the next one
--- finds flows whose end was missed.
--
-- Only a socket that was once seen in our network namespace counts: flows that are forwarded, or belong to
-- another namespace, have none here and end when somebody says so.
local ffi = require("ffi")
local api = require("flowd.api")
local log = require("flowd.log")
local loop = require("flowd.loop")

local sockets = {}

local Sockets = {}
Sockets.__index = Sockets

local ERROR_SIZE = 256
local NONE = ffi.C.FLOW_SLOT_NONE

local RECORD_SECONDS = 1
local YOUNG_US = 500000ULL -- short flows are over before anybody asks
local SLOTS_PER_TURN, TURNS_PER_ROUND = 8192, 64
-- After a restart: ends that wait in a pipe come first. A socket that was half closed is gone a minute later
-- (tcp_fin_timeout).
local CHECKS = { 3, 65 }

-- One turn of the loop's worth; the rest in the turns after it.
function Sockets:record(turns)
  self.cursor = api.flow_table_record_sockets(self.table, self.cursor, SLOTS_PER_TURN, api.clock_realtime_us() - YOUNG_US)
  if self.cursor == NONE then
    self.cursor = 0
  elseif turns > 1 then
    self:after("recording", 0, function() self:record(turns - 1) end)
  end
end

function Sockets:after(name, seconds, fn)
  self.handles[name] = loop.after(seconds, function()
    self.handles[name] = nil
    fn()
  end)
end

--- End flows whose socket is gone, a few in each turn of the loop.
---@param from integer slot
---@param ended integer so far
function Sockets:check(from, ended)
  local pipeline, batch = self.pipeline(), self.batch
  local next_slot = api.flow_table_end_missed(self.table, from, SLOTS_PER_TURN, batch)
  ended = ended + batch.count
  pipeline:close_flows(batch)
  if next_slot ~= NONE then
    self:after("checking", 0, function() self:check(next_slot, ended) end)
  elseif ended > 0 then
    log.info("%d flows have ended while no daemon ran, or nobody told: their sockets are gone", ended)
  end
end

function Sockets:close()
  for name, handle in pairs(self.handles) do
    handle:close()
    self.handles[name] = nil
  end
  if self.diag then
    api.flow_table_use_sockets(self.table, nil)
    api.sock_diag_close(self.diag)
    self.diag = nil
  end
end

--- Begin. The handle must be closed before the flow table.
---@param options { table: ffi.cdata*, batch: ffi.cdata*, adopted: boolean, pipeline: fun(): flowd.Pipeline } batch is
---  free between two batches of input; adopted: flows of a process before were taken over
---@return table handle
function sockets.open(options)
  local self = setmetatable({ table = options.table, batch = options.batch, pipeline = options.pipeline, cursor = 0,
    handles = {} }, Sockets)
  local message = ffi.new("char[?]", ERROR_SIZE)
  local diag = api.sock_diag_open(message, ERROR_SIZE)
  if diag == nil then
    log.warn("%s: flows whose end is missed while no daemon runs stay open", ffi.string(message))
    return self
  end
  self.diag = diag
  api.flow_table_use_sockets(self.table, diag)
  self.handles.every = loop.every(RECORD_SECONDS, function()
    if not self.handles.recording then self:record(TURNS_PER_ROUND) end
  end)
  for i, seconds in ipairs(options.adopted and CHECKS or {}) do
    self:after("check " .. i, seconds, function() self:check(0, 0) end)
  end
  return self
end

return sockets
