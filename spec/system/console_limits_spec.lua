-- SPDX-License-Identifier: Apache-2.0
-- What clients of the console cannot do: hold up events, take memory from others, change what they may only ask about.
local cleanup = require("spec.support.cleanup")
local client = require("flowd.console.client")
local console = require("spec.support.console")
local daemon = require("spec.support.daemon")
local json = require("flowd.json_parser")
local live_counter = require("spec.support.live_counter")
local machine = require("spec.support.machine")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local S = client.status
local SECONDS = os.getenv("ASAN_OPTIONS") and 120 or 30
local MOST_US = os.getenv("ASAN_OPTIONS") and 100000 or 10000

local function start(options)
  local d = daemon.start(options or {})
  d.console = d.runtime_dir .. "/console"
  return d
end

local TRIES = 4 -- of which one must do: the machine does other things, too

-- Metamethods that never return.
local ENDLESS = [[setmetatable({}, { __index = function() while true do end end, __tostring = function() while true do end end,
  __metatable = false })]]
local LONG = '("x"):rep(65000)' -- as long as may be

describe("a client of the console", function()
  after_each(cleanup.all)

  -- Each is asked for, and interrupted when it does not end. No single go may take long.
  local function hold_nothing_up(cases, rules)
    local d = start({ rules = 'rule "fn" (function(flow) if flow.dst_port == 81 then flow.activity = 9 end end),' .. (rules or ""),
      config = { log = { level = "info" } } })
    local longest = live_counter(d.runtime_dir, "flowd_console_longest_microseconds")
    local function try(case)
      longest[0] = 0
      local c = console.raw(d.console)
      c:send(console.frame(case.complete and 2 or 1, (case.options or "") .. "\n" .. case.code), true)
      if case.endless then
        c:send(console.frame(3, ""))
      end
      local status, message = c:finish(SECONDS)
      assert.equal(case.endless and S.interrupted or case.status or S.error, status, case.code:sub(1, 100) .. ": " .. tostring(message))
      c:close()
      -- What is left of it is let go.
      console.ask(d.console, "1")
      return tonumber(longest[0])
    end
    for _, case in ipairs(cases) do
      local us, tries = try(case), 1
      while us >= MOST_US and tries < TRIES do us, tries = try(case), tries + 1 end
      assert.is_true(us < MOST_US or us < MOST_US * machine.slowness(), ("%s: %d us in one go"):format(case.code:sub(1, 100), us))
    end
    assert.is_true(d:running())
    assert.not_matches("never returned", d:log(), 1, true)
    assert.equal("2\n", select(2, console.ask(d.console, "1 + 1")))
    return d
  end

  local function case(code, fields)
    fields = fields or {}
    fields.code = code
    return fields
  end

  it("holds up no event by a loop, wherever it is", function()
    local cases = {}
    for i, code in ipairs({
      "while true do end", "repeat until false", "::a:: goto a", "local function f() return f() end f()", "while true do pcall(error) end",
      "while true do pcall(function() while true do end end) end", "local function f() pcall(f) pcall(f) end f()",
      "tostring(" .. ENDLESS .. ")", "return " .. ENDLESS, "print(" .. ENDLESS .. ")", "error(" .. ENDLESS .. ")",
      'string.format("%s", ' .. ENDLESS .. ")", "xpcall(error, function() while true do end end)",
      '("x"):gsub("x", function() while true do end end)', "table.sort({ 3, 2, 1 }, function() while true do end end)",
      "local m = { __eq = function() while true do end end } return setmetatable({}, m) == setmetatable({}, m)",
      "return setmetatable({}, { __concat = function() while true do end end }) .. 1",
      'inject "tcp ::1 1 ::1 2 atlas 1" return flows{where = function() while true do end end}',
      "watch(function() while true do end end)", "trace{}", 'watch("1", 0.1)',
      -- Each turn of which takes long.
      'local s = ("x"):rep(65000) while true do local x = s .. "y" end',
      'local s = ("x"):rep(65000) while true do s:find("zz", 1, true) end',
      "for i = 1, 1e5 do end local s = ('x'):rep(65000) while true do s:upper() end",
      'local s = ("x"):rep(65000) while true do s:gsub("x", "y") end',
      'local s = ("x"):rep(65000) while true do s:gsub("(x)", "%1") end',
      'local s = ("x"):rep(65000) while true do s:gsub("x", { x = "y" }) end',
      'local s = ("x"):rep(65000) while true do s:find("[^x]") end',
    }) do
      cases[i] = case(code, { endless = true })
    end
    hold_nothing_up(cases)
  end)

  it("holds up no event by metamethods that the daemon or a function of C runs into", function()
    local cases = {}
    for _, code in ipairs({
      'return ("%s"):format(@)', "return flow(1).src .. @", "return @ .. flow(1).dst", 'return flowd.prefixes("::1"):contains(@)',
      'flowd.prefixes("::1"):contains(setmetatable({ [4] = 1 }, { __index = function() while true do end end }))',
      'flow(1).src.within(@, "::/0")', "flow(1).src.is_private(@)", 'while true do pcall(function() return ("%s"):format(@) end) end',
    }) do
      local asked = code:gsub("@", function() return ENDLESS end)
      cases[#cases + 1] = case('local _ = #flows{} > 0 or inject "tcp ::1 1 ::1 2 atlas 1" ' .. asked)
    end
    hold_nothing_up(cases)
  end)

  it("holds up no event by what it gives to commands", function()
    local cases = {}
    for _, call in ipairs({ "flows{ experiment = %s }", "flows{ rule = %s }", "flows{ src = %s }", "flows{ src_port = { 1, %s } }",
      "flow(%s)",
      "inject(%s)", "inject{ src = %s }", "explain(%s)", "explain{ src = %s }", "close(%s)", "trace{ src = %s }", "watch(%s)",
      "stats(%s)", "registry(%s)", "loglevel(%s)", "enable(%s)", "help(%s)", "reapply(%s)", "rule(%s) { drop = true }",
      'rule("x", { before = %s }) { drop = true }', 'rule("x", %s) { drop = true }',
      'rule "x" { match = { application = %s }, drop = true }',
      "flowd.prefixes(%s)", "flowd.prefixes{ %s }", "flowd.address(%s)", 'flowd.log("info", %s)', "flowd.state.counter(%s)",
      'flowd.map.exact{ a = %s }' }) do
      for _, value in ipairs({ ENDLESS, LONG }) do cases[#cases + 1] = case(call:format(value)) end
    end
    local many = "local t = {} for i = 1, 50000 do t[i] = %s end "
    cases[#cases + 1] = case(many:format("i") .. "return flows{ src_port = t }")
    cases[#cases + 1] = case(many:format("i") .. 'rule "x" { match = { dst_port = t }, drop = true }')
    cases[#cases + 1] = case(many:format('"10.0.0.0/8"') .. "flowd.prefixes(t)")
    local texts = 'local t = {} for i = 1, %d do t[i] = "10.0." .. i %% 256 .. "." .. math.floor(i / 256) end '
      .. "return flows{}[1].dst:within(t)"
    cases[#cases + 1] = case('inject "tcp ::1 1 ::1 2 atlas 1" ' .. texts:format(1000), { status = S.ok })
    cases[#cases + 1] = case(texts:format(5000))
    hold_nothing_up(cases)
  end)

  it("holds up no event by changes of many rules, and leaves none half done", function()
    local rules = {}
    for i = 1, 500 do
      rules[i] = ("rule 'f%d' (function(flow) if flow.dst_port == %d then flow.activity = 7 end end),"):format(i, i)
      rules[500 + i] = ("rule 'd%d' { match = { dst_port = %d }, set = { activity = 8 } },"):format(i, 1000 + i)
    end
    local d = hold_nothing_up({
      case('rule "x" { match = { dst_port = 5 }, set = { activity = 8 } }', { status = S.ok }),
      case('rule("y", { before = "f100" }) (function(flow) flow.activity = 9 end)', { status = S.ok }),
      case('disable "f7" enable "f7"', { status = S.ok }), case('disable "d7" enable "d7"', { status = S.ok }),
      case('for i = 1, 40 do rule("many" .. i) { match = { src_port = i }, drop = true } end', { status = S.ok }),
      case('explain "tcp ::1 1 ::1 2 atlas 1"', { status = S.ok }), case("rules()", { status = S.ok }),
    }, table.concat(rules))
    -- One that is interrupted: what is shown is what is done.
    for try = 1, 20 do
      local c = console.raw(d.console)
      local code = ("\n%s 'y'"):format(try % 2 == 1 and "disable" or "enable")
      c:send(console.frame(1, code) .. (try > 4 and console.frame(3, "") or ""), true)
      c:finish(SECONDS)
      c:close()
      local _, out = console.ask(d.console, ([[local state = rules()[101].state
        local f = inject "tcp ::1 %d ::1 3000 atlas 1" return rules()[101].name, state, f.activity]]):format(100 + try))
      assert.is_true(out == "y\non\n9\n" or out == "y\noff\n1\n", out)
    end
  end)

  it("holds up no event by large values, large code and long lines", function()
    local names = {}
    for i = 1, 2000 do names[i] = ("v%d=1 "):format(i) end
    local cases = {
      case("error(" .. LONG .. ")"), case("return " .. LONG, { status = S.ok }), case("return {" .. LONG .. "}", { status = S.ok }),
      case("print{(' '):rep(65000)}", { status = S.ok }),
      case("return {" .. LONG .. '}', { status = S.ok, options = "format=json" }),
      case('return ("\\1"):rep(65000)', { status = S.ok, options = "format=json" }),
      case("x = {" .. ("{},"):rep(10000) .. "}", { status = S.ok }), case("return " .. ("("):rep(60000)),
      case(table.concat(names) .. " return undefined_name"), case("return undefined_" .. ("x"):rep(60000)),
      case('for i = 1, 5e5 do local s = "k" .. i end', { status = S.ok }),
      case("local t = {} for i = 1, 30000 do t['k' .. i] = 1 end return t", { status = S.ok, options = "format=json" }),
    }
    for _, line in ipairs({ ("a"):rep(60000) .. "!(", ("a"):rep(60000) .. "!{", ("a"):rep(65000), ("("):rep(60000), ("\""):rep(59999),
      ("a."):rep(30000), "flows{" .. ("a="):rep(20000), 'flows{experiment="' .. ("x"):rep(60000),
      "flow(" .. ("{"):rep(400) .. ("}"):rep(400) .. ").", "flow(" .. ("1+"):rep(450) .. "1).", ("()"):rep(499) .. ".",
      ("flow("):rep(100) .. (")"):rep(100) .. "." }) do
      cases[#cases + 1] = case(line, { complete = true, status = S.ok })
    end
    hold_nothing_up(cases)
  end)

  it("may hold so much memory, in pieces that grow quickly; the rules' is not touched", function()
    local d = hold_nothing_up({
      case("local t = {} while true do t[#t + 1] = { {}, {} } end"), case("local s = 'x' while true do s = s .. s end"),
      case("local t = {} for i = 1, 1e6 do t['k' .. i] = i end"), case("local t = {} for i = 1, 1e6 do t[i * 37] = i end"),
      case("local t = {} for i = 1, 1e7 do t[i] = i end"),
      case("local t = {} pcall(function() for i = 1, 1e6 do t[('k%d'):format(i)] = i end end)", { status = S.ok }),
    })
    local function message(code) return (select(3, console.ask(d.console, code))) end
    assert.matches("not enough memory: all clients of the console together may hold 32 MB",
      message("local t = {} while true do t[#t + 1] = { {}, {}, {}, {}, {}, {}, {} } end"), 1, true)
    for _, code in ipairs({ 'return ("x"):rep(70000)', "local t = {} while true do t[#t + 1] = 1 end",
      "local t = {} for i = 1, 1e5 do t[i * 7] = 1 end" }) do
      assert.matches("too large: events would wait for it; a text has at most 65536 octets at the prompt, a list 65536 entries, "
        .. "another table 32768", message(code), 1, true)
    end
    assert.matches("too many texts: events would wait for LuaJIT's table of them; 65536 different ones",
      message('local t = { {}, {} } for i = 1, 1e5 do t[i % 2 + 1][i] = "k" .. i end'), 1, true)
    -- Those that nothing refers to any more are none.
    assert.equal("50000\n", (select(2, console.ask(d.console, [[local t
      for n = 1, 5 do t = {} for i = 1, 50000 do t[i] = n .. "k" .. i end end return #t]]))))
    -- What one keeps is let go when others need it; it is told so.
    local one = assert(client.connect(d.console))
    local out
    local function ask(code)
      out = ""
      return one:ask("eval", code, nil, function(text) out = out .. text end)
    end
    local hold = "= {} for i = 1, 50000 do a[i] = { i, { i }, { i }, { i } } end return #a"
    assert.equal(S.ok, ask("a " .. hold))
    local status
    process.wait_for("memory", SECONDS, function()
      status = console.ask(d.console, "local a " .. hold)
      return status == S.ok
    end)
    ask("1")
    assert.matches("names that were assigned here are gone", out, 1, true)
    one:close()
    assert.equal("on", json.decode((select(2, console.ask(d.console, "rules()", { format = "json" }))))[1].state)
    assert.equal(0, d:counter("flowd_rules_off"))
  end)

  it("who may only ask changes nothing by any trick", function()
    local dir = temp.dir()
    process.must({ "chmod", "0755", dir })
    temp.write(dir .. "/site.lua", "return { list = { 1 }, count = 0 }")
    local d = start({ dir = dir, config = { console = { readonly_group = "61002" } }, rules = [[
      rule "sums" (function(flow)
        local site = require("site")
        flow.activity = math.floor(bit.band(flow.src_port, 7) + site.count) + #("x"):rep(2) + os.time{ year = 2000, month = 1, day = 1 } * 0
        flowd.state.counter("asked"):add(1)
      end),]] })
    local function read(code) return (select(2, console.ask(d.console, code))) end
    local function result()
      return read('inject "tcp ::1 5 ::1 6 atlas 0" local a = flow(flows{}[1]).activity close(flows{}[1].id) return a')
    end
    assert.equal("7\n", result())
    for _, code in ipairs({
      "math.floor = function() return 1 end", "bit.band = nil", "os.time = 5", "string.rep = nil", "table.insert = nil",
      "setmetatable(math, {})", "setmetatable(drop, {})", "drop.x = 1", "accept.x = 1", "table.insert(bit, 1)", "table.sort(math)",
      'require("site").count = 9', 'require("site")', "flowd.state", 'flowd.state.counter("asked")', 'flowd.map.exact{ a = 1 }',
      "flowd.map",
      "flowd.every(1, function() end)", "flowd.after(1, function() end)", 'flowd.log("error", "x")', "flowd.prefixes = nil",
      "flowd.address = nil", 'getmetatable("").__index.rep = nil', "getmetatable(flows{}).x = 1", "getmetatable(flowd).__index = 1",
      'rule "x" { drop = true }', 'pcall(rule, "x")', 'pcall(disable, "sums")', 'flows{ where = function() disable(1) end }',
      'watch("disable(1)")', "xpcall(disable, print, 1)", "table.sort({ 2, 1 }, function() disable(1) end)",
      '("x"):gsub("x", function() disable(1) end)', "error(setmetatable({}, { __tostring = function() disable(1) return 'x' end }))",
      "return setmetatable({}, { __tostring = function() disable(1) return 'x' end })", "reload()", "reapply()", "reapply{}",
      "reapply{ dry = false }", "reapply(setmetatable({}, { __index = { dry = true } }))", 'loglevel("error")', "close(1)",
      'inject "tcp ::1 1 ::1 2 atlas 1"', "enable(1)", "disable(1)", "print = nil", "rules()[1].state = 'off'", "registry()[1].name = 'x'",
      "plugins()[1].options.paths = nil", "stats()[1].value = 7", "drop = accept", "flows = nil",
    }) do
      process.run({ "setpriv", "--reuid=61002", "--regid=61002", "--clear-groups", daemon.binary(), "--lua-path", "lua", "eval",
        "--socket", d.console, code })
    end
    assert.equal("7\n", result())
    assert.equal(2, d:counter('flowd_site_total{name="asked"}'))
    assert.equal("sums on\ndebug\n", read("return rules()[1].name .. ' ' .. rules()[1].state, loglevel()"))
    assert.equal("nothing: what runs is what the files say\n", read("delta()"))
    -- Of these only what root did: injected and closed, twice.
    assert.equal(4, d:counter("flowd_console_changes_total"))
    assert.is_true(d:running())
  end)
end)
