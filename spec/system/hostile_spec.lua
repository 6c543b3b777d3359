-- SPDX-License-Identifier: Apache-2.0
-- Scripts that are hostile in other ways than endless loops and hoards: each is contained, named, and harms nobody.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local SECONDS = os.getenv("ASAN_OPTIONS") and 60 or 20

local innocent = [[ rule "innocent" (function(flow) local name = flow.plugin .. tostring(flow.src_port)
  if #name > 0 then flow.activity = 7 end end), ]]

local function line(port) return ("start tcp ::1 %d ::1 5000 atlas 1\n"):format(port) end

local odd = "setmetatable({}, { __tostring = function() %s end })"

-- Calls without end, each of which stands on the C stack too.
local through_c = {
  { "string.gsub and a function", 'local function f() return (("x"):gsub("x", f)) end f()' },
  { "string.gsub and a table", 'local t t = setmetatable({}, { __index = function() return (("x"):gsub("x", t)) end }) return t.x' },
  { "string.format", 'local t t = setmetatable({}, { __tostring = function() return ("%s"):format(t) end }) return tostring(t)' },
  { "table.sort", "local function f() table.sort({ 1, 2, 3 }, f) return true end f()" },
  { "a comparison in table.sort", [[local mt = {} function mt.__lt() table.sort({ setmetatable({}, mt), setmetatable({}, mt) }) end
      mt.__lt()]] },
  { "table.foreach", "local function f() return table.foreach({ 1 }, f) end f()" },
  { "pcall", "local function f() return 1 + select(2, pcall(f)) end f()" },
  { "xpcall and its handler", "local function f() error('x') end local function h() return xpcall(f, h) end h() error('after') " },
  { "tostring", "local t t = setmetatable({}, { __tostring = function() return tostring(t) end }) return tostring(t)" },
}

describe("hostile rules", function()
  after_each(cleanup.all)

  for _, case in ipairs(through_c) do
    it("that call themselves through " .. case[1] .. " end as an error, or as one that never returns", function()
      local d = daemon.start({ rules = ('rule "hostile" (function(flow) if flow.src_port == 666 then %s end end), %s'):format(
        case[2], innocent), log_level = "info" })
      d:write(line(999) .. line(666) .. line(1000))
      d:wait_for_counter("flowd_flows_open", 3, SECONDS)
      assert.is_true(d:counter('flowd_rule_hits_total{rule="innocent"}') >= 3)
      -- To leave thousands of calls of C takes about as long as may pass: it is either, also on one machine.
      local ended = d:counter('flowd_rule_errors_total{rule="hostile"}') + d:counter('flowd_scripts_hung_total{kind="rule",name="hostile"}')
      assert.equal(1, ended)
      assert.is_truthy(d:log():find('rule "hostile" failed', 1, true) or d:log():find('rule "hostile" never returned', 1, true))
      assert.same({ code = 0 }, d:stop())
    end)
  end

  -- What the log says of each.
  local raising = {
    { "error(nil)", "error object is no string (a nil)" },
    { "error({})", "error object is no string (a table)" },
    { "error(flow)", "[::1]:5000" },
    { "error(" .. odd:format("error('x')") .. ")", "whose __tostring raised an error" },
    { "error(" .. odd:format("return {}") .. ")", "error object is no string (a table)" },
    { "error(" .. odd:format("return ('x'):rep(1e6)") .. ")", "xxxx" },
    { "error(" .. odd:format("local t = {} while true do t[#t + 1] = {} end") .. ")", "" },
    { 'error(("y"):rep(1e6))', "yyyy" },
    { 'error(("\\n"):rep(1e6))', "" },
    { 'error("\\nstack traceback:" .. ("\\n"):rep(15000))', "" },
    { 'error("x", 1e9)', "x" },
    { "local function f(n) return 1 + f(n + 1) end return f(1)", "stack overflow" },
    { "return setmetatable({}, { __index = function(t, k) return t[k + 1] end })[1]", "stack overflow" },
    { 'return #string.format("%99999999d", 1)', "invalid option" },
    { 'local s = ("x"):rep(1e7) while true do s = string.format("%s%s%s", s, s, s) end', "not enough memory" },
    { 'local t = {} for i = 1, 1e6 do t[i] = ("x"):rep(1000) end return #table.concat(t)', "not enough memory" },
    { 'local s, t = ("x"):rep(1e6), {} for i = 1, 1e4 do t[i] = s end return #table.concat(t)', "not enough memory" },
    { 'local s = "x" for _ = 1, 100 do s = s:rep(100) end', "not enough memory" },
    { 'return ("a"):rep(1e5):gsub("a", ("b"):rep(1e5))', "not enough memory" },
    { "local t = {} while true do t[#t + 1] = function() return t end end", "not enough memory" },
    { "return select('#', unpack({}, 1, 1e7))", "too many results to unpack" },
    { "local t = {} for i = 1, 1000 do t[i] = i end table.sort(t, function() return true end)", "invalid order function" },
    { "xpcall(error, function() error('again') end) error('after')", "after" },
    { "coroutine.wrap(function() while true do end end)()", "coroutine is not" },
    { "load('while true do end')()", "load is not" },
    { "local p = newproxy(true)", "newproxy is not" },
    { "collectgarbage('stop')", "collectgarbage is not" },
    { "os.exit(1)", "os.exit is not" },
    { "return io.open('/etc/passwd')", "io is not" },
    { "for i = 1, 1e6 do flowd.state.counter('c' .. i):add() end", "no more are possible" },
    { "for _ = 1, 1e6 do flowd.after(100, function() end) end", "timers already" },
    { "local t = {} for i = 1, 1e5 do t[i] = flowd.prefixes('10.0.0.0/8') end", "" },
    { 'rule "another" {}', "cannot be made by a rule" },
    { "flowd.map.exact { a = 'atlas' }", "cannot be made by a rule" },
    { "return kept and kept.src_port == 1 and drop", false },
    { "local function f(n) return 1, pcall(f, n + 1) end f(1)", false },
    { "for _ = 1, 1e4 do flowd.log('error', '%s', ('z'):rep(100)) end", false },
  }

  it("that raise, run out of stack or memory, or ask for what is not there", function()
    local rules = {}
    for i, case in ipairs(raising) do
      rules[i] = ('rule "hostile %d" (function(flow) if flow.src_port == %d then %s end end),'):format(i, 100 + i, case[1])
    end
    local d = daemon.start({ config = { memory_limit = 24 }, rules = innocent, log_level = "info" })
    assert.same({ code = 0 }, d:stop())
    -- One keeps the flow and looks at it later.
    temp.write(d.conf, "local kept\n" .. temp.read(d.conf):gsub("rules = {", function()
      return 'rules = {\nrule "keeps" (function(flow) kept = kept or flow end),\n' .. table.concat(rules, "\n")
    end))
    d = daemon.start({ dir = d.dir, conf = d.conf, log_level = "info" })
    for i, case in ipairs(raising) do
      d:write(line(100 + i))
      d:wait_for_counter("flowd_flows_open", i)
      local name = ("hostile %d"):format(i)
      assert(d:counter(('flowd_rule_errors_total{rule="%s"}'):format(name)) == (case[2] and 1 or 0), case[1])
      if case[2] then
        local said = d:log():match(('rule "%s" failed on (.*)'):format(name))
        assert(said and said:find(case[2], 1, true), ("%s: %s"):format(case[1], tostring(said):sub(1, 500)))
      end
    end
    assert.equal(#raising, d:counter('flowd_rule_hits_total{rule="innocent"}'))
    assert.equal(0, d:counter("flowd_scripts_hung_total"))
    assert.not_matches("internal error", d:log())
    assert.is_true(#d:log() < 200000, #d:log())
    assert.same({ code = 0 }, d:stop())
  end)

  for _, case in ipairs({
    { "in what an error says of itself", "error(" .. odd:format("while true do end") .. ")" },
    { "in what a verdict says of itself", "return " .. odd:format("while true do end") },
    { "in what is logged", "print(" .. odd:format("while true do end") .. ")" },
    { "in an error handler", "xpcall(error, function() while true do end end)" },
    { "and catches every error", "while true do pcall(function() while true do pcall(error) end end) end" },
    { "in a comparison of table.sort", [[local mt = { __lt = function() while true do end end }
        table.sort({ setmetatable({}, mt), setmetatable({}, mt), setmetatable({}, mt) })]] },
    { "in a replacement of string.gsub", '("aaa"):gsub("a", function() while true do end end)' },
    { "in an operator", 'return setmetatable({}, { __concat = function() while true do end end }) .. "x"' },
    { "in a tail call", "local function f(n) return f(n + 1) end return f(1)" },
  }) do
    it("that never return " .. case[1] .. " are switched off", function()
      local d = daemon.start({ rules = ('rule "hostile" (function(flow) if flow.src_port == 666 then %s end end), %s'):format(
        case[2], innocent), log_level = "info" })
      d:write(line(999) .. line(666) .. line(1000))
      d:expect('rule "hostile" never returned.-events are handled again', SECONDS)
      d:wait_for_counter("flowd_flows_open", 3)
      assert.equal(1, d:counter('flowd_scripts_hung_total{kind="rule",name="hostile"}'))
      assert.same({ code = 0 }, d:stop())
    end)
  end
end)

describe("a hostile plugin or backend", function()
  after_each(cleanup.all)

  local function start(kind, body)
    local dir = temp.dir()
    temp.write(dir .. "/hostile.lua", ([[
      local m = { name = "hostile", doc = "Is hostile.", schema = {}, on_events = %s }
      function m:start() end
      %s
      return m]]):format(kind == "backend" and "function() end" or "nil", body))
    return daemon.start({ dir = dir, log_level = "info", rules = innocent, config = {
      [kind .. "_dirs"] = { dir }, plugins = { pipe = { paths = { dir .. "/run/np" } }, hostile = kind == "plugin" and {} or nil },
      backends = { hostile = kind == "backend" and {} or nil } } })
  end

  for _, case in ipairs({
    { "raises what cannot be told", "plugin", "function m:start(ctx) ctx:every(0.01, function() error(%s) end) end",
      "a callback raised: error object is no string %(a table, whose __tostring raised an error%)" },
    { "cannot be started, and that cannot be told", "plugin", "function m:start() error(%s) end",
      "plugin 'hostile' did not start: error object is no string %(a table%)" },
    { "raises with every event", "backend", "function m:on_events() error(%s) end",
      "backend 'hostile': error object is no string %(a table, whose __tostring raised an error%)" },
    { "does not know what is pending", "backend", "function m:pending() return 'many' end" },
    { "raises when it is to end", "plugin", "function m:stop() error(%s) end" },
    { "raises when it is to end, as a backend", "backend", "function m:stop() error(%s) end" },
  }) do
    it("that " .. case[1] .. " harms nobody, and the daemon ends well", function()
      local d = start(case[2], (case[3]:gsub("%%s", function() return odd:format("error('x')") end)))
      d:write(line(1000))
      d:wait_for_counter("flowd_flows_open", 1)
      if case[4] then d:expect(case[4], SECONDS) end
      assert.equal(1, d:counter('flowd_rule_hits_total{rule="innocent"}'))
      assert.equal(0, d:counter("flowd_scripts_hung_total"))
      assert.same({ code = 0 }, d:stop())
      assert.matches("ended 1 open flows", d:log())
      assert.not_matches("internal error", d:log())
    end)
  end

  for _, case in ipairs({
    { "to end", "plugin", "function m:stop() while true do end end" },
    { "to end, as a backend", "backend", "function m:stop() while true do end end" },
    { "to tell what is pending", "backend", "function m:pending() while true do end end" },
  }) do
    it("that never returns when it is asked " .. case[1] .. " does not keep the daemon from ending", function()
      local d = start(case[2], case[3])
      d:write(line(1000))
      d:wait_for_counter("flowd_flows_open", 1)
      assert.same({ code = 0 }, d:stop(SECONDS))
      assert.matches(case[2] .. " 'hostile' never returned", d:log())
      assert.matches("ended [01] open flows\n$", d:log())
    end)
  end

  it("that calls itself through C without end gets an error, or is stopped", function()
    for _, case in ipairs(through_c) do
      local d = start("plugin", ("function m:start(ctx) ctx:after(0.05, function() local function f() %s end f() end) end"):format(case[2]))
      process.wait_for(case[1], SECONDS, function()
        return d:log():find("hostile: a callback raised", 1, true) or d:log():find("'hostile' never returned", 1, true)
      end)
      d:write(line(1000))
      d:wait_for_counter('flowd_rule_hits_total{rule="innocent"}', 1, SECONDS)
      assert.same({ code = 0 }, d:stop())
      cleanup.all()
    end
  end)

  it("whose file never ends, or what it returns, keeps the first start from happening and is named; a reload is refused", function()
    local dir = temp.dir()
    local loops = "setmetatable({}, { __index = function() while true do end end })"
    for _, body in ipairs({ "while true do end", "return " .. loops,
      "return { name = 'hostile', doc = 'd', schema = " .. loops .. ", start = print }" }) do
      temp.write(dir .. "/hostile.lua", body)
      local config = { plugin_dirs = { dir }, load_timeout = 1,
        plugins = { pipe = { paths = { dir .. "/run/np" } }, hostile = {} } }
      local conf = daemon.write_config(dir, config, innocent)
      local result = process.run({ daemon.binary(), "--conf", conf, "run", seconds = SECONDS })
      assert.equal(1, result.code, result.stderr)
      assert.is_truthy(result.stderr:find("hostile.lua", 1, true), result.stderr)
      config.plugins.hostile = nil
      daemon.write_config(dir, config, innocent)
      local d = daemon.start({ dir = dir, conf = conf, log_level = "info" })
      config.plugins.hostile = {}
      daemon.write_config(dir, config, innocent)
      d:signal("HUP")
      d:expect("hostile.lua[^\n]*: never came to its end while it was loaded", SECONDS)
      config.plugins.hostile = nil
      daemon.write_config(dir, config, innocent) -- `stats` reads it too
      d:write(line(1000))
      d:wait_for_counter('flowd_rule_hits_total{rule="innocent"}', 1)
      assert.same({ code = 0 }, d:stop())
    end
  end)

  it("does not keep a command from ending that reads the configuration", function()
    local dir = temp.dir()
    local conf = temp.write(dir .. "/conf.lua", "while true do end")
    for _, command in ipairs({ "marker clean", "stats", "explain" }) do
      local words = { daemon.binary(), "--conf", conf, seconds = SECONDS }
      for word in command:gmatch("%S+") do words[#words + 1] = word end
      if command == "explain" then words[#words + 1] = "tcp ::1 1 ::2 2" end
      local result = process.run(words)
      assert.equal(1, result.code, command)
      assert.is_truthy(result.stderr:find(conf, 1, true), result.stderr)
    end
  end)
end)
