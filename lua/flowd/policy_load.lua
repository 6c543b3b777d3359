-- SPDX-License-Identifier: Apache-2.0
--- In a policy state: a configuration is loaded, its rules are compiled, and it takes over.
--
-- What the main state gets is plain data: option values, texts of files, names and places of rules.
local ffi = require("ffi")
local api = require("flowd.api")
local config = require("flowd.config")
local counters = require("flowd.counters")
local definition = require("flowd.rules.definition")
local host = require("flowd.host")
local inside = require("flowd.policy_inside")
local map_timer = require("flowd.map.timer")
local memory = require("flowd.memory")
local memory_guard = require("flowd.memory_guard")
local rules = require("flowd.rules")
local state_copy = require("flowd.state_copy")
local timers = require("flowd.timers")
local view = require("flowd.view")

local load = {}

local function place(rule) return { name = rule.name, file = rule.file, line = rule.line } end

-- Of a configuration, what the main state gets.
local function summary(loaded)
  local values, list, entries = {}, {}, {}
  for name, value in pairs(loaded.values) do values[name] = value end
  values.rules = nil
  for i, rule in ipairs(loaded.rules) do list[i] = place(rule) end
  for i, entry in ipairs(loaded.entries) do
    entries[i] = entry.rule and { rule = place(entry.rule) } or { name = entry.name, rules = {} }
    for j, rule in ipairs(entry.rules or {}) do entries[i].rules[j] = place(rule) end
  end
  return {
    path = loaded.path, directory = loaded.directory, owner = loaded.owner, values = values, rules = list,
    entries = entries, files = loaded.files, sources = loaded.sources, overrides = loaded.overrides,
    registry_file = loaded.registry_file, module_names = loaded.module_names,
  }
end

--- Load a configuration, as flowd.config does.
---@return table|nil summary
---@return string[]|nil errors
function load.run(path, overrides, kept)
  local loaded, errors = config.load(path, overrides, kept)
  if not loaded then return nil, errors end
  inside.config = loaded
  return summary(loaded)
end

--- Compile the rules of what was loaded.
---@param options table state, note, table: addresses as numbers; bits: of the backends by name
---@return integer|nil count of rules
---@return string[]|nil problems
function load.compile(options)
  local loaded = inside.config
  inside.state = ffi.cast("struct state *", options.state)
  inside.note = ffi.cast("struct state_running *", options.note)
  inside.table = ffi.cast("struct flow_table *", options.table)
  inside.bits = options.bits
  memory.set_owner(ffi.cast("const uint32_t *", options.note + ffi.offsetof("struct state_running", "number")))
  memory.set_refused(ffi.cast("bool *", view.cell) + ffi.offsetof(view.cell, "refused"))
  local chain, problems = rules.compile(loaded.rules, {
    note = inside.note, registry = loaded.registry, backends = options.bits, plugins = loaded.values.plugins,
    slow_percent = loaded.values.slow_rule_percent,
    source_id = function(name) return api.state_name_id(inside.state, name) end,
    source_name = function(id)
      local name = api.state_name(inside.state, id)
      return name ~= nil and ffi.string(name) or nil
    end,
  })
  if not chain then return nil, problems end
  inside.chain = chain
  jit.on()
  function chain.on_discard(rule)
    for _, defined in ipairs(loaded.rules) do
      if defined.name == rule.name then definition.discard(defined) end
    end
  end
  return #chain.rules
end

--- Have LuaJIT compile the rules, so that the first events do not wait for it.
function load.warm() inside.chain:prepare() end

--- From now on events go this way.
---@param off table<string, string> scripts that are switched off, "rule NAME": why
function load.activate(off)
  for name in counters.each() do
    if counters.base(name) == "flowd_script_off" then api.counter_get(name).value = 0 end
  end
  for _, rule in ipairs(inside.chain.rules) do
    if off["rule " .. rule.name] then inside.chain:switch(rule, false) end
  end
  inside.active = true
  map_timer.start(function(texts) host.call("map_files_changed", texts) end)
  timers.start(off, function(...) return memory_guard.react(inside.chain, ...) end)
end

--- What rules remember, for the policy that follows: flowd.state_copy.
load.begin_export, load.export_state, load.end_export = state_copy.begin, state_copy.some, state_copy.finish

--- Raises when that is more than scripts may use.
function load.import_state(pieces)
  local before = memory.enter()
  local ok, message = pcall(state_copy.receive, pieces)
  memory.leave(before)
  if not ok then error(message, 0) end
end

return load
