-- SPDX-License-Identifier: Apache-2.0
local support = require("spec.support.policy")

-- Does a rule with this match act on an event with these fields?
local function matches(match, fields)
  local result = support.run(('rule "r" { match = %s, set = { experiment = 9 } }'):format(match), fields)
  return result.experiment == 9
end

-- Each case: what stands in match, fields that it matches, fields that it does not.
local function cases(list)
  for _, case in ipairs(list) do
    for _, fields in ipairs(case[2]) do
      assert.is_true(matches(case[1], fields), ("%s should match %s"):format(case[1], require("pl.pretty").write(fields, "")))
    end
    for _, fields in ipairs(case[3]) do
      assert.is_false(matches(case[1], fields), ("%s should not match %s"):format(case[1], require("pl.pretty").write(fields, "")))
    end
  end
end

local function problems(text)
  local chain, messages = support.compile(text)
  assert.is_nil(chain)
  return table.concat(messages, "\n")
end

describe("a declared rule matches", function()
  it("everything when it has no match", function()
    assert.is_true(matches("nil", {}))
    assert.is_true(matches("{}", {}))
  end)

  it("protocol, family, state, plugin", function()
    cases({
      { '{ protocol = "tcp" }', { {} }, { { protocol = "udp" } } },
      { '{ protocol = { "tcp", "UDP" } }', { {}, { protocol = "udp" } }, {} },
      { "{ family = 4 }", { { src = "192.0.2.1", dst = "192.0.2.2" } }, { {} } },
      { '{ family = "ipv6" }', { {} }, { { src = "192.0.2.1", dst = "192.0.2.2" } } },
      { '{ state = { "ongoing", "end" } }', { { state = "ongoing" }, { state = "end" } }, { {} } },
      { '{ plugin = "http" }', { { plugin = "http" } }, { { plugin = "pipe" } } },
    })
  end)

  it("ports: one, a range, a list", function()
    cases({
      { "{ dst_port = 1094 }", { { dst_port = 1094 } }, { { dst_port = 1093 }, { dst_port = 1095, src_port = 1094 } } },
      { '{ src_port = "1094" }', { { src_port = 1094 } }, { { src_port = 1 } } },
      { '{ dst_port = "20000-25000" }',
        { { dst_port = 20000 }, { dst_port = 25000 } }, { { dst_port = 19999 }, { dst_port = 25001 } } },
      { '{ dst_port = { 1094, "20000-25000" } }', { { dst_port = 1094 }, { dst_port = 20001 } }, { { dst_port = 1095 } } },
      { '{ dst_port = { 1, 31, 32, "64-95", 65535 } }',
        { { dst_port = 1 }, { dst_port = 31 }, { dst_port = 32 }, { dst_port = 64 }, { dst_port = 95 }, { dst_port = 65535 } },
        { { dst_port = 2 }, { dst_port = 30 }, { dst_port = 33 }, { dst_port = 63 }, { dst_port = 96 }, { dst_port = 65534 } } },
      { '{ dst_port = { "10-20", "15-30", 31 } }', { { dst_port = 10 }, { dst_port = 31 } }, { { dst_port = 9 }, { dst_port = 32 } } },
    })
  end)

  it("addresses: a prefix, a list, a set", function()
    cases({
      { '{ dst = "2001:db8::/32" }', { {} }, { { dst = "2001:db9::1" } } },
      { '{ src = "2001:db8::1" }', { {} }, { { src = "2001:db8::2" } } },
      { '{ src = { "192.0.2.0/24", "2001:db8::/127" } }',
        { {}, { src = "192.0.2.9", dst = "198.51.100.1" } }, { { src = "2001:db8::2" } } },
      { '{ dst = flowd.prefixes{ "2001:db8::/32", "10.0.0.0/8" } }', { {} }, { { dst = "2001:db9::1" } } },
    })
  end)

  it("experiment and activity, by name and number, and unset ones", function()
    cases({
      { '{ experiment = "atlas" }', { { experiment = 2 } }, { {}, { experiment = 3 } } },
      { '{ experiment = { "ATLAS", 3 } }', { { experiment = 2 }, { experiment = 3 } }, { { experiment = 4 } } },
      { '{ experiment = "unset" }', { {} }, { { experiment = 2 } } },
      { "{ experiment = 0 }", { {} }, { { experiment = 2 } } },
      { "{ activity = 26 }", { { activity = 26 } }, { {} } },
      { '{ activity = "unset" }', { {} }, { { activity = 26 } } },
      -- "Data Challenge" is 26 of atlas and 4 of cms.
      { '{ experiment = { "atlas", "cms" }, activity = "data_challenge" }',
        { { experiment = 2, activity = 26 }, { experiment = 3, activity = 4 } },
        { { experiment = 2, activity = 4 }, { experiment = 3, activity = 26 }, { experiment = 4, activity = 26 } } },
      { '{ experiment = { "atlas", "cms" }, activity = { "Data Challenge", 9 } }',
        { { experiment = 2, activity = 26 }, { experiment = 3, activity = 9 } }, { { experiment = 2, activity = 10 } } },
    })
  end)

  it("the application, to its end or up to a *", function()
    cases({
      { '{ application = "xrdcp" }', { { application = "xrdcp" } }, { {}, { application = "xrdcp2" } } },
      { '{ application = { "xrd*", "fts" } }', { { application = "xrdcp" }, { application = "fts" } }, { { application = "ftsd" }, {} } },
    })
  end)

  it("only when every field matches", function()
    cases({
      { '{ dst_port = {1094, "20000-25000"}, dst = "2001:db8::/32", protocol = "tcp", plugin = "pipe" }',
        { { dst_port = 20000 } },
        { { dst_port = 1 }, { dst_port = 1094, dst = "2001:db9::1" }, { dst_port = 1094, protocol = "udp" },
          { dst_port = 1094, plugin = "http" } } },
    })
  end)
end)

