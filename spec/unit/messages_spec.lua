-- SPDX-License-Identifier: Apache-2.0
-- Mistakes that people make who write their first rules, maps and configurations, and what they are told: where it is,
-- what was found, what was expected, and what to do.
local cleanup = require("spec.support.cleanup")
local config = require("flowd.config")
local support = require("spec.support.policy")
local temp = require("spec.support.temp")

-- What loading a configuration says, "DIR/" taken away.
local function said(text, files)
  local dir = temp.dir()
  for name, contents in pairs(files or {}) do temp.write(dir .. "/" .. name, contents) end
  local path = temp.write(dir .. "/conf.lua", text)
  local loaded, errors = config.load(path)
  assert.is_nil(loaded, text)
  return (table.concat(errors, "\n"):gsub(dir:gsub("%p", "%%%0") .. "/", ""))
end

-- The words of a rule in line 2 on an event: the message of its error.
local function raised(statement)
  local chain = support.chain(([[
    local servers, services = flowd.map.prefixes{ ["::/0"] = "atlas" }, flowd.map.ports{ ["1-65535"] = "atlas" } rule "r" (function(flow)
%s end)]]):format(statement))
  local lines = support.logged(function() support.run(chain) end)
  assert.equal(1, #lines, statement .. " is not refused")
  return lines[1]:match("%]:%d+ %-> %[[^%]]*%]:%d+: ([^\n]*)")
end

describe("a mistake in a declared rule", function()
  after_each(cleanup.all)

  local function declared(body, expected)
    local message = said(("return {\nbackends = { firefly = {} }, rules = { rule \"r\" %s } }"):format(body))
    assert.equal('conf.lua:2: rule "r": ' .. expected, message)
  end

  it("tells field, value and what was expected", function()
    declared('{ match = { dst_port = "1094-" }, drop = true }',
      'match.dst_port: expected a port from 1 to 65535 or a range such as "20000-25000"; got "1094-"')
    declared('{ match = { dstport = 1 }, drop = true }', 'match.dstport: unknown field — did you mean "dst_port"?')
    declared('{ mach = { dst_port = 1 }, drop = true }', 'mach: unknown field — did you mean "match"?')
    declared('{ match = { dst = "example.org" }, drop = true }', 'match.dst: expected a prefix such as "2001:db8::/32"; got "example.org"')
    declared('{ match = { protocol = "sctp" }, drop = true }', 'match.protocol: expected one of tcp, udp; got "sctp"')
    declared('{ match = function() end, drop = true }', "match: expected a table, as in match = { dst_port = 1094 }; got a function")
    declared('{ set = "atlas" }', 'set: expected a table, as in set = { experiment = "atlas" }; got "atlas"')
    declared('{ set = { experiment = "atlas/Data Challenge" } }', 'set.experiment: unknown experiment "atlas/Data Challenge"; '
      .. 'an activity stands beside it: set = { experiment = "atlas", activity = "Data Challenge" }')
    declared('{ set = { experiment = "atlass" } }', 'set.experiment: unknown experiment "atlass" — did you mean "atlas"?')
    declared('{ set = { experiment = 600 } }', "set.experiment: experiment 600: expected an id from 1 to 511")
    declared('{ set = { activity = "Data Challenge" } }',
      'set.activity: "Data Challenge": the name of an activity needs an experiment, in set or in match')
    declared('{ route = "fierfly" }', 'route: no backend "fierfly" is configured (there is firefly) — did you mean "firefly"?')
    declared('{ route = {} }', "route: the list is empty: to send a flow to no backend say drop = true")
    declared('{ match = { dst_port = {} }, drop = true }', "match.dst_port: the list is empty: it would never match")
    declared('{ drop = "yes" }', 'drop: expected true; got "yes"')
    declared('{ match = { duration = "> 5 minutes" }, drop = true }',
      'match.duration: expected seconds, or a range such as "> 5m" or "1h..2h" (ms, s, m, h, d); got "> 5 minutes"')
    declared('{ match = { dst = flowd.map.prefixes{ ["::/0"] = "atlas" } }, drop = true }',
      "match.dst: expected a prefix, a list or a set of prefixes; got map.prefixes")
    declared("{}", "the rule does nothing: expected set, route, drop or accept")
  end)
end)

describe("a mistake in how rules are listed", function()
  after_each(cleanup.all)

  it("is told with what to write", function()
    assert.matches('conf.lua:1: rules: expected a list of rules; got one thing alone: write rules = { rule "r" … }',
      said('return { rules = rule "r" (function() end) }'), 1, true)
    assert.matches('conf.lua:1: rule "r" has no body: expected (function(flow) … end) or {…} behind the name',
      said('return { rules = { rule "r" } }'), 1, true)
    assert.equal('conf.lua:1: rules[1]: expected a rule (rule "name" ...) or the name of a file of rules; got a function: a name stands '
      .. 'before it, and what it does behind the name: rule "name" (function(flow) … end)', said("return { rules = { function() end } }"))
    assert.equal('conf.lua:1: rule: expected a name of 1 to 64 characters, as in rule "web" {…}; got a table',
      said("return { rules = { rule { drop = true } } }"))
    assert.equal('conf.lua:1: rule "r" is not in the list of rules: it would never run', said('rule "r" (function() end) return {}'))
    assert.matches("conf.lua:1: rules%[1%]: r.lua: No such file or directory", said('return { rules = { "r.lua" } }'))
  end)
end)

describe("a mistake in a rule's function", function()
  after_each(cleanup.all)

  local function says(statement, expected) assert.equal("site.lua:2: " .. expected, raised(statement), statement) end

  it("is an error of its line, also where Lua alone would say nothing", function()
    says("flow.dstport = 1", 'a flow has no field "dstport"')
    says("return flow.dstport", 'a flow has no field "dstport" — did you mean "dst_port"?')
    says("flow.dst_port = 1", "flow.dst_port cannot be changed; what can is activity, application, experiment")
    says("flow.tag = 'atlas'", "flow.tag cannot be changed; what can is activity, application, experiment; tag is called: flow:tag(…)")
    says("flow.tag('atlas')", 'tag: expected a colon, not a point, before tag: flow:tag("atlas/Data Challenge")')
    says("flow.route('firefly')", 'route: expected a colon, not a point, before route: flow:route("marker")')
    says("flow:route({ 'firefly' })", 'route: expected names of backends, as in flow:route("marker", "firefly"); got a table')
    says("flow:route()", "route: expected the name of a backend; got nothing")
    says("flow:drop()", 'a flow has no field "drop": a rule says `return drop`')
    says("flow:tag(2)", "tag: expected a tag number from 64 to 32767, or an experiment and an activity; got 2 — the experiment alone is "
      .. "{ 2 }")
    says("flow:tag({ experiment = 2 })", 'tag: expected a pair such as { "atlas", "Data Challenge" } or { 2, 26 }; got a table')
    says("flow:tag({ 2, 26, 1 })", 'tag: expected a pair such as { "atlas", "Data Challenge" } or { 2, 26 }; got three or more values')
    says("flow:tag('atlas/Dta Challenge')", 'unknown activity of atlas "Dta Challenge" — did you mean "Data Challenge"?')
    says("flow.activity = 'Data Challenge'", 'activity "Data Challenge": a name needs an experiment, and none is set')
    says("flowd.log('info', '%d', 'x')", "flowd.log: bad argument #2 of string.format (number expected, got string)")
    says("flowd.every('1', print)", 'flowd.every: expected seconds, a number from 0.01 to 1e+08; got "1"')
    says("flowd.state.table('t'):set('a', {})",
      "state.table: expected a number, a boolean or a text of at most 1024 octets as value; got a table")
    says("flowd.state.table('t'):set(flow, 1)", "state.table: expected a number, an address or a text of at most 256 octets as key; "
      .. "got start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000")
  end)

  it("with addresses, sets and maps is one, too", function()
    says("return (flow.src:within(flow.dst))", "within: expected prefixes; got 2001:db8::2: compare addresses with ==")
    says("return (flow.src:within(services))", "within: expected prefixes; got map.ports: a map is asked with find")
    says("return (flow.src:within({ services }))", "within: expected prefixes; got map.ports: a map is asked with find")
    says("return (flow.src:within({ 7 }))", "within: expected prefixes; got a table")
    says("return (flow.src:within(flow))", "within: expected prefixes; got start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000")
    says("return (flow.src.within('::/0'))",
      'within: expected a prefix, a list or a set of prefixes, as in flow.src:within("2001:db8::/32"); got nil')
    says("servers:find(flow)", "expected an IP address; got start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000")
    says("services:find('1094')", 'find: expected a port, a number from 1 to 65535; got "1094"')
    says("servers:get(flow.src)", 'a map has no function "get"; it has find')
    says("servers(flow.src)", "a map is asked with find, as in servers:find(flow.dst)")
    says("flowd.prefixes('::/0'):has('::1')", 'a set of prefixes has no function "has"; it has contains')
    says("return (flow.src:isprivate())", 'an address has no field "isprivate" (it has family, within, is_private, is_global)')
  end)

  it("is told without a line where Lua knows none, the rule's own stands before it", function()
    assert.equal("drop is returned, not called: write `return drop`", raised("return drop()"))
    assert.equal("within: expected prefixes; got 2001:db8::2: compare addresses with ==", raised("return flow.src:within(flow.dst)"))
  end)
end)

describe("a mistake in a map", function()
  after_each(cleanup.all)

  local function mapped(make, expected, files) assert.equal(expected, said("local m = " .. make .. "\nreturn {}", files), make) end

  it("in a table is told with the line of the map and the entry", function()
    local at = "conf.lua:1: map."
    mapped('flowd.map.prefixes{ "2001:db8::/32" }', at .. 'prefixes: expected a prefix such as "2001:db8::/32"; got the number 1')
    mapped('flowd.map.ports{ ["http"] = "atlas" }',
      at .. 'ports: expected a port from 1 to 65535 or a range such as "20000-25000"; got "http"')
    mapped("flowd.map.exact{ [print] = 'atlas' }", at .. "exact: expected a text or a number; got a function")
    mapped("flowd.map.exact{ x = 2 }", at .. 'exact: ["x"]: tag: expected a tag number from 64 to 32767, or an experiment and an activity; '
      .. "got 2 — the experiment alone is { 2 }")
    mapped("flowd.map.random{ atlas = 'x' }", at .. 'random: ["atlas"]: expected a weight above 0; got "x"')
    mapped("flowd.map.schedule{ weekdays = 'atlas' }",
      at .. 'schedule: "weekdays": unknown day "weekdays"; expected one of mon to sun, days such as "mon-fri", or "always"')
    mapped("flowd.map.schedule{ [''] = 'atlas' }", at .. 'schedule: expected a time such as "mon-fri 08:00-18:00"; got ""')
    mapped("flowd.map.schedule({}, { tz = 'UTC' })", at .. 'schedule: unknown setting "tz"; known is zone')
    mapped("flowd.map.first_of{ { 'dst', 'atlas' } }",
      at .. 'first_of: [1]: expected a field of the flow and a map, as in { "dst", servers }; got "dst", "atlas"')
    mapped("flowd.map.first_of{ { 'dst_port', flowd.map.prefixes{} } }",
      at .. "first_of: [1]: flow.dst_port can be asked of a map.ports; got a map.prefixes")
    mapped("flowd.map.first_of{ { flowd.map.prefixes{} } }",
      at .. 'first_of: [1]: expected a field of the flow and a map, as in { "dst", servers }; got map.prefixes, nil')
  end)

  it("in a file is told with the file's line and what stands there", function()
    mapped('flowd.map.prefixes "a.csv"', 'a.csv:2: expected PREFIX,TAG or PREFIX,EXPERIMENT,ACTIVITY; got 1 field: "::2/128;atlas" '
      .. '— fields are separated by commas, not by ";"', { ["a.csv"] = "::1/128,atlas\n::2/128;atlas\n" })
    mapped('flowd.map.prefixes "a.csv"', 'a.csv:1: expected PREFIX,TAG or PREFIX,EXPERIMENT,ACTIVITY; got 4 fields: "::1,1,2,3"',
      { ["a.csv"] = "::1,1,2,3\n" })
    mapped('flowd.map.exact "a.lua"', 'a.lua:2: ["x"]: unknown experiment "atls" — did you mean "atlas"?',
      { ["a.lua"] = "return {\n  x = 'atls',\n}" })
    assert.matches("conf.lua:1: map.exact: a.csv: No such file or directory", said('flowd.map.exact "a.csv" return {}'))
    assert.matches('map.exact: expected a table { ["dcache-atlas"] = "atlas", … } or the name of a file (.csv, .lua); got "a.txt"',
      said('flowd.map.exact "a.txt" return {}'), 1, true)
  end)

  it("that is none is none: blanks around a hyphen of a schedule", function()
    local path = temp.write(temp.dir() .. "/conf.lua", 'local m = flowd.map.schedule{ ["mon - fri 08:00 - 18:00"] = "atlas" } return {}')
    assert.truthy(config.load(path))
  end)
end)

describe("a function in the options of a plugin", function()
  after_each(cleanup.all)

  it("is refused, whatever the kind of option, and at any depth: options are data", function()
    local files = { ["site.lua"] = [[local schema = require("flowd.schema")
      return { name = "site", doc = "d", schema = { any = schema.any{}, port = schema.port{} }, start = print }]] }
    local function with(option) return said(('return { plugin_dirs = { "." }, plugins = { site = { %s } } }'):format(option), files) end
    assert.equal("conf.lua:1: plugins.site.any: a function cannot be handed to a plugin or backend: options are data", with("any = print"))
    assert.equal("conf.lua:1: plugins.site.any.a[1]: a function cannot be handed to a plugin or backend: options are data",
      with("any = { a = { print } }"))
    assert.equal("conf.lua:1: plugins.site.port: expected a port from 1 to 65535; got a function", with("port = print"))
  end)
end)

describe("a mistake in a plugin's file", function()
  after_each(cleanup.all)

  local HEAD = 'local schema = require("flowd.schema") '

  local function plugin(text, expected)
    local message = said('return { plugin_dirs = { "." }, plugins = { site = {} } }', { ["site.lua"] = text })
      :gsub("schema.lua:%d+", "schema.lua:N"):gsub("in function 'chunk'", "in main chunk")
    assert.equal("conf.lua:1: plugins.site: " .. expected, message)
  end

  it("is told with the file and what it should have", function()
    local at = "plugin 'site' (./site.lua): "
    plugin("return 7", at .. "the file must return a table, as in `return site`; it returns 7")
    plugin('return { name = "sight", doc = "d", schema = {}, start = print }',
      at .. 'expected name to be that of the file, "site"; got "sight"')
    plugin('return { name = "site", doc = "d", schema = { port = "integer" }, start = print }',
      at .. 'schema.port: expected a kind of option, as in schema.port{ default = 10514, doc = "…" }; got "integer"')
    plugin('return { name = "site", doc = "d", schema = { "port" }, start = print }',
      at .. "schema: expected options by name, as in { port = schema.port{ … } }; got 1")
    plugin(HEAD .. 'return { name = "site", doc = "d", schema = { port = schema.port{ defualt = 7 } }, start = print }',
      at .. 'schema.port: "defualt": an option has no such word — did you mean "default"?')
    plugin(HEAD .. 'return { name = "site", doc = "d", schema = { list = schema.list{ of = "port" } }, start = print }',
      at .. 'schema.list.of: expected a kind of option, as in schema.port{ default = 10514, doc = "…" }; got "port"')
    plugin(HEAD .. 'return { name = "site", doc = "d", schema = { port = schema.port{ doc = 7 } }, start = print }',
      at .. "schema.port: doc: expected a string; got 7")
    plugin(HEAD .. 'return { schema = schema.interger{} }',
      './site.lua:1: schema.interger: there is no such kind of option — did you mean "integer"?\nstack traceback:\n'
      .. "  [C]: in function 'error'\n  lua/flowd/schema.lua:N: in function '__index'\n  ./site.lua:1: in main chunk")
  end)
end)
