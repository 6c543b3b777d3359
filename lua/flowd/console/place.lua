-- SPDX-License-Identifier: Apache-2.0
--- Where the console's evaluator lives, and how it reaches the rest of the daemon.
jit.off(true, true)

local ffi = require("ffi")
local api = require("flowd.api")

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

-- Names of rules by list and number, and whether they are of today's list.
local names = {}

--- The rule that decided about a flow.
---@param flow ffi.cdata* const struct flow_slot *
---@return string|nil name nil: none, or nobody knows any more
---@return boolean now is it one of today's rules?
function place.rule_of(flow)
  if flow.rule == 0 then return nil, true end
  local key = flow.rules * 65536 + flow.rule
  if names[key] == nil then names[key] = host.call("console_rule", flow.rules, flow.rule) or false end
  return names[key] or nil, flow.rules == api.flow_table_rules(place.table())
end

local flows

--- The table of open flows.
---@return ffi.cdata* struct flow_table *
function place.table()
  if inside.table ~= nil then return inside.table end
  if not flows then flows = ffi.cast("struct flow_table *", host.call("console_table")) end
  return flows
end

return place