describe("a declared rule", function()
  it("sets experiment, activity and application, and leaves the others", function()
    local result = support.run('rule "r" { set = { experiment = "atlas", activity = "Data Challenge" } }', { application = "x" })
    assert.same({ experiment = 2, activity = 26, application = "x", route = -1, rule = 1, dropped = false }, result)
    result = support.run('rule "r" { set = { application = "fts" } }', { experiment = 3, activity = 4, application = "something longer" })
    assert.same({ experiment = 3, activity = 4, application = "fts", route = -1, rule = 1, dropped = false }, result)
    result = support.run('rule "r" { match = { experiment = "cms" }, set = { activity = "Data Challenge" } }', { experiment = 3 })
    assert.same({ 3, 4 }, { result.experiment, result.activity })
    result = support.run('rule "r" { set = { experiment = "unset", activity = 0 } }', { experiment = 3, activity = 4 })
    assert.same({ 0, 0 }, { result.experiment, result.activity })
  end)

  it("routes to the backends it names", function()
    assert.equal(3, support.run('rule "r" { route = { "marker", "firefly" } }').route)
    assert.equal(2, support.run('rule "r" { route = "firefly" }').route)
  end)

  it("drops, or accepts: no later rule runs", function()
    local later = '\nrule "later" { set = { experiment = 9 } }'
    local result = support.run('rule "r" { drop = true }' .. later)
    assert.same({ true, 0, 1 }, { result.dropped, result.experiment, result.rule })
    result = support.run('rule "r" { accept = true, set = { experiment = 8 } }' .. later)
    assert.same({ false, 8, 1 }, { result.dropped, result.experiment, result.rule })
    result = support.run('rule "r" { match = { dst_port = 1 }, drop = true }' .. later)
    assert.same({ false, 9, 2 }, { result.dropped, result.experiment, result.rule })
  end)

  it("is checked as a whole: everything that is wrong is told, with file, line and rule", function()
    local text = problems([[
rule "first" {
  match = { dst_prot = 1094, src_port = { 0, "9-8" }, dst = "2001:db8::1/32", protocol = "tpc", plugin = "pip" },
  set = { experiment = "atlsa" },
  route = { "markr" },
}
rule "second" { mach = {}, drop = 1 }
]])
    for _, expected in ipairs({
      'site.lua:1: rule "first": match.dst_prot: unknown field — did you mean "dst_port"?',
      'site.lua:1: rule "first": match.src_port: expected a port from 1 to 65535 or a range such as "20000-25000"; got 0',
      'match.src_port: the range "9-8" ends before it starts',
      'match.dst: prefix "2001:db8::1/32" has bits set beyond its length — did you mean "2001:db8::/32"?',
      'match.protocol: expected one of tcp, udp; got "tpc"',
      'match.plugin: no plugin "pip" is configured (there is http, pipe) — did you mean "pipe"?',
      'set.experiment: unknown experiment "atlsa" — did you mean "atlas"?',
      'route: no backend "markr" is configured (there is firefly, marker, prometheus) — did you mean "marker"?',
      'site.lua:6: rule "second": mach: unknown field — did you mean "match"?',
      'rule "second": drop: expected true; got 1',
    }) do
      assert.matches(expected, text, 1, true)
    end
  end)

  it("must do something, once, under a name of its own", function()
    assert.matches("the rule does nothing: expected set, route, drop or accept", problems('rule "r" { match = {} }'), 1, true)
    assert.matches("a rule drops or accepts, not both", problems('rule "r" { drop = true, accept = true }'), 1, true)
    assert.matches('site.lua:2: rule "r": the name is taken by the rule at site.lua:1',
      problems('rule "r" { drop = true }\nrule "r" { accept = true }'), 1, true)
    assert.matches("the list is empty: it would never match", problems('rule "r" { match = { protocol = {} }, drop = true }'), 1, true)
  end)

  it("is made of tables, names, numbers and texts where they belong", function()
    for body, expected in pairs({
      ["match = 5, drop = true"] = "match: expected a table, as in match = { dst_port = 1094 }; got 5",
      ["set = true"] = 'set: expected a table, as in set = { experiment = "atlas" }; got true',
      ["match = { protocol = { is = 'tcp' } }, drop = true"] = "match.protocol: expected a value or a list; got a table with named fields",
      ["match = { activity = true }, drop = true"] = "match.activity: expected a name or an id from 1 to 63; got true",
      ["match = { application = 7 }, drop = true"] = "match.application: expected a text; got 7",
      ["match = { application = 'a*b' }, drop = true"] = 'match.application: "a*b": a * stands at the end only',
    }) do
      assert.matches('site.lua:1: rule "r": ' .. expected, problems(('rule "r" { %s }'):format(body)), 1, true)
    end
  end)

  it("refuses a name of an activity without an experiment", function()
    assert.matches('set.activity: "Data Challenge": the name of an activity needs an experiment',
      problems('rule "r" { set = { activity = "Data Challenge" } }'), 1, true)
    assert.matches("has another id for each experiment",
      problems('rule "r" { match = { experiment = { "atlas", "cms" } }, set = { activity = "Data Challenge" } }'), 1, true)
    assert.matches('match.activity: "Data Challenge": the name of an activity needs match.experiment',
      problems('rule "r" { match = { activity = "Data Challenge" }, drop = true }'), 1, true)
  end)

  it("refuses what is out of range", function()
    assert.matches("set.experiment: experiment 512: expected an id from 1 to 511",
      problems('rule "r" { set = { experiment = 512 } }'), 1, true)
    assert.matches("set.activity: activity 64: expected an id from 1 to 63",
      problems('rule "r" { set = { experiment = 2, activity = 64 } }'), 1, true)
    assert.matches("set.application: expected a text of at most 47 octets",
      problems(('rule "r" { set = { application = "%s" } }'):format(("x"):rep(48))), 1, true)
  end)
end)

describe("rule", function()
  it("wants a name and a body, at the line where it stands", function()
    local function refused(text, pattern)
      local ok, message = pcall(support.rules, text)
      assert.is_false(ok)
      assert.matches(pattern, message)
    end
    refused('\nrule { match = {} }', "^site.lua:2: rule: expected a name")
    refused('\nrule "" {}', "^site.lua:2: rule: expected a name")
    refused('\n\nrule "r" "drop"', '^site.lua:3: rule "r": expected a function or a table; got "drop"')
  end)
end)
