-- SPDX-License-Identifier: Apache-2.0
--- Why a flow becomes what it becomes: the rules on one event, one by one, each with its reasons.
--
-- A dry run takes a copy: nothing is counted, stored or sent, and flowd.state, maps that take turns and timers are
-- afterwards as they were (flowd.dry). A live run does to the event what the chain would.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local dry = require("flowd.dry")
local evaluate = require("flowd.rules.evaluate")
local flow_text = require("flowd.flow_text")
local show = require("flowd.rules.show")
local slice = require("flowd.slice")
local view = require("flowd.view")

local explain = {}

local DROPPED = ffi.C.EVENT_DROPPED

---@class flowd.explain.Rule
---@field number integer
---@field name string
---@field file string
---@field line integer
---@field kind "declared"|"function"
---@field outcome "acted"|"no match"|"nothing"|"failed"|"off"|"not reached"
---@field conditions? { field: string, holds: boolean, actual: string, expected: string }[] of a declared rule
---@field changes { field: string, from: string, to: string }[]
---@field verdict? "drop"|"accept"
---@field error? string
---@field said? string[] by flowd.log and print, which a dry run keeps out of the log
---@field took_ns? integer

---@class flowd.explain.Report
---@field flow string
---@field announced table experiment, activity (ids), tag (text), application, plugin
---@field rules flowd.explain.Rule[]
---@field last_word? integer number of the rule behind which no other was asked
---@field result table outcome ("delivered"|"dropped"|"unmapped"), experiment, activity, tag, route (names), label, rule, took_ns

-- What rules can change, as text.
local function state_of(e, names)
  return {
    experiment = show.experiment(e, names), activity = show.activity(e, names), application = show.application(e),
    route = show.route(e, names), dropped = bit.band(e.flags, DROPPED) ~= 0,
  }
end

