-- SPDX-License-Identifier: Apache-2.0
--- Ways out of the sandbox by values: LuaJIT's own kinds of number, tables that answer differently each time, functions of C
--- with arguments that they are not meant for, objects of the daemon that are changed behind its back.
local cleanup = require("spec.support.cleanup")
local config = require("flowd.config")
local counters = require("flowd.counters")
local escape = require("spec.support.escape")
local support = require("spec.support.policy")
local temp = require("spec.support.temp")

local attempt, fails, holds = escape.attempt, escape.fails, escape.holds

describe("nothing leads out of the sandbox:", function()
  after_each(cleanup.all)

  it("64 bit integers and complex numbers, which are cdata with literals of their own", function()
    for _, number in ipairs({ "2ULL", "2LL", "2i" }) do
      for _, use in ipairs({ "(%s)[0]", "(%s).x", "(%s)()", "#%s", "pairs(%s)" }) do
        -- A complex number has two parts, which are read and not written.
        if not (number == "2i" and use == "(%s)[0]") then fails("local x = " .. use:format(number)) end
      end
      fails(("local x = %s x[0] = 1"):format(number))
      fails(("local x = %s x.re = 1"):format(number))
      fails(("setmetatable(%s, {})"):format(number), "table expected")
      holds(("return getmetatable(%s) == nil"):format(number))
      holds(("return type(tostring(%s)) == 'string'"):format(number))
    end
    holds("return (2i)[0] == 0 and (2i)[1] == 2 and (2i)[123456789] == 2 and (2i)[-2] == 0")
  end)

  it("the same where a number is expected", function()
    for statement, expected in pairs({
      ["flow.experiment = 2ULL"] = "experiment: expected", ["flow.activity = 2ULL"] = "activity: expected",
      ["flow.application = 2ULL"] = "application: expected", ["flow:tag(130ULL)"] = "tag: expected",
      ["flow:tag({ 2ULL, 1 })"] = "experiment: expected", ["flow:tag(2ULL, 1)"] = "experiment: expected",
      ["flow:route(2ULL)"] = "route: expected", ["flow.src:within(2ULL)"] = "within: expected",
      ["flow.src:within({ 2ULL })"] = "within: expected", ["flowd.prefixes(2ULL)"] = "expected a prefix",
      ["flowd.address(2ULL)"] = "expected an IP address", ["flowd.state.counter('c'):add(2ULL)"] = "counter: expected",
      ["flowd.state.counter(2ULL)"] = "state.counter: expected", ["flowd.state.table('t'):set(2ULL, 1)"] = "state.table: expected",
      ["flowd.state.table('t'):set(1, 2ULL)"] = "state.table: expected",
      ["flowd.state.table('t'):add(1, 2ULL)"] = "expected numbers to add",
      ["flowd.state.table('t', { max = 2ULL })"] = "max: expected", ["flowd.every(2ULL, print)"] = "expected seconds",
      ["flowd.after(1, 2ULL)"] = "expected a function", ["flowd.log(2ULL, 'x')"] = "expected a level",
      ["return 2ULL"] = "a rule returns drop, accept or nothing",
    }) do
      fails(statement, expected)
    end
    local made = { "prefixes", "ports", "globs", "exact", "random", "round_robin", "first_of", "schedule" }
    for _, kind in ipairs(made) do
      for _, contents in ipairs({ "{ [2ULL] = 'atlas' }", "{ x = 2ULL }", "{ 2ULL }" }) do
        local chain, problems = support.compile(("local m = flowd.map.%s%s"):format(kind, contents))
        assert.is_nil(chain, kind .. contents)
        assert.matches("map." .. kind, problems[1], 1, true)
      end
    end
    for _, field in ipairs({ "dst_port", "experiment", "activity", "protocol", "family", "state", "plugin", "src", "application", "time",
      "duration", "bytes_sent", "uid", "user" }) do
      local chain, problems = support.compile(('rule "r" { match = { %s = 6ULL }, drop = true }'):format(field))
      assert.is_nil(chain, field)
      assert.matches("match." .. field .. ": ", problems[1], 1, true)
    end
  end)

  it("what a set or map holds, exchanged for such a number", function()
    for _, number in ipairs({ "7ULL", "-1LL", "0x7fffffffffffffffLL", "18446744073709551615ULL", "1.5", "'7'", "true" }) do
      attempt(("local set = flowd.prefixes{ '::/0' } set[1] = %s flow.src:within(set) set:contains('::1')"):format(number))
      local chain = support.chain(([[local maps = { flowd.map.ports{ [1] = "atlas" }, flowd.map.globs{ ["*"] = "atlas" },
        flowd.map.schedule{ always = "atlas" }, flowd.map.prefixes{ ["::/0"] = "atlas" } }
        rule "r" (function(flow) for i, map in ipairs(maps) do map[1] = %s pcall(map.find, map, ({ 1, "x", 1e9, "::1" })[i]) end end)]])
        :format(number))
      assert.same({}, support.logged(function() support.run(chain) end))
    end
    attempt("local a = flow.src a[1], a[2], a[3], a[4] = 2ULL, -1, 1e300, 0/0 local x = tostring(a), a:is_global(), a == flow.dst")
    fails("local a = flow.src a[1] = {} return tostring(a)", "cannot convert")
  end)

  it("tables that answer differently each time they are asked", function()
    holds([[local n = 0
      local pair = setmetatable({}, { __index = function(_, i) n = n + 1 return n == 1 and "atlas" or {} end })
      return not pcall(flow.tag, flow, pair)]])
    holds([[local list = setmetatable({}, { __index = function() return "::/0" end, __len = function() return 1e9 end })
      return not flow.src:within(list)]])
    local chain, problems = support.compile([[
      local n = 0
      local match = setmetatable({}, { __index = function() n = n + 1 return n end, __pairs = function() return function() end end })
      rule "r" { match = match, drop = true }
    ]])
    assert.is_nil(chain)
    assert.matches("match.", problems[1], 1, true)
  end)

  it("functions of C with what they are not meant for", function()
    fails("return ('x'):rep(1e10)")
    fails("return unpack({}, 1, 1e8)", "too many results")
    fails("return unpack({}, -2^31, 2^31 - 1)", "too many results")
    fails("return ('x'):rep(1e6):byte(1, -1)", "too long")
    fails("return ('%999999d'):format(1)", "invalid")
    fails("return ('%s'):format(setmetatable({}, { __tostring = function() return 7 end }))")
    fails("return table.concat({ {} })", "invalid value")
    fails("return table.concat(flow, ',', 1, 2)")
    fails("local t = setmetatable({}, {}) for i = 1, 300 do t = setmetatable({}, { __index = t }) end return t.x")
    fails("local function f() return 1 + f() end f()", "stack overflow")
    fails("return ('x'):rep(300000):match(('(x?)'):rep(40))")
    fails("return ('a'):rep(220000):match(('a?'):rep(220000) .. 'b')", "pattern too complex")
    fails("return select(-5, 1)")
    fails("return tonumber('1', 99)")
    fails("return string.gsub('x', 'x', flow)", "a flow has no field")
    -- Indexed by string.gsub, the flow is what it is by a point.
    holds("return ('dst_port'):gsub('.+', flow) == '40000'")
    for _, call in ipairs({ "os.date('%Ey%Oe%5z%', 1e17)", "os.date('*t', -1e300)", "os.date(('%c'):rep(1e5))",
      "os.time{ year = 1e300, month = 1, day = 1 }", "os.time{}", "os.difftime(0/0, 1e300)", "math.random(1e300)", "math.random(2, 1)",
      "math.ldexp(1, 1e300)", "bit.lshift(1, 1e300)", "string.char(-1)", "string.char(1e300)", "('x'):sub(-1e300, 1e300)",
      "('x'):find('', 1e300)", "next({}, 1)" }) do
      attempt("pcall(function() return " .. call .. " end)")
    end
    holds("return true")
  end)

  it("functions of C as rules", function()
    for _, fn in ipairs({ "print", "error", "pcall", "tostring", "string.rep", "setmetatable", "flowd.log", "flowd.address", "unpack",
      "next", "flowd.state.counter", "select", "require" }) do
      local ok, chain = pcall(support.chain, ('rule "r" (%s)'):format(fn))
      if ok then support.logged(function() support.run(chain) end) end
    end
    holds("return true")
  end)

  it("a rule that was made, changed afterwards", function()
    for _, change in ipairs({ "r.name = 'x'", "r.body = print", "r.file = nil", "r.mine = 1" }) do
      local ok, message = pcall(support.rules, ('local r = rule "r" { drop = true } %s'):format(change))
      assert.is_false(ok)
      assert.matches('site.lua:1: rule "r" cannot be changed', message, 1, true)
    end
    for _, change in ipairs({ "table.insert(r, 1)", "setmetatable(r, {})" }) do
      assert.is_false((pcall(support.rules, ('local r = rule "r" { drop = true } %s'):format(change))))
    end
    assert.is_false((pcall(support.rules, 'setmetatable(rule "r", {})')))
    -- A look-alike is none.
    local chain, problems = support.compile('local r = rule "r" { drop = true }')
    assert.truthy(chain, problems)
    local dir = temp.dir()
    local loaded, errors = config.load(temp.write(dir .. "/conf.lua",
      "return { rules = { setmetatable({ name = 'x', body = {}, file = 'y', line = 1 }, { __metatable = false }) } }"))
    assert.is_nil(loaded)
    assert.matches('rules[1]: expected rule "name" …', errors[1], 1, true)
  end)

  it("rules and maps made by a rule, for each flow anew", function()
    fails("rule 'x' (function() end)", "a rule cannot be made by a rule: make it in the file, outside of rules")
    fails("flowd.map.exact{ a = 'atlas' }", "a map cannot be made by a rule: make it in the file, outside of rules")
  end)

  it("names that would be more than a name in what is shown", function()
    for _, name in ipairs({ 'a"} 1 flowd_fake{x="', "a\\", "%s%d%n", "${x}", "a b" }) do
      support.run(support.chain(("rule %q { set = { application = 'x' } }"):format(name)))
      for series in counters.each() do
        local rest = series:match('^flowd_rule_%l+_total{(.*)}$')
        -- Labels are words and texts in quotes; a quote in a text is escaped.
        if rest then assert.equal("", (rest:gsub("\\.", ""):gsub('[%l_]+="[^"]*"', ""):gsub(",", "")), series) end
      end
    end
    for _, name in ipairs({ "a\nb", "a\0b", "\27[31m", ("x"):rep(65), "" }) do
      assert.is_false((pcall(support.rules, ("rule %q { drop = true }"):format(name))))
      fails(("flowd.state.counter(%q)"):format(name), "expected a name of 1 to 64 characters")
    end
  end)

  it("words of the daemon that were replaced", function()
    -- A rule file's own mistake, and nobody else's: the next environment has them again.
    assert(pcall(support.rules, [[
      flowd.prefixes = nil string.format = nil table.sort = error tostring = nil pairs = nil error = nil
      type = function() return "number" end getmetatable = function() return {} end setmetatable = nil
    ]]))
    holds("return type(tostring) == 'function' and string.format('%d', 1) == '1' and flowd.prefixes('::/0'):contains('::1')")
    -- Also in the middle of it: what the daemon's own functions use is theirs.
    holds([[type = function() return "number" end tostring = function() return 7 end error = function() end
      local ok, message = pcall(function() flow.experiment = {} end) return not ok and message:find("expected a name or an id")]])
  end)
end)

