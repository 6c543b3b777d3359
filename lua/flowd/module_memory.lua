-- SPDX-License-Identifier: Apache-2.0
--- Memory of plugins and backends. They share the main state, and each of them may hold so much of it as all
--- scripts of a policy may together: whoever asks for more gets an error, nobody else does. One that really holds
--- most of that, after all garbage is gone, is stopped.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local watch = require("flowd.watch")

local module_memory = {}

local MIB = 2 ^ 20
-- Of the limit, in use after a collection: not one large thing that was asked for, but a hoard.
local FULL = 0.5

local heap = not _flowd.policy and ffi.cast("struct heap *", _flowd.heap) or nil
local heap_uses_more, act_as = api.heap_uses_more, api.heap_act_as
local seen = 0
local discard = function() end
local tuned = false
local limit_now = math.huge

--- What to do with one that holds too much.
---@param on_hoard fun(kind: string, name: string, why: string) stops a plugin or backend; called from within it
function module_memory.start(on_hoard) discard = on_hoard end

---@param mebibytes number of each
function module_memory.set_limit(mebibytes)
  limit_now = mebibytes
  api.heap_set_owner_limit(heap, mebibytes * MIB)
end

--- In MiB.
---@param kind string
---@param name string
---@return number
function module_memory.used_by(kind, name) return tonumber(api.heap_used_by(heap, watch.number(kind, name))) / MIB end

-- What is garbage counts until it is collected: in time, when there is much of it.
-- Makes no garbage itself: there may be no room for it.
local function tune()
  local near = heap_uses_more(heap, limit_now * MIB / 4)
  if near == tuned then return end
  tuned = near
  collectgarbage("setpause", near and 110 or 200)
  collectgarbage("setstepmul", near and 400 or 200)
end

--- Now and then, in the main state.
function module_memory.watch() tune() end

local function acted(before, ...)
  act_as(heap, before)
  return ...
end

--- Call a function that raises nothing, xpcall or such: what it takes of memory is the plugin's.
---@param kind string
---@param name string
---@param fn function
---@return any ... its results
function module_memory.call_as(kind, name, fn, ...)
  if not heap then return fn(...) end
  return acted(act_as(heap, watch.number(kind, name)), fn(...))
end

--- What waits in a connection, to be written or to be read, is its owner's memory from now on.
---@param stream ffi.cdata* struct stream *
---@param kind string
---@param name string
function module_memory.own_stream(stream, kind, name)
  if heap then api.stream_own(stream, heap, watch.number(kind, name)) end
end

--- There was no room for what a connection was to hold: counted, and logged at a limited rate.
---@param ctx table the owner
---@return string message
function module_memory.no_room(ctx)
  local counter = counters.get("flowd_memory_refused_total", { kind = ctx.kind, name = ctx.name })
  counter.value = counter.value + 1
  local message = ("not enough memory: it holds %.1f MB of the %d MB that memory_limit allows, of which connections may "
    .. "fill all but one part in %d"):format(module_memory.used_by(ctx.kind, ctx.name), limit_now, ffi.C.HEAP_HOLD_REST)
  ctx.report("error", "%s %s: a connection: %s", ctx.kind, ctx.name, message)
  return message
end

--- A plugin or backend raised: was memory refused?
---@param kind "plugin"|"backend"
---@param name string
function module_memory.failed(kind, name)
  if not heap or api.heap_refusals(heap) == seen then return end
  collectgarbage()
  collectgarbage()
  seen = api.heap_refusals(heap)
  tune()
  local used, limit = module_memory.used_by(kind, name), limit_now
  if used < FULL * limit then return end
  discard(kind, name, ("it holds %.0f MB of the %.0f MB that memory_limit allows each plugin and backend"):format(used, limit))
end

return module_memory
