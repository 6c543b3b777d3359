-- SPDX-License-Identifier: Apache-2.0
--- Rules that are typed in at the console: they run from the next batch on, and are gone after a reload.
jit.off(true, true)

local api = require("flowd.api")
local arguments = require("flowd.console.arguments")
local changes = require("flowd.console.changes")
local ffi = require("ffi")
local definition = require("flowd.rules.definition")
local format = require("flowd.console.format")
local place = require("flowd.console.place")
local rules = require("flowd.rules")
local suggest = require("flowd.suggest")

local typed = {}

-- The rules as they are now, and which of them were typed in. From the configuration at first.
local list, is_typed

local function current()
  if not list then
    list, is_typed = {}, setmetatable({}, { __mode = "k" })
    for i, rule in ipairs(place.inside().config.rules) do list[i] = rule end
  end
  return list
end

--- Names of the rules that were typed in.
---@return table<string, true>
function typed.names()
  local names = {}
  for _, rule in ipairs(current()) do
    if is_typed[rule] then names[rule.name] = true end
  end
  return names
end

-- The session that compiles rules: another's waits, or it would not know of these.
local compiling

local function alone(session)
  while compiling do session:wait(0.005) end
  compiling = session
  session:defer(function()
    if compiling == session then compiling = nil end
  end)
end

local function note_switch(session, rule, on)
  place.call("console_switch", rule.name, on, session.user)
  local key = "switch " .. rule.name
  if changes.get(key) then
    changes.set(key, nil)
  else
    changes.set(key, ("-- rule %q (%s:%d) is switched %s: %s"):format(rule.name, rule.file, rule.line, on and "on" or "off",
      on and "it had been switched off by the daemon" or "take it out of the files"))
  end
end

--- Switch a rule on or off, and remember it for delta(). Others run meanwhile.
---@param session flowd.console.Session
---@param name string of the rule
---@param on boolean
---@return boolean changed false: it was so already
function typed.switch(session, name, on)
  alone(session)
  local chain, rule = place.chain(), nil
  for _, one in ipairs(chain.rules) do
    if one.name == name then rule = one end
  end
  local changed = rule ~= nil and rule.off == on
  if changed then
    note_switch(session, rule, on)
    local switching = true
    -- Whoever interrupts this has switched it all the same.
    session:defer(function()
      if switching then chain:compile() end
    end)
    session:apart(chain.switch, chain, rule, on, true)
    switching = false
  end
  compiling = nil
  return changed
end

local function position_of(rules_now, name)
  local names = {}
  for i, rule in ipairs(rules_now) do
    if rule.name == name then return i end
    names[i] = rule.name
  end
  return nil, names
end

-- Told when the chain is another one: traces hang on it.
local listeners = {}

