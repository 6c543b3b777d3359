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

-- ---- which rule a number means --------------------------------------------------------

-- Rules have numbers, and flows keep that of the rule that decided; numbers change when rules are typed in. Until
-- when they meant what: { to_us, names }, the oldest first.
local numbering = {}
local since_us = 0

--- When this configuration was loaded: flows that were decided before know numbers of the one before.
function place.set_since(us) since_us = us end

--- From now on numbers mean something else.
function place.renumber()
  local names = {}
  for number, rule in ipairs(inside.chain.rules) do names[number] = rule.name end
  numbering[#numbering + 1] = { to_us = tonumber(require("flowd.api").clock_realtime_us()), names = names }
end

--- The name of a flow's rule; nil: none, or of a configuration before.
---@param number integer
---@param seen_us number when the flow's last event came
---@return string|nil
function place.rule_name(number, seen_us)
  if number == 0 or seen_us < since_us then return nil end
  for _, before in ipairs(numbering) do
    if seen_us < before.to_us then return before.names[number] end
  end
  local rule = inside.chain and inside.chain.rules[number]
  return rule and rule.name
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
