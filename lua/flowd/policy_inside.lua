-- SPDX-License-Identifier: Apache-2.0
--- Inside a policy state: what it is about, and how calls of the main state get to their functions.
--
-- `p:call("flowd.rules.explain.run", …)` in the main state calls the function `run` of the module
-- flowd.rules.explain here. Trusted callers only: site code never gets at a policy state's handle.
local ffi = require("ffi")
require("flowd.api")
local core = _flowd.policy

---@class flowd.PolicyInside
---@field config flowd.Config|nil the configuration that was loaded here
---@field chain flowd.Chain|nil its rules, compiled
---@field bits table<string, integer>|nil bits of the backends by name
---@field state ffi.cdata*|nil struct state *
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

local function run(address) inside.chain:run(ffi.cast(batch_type, address)) end

--- Find modules where the main state finds them.
---@param path string
function inside.set_module_path(path) package.path = path end

core.serve(call, run)

return inside