---@param fn fun(chain: flowd.Chain)
function typed.on_change(fn) listeners[#listeners + 1] = fn end

-- Rules that are off now are off in another chain.
local function switch_off(chain, before, warm)
  local off = {}
  for _, rule in ipairs(before.rules) do
    if rule.off then off[rule.name] = rule end
  end
  for _, now in ipairs(chain.rules) do
    local rule = off[now.name]
    if rule and not now.off and now.file == rule.file and now.line == rule.line then chain:switch(now, false, warm) end
  end
end

-- Compile another list of rules; an error when something is wrong with it. Others run meanwhile.
local function compile(wanted)
  local inside = place.inside()
  local loaded = inside.config
  local chain, problems = rules.compile(wanted, {
    slow_percent = loaded.values.slow_rule_percent, note = inside.note, registry = loaded.registry,
    backends = inside.bits, plugins = loaded.values.plugins,
    source_id = function(name) return api.state_name_id(inside.state, name) end,
    source_name = function(id)
      local name = api.state_name(inside.state, id)
      return name ~= nil and ffi.string(name) or nil
    end,
  })
  if not chain then error(table.concat(problems, "\n"), 0) end
  switch_off(chain, place.chain(), true)
  return chain
end

-- Use it.
local function use(chain, wanted)
  local inside = place.inside()
  local before = inside.chain
  chain.on_discard = before.on_discard
  -- Those that failed while it was compiled.
  switch_off(chain, before)
  inside.chain = chain
  list = wanted
  for _, listener in ipairs(listeners) do listener(chain) end
  local names = {}
  for number, rule in ipairs(chain.rules) do names[number] = rule.name end
  place.call("console_rules", names)
end

local function check_placement(placement)
  if placement == nil then return end
  if type(placement) ~= "table" then
    error('rule: expected where it goes, as in rule("new", { before = "other" }); got ' .. type(placement), 0)
  end
  for key in pairs(placement) do
    if key ~= "before" and key ~= "after" then
      error(("rule: there is no placement %s%s"):format(tostring(key), suggest.hint(tostring(key), { "before", "after" })), 0)
    end
  end
  if placement.before and placement.after then error("rule: before and after exclude each other", 0) end
end

local function target(rules_now, placement)
  local name = placement.before or placement.after
  local at, names = position_of(rules_now, name)
  if at then return placement.before and at or at + 1 end
  error(("rule: there is no rule %q to put it %s%s"):format(tostring(name), placement.before and "before" or "behind",
    suggest.hint(tostring(name), names)), 0)
end

local function commented(text) return "-- " .. text:gsub("\n", "\n-- ") end

-- A rule as an entry of the list `rules`: as it was typed, if that was one rule and nothing else.
local function entry_of(rule, code)
  local text = code:gsub("(%f[%w_]rule%s*)%(%s*([\"'][^\"']*[\"'])%s*,%s*%b{}%s*%)", "%1%2"):gsub("^%s+", ""):gsub("[%s,;]+$", "")
  local _, times = text:gsub("%f[%w_]rule%f[^%w_]", "")
  if times == 1 and text:find("^rule") and load("return {" .. text .. "}", "=delta", "t") then return text .. "," end
  if type(rule.body) == "table" then
    text = ("rule %s %s"):format(format.quote(rule.name), format.line(rule.body, math.huge))
    if load("return {" .. text .. "}", "=delta", "t") then return text .. "," end
  end
  return ("-- rule %q came of this, which is more than an entry of a list:\n%s"):format(rule.name, commented(code))
end

-- What it takes to say the same in a file.
local function in_files(rule, text, placement, session, replaced)
  local comments = {}
  if placement then
    comments[1] = placement.before and ("before rule %q:"):format(placement.before) or ("behind rule %q:"):format(placement.after)
  elseif replaced then
    comments[1] = ("in place of rule %q:"):format(rule.name)
  else
    comments[1] = "at the end of rules:"
  end
  for name in pairs(session.variables) do
    if name ~= "_" and text:find("%f[%w_]" .. name .. "%f[^%w_]") then
      comments[#comments + 1] = ("%s was assigned at the prompt: it has to be there too"):format(name)
    end
  end
  for i, comment in ipairs(comments) do comments[i] = "-- " .. comment .. "\n" end
  return table.concat(comments) .. entry_of(rule, text)
end

--- A rule that has been typed in.
---@param session flowd.console.Session
---@param rule flowd.Rule
---@param placement? { before: string?, after: string? }
function typed.add(session, rule, placement)
  alone(session)
  local wanted = {}
  for i, other in ipairs(current()) do wanted[i] = other end
  local at = position_of(wanted, rule.name)
  local replaced = at ~= nil
  if replaced then table.remove(wanted, at) end
  if placement then at = target(wanted, placement) end
  if type(rule.body) == "function" then jit.on(rule.body, true) end
  table.insert(wanted, at or #wanted + 1, rule)
  local text = in_files(rule, session.code, placement, session, replaced)
  local chain = session:apart(compile, wanted)
  use(chain, wanted)
  is_typed[rule] = true
  changes.set("rule " .. rule.name, text)
  compiling = nil
end

-- Of what was typed.
local function line_of_caller()
  for level = 2, 10 do
    local at = debug.getinfo(level, "Sl")
    if not at then break end
    if at.source == "=console" then return at.currentline end
  end
  return 1
end

--- The word `rule` of a session.
---@param session flowd.console.Session
---@param name string
---@param placement? { before: string?, after: string? }
---@return fun(body: function|table)
function typed.rule(session, name, placement)
  check_placement(placement)
  local line = line_of_caller()
  local give = definition.maker(function() end, {})(name)
  return function(body)
    arguments.check("rule", body)
    session:change(("rule %q: %s"):format(tostring(name), session.code:gsub("%s+", " "):sub(1, 300)))
    local rule = give(body)
    definition.place(rule, "console", line)
    typed.add(session, rule, placement)
    return ("rule %q is in force; a reload takes it away, delta() tells it"):format(rule.name)
  end
end

return typed
