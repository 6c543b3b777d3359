-- SPDX-License-Identifier: Apache-2.0
--- UDP outputs (src/udp_out.h) for tests: with counters of their own, freed when the test is over.
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

local C = ffi.C
local udp_out = {}
local methods = {}
local meta = { __index = methods }

local fields = { "sent", "octets", "segmented", "calls", "refused", "failed", "dropped_full", "dropped_too_big",
  "dropped_unsendable", "dropped_stopped", "queued" }

local states = { [C.UDP_OUT_READY] = "ready", [C.UDP_OUT_BLOCKED] = "blocked", [C.UDP_OUT_WAITING] = "waiting",
  [C.UDP_OUT_DOWN] = "down", [C.UDP_OUT_PROBING] = "probing", [C.UDP_OUT_CLOSED] = "closed" }

--- An address as the C side has it.
---@param text string
function udp_out.address(text)
  local address = ffi.new("struct flow_address")
  assert(api.address_parse(text, #text, address) > 0, text)
  return address
end

---@param queue_max integer|nil default 2000
function udp_out.new(queue_max)
  local self = setmetatable({ counters = {} }, meta)
  local c = ffi.new("struct udp_out_counters")
  for _, field in ipairs(fields) do
    self.counters[field] = ffi.new("struct counter")
    c[field] = self.counters[field]
  end
  self.out = api.udp_out_new("output of a test", queue_max or 2000, c)
  assert(self.out ~= nil)
  cleanup.add(function() self:free() end)
  return self
end

function methods:free()
  if self.out then api.udp_out_free(self.out) end
  self.out = nil
end

function methods:count(field) return tonumber(self.counters[field].value) end

function methods:connect(host, port, try_first)
  return api.udp_out_connect(self.out, udp_out.address(host), port, try_first or false)
end

function methods:push(text, host, port)
  api.udp_out_push(self.out, text, #text, host and udp_out.address(host), port or 0)
end

---@return string state
function methods:flush() return states[api.udp_out_flush(self.out)] end

---@return string state
function methods:notice() return states[api.udp_out_notice(self.out)] end

---@return string state
function methods:state() return states[api.udp_out_state(self.out)] end

function methods:queued() return api.udp_out_queued(self.out) end

function methods:retry_in() return api.udp_out_retry_in(self.out) end

--- Do what the loop does for it, until `condition` or the deadline.
function methods:turn_until(what, seconds, condition)
  process.wait_for(what, seconds, function()
    self:notice()
    self:flush()
    return condition()
  end)
end

return udp_out
