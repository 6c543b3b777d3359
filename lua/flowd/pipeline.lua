-- SPDX-License-Identifier: Apache-2.0
--- The way of a batch: flow table, rules, flow table, backends.
--
-- Everything here is entered once per batch. A backend that raises is logged and counted, and
-- the others go on; so does the pipeline.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local known_tags = require("flowd.known_tags")
local log = require("flowd.log")
local loop = require("flowd.loop")
local module_memory = require("flowd.module_memory")
local pages = require("flowd.pages")
local call_as = require("flowd.protect").call_as
local watch = require("flowd.watch")

local resolve, commit, release = api.flow_table_resolve, api.flow_table_commit, api.flow_table_release
local succeeded = api.flow_table_succeeded

local check_tags = known_tags.check
local watch_memory = module_memory.watch
local enter, leave = api.watchdog_enter, api.watchdog_leave
local RULE, BACKEND = ffi.C.STATE_RUNNING_RULE, ffi.C.STATE_RUNNING_BACKEND

-- While flows are ended in bulk each batch is waited for, until a backend gets nothing away for
-- this long: then no more.
local PATIENCE_NS = 500000000ULL

---@class flowd.Pipeline
---@field chain flowd.Chain may be exchanged between two batches
local Pipeline = {}
Pipeline.__index = Pipeline

local pipeline = {}

-- A backend with its own protected calls.
local function prepare(entry)
  local errors = counters.get("flowd_backend_errors_total", { backend = entry.name })
  local say = log.limited(5, 60)
  local instance, name = entry.instance, entry.name
  local number = watch.number("backend", name)
  local function failed(message)
    errors.value = errors.value + 1
    say("error", "backend '%s': %s", name, message)
    module_memory.failed("backend", name)
  end
  return {
    instance = instance, bit = entry.bit,
    complete = instance.complete and function(events, count)
      local mark = enter(BACKEND, 0, name)
      local ok, message = call_as(number, instance.complete, instance, events, count)
      leave(mark)
      if not ok then failed(message) end
    end,
    on_events = function(events, count)
      local mark = enter(BACKEND, 0, name)
      local ok, message = call_as(number, instance.on_events, instance, events, count)
      leave(mark)
      if not ok then failed(message) end
    end,
    flush = function()
      if not instance.flush then return end
      local mark = enter(BACKEND, 0, name)
      local ok, message = call_as(number, instance.flush, instance)
      leave(mark)
      if not ok then failed(message) end
    end,
    pending = function()
      if not instance.pending then return 0 end
      local mark = enter(BACKEND, 0, name)
      local waiting
      local ok, message = call_as(number, function() waiting = instance:pending() end)
      leave(mark)
      if ok and type(waiting) == "number" then return waiting end
      failed(message or ("pending: expected a number; got a %s"):format(type(waiting)))
      return 0
    end,
  }
end

--- A pipeline.
---@param options table table (struct flow_table *), batch (struct flow_batch *, for drain), chain, backends: list
---   of { name, bit (mask of a route), instance }; observe (optional): function(events, count), sees decided events
---@return flowd.Pipeline
function pipeline.new(options)
  local self = setmetatable({
    table = options.table, batch = options.batch, chain = options.chain, backends = {}, known = 0,
    observe = options.observe or function() end,
    missed = pages.new("struct flow_batch"), say = log.limited(5, 60),
  }, Pipeline)
  for i, entry in ipairs(options.backends) do
    self.backends[i] = prepare(entry)
    self.known = bit.bor(self.known, entry.bit)
  end
  return self
end

-- What backends know of the flows is added to the events; then each queues what it has to do.
function Pipeline:queue(batch)
  local backends = self.backends
  local events, count = batch.event, batch.count
  self.observe(events, count)
  for i = 1, #backends do
    if backends[i].complete then backends[i].complete(events, count) end
  end
  for i = 1, #backends do backends[i].on_events(events, count) end
end

-- Hand a decided batch to the backends, each of which queues; then let each send.
function Pipeline:deliver(batch)
  local backends = self.backends
  self:queue(batch)
  for i = 1, #backends do backends[i].flush() end
end

--- Run the rules on what is not decided.
---@param batch ffi.cdata* struct flow_batch *
function Pipeline:decide(batch)
  local mark = enter(RULE, 0, "rules")
  self.chain:run(batch)
  leave(mark)
  check_tags(batch)
end

--- The same on trial: nothing but the batch changes.
---@param batch ffi.cdata* struct flow_batch *
function Pipeline:try(batch)
  local mark = enter(RULE, 0, "rules")
  self.chain:try(batch)
  leave(mark)
end

--- Run a batch through. When this returns, the flow table has it and every backend took its part.
---@param batch ffi.cdata* struct flow_batch *
function Pipeline:run(batch)
  if batch.count == 0 then return end
  local flows = self.table
  resolve(flows, batch)
  self:decide(batch)
  commit(flows, batch, self.known)
  if succeeded(flows, self.missed) > 0 then self:deliver_missed() end
  self:deliver(batch)
  release(flows, batch)
  watch_memory()
end

-- Flows whose end nobody told: other ones begin in the batch, with the same addresses and ports.
function Pipeline:deliver_missed()
  local missed = self.missed
  self.say("info", "%d flows started again and their sockets from before are gone: those have ended, nobody told",
    missed.count)
  self:queue(missed)
end

--- Hand the ends that the flow table made by itself to the backends; then the flows are closed.
---@param batch ffi.cdata* struct flow_batch *
function Pipeline:close_flows(batch)
  if batch.count > 0 then self:deliver(batch) end
  release(self.table, batch)
end

--- Have each backend send what it can.
function Pipeline:flush()
  for _, backend in ipairs(self.backends) do backend.flush() end
end

--- Messages that wait in the backends' queues.
---@return integer
function Pipeline:pending()
  local total = 0
  for _, backend in ipairs(self.backends) do total = total + backend.pending() end
  return total
end

-- Give the backends time while that helps: a queue that would overflow loses its oldest.
function Pipeline:wait(deadline_ns)
  local waiting = self:pending()
  local now = api.clock_monotonic_ns()
  local give_up = now + PATIENCE_NS
  while waiting > 0 and not self.stuck and now < deadline_ns do
    loop.turn()
    self:flush()
    now = api.clock_monotonic_ns()
    local left = self:pending()
    if left < waiting then
      waiting, give_up = left, now + PATIENCE_NS
    else
      self.stuck = now >= give_up
    end
  end
end

--- End every open flow, until the deadline (clock_monotonic_ns).
---@param deadline_ns ffi.cdata*|number
---@return integer ended
---@return integer left flows for which there was no time
function Pipeline:drain(deadline_ns)
  local flows, batch = self.table, self.batch
  local ended = 0
  while api.clock_monotonic_ns() < deadline_ns do
    local count = api.flow_table_drain(flows, batch)
    if count == 0 then return ended, 0 end
    self:close_flows(batch)
    ended = ended + count
    self:wait(deadline_ns)
  end
  return ended, api.flow_table_count(flows)
end

return pipeline