local function differences(before, after)
  local list = {}
  for _, field in ipairs({ "experiment", "activity", "application", "route" }) do
    if before[field] ~= after[field] then list[#list + 1] = { field = field, from = before[field], to = after[field] } end
  end
  return list
end

local function declared(chain, rule, e, names, live, entry)
  entry.kind, entry.conditions = "declared", {}
  local matches = true
  local start = api.clock_monotonic_ns()
  local conditions = evaluate.conditions(rule.declaration, e)
  entry.took_ns = tonumber(api.clock_monotonic_ns() - start)
  for i, condition in ipairs(conditions) do
    matches = matches and condition.holds
    entry.conditions[i] = {
      field = condition.field, holds = condition.holds, actual = show.value(condition.field, e, names),
      expected = show.expected(rule.declaration.match[condition.field]),
    }
  end
  if not matches then return false end
  if live then chain:count_hit(rule.number) end
  entry.verdict = evaluate.apply(rule.declaration, e, rule.number)
  e.runs = ffi.C.RULE_RUNS_ALL
  return true
end

local function run_function(chain, rule, e, live, entry)
  entry.kind = "function"
  local start = api.clock_monotonic_ns()
  local ok, acted, verdict = chain:call(rule, e, live)
  entry.took_ns = tonumber(api.clock_monotonic_ns() - start)
  if not ok then
    entry.outcome, entry.error = "failed", acted
    return false
  end
  entry.verdict = verdict
  return acted
end

local before = ffi.new("struct flow_event[1]")

local function explain_rule(chain, rule, e, names, live)
  local entry = { number = rule.number, name = rule.name, file = rule.file, line = rule.line, changes = {} }
  if rule.off then
    entry.kind, entry.outcome = rule.fn and "function" or "declared", "off"
    return entry
  end
  before[0] = e[0]
  local acted
  if rule.fn then acted = run_function(chain, rule, e, live, entry) else acted = declared(chain, rule, e, names, live, entry) end
  entry.said = dry.on and dry.take_said() or nil
  if acted then entry.changes = differences(state_of(before[0], names), state_of(e, names)) end
  entry.outcome = entry.outcome or acted and "acted" or rule.fn and "nothing" or "no match"
  return entry
end

-- What the flow table and the backends would make of it.
local function result_of(e, names, chain)
  local rule = chain.rules[e.rule]
  local result = { rule = rule and rule.name, at = rule and ("%s:%d"):format(rule.file, rule.line) or nil }
  if bit.band(e.flags, DROPPED) ~= 0 then
    result.outcome = "dropped"
  elseif e.experiment == 0 then
    result.outcome = "unmapped"
  else
    result.outcome = "delivered"
    result.experiment = e.experiment
    result.activity = e.activity ~= 0 and e.activity or tonumber(ffi.C.FLOW_ACTIVITY_DEFAULT)
    result.tag = names.registry:describe(result.experiment, result.activity)
    result.route = show.route_names(e.route, names)
    if e.key.family == 6 then result.label = tonumber(api.label_encode(result.experiment, result.activity, 0)) end
  end
  return result
end

-- Rules from number `from` on, until the slice's time is spent: where to go on, behind the last rule in the end.
-- report.last_word: the one that was the last word.
local function explain_some(chain, e, names, live, report, from)
  local count = #chain.rules
  chain:enter()
  for number = from, count do
    local rule = chain.rules[number]
    if report.last_word then
      report.rules[number] = {
        number = number, name = rule.name, file = rule.file, line = rule.line, kind = rule.fn and "function" or "declared",
        outcome = "not reached", changes = {}, after = report.last_word,
      }
    else
      local entry = explain_rule(chain, rule, e, names, live)
      report.rules[number] = entry
      if entry.verdict then report.last_word = number end
    end
    if not live and slice.spent() then return number + 1 end
  end
  return count + 1
end

-- Events are handled between parts of the trial.
local function try_rules(chain, e, names, report)
  local trial, number = dry.trial(), 1
  while number <= #chain.rules do
    local ok, message = trial:run(function() number = explain_some(chain, e, names, false, report, number) end)
    if not ok then error(message, 0) end
    slice.pause()
  end
end

--- Run a chain's rules on one event.
---@param chain flowd.Chain
---@param event ffi.cdata* struct flow_event & or *
---@param options? { live: boolean? } live: on the event itself, with counters and errors as in a batch
---@return flowd.explain.Report
function explain.run(chain, event, options)
  local live = options and options.live or false
  local e = ffi.cast("struct flow_event *", event)
  local copy = not live and ffi.new("struct flow_event[1]") or nil
  if copy then
    copy[0] = e[0]
    e = copy + 0
  end
  local names = chain.binding.names
  names = { registry = names.registry, backends = chain.binding.backends, source_name = chain.binding.source_name }
  local report = {
    flow = view.describe(e), rules = {},
    announced = {
      experiment = e.experiment, activity = e.activity, tag = show.tag(e, names), application = ffi.string(e.application),
      plugin = show.value("plugin", e, names),
    },
  }
  local start = api.clock_monotonic_ns()
  if live then explain_some(chain, e, names, true, report, 1) else try_rules(chain, e, names, report) end
  report.result = result_of(e, names, chain)
  report.result.took_ns = tonumber(api.clock_monotonic_ns() - start)
  if e.state == ffi.C.FLOW_END then
    report.note = "the end of an open flow runs no rules: what its start was given holds"
  end
  return report
end

--- The same for a flow in words (flowd.flow_text).
---@param chain flowd.Chain
---@param text string
---@param options? { plugins: string[]?, live: boolean? } plugins: names of those that are configured
---@return flowd.explain.Report?
---@return string? message what is wrong with the text, with the word underlined
function explain.ask(chain, text, options)
  options = options or {}
  local binding = chain.binding
  local function plugin_id(name)
    for _, known in ipairs(options.plugins or {}) do
      if known == name then return binding.source_id(name) end
    end
  end
  local event = ffi.new("struct flow_event[1]")
  local ok, failure = flow_text.read(text, event[0], {
    registry = binding.names.registry, plugin_id = plugin_id, plugins = options.plugins,
  })
  if not ok then return nil, flow_text.show(text, failure) end
  return explain.run(chain, event, options)
end

-- ---- as text -----------------------------------------------------------------------------

local marks = {
  acted = "yes", ["no match"] = "no", nothing = "-", failed = "ERROR", off = "off", ["not reached"] = "-",
}

local function took(ns)
  if ns < 10000 then return ("%.1f us"):format(ns / 1e3) end
  if ns < 1e7 then return ("%.0f us"):format(ns / 1e3) end
  return ("%.0f ms"):format(ns / 1e6)
end

-- What there is to say of one rule, line by line.
local function reasons(entry)
  local lines = {}
  if entry.outcome == "no match" then
    for _, condition in ipairs(entry.conditions) do
      if not condition.holds then
        lines[#lines + 1] = ("%s is %s; expected %s"):format(condition.field, condition.actual, condition.expected)
      end
    end
  elseif entry.outcome == "nothing" then
    lines[1] = "changed nothing"
  elseif entry.outcome == "failed" then
    lines[1] = tostring(entry.error):match("^[^\n]*") .. " (the flow goes on as if it had not matched)"
  elseif entry.outcome == "off" then
    lines[1] = "is switched off"
  elseif entry.outcome == "not reached" then
    lines[1] = ("not reached: rule %d was the last word"):format(entry.after)
  else
    for _, change in ipairs(entry.changes) do lines[#lines + 1] = ("%s: %s -> %s"):format(change.field, change.from, change.to) end
    if entry.verdict then lines[#lines + 1] = entry.verdict == "drop" and "dropped" or "accepted: no further rule" end
    if #lines == 0 then lines[1] = "matched; what it sets was set already" end
  end
  for _, text in ipairs(entry.said or {}) do lines[#lines + 1] = "says " .. text end
  return lines
end

local function result_lines(report)
  local result, lines = report.result, {}
  local by = result.rule and (", by rule \"%s\" (%s)"):format(result.rule, result.at) or ""
  if result.outcome == "dropped" then
    lines[1] = ("Result: dropped%s: neither marked nor reported"):format(by)
  elseif result.outcome == "unmapped" then
    lines[1] = "Result: its experiment is unset after all rules: neither marked nor reported, only counted (unmapped)"
  else
    lines[1] = ("Result: %s, to %s"):format(result.tag, #result.route > 0 and table.concat(result.route, ", ") or "no backend")
    if result.label then
      lines[1] = lines[1] .. ("; flow label 0x%05x, give or take the bits of 0xc0103"):format(result.label)
    end
    lines[2] = result.rule and ("The last rule that decided something: \"%s\" (%s)"):format(result.rule, result.at)
      or "No rule decided anything: it is as announced"
  end
  return lines
end

--- A report for people.
---@param report flowd.explain.Report
---@param options? { brief: boolean? } brief: only rules that did something
---@return string[] lines
function explain.format(report, options)
  local brief = options and options.brief
  local announced = report.announced
  local lines = {
    ("%s: announced as %s%s%s"):format(report.flow, announced.tag, announced.plugin ~= "unknown" and " by " .. announced.plugin or "",
      announced.application ~= "" and (", application %q"):format(announced.application) or ""),
  }
  if report.note then lines[#lines + 1] = "Note: " .. report.note end
  lines[#lines + 1] = ""
  local width, hidden = 4, 0
  for _, entry in ipairs(report.rules) do width = math.max(width, #entry.name) end
  width = math.min(width, 40)
  for _, entry in ipairs(report.rules) do
    slice.pause()
    if brief and (entry.outcome == "no match" or entry.outcome == "nothing" or entry.outcome == "not reached") then
      hidden = hidden + 1
    else
      local texts = reasons(entry)
      for i, text in ipairs(texts) do
        local time = i == 1 and entry.took_ns and ("  [%s]"):format(took(entry.took_ns)) or ""
        lines[#lines + 1] = i == 1
          and ("%4d  %-" .. width .. "s  %-5s  %s%s"):format(entry.number, entry.name, marks[entry.outcome], text, time)
          or ("%4s  %-" .. width .. "s  %-5s  %s"):format("", "", "", text)
      end
    end
  end
  if #report.rules == 0 then lines[#lines + 1] = "There are no rules." end
  if hidden > 0 then lines[#lines + 1] = ("      (%d rules that did nothing are not shown)"):format(hidden) end
  lines[#lines + 1] = ""
  for _, line in ipairs(result_lines(report)) do lines[#lines + 1] = line end
  lines[#lines + 1] = ("Took %s, asking why included"):format(took(report.result.took_ns))
  return lines
end

return explain
