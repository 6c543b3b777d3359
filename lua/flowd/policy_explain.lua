-- SPDX-License-Identifier: Apache-2.0
--- In a policy state: the rules of a configuration that was loaded there and does not run, tried on a flow.
local config = require("flowd.config")
local explain = require("flowd.explain")
local inside = require("flowd.policy_inside")
local rules = require("flowd.rules")
local watch = require("flowd.watch")

local policy_explain = {}

-- Ids for the configured plugins, as a state file would give them.
local function plugin_ids(loaded)
  local names, ids = {}, {}
  for name in pairs(loaded.values.plugins) do names[#names + 1] = name end
  table.sort(names)
  for id, name in ipairs(names) do ids[name] = id end
  return names, ids
end

-- One that never returns is named, and the command ends (src/watchdog.h: watchdog_guard).
local function name_rules(chain)
  local call = chain.call
  function chain:call(rule, ...)
    return watch.call("rule", ('rule "%s" (%s:%d)'):format(rule.name, rule.file, rule.line), call, self, rule, ...)
  end
end

--- Explain what the rules would make of a flow in words (flowd.flow_text).
---@param text string
---@return table|nil report as explain.run gives it
---@return string|nil message the words are no flow
function policy_explain.run(text)
  local loaded = inside.config
  local names, ids = plugin_ids(loaded)
  local chain = assert(rules.compile(loaded.rules, {
    registry = loaded.registry, backends = config.backend_bits(loaded), plugins = loaded.values.plugins,
    source_id = function(name) return ids[name] end, source_name = function(id) return names[id] end,
  }), "the rules of a configuration that was loaded can be compiled")
  name_rules(chain)
  return explain.ask(chain, text, { plugins = names })
end

return policy_explain
