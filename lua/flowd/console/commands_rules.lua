-- SPDX-License-Identifier: Apache-2.0
--- Commands of the console about rules: what they do, switching, typing, explaining, tracing. May be left
--- anywhere.
jit.off(true, true)

local bit = require("bit")
local ffi = require("ffi")
local changes = require("flowd.console.changes")
local fields = require("flowd.console.flow_fields")
local format = require("flowd.console.format")
local place = require("flowd.console.place")
local slice = require("flowd.slice")
local suggest = require("flowd.suggest")
local view = require("flowd.view")

slice.may_be_left()

local function explain() return require("flowd.explain") end
local function typed() return require("flowd.console.typed") end

local function find(command, name)
  local names = {}
  if type(name) ~= "string" and type(name) ~= "number" then
    error(("%s: expected the name of a rule, or its number in rules(); got %s"):format(command, type(name)), 0)
  end
  for i, rule in ipairs(place.chain().rules) do
    if rule.name == name or i == name then return rule end
    names[i] = rule.name
  end
  error(("%s: there is no rule %s%s"):format(command, type(name) == "string" and ("%q"):format(name) or tostring(name),
    type(name) == "string" and suggest.hint(name, names) or ""), 0)
end

local function duration(ns)
  if not ns then return "" end
  if ns < 1e4 then return ("%.0f ns"):format(ns) end
  if ns < 1e7 then return ("%.0f us"):format(ns / 1e3) end
  return ("%.0f ms"):format(ns / 1e6)
end

