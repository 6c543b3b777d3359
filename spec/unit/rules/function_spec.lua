-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local support = require("spec.support.policy")

-- Run a rule with this body; what it returned through `out` is checked by `expect`.
local function body(text) return ('rule "r" (function(flow)\n%s\nend)'):format(text) end

-- The error that a rule with this body raises.
local function raised(text, fields)
  local lines = support.logged(function() support.run(body(text), fields) end)
  assert.equal(1, #lines)
  return lines[1]
end

-- What an expression gives inside a rule.
local function value(expression, fields)
  local environment = require("flowd.policy").new()
  local result
  environment.box:define("out", function(v) result = v end)
  assert(environment:load(body("out(" .. expression .. ")"), "@site.lua"))()
  local chain = assert(require("flowd.rules").compile(environment:take_rules(), {
    registry = support.names, backends = support.backends, source_id = function() return 1 end,
    source_name = function(id) return ({ "pipe", "http" })[id] end,
  }))
  local lines = support.logged(function() support.run(chain, fields) end)
  assert.same({}, lines)
  return result
end

describe("a rule function reads", function()
  it("addresses as values", function()
    assert.equal("2001:db8::1", value("tostring(flow.src)"))
    assert.equal("192.0.2.7", value("tostring(flow.dst)", { src = "192.0.2.1", dst = "192.0.2.7" }))
    assert.is_true(value('flow.src:within("2001:db8::/32")'))
    assert.is_false(value("flow.src == flow.dst"))
    assert.is_true(value('flow.src == flowd.address("2001:db8::1")'))
    assert.equal(6, value("flow.src.family"))
    -- A value: it may be kept, unlike the flow.
    assert.equal("2001:db8::1", tostring(value("flow.src")))
  end)

  it("ports, protocol, family, state, plugin, application", function()
    local fields = { src_port = 7, dst_port = 65535, protocol = "udp", state = "ongoing", plugin = "http", application = "xrdcp" }
    assert.equal(7, value("flow.src_port", fields))
    assert.equal(65535, value("flow.dst_port", fields))
    assert.equal("udp", value("flow.protocol", fields))
    assert.equal("tcp", value("flow.protocol"))
    assert.equal(6, value("flow.family", fields))
    assert.equal("ongoing", value("flow.state", fields))
    assert.equal("end", value("flow.state", { state = "end" }))
    assert.equal("http", value("flow.plugin", fields))
    assert.equal("xrdcp", value("flow.application", fields))
    assert.equal("", value("flow.application"))
  end)

  it("experiment and activity as numbers and names", function()
    assert.equal(2, value("flow.experiment", { experiment = 2 }))
    assert.equal("atlas", value("flow.experiment_name", { experiment = 2 }))
    assert.equal("Data Challenge", value("flow.activity_name", { experiment = 2, activity = 26 }))
    assert.equal(0, value("flow.experiment"))
    assert.is_nil(value("flow.experiment_name"))
  end)

  it("times as seconds, and octets where they are known", function()
    assert.equal(1700000000.25, value("flow.time"))
    assert.equal(1700000000, value("flow.start_time"))
    assert.is_nil(value("flow.bytes_sent"))
    assert.equal(5e10, value("flow.bytes_sent", { bytes_sent = 5e10, bytes_received = 1 }))
    assert.equal(1, value("flow.bytes_received", { bytes_sent = 5e10, bytes_received = 1 }))
  end)

  it("nil where only other plugins know", function()
    for _, field in ipairs({ "uid", "user", "pid", "comm", "cgroup" }) do assert.is_nil(value("flow." .. field)) end
  end)

  it("the flow as a line of text", function()
    assert.equal("start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000", value("tostring(flow)"))
  end)
end)

describe("a rule function sets", function()
  it("experiment and activity by number or name", function()
    local result = support.run(body('flow.experiment = "ATLAS"; flow.activity = "data_challenge"'))
    assert.same({ 2, 26, 1 }, { result.experiment, result.activity, result.rule })
    result = support.run(body("flow.experiment = 511; flow.activity = 63"))
    assert.same({ 511, 63 }, { result.experiment, result.activity })
    result = support.run(body("flow.experiment = 0; flow.activity = nil"), { experiment = 2, activity = 26 })
    assert.same({ 0, 0 }, { result.experiment, result.activity })
  end)

  it("both by tag", function()
    for _, tag in ipairs({ '"atlas/Data Challenge"', '"atlas", "Data Challenge"', "2, 26", "154", '{ "atlas", 26 }', '"2/26"' }) do
      local result = support.run(body("flow:tag(" .. tag .. ")"), { experiment = 3, activity = 9 })
      assert.same({ 2, 26 }, { result.experiment, result.activity }, tag)
    end
    -- Without an activity it is unset, whatever was announced: it belonged to another experiment.
    local result = support.run(body('flow:tag("atlas")'), { experiment = 3, activity = 9 })
    assert.same({ 2, 0 }, { result.experiment, result.activity })
    result = support.run(body("flow.application = tostring(flow:tag(nil)) .. tostring(flow:tag(2, 26))"), { experiment = 3, activity = 9 })
    assert.same({ 2, 26, "falsetrue" }, { result.experiment, result.activity, result.application })
  end)

  it("the application", function()
    assert.equal("fts", support.run(body('flow.application = "fts"'), { application = "something longer" }).application)
    assert.equal(("x"):rep(47), support.run(body('flow.application = ("x"):rep(47)')).application)
  end)

  it("the backends", function()
    assert.equal(1, support.run(body('flow:route("marker")')).route)
    assert.equal(7, support.run(body('flow:route("marker", "firefly", "prometheus", "marker")')).route)
  end)

  it("a verdict", function()
    local later = '\nrule "later" { set = { experiment = 9 } }'
    local result = support.run(body("return drop") .. later)
    assert.same({ true, 0, 1 }, { result.dropped, result.experiment, result.rule })
    result = support.run(body('flow.experiment = "cms" return accept') .. later)
    assert.same({ false, 3, 1 }, { result.dropped, result.experiment, result.rule })
    result = support.run(body("return false") .. later)
    assert.same({ false, 9, 2 }, { result.dropped, result.experiment, result.rule })
  end)
end)

describe("a mistake in a rule function is an error of its line:", function()
  it("a field that is not there", function()
    assert.matches('site.lua:2: a flow has no field "dst_prot" — did you mean "dst_port"?', raised("return flow.dst_prot"), 1, true)
    assert.matches('site.lua:2: a flow has no field "experimnt" — did you mean "experiment"?', raised("flow.experimnt = 1"), 1, true)
    assert.matches("site.lua:2: a flow has no field 7", raised("return flow[7]"), 1, true)
  end)

  it("a field that cannot be changed", function()
    assert.matches("site.lua:2: flow.src cannot be changed; what can is activity, application, experiment",
      raised("flow.src = 1"), 1, true)
    assert.matches("site.lua:2: flow.tag cannot be changed", raised("flow.tag = 1"), 1, true)
  end)

  it("an id out of range, an unknown name, a wrong type", function()
    for assignment, message in pairs({
      ["flow.experiment = 512"] = "experiment: expected a name or an id from 0 (unset) to 511; got 512",
      ["flow.experiment = -1"] = "experiment: expected a name or an id from 0 (unset) to 511; got -1",
      ["flow.experiment = 1.5"] = "experiment: expected a name or an id from 0 (unset) to 511; got 1.5",
      ["flow.experiment = 0/0"] = "experiment: expected a name or an id from 0 (unset) to 511; got",
      ["flow.experiment = 2ULL"] = "experiment: expected a name or an id from 0 (unset) to 511; got 2ULL",
      ["flow.experiment = {}"] = "experiment: expected a name or an id from 0 (unset) to 511; got a table",
      ['flow.experiment = "atlsa"'] = 'unknown experiment "atlsa" — did you mean "atlas"?',
      ["flow.activity = 64"] = "activity: expected a name or an id from 0 (unset) to 63; got 64",
      ['flow.activity = "Data Challenge"'] = 'activity "Data Challenge": a name needs an experiment, and none is set',
      ['flow:tag("atlas/Data Chalenge")'] = 'unknown activity of atlas "Data Chalenge" — did you mean "Data Challenge"?',
      ["flow:tag(2)"] = "tag: expected a tag number from 64 to 32767, or an experiment and an activity; got 2",
      ["flow:tag(true)"] = 'tag: expected "experiment/activity", a pair or a tag number; got true',
      ["flow.application = 7"] = "application: expected a text of at most 47 octets without control characters; got 7",
      ['flow.application = "a\\nb"'] = "application: expected a text of at most 47 octets without control characters; got",
      ["flow.application = ('x'):rep(48)"] = "application: expected a text of at most 47 octets",
      ["flow:route()"] = "route: expected the name of a backend",
      ['flow:route("markr")'] = 'route: no backend "markr" is configured (there is firefly, marker, prometheus) — did you mean "marker"?',
      ['flow:route("marker", "a", "b", "c")'] = 'route: no backend "a" is configured',
      ['flow:route("marker", "marker", "marker", "c")'] = 'route: no backend "c" is configured',
      ['flow.src:within("nonsense")'] = 'expected a prefix such as "2001:db8::/32"; got "nonsense"',
    }) do
      assert.matches("site.lua:2: " .. message, raised(assignment), 1, true)
    end
  end)

  it("a verdict that is none", function()
    assert.matches("a rule returns drop, accept or nothing; this one returned true", raised("return true"), 1, true)
    assert.matches('this one returned "drop"', raised('return "drop"'), 1, true)
    assert.matches("site.lua:2: drop has no field now: write `return drop`", raised("return drop.now"), 1, true)
  end)

  it("a global that was not declared", function()
    assert.matches("site.lua:2: counter is not declared: write `local counter = …`", raised("counter = 1"), 1, true)
  end)
end)

describe("the flow", function()
  it("is only there while a rule runs", function()
    local environment = require("flowd.policy").new()
    local kept
    environment.box:define("keep", function(v) kept = v end)
    assert(environment:load(body("keep(flow)"), "@site.lua"))()
    local chain = assert(require("flowd.rules").compile(environment:take_rules(), { registry = support.names, backends = {} }))
    support.run(chain)
    for _, use in ipairs({ function() return kept.src_port end, function() kept.experiment = 2 end,
      function() return kept.tag end }) do
      local ok, message = pcall(use)
      assert.is_false(ok)
      assert.matches("function_spec.lua:%d+: the flow is only there while a rule runs", message)
    end
    assert.equal("flow (none: no rule is running)", tostring(kept))
  end)

  it("is never C memory, nor is anything reached from it", function()
    for _, expression in ipairs({ "flow", "flow.src", "flow.dst", "flow.src_port", "flow.experiment", "flow.time",
      "flow.bytes_sent", "flow.application", "flow.tag", "flowd.prefixes{'::/0'}", "drop" }) do
      assert.is_not.equal("cdata", value("type(" .. expression .. ")", { bytes_sent = 1, bytes_received = 2 }), expression)
    end
    assert.is_false(value("getmetatable(flow)"))
    assert.is_nil(value("next(flow)"))
    assert.equal("function", type(ffi.new)) -- the spec itself may
  end)
end)
