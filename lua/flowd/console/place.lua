-- SPDX-License-Identifier: Apache-2.0
--- Where the console's evaluator lives, and how it reaches the rest of the daemon.
jit.off(true, true)

local ffi = require("ffi")
require("flowd.api")

local place = {}

local host, inside

-- The policy's Lua state; elsewhere what bind() was given.
if _flowd.policy then
  host, inside = require("flowd.host"), require("flowd.policy_inside")
end

--- For a Lua state that is no policy state: specs.
---@param bound table env, config, chain, bits, state; call: function(name, …)
function place.bind(bound) host, inside = bound, bound end

--- Call a function of the daemon: plain values in and out.
---@param name string
function place.call(name, ...) return host.call(name, ...) end

--- Globals of the policy.
function place.env() return inside.env or inside.config.env end

---@return flowd.Registry
function place.registry() return inside.registry or inside.config.registry end

---@return flowd.Chain
function place.chain() return inside.chain end

---@return table<string, integer> bits of the backends, by name
function place.bits() return inside.bits or {} end

--- The state file.
function place.state() return inside.state end

--- Everything that is known here.
function place.inside() return inside end

local flows

--- The table of open flows.
---@return ffi.cdata* struct flow_table *
function place.table()
  if not flows then flows = ffi.cast("struct flow_table *", host.call("console_table")) end
  return flows
end

return place
