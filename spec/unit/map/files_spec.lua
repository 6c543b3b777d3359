-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local config = require("flowd.config")
local counters = require("flowd.counters")
local map = require("flowd.map")
local rules = require("flowd.rules")
local support = require("spec.support.policy")
local temp = require("spec.support.temp")

-- Load a configuration of one rule: `flow:tag(map:find(ASKED))`.
local function load(dir, expression, asked)
  temp.write(dir .. "/conf.lua", ("local map = %s\nreturn { rules = { rule 'r' (function(flow) flow:tag(map:find(%s)) end) } }\n")
    :format(expression, asked))
  return config.load(dir .. "/conf.lua")
end

-- What the rule makes of an event: "experiment/activity", or nil.
local function asker(dir, expression, asked)
  local loaded, errors = load(dir, expression, asked)
  assert(loaded, errors and table.concat(errors, "\n"))
  local chain = assert(rules.compile(loaded.rules, { registry = loaded.registry, backends = {} }))
  return function(fields)
    local result = support.run(chain, fields)
    return result.rule == 1 and result.experiment .. "/" .. result.activity or nil
  end
end

local function count(result) return tonumber(counters.get("flowd_map_files_total", { result = result }).value) end

local function refresh()
  local done
  local lines = support.logged(function() done = map.refresh() end)
  assert.is_true(done)
  return table.concat(lines, "\n")
end