local function show_rules(list, write, width)
  if #list == 0 then return write("there are no rules\n") end
  local function row(i)
    local r = list[i]
    return { tostring(i), r.name, ("%d"):format(r.hits), ("%d"):format(r.errors), duration(r.event_ns),
      r.event_ns and r.share and ("%.1f%%"):format(r.share * 100) or "", r.state, r.from }
  end
  format.columns({ { title = "", right = true }, { title = "NAME" }, { title = "HITS", right = true },
    { title = "ERRORS", right = true }, { title = "TIME", right = true, optional = true },
    { title = "SHARE", right = true, spare = 2, optional = true }, { title = "STATE" },
    { title = "FROM", spare = 1 } }, #list, row, write, width)
end

local function rules()
  local list, typed_in = {}, typed().names()
  place.chain():update_times()
  for i, rule in ipairs(place.chain().rules) do
    list[i] = {
      number = i, name = rule.name, hits = rule.hits, errors = rule.errors, event_ns = rule.event_ns, share = rule.share,
      state = rule.off and "off" or "on", file = rule.file, line = rule.line,
      from = typed_in[rule.name] and "typed in" or ("%s:%d"):format(rule.file:match("[^/]*$"), rule.line),
    }
  end
  return format.view(list, { text = show_rules, rows = true })
end

local function switch(command, on)
  return function(session, name)
    local rule = find(command, name)
    if on and not rule.fn and not rule.declaration then
      error(("%s: rule %q was thrown away because it took too much memory: it is there again after a reload"):format(command,
        rule.name), 0)
    end
    session:change(("%s %q"):format(command, rule.name))
    if not typed().switch(session, rule.name, on) then
      return ("rule %q was %s already"):format(rule.name, on and "on" or "off")
    end
    return ("rule %q is %s"):format(rule.name, on and "on" or "off: flows that are open keep what it decided")
  end
end

-- Line by line: there may be thousands.
local function write_lines(lines, write)
  for _, line in ipairs(lines) do write(line .. "\n") end
end

local function show_lines(report, write) write_lines(explain().format(report), write) end

local function explain_flow(_, what)
  local text = what
  if type(what) == "table" then
    local words = require("flowd.console.flow_words")
    text = words.describe(words.event(what, "explain"))
  elseif type(what) ~= "string" then
    error('explain: expected a flow in words, as in explain "tcp ::1 2345 ::1 5777 atlas Data_Challenge"; got ' .. type(what), 0)
  end
  local names = { "console" }
  for name in pairs(place.inside().config.values.plugins) do names[#names + 1] = name end
  local report, message = explain().ask(place.chain(), text, { plugins = names })
  if not report then error("explain: " .. message, 0) end
  return format.view(report, { text = show_lines })
end

local function show_event(session, event, all)
  if event.state == ffi.C.FLOW_END or bit.band(event.flags, ffi.C.EVENT_DECIDED) ~= 0 then
    local flow, note = view.describe(event), "as its start was decided"
    session:stream({ flow = flow, note = note }, function(write) write(flow .. ": " .. note .. "\n\n") end)
    return
  end
  local report = explain().run(place.chain(), event)
  session:stream(report, function(write)
    write_lines(explain().format(report, { brief = not all }), write)
    write("\n")
  end)
end

local function trace(session, given)
  given = given == nil and {} or given
  require("flowd.console.commands").check_arguments("trace", given)
  local left = given.count or math.huge
  if type(left) ~= "number" or left < 1 then error("trace: count: expected 1 or more; got " .. tostring(left), 0) end
  local query = fields.query()
  fields.restrict(query, given)
  local tracing = require("flowd.console.trace")
  local t = tracing.start(query)
  session:defer(function() tracing.stop(t) end)
  while left > 0 do
    local event = tracing.take(t)
    while event do
      show_event(session, event, given.all)
      left = left - 1
      event = left > 0 and tracing.take(t)
    end
    local missed = tracing.missed(t)
    if missed > 0 then session:say(("(%d more came too fast to be shown)\n"):format(missed)) end
    if left > 0 then session:wait(0.05) end
  end
end

-- Not called here: a slice of it is a batch, which must not be left in the middle.
local function reapply(session, options)
  options = options == nil and {} or options
  if type(options) ~= "table" then error("reapply: expected nothing or {dry=true}; got " .. tostring(options), 0) end
  for key, value in pairs(options) do
    if key ~= "dry" or type(value) ~= "boolean" then error(("reapply: unknown option %s: expected {dry=true}"):format(tostring(key)), 0) end
  end
  if not options.dry then session:change("reapply") end
  local ok, message = place.call("reapply_start", { dry = options.dry or false })
  if not ok then error(message, 0) end
  local counts = place.call("reapply_status")
  while not counts.done do
    session:wait(0.02)
    counts = place.call("reapply_status")
  end
  if counts.failure then error("reapply: " .. counts.failure, 0) end
  return format.view(counts, { text = function(now, write) write(now.text .. "\n") end })
end

local conditions = {
  count = "end after so many events", all = "true: also rules that did nothing",
  protocol = '"tcp" or "udp"', family = "4 or 6", src = "this host's end: an address or a prefix", dst = "the other end",
  host = "either end", src_port = 'a port, or a range as in "5000-6000"', dst_port = "the same, of the other end",
  port = "either port", experiment = "as it was announced: a name or an id", activity = "the same",
  application = "the same", plugin = "the plugin that announced it",
}

local function show_delta(lines, write)
  if #lines == 0 then
    write("nothing: what runs is what the files say\n")
  else
    write_lines(lines, write)
  end
end

return {
  {
    name = "rules", usage = "rules()", summary = "the rules in order: hits, errors, time, on or off, where from",
    doc = [[TIME is what the rule took of late for each event that came to it, SHARE its part of the daemon's time; both are measured on
a sample of the events, and not there until there were some. Rules that were typed in stand where they run. enable(NAME) and
disable(NAME) switch one on and off.]],
    example = "rules()", query = true, run = rules,
  },
  {
    name = "rule", usage = 'rule("NAME", {before="OTHER"}) {…}', summary = "types in a rule, as in the files; it takes effect at once",
    doc = [[rule "NAME" { match = {…}, set = {…} } or rule "NAME" (function(flow) … end), as flowd-lua-rules(7) says. Without a
second argument it goes behind all others, or in place of the rule of the same name; { before = "OTHER" } or
{ after = "OTHER" } puts it elsewhere. Open flows keep what was decided for them; reapply() decides anew.

It is gone after a reload, which says so; delta() prints it as it could go into the files.]],
    example = 'rule "tests" { match = { dst_port = "5201-5210" }, drop = true }', changes = true,
    run = function(session, name, placement) return typed().rule(session, name, placement) end,
  },
  {
    name = "enable", usage = "enable(NAME)", summary = "switches a rule on again",
    doc = "NAME is the rule's, or its number in rules().", example = "enable(1)", changes = true, run = switch("enable", true),
  },
  {
    name = "disable", usage = "disable(NAME)", summary = "switches a rule off, until a reload",
    doc = "NAME is the rule's, or its number in rules(). Flows that are open keep what it decided.", example = "disable(1)",
    changes = true, run = switch("disable", false),
  },
  {
    name = "explain", usage = 'explain "FLOW"', summary = "what the rules would make of a flow, rule by rule, and why",
    doc = [[FLOW is "tcp 2001:db8::1 1094 2001:db8::2 40000 [EXPERIMENT ACTIVITY] [KEY=VALUE …]", or named arguments as for inject.
Nothing is counted, stored or sent.]],
    example = 'explain "tcp ::1 2345 ::1 5777 atlas Data_Challenge"', run = explain_flow,
  },
  {
    name = "reapply", usage = "reapply([{dry=true}])", summary = "runs today's rules over all open flows and changes marks in place",
    doc = [[Each open flow is decided anew from what it was announced with. Another tag changes the mark in place; backends that are
new in its route get a start, others an end; a flow that is dropped or has no experiment now ends. With dry=true it only
counts what would change.]],
    example = "reapply()", changes = true, run = reapply,
    asks = function(options) return type(options) == "table" and options.dry == true end,
  },
  {
    name = "trace", usage = "trace{…}", summary = "live events, rule by rule, until Ctrl-C or a count",
    doc = [[Shows what the rules made of each event that matches, rules that did nothing left out unless all=true. Events that come
faster than they can be shown are counted. With eval --json each event is JSON in a line of its own, as explain gives it.]],
    example = "trace{count=1}", arguments = conditions, run = trace,
  },
  {
    name = "delta", usage = "delta()", summary = "what was changed at the console and is not in the files, as Lua that could go there",
    doc = "A reload takes all of it away.", example = "delta()", query = true,
    run = function() return format.view(changes.lines(), { text = show_delta, rows = true }) end,
  },
}
