-- SPDX-License-Identifier: Apache-2.0
--- Memory of plugins and backends. They share the main state, and each of them may hold so much of it as all
--- scripts of a policy may together: whoever asks for more gets an error, nobody else does. One that really holds
--- most of that, after all garbage is gone, is stopped.
local ffi = require("ffi")
local api = require("flowd.api")
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
