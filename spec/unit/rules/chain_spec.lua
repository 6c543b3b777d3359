-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local support = require("spec.support.policy")

local DECIDED, DROPPED = ffi.C.EVENT_DECIDED, ffi.C.EVENT_DROPPED

local function find_rule(chain, name)
  for _, rule in ipairs(chain.rules) do
    if rule.name == name then return rule end
  end
end

-- Counters are the process's: a spec looks at what was added.
local function counting(chain, fn)
  local before = {}
  for _, rule in ipairs(chain.rules) do before[rule.name] = { rule.hits, rule.errors } end
  local lines = support.logged(fn)
  local added = {}
  for _, rule in ipairs(chain.rules) do
    added[rule.name] = { rule.hits - before[rule.name][1], rule.errors - before[rule.name][2] }
  end
  return added, lines
end

describe("the chain", function()
  it("runs rules in order, declared ones and functions alike, on every event", function()
    local chain = support.chain([[
      rule "one" { match = { dst_port = 1 }, set = { application = "1" } }
      rule "two" (function(flow) flow.application = flow.application .. "2" end)
      rule "three" { match = { application = "12" }, set = { experiment = 3 } }
      rule "four" (function(flow) if flow.experiment == 3 then flow.activity = 4 end end)
    ]])
    local batch = support.batch({ { dst_port = 1 }, { dst_port = 2 } })
    chain:run(batch)
    local results = support.results(batch)
    assert.same({ "12", 3, 4, 4 }, { results[1].application, results[1].experiment, results[1].activity, results[1].rule })
    assert.same({ "2", 0, 0, 2 }, { results[2].application, results[2].experiment, results[2].activity, results[2].rule })
  end)

  it("leaves alone what is decided or dropped", function()
    local chain = support.chain('rule "r" { set = { experiment = 9 } }')
    local batch = support.batch({ { flags = DECIDED }, {}, { flags = DROPPED } })
    chain:run(batch)
    local results = support.results(batch)
    assert.same({ 0, 9, 0 }, { results[1].experiment, results[2].experiment, results[3].experiment })
  end)

  it("does nothing without rules or events", function()
    local chain = support.chain("")
    assert.equal(0, support.run(chain).experiment)
    support.chain('rule "r" { set = { experiment = 9 } }'):run(support.batch({}))
  end)

  it("counts the events on which a rule acted", function()
    local chain = support.chain([[
      rule "declared" { match = { dst_port = 1 }, set = { experiment = 2 } }
      rule "function" (function(flow) if flow.dst_port == 2 then flow.experiment = 3; flow.activity = 1; flow:route("marker") end end)
      rule "accepts" (function(flow) return flow.dst_port == 3 and accept end)
      rule "drops" (function(flow) return flow.dst_port < 3 and drop end)
      rule "looks" (function(flow) local _ = flow.dst_port end)
    ]])
    local added = counting(chain, function()
      chain:run(support.batch({ { dst_port = 1 }, { dst_port = 2 }, { dst_port = 2 }, { dst_port = 3 }, { dst_port = 4 } }))
    end)
    assert.same({ declared = { 1, 0 }, ["function"] = { 2, 0 }, accepts = { 1, 0 }, drops = { 3, 0 }, looks = { 0, 0 } }, added)
  end)

  it("works the same with many rules, of which one piece of code cannot hold the constants", function()
    local text = {}
    for i = 1, 300 do
      text[i] = i % 2 == 0 and ('rule "r%d" (function(flow) if flow.dst_port == %d then flow.experiment = %d end end)'):format(i, i, i)
        or ('rule "r%d" { match = { dst_port = %d, src = "2001:db8::/32" }, set = { experiment = %d } }'):format(i, i, i)
    end
    local chain = support.chain(table.concat(text, "\n"))
    local events = {}
    for i = 1, 301 do events[i] = { dst_port = i } end
    local batch = support.batch(events)
    chain:run(batch)
    for i, result in ipairs(support.results(batch)) do
      assert.equal(i <= 300 and i or 0, result.experiment)
      assert.equal(i <= 300 and i or 0, result.rule)
    end
  end)

  it("gives the same answers when LuaJIT has compiled it", function()
    local chain = support.chain([[
      local site = flowd.prefixes{ "2001:db8:1::/48" }
      local servers = flowd.map.prefixes{ ["2001:db8:2::/48"] = "cms/Data Challenge" }
      rule "site" (function(flow) if flow.src:within(site) and flow.dst:within(site) then return drop end end)
      rule "servers" (function(flow) flow:tag(servers:find(flow.dst)) end)
      rule "odd" { match = { src_port = { 1, 3, 5, 7, "9-1000" } }, set = { application = "odd" } }
      rule "default" (function(flow) if flow.experiment == 0 then flow.experiment = "atlas" end end)
    ]])
    local events, expected = {}, {}
    for i = 1, 1000 do
      local src, dst = i % 3, i % 5
      events[i] = { src = ("2001:db8:%d::%x"):format(src, i), dst = ("2001:db8:%d::%x"):format(dst, i), src_port = i }
      local dropped = src == 1 and dst == 1
      local odd = not dropped and i <= 1000 and (i >= 9 or i % 2 == 1)
      expected[i] = {
        dropped = dropped, experiment = dropped and 0 or dst == 2 and 3 or 2, activity = not dropped and dst == 2 and 4 or 0,
        application = odd and "odd" or "", route = -1,
        rule = dropped and 1 or dst ~= 2 and 4 or odd and 3 or 2,
      }
    end
    for _ = 1, 50 do
      local batch = support.batch(events)
      chain:run(batch)
      assert.same(expected, support.results(batch))
    end
  end)
end)

