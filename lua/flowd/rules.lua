-- SPDX-License-Identifier: Apache-2.0
--- Site policy: rules, from what a configuration says to the chain that the pipeline runs.
--
-- flowd.policy makes the environment in which rules are written, flowd.rules.declaration
-- checks declared ones, flowd.rules.generate compiles, flowd.rules.chain runs.
local chain = require("flowd.rules.chain")
local declaration = require("flowd.rules.declaration")
local definition = require("flowd.rules.definition")
local policy = require("flowd.policy")
local slice = require("flowd.slice")

local rules = {}

rules.is_rule = definition.is_rule

-- Ids of plugins where no state file gives them (`check`, specs).
local function own_ids()
  local ids, names = {}, {}
  return function(name)
    if not ids[name] then
      names[#names + 1] = name
      ids[name] = #names
    end
    return ids[name]
  end, function(id) return names[id] end
end

---@class flowd.rules.Options
---@field registry flowd.Registry
---@field backends table<string, integer> bit mask by name
---@field plugins? table<string, any> the configured ones by name: others are errors in match.plugin
---@field source_id? fun(name: string): integer id of a plugin, as events carry it
---@field source_name? fun(id: integer): string?
---@field note? ffi.cdata* struct state_running *, see flowd.rules.chain
---@field failures_max? integer a rule that fails on so many of
---@field failures_window? integer so many events is switched off
---@field slow_percent? number rules that take more of the daemon's time are named; 0 or nil: it is not measured

-- Everything but the chain: what is wrong, and the rules as chain.new takes them.
local function prepare(list, options, source_id)
  local problems, prepared, seen = {}, {}, {}
  for _, problem in ipairs(policy.bind_maps(options.registry)) do problems[#problems + 1] = problem end
  for number, rule in ipairs(list) do
    slice.pause()
    if not definition.is_rule(rule) then error(("rules: item %d is no rule"):format(number), 3) end
    local where = ('%s:%d: rule "%s": '):format(rule.file, rule.line, rule.name)
    if seen[rule.name] then problems[#problems + 1] = where .. "the name is taken by the rule at " .. seen[rule.name] end
    seen[rule.name] = seen[rule.name] or ("%s:%d"):format(rule.file, rule.line)
    local entry = { name = rule.name, file = rule.file, line = rule.line }
    if type(rule.body) == "function" then
      entry.fn = rule.body
    else
      local messages
      entry.declaration, messages = declaration.check(rule.body, {
        registry = options.registry, backends = options.backends, plugins = options.plugins, source_id = source_id,
      })
      for _, message in ipairs(messages or {}) do problems[#problems + 1] = where .. message end
    end
    prepared[number] = entry
  end
  return problems, prepared
end

--- What is wrong with rules, and with the maps of their files.
---@param list flowd.Rule[]
---@param options flowd.rules.Options
---@return string[] problems each "FILE:LINE: rule "name": path: message"
function rules.check(list, options)
  local source_id = own_ids()
  return (prepare(list, options, options.source_id or source_id))
end

--- Compile rules, in order.
---@param list flowd.Rule[]
---@param options flowd.rules.Options
---@return flowd.Chain? chain
---@return string[]? problems all of them, as rules.check tells them
function rules.compile(list, options)
  local source_id, source_name = options.source_id, options.source_name
  if not source_id then source_id, source_name = own_ids() end
  local problems, prepared = prepare(list, options, source_id)
  if #problems > 0 then return nil, problems end
  return chain.new(prepared, {
    registry = options.registry, backends = options.backends, source_name = source_name, source_id = source_id,
    note = options.note,
    failures_max = options.failures_max, failures_window = options.failures_window,
    slow_percent = options.slow_percent,
  })
end

return rules
