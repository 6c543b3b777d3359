-- SPDX-License-Identifier: Apache-2.0
local support = require("spec.support.policy")

-- Ask a map with an expression in terms of `flow`; returns "experiment/activity" of an event, or nil.
local function asker(map, expression)
  local chain = support.chain(("local map = %s\nrule 'r' (function(flow) flow:tag(map:find(%s)) end)"):format(map, expression))
  return function(fields)
    local result = support.run(chain, fields)
    return result.rule == 1 and result.experiment .. "/" .. result.activity or nil
  end
end

local function refused(text, ...)
  local chain, messages = support.compile(text)
  assert.is_nil(chain, text .. " went through")
  for _, expected in ipairs({ ... }) do assert.matches(expected, table.concat(messages, "\n"), 1, true) end
end

-- Seconds of a week that started on Monday, 2 January 2023, in UTC.
local MONDAY = 1672617600
local function at(day, hour, minute) return MONDAY + day * 86400 + hour * 3600 + minute * 60 end

describe("flowd.map.exact", function()
  it("finds texts and numbers", function()
    local find = asker('flowd.map.exact{ xrootd = "atlas", gridftp = { "cms", "Data Challenge" }, [1000] = "6/7", ["1001"] = "8" }',
      'flow.application ~= "" and flow.application or flow.dst_port')
    assert.equal("2/0", find({ application = "xrootd" }))
    assert.equal("3/4", find({ application = "gridftp" }))
    assert.is_nil(find({ application = "xroot" }))
    assert.equal("6/7", find({ dst_port = 1000 }))
    assert.equal("8/0", find({ dst_port = 1001 }))
  end)

  it("answers nil to nil, and takes nothing else", function()
    assert.is_nil(asker('flowd.map.exact{ a = "atlas" }', "flow.user")())
    local lines = support.logged(function() asker('flowd.map.exact{ a = "atlas" }', "flow.src")() end)
    assert.matches("site.lua:2: find: expected a text or a number; got 2001:db8::1", lines[1], 1, true)
    refused('local m = flowd.map.exact{ [1] = "atlas", ["1"] = "cms" }', '"1" is there twice, with different values')
  end)
end)

describe("flowd.map.globs", function()
  it("gives the tag of the pattern with most characters of its own", function()
    local find = asker([[flowd.map.globs{ ["*"] = "6", ["xrd*"] = "atlas", ["xrd-cms*"] = "cms", ["xrd-cm?"] = "7",
      ["*.cern.ch"] = "8", ["a\\*b"] = "9", ["a*b"] = "10", ["x?d-z"] = "11" }]], "flow.application")
    local function of(text) return find({ application = text }) end
    assert.equal("6/0", of("anything"))
    assert.equal("2/0", of("xrd"))
    assert.equal("2/0", of("xrd-lhcb"))
    assert.equal("3/0", of("xrd-cms-7"))
    assert.equal("3/0", of("xrd-cms"))
    assert.equal("7/0", of("xrd-cmx"))
    assert.equal("8/0", of("xrd.cern.ch"))
    assert.equal("9/0", of("a*b"))
    assert.equal("10/0", of("ab"))
    assert.equal("10/0", of("aXbb"))
    assert.equal("11/0", of("xyd-z"))
  end)

  it("says what is wrong", function()
    refused([[local m = flowd.map.globs{ [""] = "atlas", ["a\\"] = "cms", [1] = "cms" }]], 'pattern "": expected 1 to 1024 characters',
      [[pattern "a\\": expected]], 'expected a pattern such as "xrootd*"; got 1')
    refused('local m = flowd.map.globs{ ["a**"] = "atlas", ["a*"] = "cms" }', "there twice, with different values")
  end)
end)

describe("flowd.map.round_robin", function()
  it("deals the tags out in turn", function()
    local find = asker('flowd.map.round_robin{ "atlas", { 3, 4 }, "6/7" }', "")
    local got = {}
    for i = 1, 7 do got[i] = find() end
    assert.same({ "2/0", "3/4", "6/7", "2/0", "3/4", "6/7", "2/0" }, got)
  end)

  it("wants a list", function()
    refused("local m = flowd.map.round_robin{}", "site.lua:1: map.round_robin: expected at least one tag")
    refused('local m = flowd.map.round_robin{ a = "atlas" }', 'expected a list of tags; got the key "a"')
    refused('local m = flowd.map.round_robin{ "atlsa" }', '[1]: unknown experiment "atlsa" — did you mean "atlas"?')
  end)
end)