describe("a rule that raises", function()
  local text = [[
    rule "before" { set = { activity = 1 } }
    rule "bad" (function(flow)
      flow.experiment, flow.activity, flow.application = 7, 7, "bad"
      flow:route("marker")
      if flow.dst_port == 666 then error("oops") end
    end)
    rule "after" (function(flow) if flow.experiment == 0 then flow.experiment = 9 end end)
  ]]

  it("leaves no trace in the event, and the rules after it run", function()
    local chain = support.chain(text)
    local batch = support.batch({ { application = "mine" }, { dst_port = 666, application = "mine" }, { application = "mine" } })
    support.logged(function() chain:run(batch) end)
    local fine = { experiment = 7, activity = 7, application = "bad", route = 1, rule = 2, dropped = false }
    assert.same({ fine, { experiment = 9, activity = 1, application = "mine", route = -1, rule = 3, dropped = false }, fine },
      support.results(batch))
  end)

  it("is logged with its place, the event and the stack, and counted", function()
    local chain = support.chain([[
      local function inner() error("oops") end
      rule "bad" (function(flow)
        flow.experiment = 7
        inner()
      end)
    ]])
    local added, lines = counting(chain, function() chain:run(support.batch({ {} })) end)
    assert.same({ bad = { 0, 1 } }, added)
    assert.equal(1, #lines)
    assert.matches('^error site.lua:2: rule "bad" failed on start tcp %[2001:db8::1%]:1094 %-> %[2001:db8::2%]:40000: '
      .. "site.lua:1: oops\nstack traceback:\n.*\n +site.lua:4: in function", lines[1])
    assert.is_nil(lines[1]:find("chain.lua"))
  end)

  it("raises something that is no string: the same, with its place", function()
    local object = "setmetatable({}, { __tostring = function() %s end })"
    for raised, told in pairs({
      ["nil"] = "error object is no string %(a nil%)", ["{}"] = "error object is no string %(a table%)",
      [object:format("return 'told'")] = "told", ["7"] = "site.lua:1: 7",
      [object:format("error('no')")] = "error object is no string %(a table, whose __tostring raised an error%)",
      [object:format("return {}")] = "error object is no string %(a table%)",
    }) do
      local chain = support.chain(('rule "bad" (function(flow) flow.experiment = 7; error(%s) end)'):format(raised))
      local result
      local lines = support.logged(function() result = support.run(chain) end)
      assert.equal(1, #lines)
      assert.matches('rule "bad" failed on [^\n]*: ' .. told .. "\nstack traceback:\n.*site.lua:1: in function", lines[1])
      assert.equal(0, result.experiment)
    end
  end)

  it("raises a message that is long, of many lines, or looks like a traceback: it is cut, in no time", function()
    for _, said in ipairs({ '("y"):rep(1e7)', '("\\n"):rep(1e6)', '"\\nstack traceback:" .. ("\\n"):rep(15000)',
      '("\\nstack traceback:"):rep(1e5)' }) do
      local chain = support.chain(('rule "bad" (function(flow) error(%s) end)'):format(said))
      local before = api.clock_cpu_ns()
      local lines = support.logged(function() support.run(chain) end)
      assert.is_true(tonumber(api.clock_cpu_ns() - before) < 0.3e9)
      assert.is_true(#lines == 1 and #lines[1] < 18000, ("%d messages, %d octets"):format(#lines, #lines[1]))
      assert.matches('rule "bad" failed on ', lines[1])
    end
  end)

  it("does not fill the log", function()
    local chain = support.chain('rule "bad" (function(flow) error("oops") end)', { failures_max = 1000 })
    local lines = support.logged(function()
      local events = {}
      for i = 1, 100 do events[i] = {} end
      chain:run(support.batch(events))
    end)
    assert.equal(5, #lines)
  end)

  it("in several rules at one event: each is contained", function()
    local chain = support.chain([[
      rule "bad1" (function(flow) flow.experiment = 7; error("1") end)
      rule "bad2" (function(flow) flow.experiment = 7; error("2") end)
      rule "good" (function(flow) flow.activity = 5 end)
      rule "bad3" (function(flow) flow.activity = 7; error("3") end)
    ]])
    local batch = support.batch({ {}, {} })
    local added = counting(chain, function() chain:run(batch) end)
    assert.same({ bad1 = { 0, 2 }, bad2 = { 0, 2 }, good = { 2, 0 }, bad3 = { 0, 2 } }, added)
    for _, result in ipairs(support.results(batch)) do
      assert.same({ 0, 5, 3 }, { result.experiment, result.activity, result.rule })
    end
  end)

  it("after LuaJIT compiled it: the same", function()
    local chain = support.chain(text, { failures_max = 100000 })
    local events = {}
    for i = 1, 1000 do events[i] = { dst_port = i == 700 and 666 or 1 } end
    for _ = 1, 20 do
      local batch = support.batch(events)
      support.logged(function() chain:run(batch) end)
      for i, result in ipairs(support.results(batch)) do
        assert.equal(i == 700 and 9 or 7, result.experiment)
        assert.equal(i == 700 and 1 or 7, result.activity)
        assert.equal(i == 700 and "" or "bad", result.application)
      end
    end
  end)

  it("and keeps failing is switched off, named, and the others go on", function()
    local chain = support.chain(text, { failures_max = 3, failures_window = 100 })
    local events = {}
    for i = 1, 10 do events[i] = { dst_port = 666 } end
    local batch = support.batch(events)
    local added, lines = counting(chain, function() chain:run(batch) end)
    assert.same({ 0, 3 }, added.bad)
    assert.is_true(find_rule(chain, "bad").off)
    assert.is_false(find_rule(chain, "after").off)
    assert.matches('site.lua:2: rule "bad" is switched off: it failed on 3 of the last 3 events', lines[#lines])
    for _, result in ipairs(support.results(batch)) do assert.equal(9, result.experiment) end
    assert.equal(1, tonumber(require("flowd.counters").get("flowd_rules_off").value))

    chain:switch(find_rule(chain, "bad"), true)
    assert.equal(7, support.run(chain).experiment)
    assert.equal(0, tonumber(require("flowd.counters").get("flowd_rules_off").value))
  end)

  it("now and then stays on", function()
    local chain = support.chain(text, { failures_max = 3, failures_window = 100 })
    local events = {}
    for i = 1, 1000 do events[i] = { dst_port = i % 60 == 0 and 666 or 1 } end
    support.logged(function() chain:run(support.batch(events)) end)
    assert.is_false(find_rule(chain, "bad").off)
    assert.equal(7, support.run(chain).experiment)
  end)
end)