describe("a map from a file", function()
  after_each(cleanup.all)
  -- Maps of the tests before this one are gone; the chain that ran last would keep its own, as machine code
  -- does.
  before_each(function()
    jit.flush()
    support.run(support.chain("rule 'other' (function() end)"))
    for _ = 1, 3 do collectgarbage() end
  end)

  it("reads lines of key and tag: comments, headings, quotes, blanks, and an activity of its own", function()
    local dir = temp.dir()
    temp.write(dir .. "/servers.csv", "\239\187\191prefix,experiment,activity\r\n# those of 2025\n\n2001:db8:1::/48 , atlas\r\n"
      .. '"2001:db8:2::/48",cms,"Data Challenge"\n2001:db8:3::/48,"atlas/Data Challenge"\n2001:db8:4::/48,6,7\n2001:db8:5::/48,lhcb,')
    local find = asker(dir, 'flowd.map.prefixes "servers.csv"', "flow.dst")
    assert.equal("2/0", find({ dst = "2001:db8:1::1" }))
    assert.equal("3/4", find({ dst = "2001:db8:2::1" }))
    assert.equal("2/26", find({ dst = "2001:db8:3::1" }))
    assert.equal("6/7", find({ dst = "2001:db8:4::1" }))
    assert.equal("4/0", find({ dst = "2001:db8:5::1" }))
    assert.is_nil(find({ dst = "2001:db8:6::1" }))
  end)

  it("reads every kind", function()
    local dir = temp.dir()
    local function case(text, kind, asked, fields, expected)
      temp.write(dir .. "/map.csv", text)
      assert.equal(expected, asker(dir, ("flowd.map.%s 'map.csv'"):format(kind), asked)(fields), kind)
    end
    case("1094,atlas\n20000-25000,cms", "ports", "flow.dst_port", { dst_port = 20007 }, "3/0")
    case("key,tag\n1000,atlas\nxrd,cms", "exact", "flow.dst_port", { dst_port = 1000 }, "2/0")
    case('"a,*",atlas\n"say ""x""",cms', "globs", "flow.application", { application = "a,b" }, "2/0")
    case('"a,*",atlas\n"say ""x""",cms', "globs", "flow.application", { application = 'say "x"' }, "3/0")
    case("always,atlas\n", "schedule", "", {}, "2/0")
    case('"sat, sun",cms\nalways,atlas\n', "schedule", "flow", {}, "2/0")
    case("experiment,activity\natlas,26\n", "round_robin", "", {}, "2/26")
    case("tag\natlas/26\n", "random", "", {}, "2/26")
    case("atlas,26,5\n", "random", "", {}, "2/26")
    case("field,key,experiment,activity\ndst,2001:db8:1::/48,atlas\nsrc_port,2811,cms\ndst,2001:db8:2::/48,lhcb\ndefault,,6,7\n",
      "first_of", "flow", { dst = "2001:db8:2::1", src_port = 2811 }, "4/0")
    case("dst,2001:db8:1::/48,atlas\nsrc_port,2811,cms\ndefault,,6,7\n", "first_of", "flow", {}, "6/7")
  end)

  it("may be Lua, which returns the table; with maps inside, too", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.lua", "local tags = {}\nfor i = 1, 9 do tags[i] = { i, i } end\nreturn tags")
    assert.equal("7/7", asker(dir, 'flowd.map.exact "map.lua"', "flow.dst_port")({ dst_port = 7 }))
    temp.write(dir .. "/map.lua", 'return { { "dst_port", flowd.map.ports{ [7] = "cms" } }, "atlas" }')
    local find = asker(dir, 'flowd.map.first_of "map.lua"', "flow")
    assert.equal("3/0", find({ dst_port = 7 }))
    assert.equal("2/0", find({ dst_port = 8 }))
  end)

  it("names both lines' prefixes when two are the same, wherever they stand in a long file", function()
    local dir = temp.dir()
    for _, pair in ipairs({ { 3, 998 }, { 255, 256 }, { 512, 1000 }, { 768, 769 } }) do
      local lines = {}
      for i = 1, 1000 do lines[i] = ("10.%d.%d.0/24,atlas\n"):format(math.floor(i / 256), i % 256) end
      local first, second = pair[1], pair[2]
      lines[second] = ("::ffff:10.%d.%d.0/120,cms\n"):format(math.floor(first / 256), first % 256)
      temp.write(dir .. "/map.csv", table.concat(lines))
      local _, errors = load(dir, 'flowd.map.prefixes "map.csv"', "flow.dst")
      assert.matches((':%d: prefix "::ffff:10.%d.%d.0/120" is the same as "10.%d.%d.0/24"'):format(second, math.floor(first / 256),
        first % 256, math.floor(first / 256), first % 256), table.concat(errors, "\n"), 1, true)
    end
  end)

  it("with errors is an error of the configuration that names the file and its lines", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", 'prefix,tag\n10.0.0.0/8,atlsa\n10.1.0.0/8,cms\n10.2.0.0/16\n"10.3.0.0/16,cms\n'
      .. "10.4.0.0/16,atlas,Data Chalenge\n10.5.0.0/16,1,2,3\n10.6.0.0/16,cms\n::ffff:10.6.0.0/112,atlas\n")
    local loaded, errors = load(dir, 'flowd.map.prefixes "map.csv"', "flow.dst")
    assert.is_nil(loaded)
    local text = table.concat(errors, "\n")
    for _, expected in ipairs({
      ':2: unknown experiment "atlsa" — did you mean "atlas"?', ':3: prefix "10.1.0.0/8" has bits set beyond its length',
      ":4: expected PREFIX,TAG or PREFIX,EXPERIMENT,ACTIVITY; got 1 field", ":5: a field in quotes has no end",
      ':6: unknown activity of atlas "Data Chalenge" — did you mean "Data Challenge"?', ":7: expected PREFIX,TAG",
      ':9: prefix "::ffff:10.6.0.0/112" is the same as "10.6.0.0/16", with another value',
    }) do
      assert.matches(dir .. "/map.csv" .. expected, text, 1, true)
    end
    temp.write(dir .. "/map.lua", 'return {\n  a = "atlas",\n  b = "atlsa",\n}')
    text = table.concat(select(2, load(dir, 'flowd.map.exact "map.lua"', "flow.application")), "\n")
    assert.matches(dir .. '/map.lua:3: ["b"]: unknown experiment "atlsa" — did you mean "atlas"?', text, 1, true)
    temp.write(dir .. "/map.lua", "return 7")
    text = table.concat(select(2, load(dir, 'flowd.map.exact "map.lua"', "flow.application")), "\n")
    assert.matches("map.lua: expected the file to return a table; it returned a number", text, 1, true)
    temp.write(dir .. "/map.lua", "\nreturn io.open('/etc/passwd')")
    text = table.concat(select(2, load(dir, 'flowd.map.exact "map.lua"', "flow.application")), "\n")
    assert.matches("map.lua:2: io is not available in configuration and rule files", text, 1, true)
    text = table.concat(select(2, load(dir, 'flowd.map.exact "none.csv"', "flow.application")), "\n")
    assert.matches("conf.lua:1: map.exact: " .. dir .. "/none.csv: No such file", text, 1, true)
  end)

  -- The kinds: how a tag stands in their table, what they are asked with, fields of an event that they know.
  local kinds = {
    prefixes = { "{ ['2001:db8::/32'] = %s }", "flow.dst" }, ports = { "{ [40000] = %s }", "flow.dst_port" },
    globs = { "{ ['x*'] = %s }", "flow.application" }, exact = { "{ xrd = %s }", "flow.application" },
    first_of = { "{ %s }", "flow" }, round_robin = { "{ %s }", "" }, random = { "{ %s }", "" }, schedule = { "{ always = %s }", "flow" },
  }

  it("of every kind takes tags in three forms, from a table or a Lua file, and checks them against the registry", function()
    local dir, seen = temp.dir(), {}
    for kind, how in pairs(kinds) do
      seen[#seen + 1] = kind
      for form, expected in pairs({ ['"atlas"'] = "2/0", ['"atlas/Data Challenge"'] = "2/26", ["{ 2, 26 }"] = "2/26" }) do
        local contents = how[1]:format(form)
        assert.equal(expected, asker(dir, ("flowd.map.%s(%s)"):format(kind, contents), how[2])({ application = "xrd" }), kind .. form)
        temp.write(dir .. "/map.lua", "return " .. contents)
        assert.equal(expected, asker(dir, ("flowd.map.%s 'map.lua'"):format(kind), how[2])({ application = "xrd" }), kind .. form)
      end
      for form, expected in pairs({ ['"atlsa"'] = 'unknown experiment "atlsa" — did you mean "atlas"?',
        ['"atlas/Dta Challenge"'] = 'unknown activity of atlas "Dta Challenge" — did you mean "Data Challenge"?',
        ["{ 512, 1 }"] = "experiment: expected a name or an id from 0 (unset) to 511; got 512",
        ["{ 2, 64 }"] = "activity: expected a name or an id from 0 (unset) to 63; got 64" }) do
        local contents = how[1]:format(form)
        local _, errors = load(dir, ("flowd.map.%s(%s)"):format(kind, contents), how[2])
        assert.matches("conf.lua:1: map." .. kind .. ": ", errors[1], 1, true)
        assert.matches(expected, errors[1], 1, true)
        temp.write(dir .. "/map.lua", "\nreturn " .. contents)
        _, errors = load(dir, ("flowd.map.%s 'map.lua'"):format(kind), how[2])
        assert.matches("/map.lua:2: ", errors[1], 1, true)
        assert.matches(expected, errors[1], 1, true)
      end
    end
    table.sort(seen)
    assert.same(map.kinds, seen)
  end)

  it("that is Lua is read again, too, and keeps what it said while it is wrong", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.lua", "return { a = 'atlas' }")
    local find = asker(dir, 'flowd.map.exact "map.lua"', "flow.application")
    temp.write(dir .. "/map.lua", "return { a = 'cms/Data Challenge' }")
    assert.matches("map.lua changed: it is in use", refresh())
    assert.equal("3/4", find({ application = "a" }))
    temp.write(dir .. "/map.lua", "return {\n a = nothing }")
    assert.matches("map.lua:2: nothing is not defined.*stays in use", refresh())
    assert.equal("3/4", find({ application = "a" }))
  end)

  it("tells the first errors of many, and how many more there are", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", ("oops\n"):rep(1000))
    local _, errors = load(dir, 'flowd.map.prefixes "map.csv"', "flow.dst")
    assert.is_true(#errors < 30, #errors)
    assert.matches("and 980 more", table.concat(errors, "\n"), 1, true)
  end)

  it("is read only when nobody else could have written it", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", "a,atlas\n")
    os.execute("chmod 666 " .. dir .. "/map.csv")
    local _, errors = load(dir, 'flowd.map.exact "map.csv"', "flow.application")
    assert.matches("map.csv: not trusted: ", table.concat(errors, "\n"), 1, true)
  end)

  it("is read again when it changes, and the rules that hold it see that", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", "a,atlas\n")
    local find = asker(dir, 'flowd.map.exact "map.csv"', "flow.application")
    assert.equal("2/0", find({ application = "a" }))
    assert.equal("", refresh())
    local before = count("ok")
    temp.write(dir .. "/map.csv", "a,cms\nb,atlas\n")
    assert.matches("info " .. dir .. "/map.csv changed: it is in use", refresh(), 1, true)
    assert.equal(before + 1, count("ok"))
    assert.equal("3/0", find({ application = "a" }))
    assert.equal("2/0", find({ application = "b" }))
    assert.equal("", refresh())
  end)

  it("keeps what it held while its file is wrong, not trusted or gone, and says so once", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", "2001:db8:1::/48,atlas\n")
    local find = asker(dir, 'flowd.map.prefixes "map.csv"', "flow.dst")
    local function holds(what)
      assert.equal("2/0", find({ dst = "2001:db8:1::1" }), what)
      assert.equal("", refresh(), what)
      assert.equal(1, tonumber(counters.get("flowd_map_files_stale").value), what)
    end
    local before = count("refused")
    temp.write(dir .. "/map.csv", "2001:db8:1::/48,cms\n2001:db8:2::/48,cmss\n")
    local text = refresh()
    assert.matches("error " .. dir .. '/map.csv:2: unknown experiment "cmss" — did you mean "cms"?', text, 1, true)
    assert.matches("map.csv changed and is wrong: what it said before stays in use", text, 1, true)
    holds("wrong")
    os.execute("chmod 666 " .. dir .. "/map.csv")
    assert.matches("map.csv: not trusted", refresh(), 1, true)
    holds("not trusted")
    os.remove(dir .. "/map.csv")
    assert.matches("map.csv: No such file", refresh(), 1, true)
    holds("gone")
    assert.equal(before + 3, count("refused"))
    temp.write(dir .. "/map.csv", "2001:db8:1::/48,cms\n")
    assert.matches("it is in use", refresh(), 1, true)
    assert.equal("3/0", find({ dst = "2001:db8:1::1" }))
    assert.equal(0, tonumber(counters.get("flowd_map_files_stale").value))
  end)

  it("of 100,000 lines is read in a fraction of a second, a little at a time when wanted", function()
    local dir, lines = temp.dir(), {}
    for i = 0, 99999 do
      lines[i + 1] = ("2001:db8:%x:%x00::/56,%s\n"):format(i % 65536, math.floor(i / 65536), i % 2 == 0 and "atlas" or "cms,Data Challenge")
    end
    local text = table.concat(lines)
    temp.write(dir .. "/map.csv", "2001:db8::/32,lhcb\n")
    local find = asker(dir, 'flowd.map.prefixes "map.csv"', "flow.dst")
    temp.write(dir .. "/map.csv", text)
    local turns, done, texts = 0, nil, nil
    local started, longest = api.clock_monotonic_ns(), 0
    support.logged(function()
      repeat
        local before = api.clock_monotonic_ns()
        done, texts = map.refresh(2000000)
        longest = math.max(longest, tonumber(api.clock_monotonic_ns() - before) / 1e6)
        turns = turns + 1
        if not done then assert.equal("4/0", find({ dst = "2001:db8:1:100::1" })) end
      until done
    end)
    local took = tonumber(api.clock_monotonic_ns() - started) / 1e6
    if os.getenv("SPEC_FIGURES") then print(("%d turns, %.0f ms, the longest %.0f ms"):format(turns, took, longest)) end
    assert.is_true(turns > 5, turns)
    assert.equal(text, texts[dir .. "/map.csv"])
    assert.equal("3/4", find({ dst = "2001:db8:1:0::1" }))
    assert.equal("2/0", find({ dst = "2001:db8:2:100::1" }))
    assert.is_nil(find({ dst = "2001:db8:ffff:300::1" }))
    assert.is_true(took < (os.getenv("ASAN_OPTIONS") and 60000 or 10000), took .. " ms")
  end)

  it("is not looked at any more when another configuration is in use", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", "a,atlas\n")
    local find = asker(dir, 'flowd.map.exact "map.csv"', "flow.application")
    map.use_only({})
    temp.write(dir .. "/map.csv", "a,cms\n")
    assert.equal("", refresh())
    map.use_only(nil)
    assert.matches("it is in use", refresh(), 1, true)
    assert.equal("3/0", find({ application = "a" }))
  end)

  it("is not looked at any more when nobody holds it", function()
    local dir = temp.dir()
    temp.write(dir .. "/map.csv", "a,atlas\n")
    do
      local find = asker(dir, 'flowd.map.exact "map.csv"', "flow.application")
      assert.equal("2/0", find({ application = "a" }))
    end
    -- The chain that ran last is still there, and so is its machine code.
    jit.flush()
    support.run(support.chain("rule 'other' (function() end)"))
    for _ = 1, 4 do collectgarbage() end
    temp.write(dir .. "/map.csv", "a,cms\n")
    assert.equal("", refresh())
  end)
end)
