-- SPDX-License-Identifier: Apache-2.0
--- Inside a policy state: what it is about, and how calls of the main state get to their functions.
--
-- `p:call("flowd.rules.explain.run", …)` in the main state calls the function `run` of the module
-- flowd.rules.explain here. Trusted callers only: site code never gets at a policy state's handle.
local ffi = require("ffi")
local api = require("flowd.api")
local memory = require("flowd.memory")
local memory_guard = require("flowd.memory_guard")
local slice = require("flowd.slice")
local watch = require("flowd.watch")
local core = _flowd.policy

---@class flowd.PolicyInside
---@field config flowd.Config|nil the configuration that was loaded here
---@field chain flowd.Chain|nil its rules, compiled
---@field bits table<string, integer>|nil bits of the backends by name
---@field state ffi.cdata*|nil struct state *
---@field table ffi.cdata*|nil struct flow_table *
---@field note ffi.cdata*|nil struct state_running *
---@field active boolean is this the policy that events go through?
local inside = { active = false, heap = ffi.cast("struct heap *", core.heap) }

-- "module.function" -> function.
local found = {}

local function find(name)
  local module, field = name:match("^(.+)%.([^.]+)$")
  local fn = module and require(module)[field]
  if type(fn) ~= "function" then error(("policy: there is no function %s"):format(name), 0) end
  found[name] = fn
  return fn
end

local function call(name, ...) return (found[name] or find(name))(...) end

local batch_type = ffi.typeof("struct flow_batch *")
local watch_memory, guard_memory = memory.watch, memory_guard.watch

local function run(address)
  inside.chain:run(ffi.cast(batch_type, address))
  watch_memory()
  guard_memory(inside.chain)
end

--- Run the rules on a batch, on trial.
---@param address integer
function inside.try(address) inside.chain:try(ffi.cast(batch_type, address)) end

--- Find modules where the main state finds them.
---@param path string
function inside.set_module_path(path) package.path = path end

--- A pointer that came as a number.
---@param ctype string
---@param address integer
function inside.pointer(ctype, address) return ffi.cast(ctype, address) end

-- ---- work that is done in slices -----------------------------------------------------

local slicing

--- Begin a call that is made in steps. What began before is given up. Nothing is compiled meanwhile: machine
--- code cannot be interrupted.
---@param name string
function inside.begin(name, ...)
  local fn = found[name] or find(name)
  jit.off()
  memory.collect_eagerly(true)
  slicing = slice.new(function(...) return fn(...) end, ...)
end

local function stepped(mark, what, ...)
  watch.leave(mark)
  if what ~= "more" then
    slicing = nil
    jit.on()
    memory.collect_eagerly(false)
  end
  return what, ...
end

--- Go on with it.
---@param budget_ns number
---@return "more"|"done"|"error" what
---@return any ... done: results; error: the error, a traceback
function inside.step(budget_ns)
  -- A step that does not come back is the fault of the file that is being loaded, if there is one.
  return stepped(watch.enter("file", watch.file or "the policy"), slicing:step(budget_ns))
end

--- Give up what was begun.
---@return string|nil file which was being loaded
---@return string traceback
function inside.cancel()
  local trace = slicing:cancel()
  slicing = nil
  return watch.file, trace
end

-- ---- life ------------------------------------------------------------------------------

--- Octets in use after a collection.
---@return number
function inside.collect()
  collectgarbage()
  collectgarbage()
  return tonumber(api.heap_used(inside.heap))
end

-- Until rules are compiled: what runs once is not worth it.
jit.off()
core.serve(call, run)

return inside
