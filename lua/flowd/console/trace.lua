-- SPDX-License-Identifier: Apache-2.0
--- Events on their way, for trace{…}: those that match are copied before the rules see them, and explained
--- later, when nothing waits for it.
local ffi = require("ffi")
local api = require("flowd.api")
local place = require("flowd.console.place")
local typed = require("flowd.console.typed")

local trace = {}

local QUEUE_MAX = 200

---@class flowd.console.Trace
---@field query ffi.cdata* conditions
---@field queue ffi.cdata*[] struct flow_event, copies, from number `first` on
---@field first integer
---@field last integer
---@field too_many integer events that came too fast

---@type table<flowd.console.Trace, boolean>
local active = {}
local hooked -- the chain that tells us

local event_type = ffi.typeof("struct flow_event")

local function collect(batch)
  for t in pairs(active) do
    for i = 0, batch.count - 1 do
      local e = batch.event[i]
      if api.flow_query_event(t.query, e) then
        if t.last - t.first < QUEUE_MAX - 1 then
          t.last = t.last + 1
          t.queue[t.last] = event_type(e)
        else
          t.too_many = t.too_many + 1
        end
      end
    end
  end
end

local function unhook()
  if hooked then rawset(hooked, "run", nil) end
  hooked = nil
end

local function hook(chain)
  unhook()
  if not next(active) then return end
  local run = chain.run
  hooked = chain
  rawset(chain, "run", function(self, batch)
    collect(batch)
    return run(self, batch)
  end)
end

typed.on_change(hook)

--- Begin to collect.
---@param query ffi.cdata* struct flow_query *
---@return flowd.console.Trace
function trace.start(query)
  local t = { query = query, queue = {}, first = 1, last = 0, too_many = 0 }
  active[t] = true
  place.call("console_tracing", true)
  hook(place.chain())
  return t
end

--- The oldest event that was not taken yet; nil: there is none.
---@param t flowd.console.Trace
---@return ffi.cdata*|nil struct flow_event
function trace.take(t)
  local event = t.queue[t.first]
  if not event then return nil end
  t.queue[t.first], t.first = nil, t.first + 1
  return event
end

--- How many there was no room for, since the last time.
---@param t flowd.console.Trace
---@return integer
function trace.missed(t)
  local count = t.too_many
  t.too_many = 0
  return count
end

--- And end it.
---@param t flowd.console.Trace
function trace.stop(t)
  active[t] = nil
  if next(active) then return end
  unhook()
  place.call("console_tracing", false)
end

return trace