describe("an option of a plugin", function()
  after_each(cleanup.all)

  it("that is no data is refused where it stands", function()
    local dir = temp.dir()
    temp.write(dir .. "/site.lua", 'return { name = "site", doc = "d", schema = { any = require("flowd.schema").any{} }, start = print }')
    for value, expected in pairs({
      ["setmetatable({}, { __index = function() return 1 end })"] = "any: expected a plain table; got one with a metatable",
      ["(function() local t = {} t.t = t return t end)()"] = "any.t: a table holds itself",
      ["{ [true] = 1 }"] = "any: expected texts and numbers as keys; got a boolean", ["{ x = 2ULL }"] = "any.x: a cdata cannot be handed",
      ["flowd.prefixes('::/0')"] = "any: expected a plain table",
    }) do
      local loaded, errors = config.load(temp.write(dir .. "/conf.lua",
        ("return { plugin_dirs = { '.' }, plugins = { site = { any = %s } } }"):format(value)))
      assert.is_nil(loaded, value)
      assert.equal(1, #errors)
      assert.matches("conf.lua:1: plugins.site." .. expected, errors[1], 1, true)
    end
    -- The same table twice is no ring.
    assert(config.load(temp.write(dir .. "/conf.lua",
      "local t = { 1 } return { plugin_dirs = { '.' }, plugins = { site = { any = { t, t } } } }")))
  end)
end)