describe("flowd.map.random", function()
  local function shares(map, draws)
    local find, count = asker(map, ""), {}
    for _ = 1, draws do
      local tag = find()
      count[tag] = (count[tag] or 0) + 1
    end
    return count
  end

  it("deals the tags out at random, each as often as its weight says", function()
    local even = shares('flowd.map.random{ "1/1", "2/2", "3/3", "4/4" }', 4000)
    for _, tag in ipairs({ "1/1", "2/2", "3/3", "4/4" }) do assert.is_true(math.abs(even[tag] - 1000) < 200, tag .. " " .. even[tag]) end
    local weighted = shares('flowd.map.random{ ["1/1"] = 90, ["2/2"] = 9, ["3/3"] = 1 }', 4000)
    assert.is_true(math.abs(weighted["1/1"] - 3600) < 120, weighted["1/1"])
    assert.is_true(math.abs(weighted["2/2"] - 360) < 110, weighted["2/2"])
    assert.is_true(weighted["3/3"] > 5 and weighted["3/3"] < 90, weighted["3/3"])
  end)

  it("wants tags and weights", function()
    refused("local m = flowd.map.random{}", "expected at least one tag")
    refused("local m = flowd.map.random{ atlas = 0 }", '["atlas"]: expected a weight above 0; got 0')
    refused("local m = flowd.map.random{ atlsa = 1 }", '["atlsa"]: unknown experiment "atlsa" — did you mean "atlas"?')
  end)
end)

describe("flowd.map.schedule", function()
  -- Tag at a time, in UTC unless the map says otherwise.
  local function clock(map)
    local chain = support.chain(("local map = %s\nrule 'r' (function(flow) flow:tag(map:find(flow.bytes_sent)) end)"):format(map))
    return function(seconds)
      local result = support.run(chain, { bytes_sent = seconds, bytes_received = 0 })
      return result.rule == 1 and result.experiment or nil
    end
  end

  it("knows days, times, lists of them and what goes over midnight; the shortest wins", function()
    local tag = clock([[flowd.map.schedule({ ["mon-fri 08:00-18:00"] = "1", ["sat, Sunday"] = "2", ["22:00-06:00"] = "3",
      ["wed 09:30-09:31 12:00-12:01"] = "4", ["always"] = "5", ["fri-sun 07:00-07:30"] = "6" }, { zone = "UTC" })]])
    assert.equal(1, tag(at(0, 8, 0)))
    assert.equal(1, tag(at(4, 17, 59)))
    assert.equal(5, tag(at(4, 18, 0)))
    assert.equal(2, tag(at(5, 12, 0)))
    assert.equal(2, tag(at(6, 23, 59)))
    assert.equal(3, tag(at(1, 23, 0)))
    assert.equal(3, tag(at(2, 5, 59)))
    assert.equal(5, tag(at(2, 6, 0)))
    assert.equal(4, tag(at(2, 9, 30)))
    assert.equal(1, tag(at(2, 9, 31)))
    assert.equal(4, tag(at(2, 12, 0)))
    assert.equal(6, tag(at(6, 7, 29)))
    assert.equal(3, tag(at(7, 0, 0)))
  end)

  it("goes by the clocks of a zone, with their summer time", function()
    local summer = 1688256000 -- Sunday, 2 July 2023, 00:00 UTC
    local fixed = clock('flowd.map.schedule({ ["12:00-13:00"] = "1" }, { zone = "-03:30" })')
    assert.equal(1, fixed(at(3, 15, 30)))
    assert.is_nil(fixed(at(3, 15, 29)))
    assert.equal(1, fixed(at(3, 16, 29)))
    local zurich = clock('flowd.map.schedule({ ["12:00-13:00"] = "1" }, { zone = "Europe/Zurich" })')
    assert.is_nil(zurich(at(3, 10, 30)))
    assert.equal(1, zurich(at(3, 11, 30)))
    assert.equal(1, zurich(summer + 10.5 * 3600))
    assert.is_nil(zurich(summer + 11.5 * 3600))
  end)

  it("goes by the machine's clock when no zone is given, and by the flow's time when it gets the flow", function()
    -- Of the events here.
    local time = os.date("*t", 1700000000)
    local map = ('flowd.map.schedule{ ["%s %02d:%02d-%02d:%02d"] = "1" }'):format(os.date("%a", 1700000000):lower(), time.hour,
      time.min, time.hour, time.min + 1)
    assert.equal("1/0", asker(map, "flow")())
    assert.equal("1/0", asker(map, "flow.time")())
    assert.equal("1/0", asker('flowd.map.schedule{ always = "1" }', "")())
  end)

  it("leaves the process's own time zone alone", function()
    local before = os.date("%z %H", 1700000000)
    clock('flowd.map.schedule({ always = "1" }, { zone = "Pacific/Auckland" })')(at(0, 0, 0))
    assert.equal(before, os.date("%z %H", 1700000000))
  end)

  it("says what is wrong", function()
    local function wrong(key, expected)
      refused(("local m = flowd.map.schedule{ [%q] = 'atlas' }"):format(key), expected)
    end
    wrong("mno 08:00-09:00", 'unknown day "mno" — did you mean "mon"?')
    wrong("08:00", 'expected a time such as 08:00-18:00, from 00:00 to 24:00; got "08:00"')
    wrong("08:00-25:00", "from 00:00 to 24:00")
    wrong("08:60-09:00", "from 00:00 to 24:00")
    wrong("08:00-08:00", "has no length")
    wrong(" ", 'expected a time such as "mon-fri 08:00-18:00"')
    refused('local m = flowd.map.schedule{ ["mon-wed"] = "atlas", ["wed-fri"] = "cms" }', "hold at the same time, for equally long")
    refused('local m = flowd.map.schedule({ always = "atlas" }, { zone = "../../etc/passwd" })', "zone: expected")
    refused('local m = flowd.map.schedule({ always = "atlas" }, { zone = "Europe/Zuerich" })', "zone: expected")
    local ok, message = pcall(support.rules, 'flowd.map.schedule({}, { zoen = "UTC" })')
    assert.is_false(ok)
    assert.equal('site.lua:1: map.schedule: unknown setting "zoen" — did you mean "zone"?', message)
    ok, message = pcall(support.rules, 'flowd.map.exact({}, { zone = "UTC" })')
    assert.is_false(ok)
    assert.equal('site.lua:1: map.exact: unknown setting "zone"; known are none', message)
  end)
end)

describe("flowd.map.first_of", function()
  it("asks maps in order, each with its field of the flow", function()
    local find = asker([[flowd.map.first_of{
      { "dst", flowd.map.prefixes{ ["2001:db8:1::/48"] = "1" } },
      { "src_port", flowd.map.ports{ [2811] = "2" } },
      { "user", flowd.map.globs{ ["*"] = "3" } },
      { "application", flowd.map.globs{ ["x*"] = "4" } },
      "5/6",
    }]], "flow")
    assert.equal("1/0", find({ dst = "2001:db8:1::1", src_port = 2811 }))
    assert.equal("2/0", find({ src_port = 2811, application = "x" }))
    assert.equal("4/0", find({ application = "x" }))
    assert.equal("5/6", find())
  end)

  it("asks maps with what it is given itself, and may have none that answers", function()
    local find = asker([[flowd.map.first_of{ flowd.map.exact{ a = "1" }, flowd.map.globs{ ["b*"] = "2" } }]], "flow.application")
    assert.equal("1/0", find({ application = "a" }))
    assert.equal("2/0", find({ application = "b" }))
    assert.is_nil(find({ application = "c" }))
  end)

  it("says what is wrong", function()
    refused("local m = flowd.map.first_of{}", "expected 1 to 100 items; got 0")
    refused('local m = flowd.map.first_of{ { "dest", flowd.map.ports{} } }', 'a flow has no field "dest" that a map is for')
    refused('local m = flowd.map.first_of{ "atlsa" }', '[1]: unknown experiment "atlsa" — did you mean "atlas"?')
  end)
end)

describe("maps", function()
  -- LuaJIT tells about each trace that it gives up.
  it("of every kind are compiled without an aborted trace", function()
    local chain = support.chain([[
      local by_text = flowd.map.exact{ a = "1", ["5001"] = "2" }
      local by_pattern = flowd.map.globs{ ["x*"] = "3", ["*y"] = "4" }
      local by_port = flowd.map.ports{ ["1-20000"] = "5", [40001] = "6" }
      local by_prefix = flowd.map.prefixes{ ["2001:db8::/32"] = "7", ["2001:db8:1::/48"] = "8" }
      local turn = flowd.map.round_robin{ "1/1", "2/2", "3/3" }
      local lot = flowd.map.random{ ["4/4"] = 9, ["5/5"] = 1 }
      local hours = flowd.map.schedule({ ["mon-fri 08:00-18:00"] = "9", ["always"] = "10" }, { zone = "UTC" })
      local any = flowd.map.first_of{ { "application", by_pattern }, { "dst_port", by_port }, { "dst", by_prefix }, "11" }
      rule "exact" (function(flow) flow:tag(by_text:find(flow.application) or by_text:find(flow.dst_port)) end)
      rule "globs" (function(flow) flow:tag(by_pattern:find(flow.application)) end)
      rule "ports" (function(flow) flow:tag(by_port:find(flow.dst_port)) end)
      rule "prefixes" (function(flow) flow:tag(by_prefix:find(flow.dst)) end)
      rule "turn" (function(flow) if flow.dst_port % 2 == 0 then flow:tag(turn:find()) end end)
      rule "lot" (function(flow) if flow.dst_port % 2 == 1 then flow:tag(lot:find()) end end)
      rule "hours" (function(flow) if flow.dst_port % 5 == 0 then flow:tag(hours:find(flow)) end end)
      rule "now" (function(flow) if flow.dst_port % 5 == 1 then flow:tag(hours:find()) end end)
      rule "first" (function(flow) if flow.dst_port % 5 == 2 then flow:tag(any:find(flow)) end end)
    ]])
    local list, texts = {}, { "", "a", "xa", "zy", "q" }
    for i = 1, 1000 do
      list[i] = { dst_port = 1 + i * 40503 % 65535, application = texts[1 + i * 7 % 5], dst = ("2001:db8:%x::1"):format(i % 3) }
    end
    local batches = {}
    for i = 1, 60 do batches[i] = support.batch(list) end
    chain:run(batches[60])
    local started, aborted = support.traces_of(function()
      for i = 1, 59 do chain:run(batches[i]) end
    end)
    assert.same({}, aborted)
    assert.is_true(started < 400, started .. " traces")
    for _, rule in ipairs(chain.rules) do assert.is_true(rule.hits > 0 and rule.errors == 0, rule.name) end
  end)
end)
