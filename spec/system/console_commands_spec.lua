-- SPDX-License-Identifier: Apache-2.0
-- What can be asked and done at the console: each command, in a running daemon.
local cleanup = require("spec.support.cleanup")
local console = require("spec.support.console")
local client = require("flowd.console.client")
local commands = require("flowd.console.commands")
local daemon = require("spec.support.daemon")
local json = require("flowd.json_parser")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local S = client.status
local SECONDS = os.getenv("ASAN_OPTIONS") and 60 or 20

local d

local function start(options)
  d = daemon.start(options or {})
  d.console = d.runtime_dir .. "/console"
  return d
end

-- Ask; the output, or an error with what was said.
local function ask(code, options) return console.answer(d.console, code, options) end

local function fails(code, text)
  local status, _, message = console.ask(d.console, code)
  assert.equal(S.error, status, code)
  assert.matches(text, message, 1, true)
end

local function value(code) return json.decode(ask(code, { format = "json" })) end

local function announce(port, rest) return ("start tcp 2001:db8::%x %d 2001:db8:1::1 443 %s\n"):format(port, port, rest or "atlas 1") end

describe("the console's commands:", function()
  after_each(cleanup.all)

  it("every one has help, an example that is Lua, and a test here", function()
    local text = temp.read("spec/system/console_commands_spec.lua")
    assert.is_true(#commands.list > 15)
    for _, c in ipairs(commands.list) do
      for _, field in ipairs({ "name", "usage", "summary", "doc", "example" }) do
        assert.is_true(type(c[field]) == "string" and #c[field] > 3, ("%s: %s"):format(c.name, field))
      end
      assert.is_truthy(load("return " .. c.example) or load(c.example), c.example)
      assert.is_truthy(text:find('it("' .. c.name .. " ", 1, true), c.name .. " has no test")
      assert.is_true(not (c.query and c.changes), c.name .. " is run to complete a line")
      for name, doc in pairs(c.arguments or {}) do assert.is_true(#doc > 3, c.name .. " " .. name) end
    end
  end)

  it("help lists all of them, explains one, and knows what was meant", function()
    start()
    local all = ask("help()")
    for _, name in ipairs(commands.names()) do
      assert.matches("\n" .. name, "\n" .. all, 1, true)
      assert.matches("Example: ", ask(("help(%q)"):format(name)), 1, true)
    end
    assert.matches("^flows{…}", ask("help(flows)"))
    fails('help("flosw")', 'did you mean "flow')
    assert.equal(#commands.list, #value("help()"))
  end)

  it("print writes values in a line", function()
    start()
    assert.equal("1\ta\t{ 2, b = true }\n", ask('print(1, "a", { 2, b = true })'))
  end)

  it("flows filters by every field, sorts, limits, counts, sums up and groups", function()
    start({ rules = 'rule "to cms" { match = { src_port = 1003 }, set = { experiment = "cms" } },' })
    for port = 1000, 1009 do d:write(announce(port)) end
    d:write("start udp 192.0.2.1 2000 192.0.2.2 3000 alice 5\n")
    d:wait_for_counter("flowd_flows_open", 11)
    local function count(filter) return value(("flows{%s%scount=true}"):format(filter, filter ~= "" and "," or "")) end
    for filter, wanted in pairs({
      [""] = 11, ['experiment="atlas"'] = 9, ['experiment={"cms", "alice"}'] = 2, ["experiment=2"] = 9,
      ['experiment="atlas", activity="default"'] = 9, ["activity=5"] = 1, ['protocol="udp"'] = 1, ["family=6"] = 10,
      ['src="2001:db8::3e8"'] = 1, ['src="2001:db8::/32"'] = 10, ['dst="192.0.2.0/24"'] = 1, ['host="192.0.2.2"'] = 1,
      ["src_port=1004"] = 1, ['src_port="1004-1006"'] = 3, ["dst_port=443"] = 10, ["port={3000, 1000}"] = 2,
      ['plugin="pipe"'] = 11, ['rule="to cms"'] = 1, ["older=0"] = 11, ["newer=600"] = 11, ["idle=600"] = 0,
      ["bytes_sent=0"] = 11, ["where=function(f) return f.src_port % 2 == 1 end"] = 5, ["id={1, 2}"] = 2,
      ['application="x*"'] = 0, ['label="0-"'] = 11,
    }) do
      assert.equal(wanted, count(filter), filter)
    end
    local ports = {}
    for i, f in ipairs(value('flows{family=6, sort="-src_port", limit=3}')) do ports[i] = f.src_port end
    assert.same({ 1009, 1008, 1007 }, ports)
    assert.equal("2001:db8::3e8", value('flows{family=6, sort="src", limit=1}')[1].src)
    assert.same({ { value = 2, name = "atlas (2)", flows = 9, bytes_sent = 0, bytes_received = 0 } },
      { value('flows{by="experiment"}')[1] })
    assert.equal(11, value("flows{sum=true}").flows)
    assert.equal(11, tonumber((ask("#flows{}"))))
    local shown = ask('flows{experiment="cms"}', { width = 200 })
    assert.matches("%[2001:db8::3eb%]:1003 +%[2001:db8:1::1%]:443 +cms %(3%)", shown)
    assert.matches("pipe +to cms", shown)
    assert.matches("the first 2; limit=N shows more", ask("flows{limit=2}"), 1, true)
    assert.equal("no flow\n", ask("flows{src_port=1}"))
    fails("flows{port=70000}", "flows: port: expected a number, or a range")
    fails('flows{expirement="atlas"}', 'did you mean "experiment"')
    fails('flows{experiment="atlsa"}', 'did you mean "atlas"')
    fails('flows{sort="prt"}', "flows: sort: expected the name of a field")
    fails('flows{activity="Data Challenge"}', "a name needs one experiment")
    fails('flows{src="nowhere"}', "expected an address or a prefix")
    fails("flows{limit=0}", "flows: limit: expected a number from 1")
    fails('flows{by="src"}', "flows: by: expected experiment")
    fails("flows(7)", "flows: expected a table")
    fails("flows{where=function(f) return f.dst_prot == 1 end}", 'a flow has no field dst_prot — did you mean "dst_port"')
    fails("flows{}[1].experment", 'a flow has no field experment — did you mean "experiment"')
    assert.same({ 3, 2 }, { #value('flows{by="experiment", limit=5}'), #value('flows{by="experiment", limit=2}') })
    assert.equal(3, value('flows{by="experiment", sort="value"}')[2].value)
    assert.matches("2 of 3; limit=N shows more", ask('flows{by="experiment", limit=2}'), 1, true)
    assert.equal("default (1)", value('flows{by="activity", experiment="atlas"}')[1].name)
    fails('flows{by="experiment", sort="src"}', "flows: sort: with by, expected")
    assert.matches("^flows{…}: open flows.*help%(flows%) tells more\n$", ask("flows"))
  end)

  it("flow shows everything of one, by id, by 5-tuple, of a list", function()
    start({ rules = 'rule "seven" { set = { activity = 7 } },' })
    d:write(announce(1000))
    d:wait_for_counter("flowd_flows_open", 1)
    local text = ask("flow(1)")
    assert.matches("src +%[2001:db8::3e8%]:1000", text)
    assert.matches("rule +seven", text)
    assert.matches("experiment +atlas %(2%)", text)
    assert.equal(text:match("label[^\n]*"), ask('flow "tcp 2001:db8::3e8 1000 2001:db8:1::1 443"'):match("label[^\n]*"))
    assert.equal(1, value("flow(flows{}[1])").id)
    fails("flow(99)", "no open flow has the id 99")
    fails('flow "x"', "expected the id of a flow")
    assert.equal("true\n", ask('flow(1).src:within("2001:db8::/32")'))
  end)

  it("inject sends an event through rules and backends, and tells what became of it", function()
    start({ rules = 'rule "no 99" { match = { dst_port = 99 }, drop = true },' })
    assert.matches("atlas (2)",
      ask('inject{src="::1", src_port=1, dst="::1", dst_port=2, experiment="atlas", activity="Data Challenge"}'), 1, true)
    assert.matches("start tcp [::1]:1", d:log(), 1, true)
    assert.matches("dropped by a rule", ask('inject "tcp ::1 1 ::1 99 atlas 1"'), 1, true)
    assert.matches("unmapped", ask('inject "start tcp ::1 1 ::1 98"'), 1, true)
    assert.equal("ended\n", ask('inject "end tcp ::1 1 ::1 2"'))
    assert.equal(0, value("flows{count=true}"))
    fails('inject{src="::1"}', "src_port: expected a port")
    assert.matches("application +xr 1", ask('inject [[tcp ::1 5 ::1 6 atlas 0 application="xr 1" bytes_sent=7]]'))
    ask('inject "end tcp ::1 5 ::1 6"')
    fails('inject "tcp ::1"', "inject: source port is missing: expected")
    fails('inject "tcp ::1 1 ::1 2 atlas 1 aplication=x"', 'unknown key "aplication" — did you mean "application"')
    fails('inject{src="::1", src_port=1, dst="::1", dst_port=2, application=("x"):rep(60)}', "application: expected at most")
    fails("inject(7)", "inject: expected a line")
    fails('inject "tcp ::1 1 ::1 2 nobody 1"', "unknown experiment")
    assert.matches('console: root %(uid 0, pid %d+%): inject start tcp ::1 1 ::1 2 atlas Data Challenge', d:log())
    d:wait_for_counter("flowd_console_changes_total", 4)
  end)

  it("close ends a flow", function()
    start()
    d:write(announce(1000))
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal("ended\n", ask("close(1)"))
    assert.equal(0, d:counter("flowd_flows_open"))
    fails("close(1)", "no open flow has the id 1")
  end)

  it("watch shows a value again and again, until it is interrupted", function()
    start()
    local c = console.raw(d.console)
    c:eval('watch("flows{count=true}", 0.1)')
    local seen = ""
    process.wait_for("three values", SECONDS, function()
      c:fill()
      local kind, _, body = c:frame()
      if kind then seen = seen .. body end
      return select(2, seen:gsub("%d+:%d+:%d+ 0\n", "")) >= 3
    end)
    c:send(console.frame(3, ""))
    assert.equal(S.interrupted, (c:finish(SECONDS)))
    c:close()
    c = console.raw(d.console)
    c:eval('watch("flows{}", 0.1)', "format=json")
    seen = ""
    process.wait_for("two values", SECONDS, function()
      c:fill()
      local kind, status, body = c:frame()
      if kind then seen = seen .. body end
      assert.is_true(not kind or status == 0)
      return seen == "[]\n[]\n"
    end)
    c:close()
    fails('watch("1 +")', "watch: ")
    fails("watch(1)", "watch: expected Lua in quotes")
  end)

  it("rules lists them with hits, errors and where they are from", function()
    start({ rules = 'rule "seven" { set = { activity = 7 } }, rule "bad" (function() error("oh") end),' })
    d:write(announce(1000))
    d:wait_for_counter("flowd_flows_open", 1)
    local list = value("rules()")
    assert.same({ "seven", 1, 0, "on" }, { list[1].name, list[1].hits, list[1].errors, list[1].state })
    assert.same({ "bad", 0, 1 }, { list[2].name, list[2].hits, list[2].errors })
    assert.matches("seven +1 +0 .*on +conf.lua:%d+", ask("rules()"))
    for port = 2000, 2999 do d:write(announce(port)) end
    d:wait_for_counter("flowd_flows_open", 1001)
    process.wait_for("the time of a rule", SECONDS, function()
      ask('inject "tcp ::1 1 ::1 2 atlas 1"')
      local rule = value("rules()")[1]
      return rule.event_ns and rule.event_ns > 0 and rule.share
    end)
    assert.matches("seven +%d+ +0 +%d+ [nu]s +%d+%.%d%% +on", ask("rules()"))
  end)

  it("disable and enable switch a rule, until a reload", function()
    start({ rules = 'rule "seven" { set = { activity = 7 } },' })
    ask('disable "seven"')
    assert.equal(1, value('inject "tcp ::1 1 ::1 2 atlas 1"').activity)
    assert.equal("off", value("rules()")[1].state)
    assert.matches('-- rule "seven" (' .. d.conf, ask("delta()"), 1, true)
    ask("enable(1)")
    assert.equal(7, value('inject "tcp ::1 3 ::1 2 atlas 1"').activity)
    assert.matches("nothing", ask("delta()"), 1, true)
    assert.matches("was on already", ask('enable "seven"'), 1, true)
    fails('disable "sevne"', 'did you mean "seven"')
    ask('disable "seven"')
    ask("reload()")
    assert.equal("on", value("rules()")[1].state)
  end)

  it("enable switches on what the daemon has switched off", function()
    start({ rules = 'rule "bad" (function(flow) if flow.dst_port ~= 99 then error("oh") end flow.activity = 9 end),' })
    for port = 1000, 1029 do d:write(announce(port)) end
    d:wait_for_counter("flowd_flows_open", 30)
    assert.equal("off", value("rules()")[1].state)
    ask('enable "bad"')
    assert.equal(9, value('inject "tcp ::1 1 ::1 99 atlas 1"').activity)
  end)

  it("rule takes effect at once, where it is put, and is gone after a reload, which says so", function()
    start({ rules = 'rule "seven" { set = { activity = 7 } },' })
    ask('rule "eight" { match = { dst_port = 80 }, set = { activity = 8 } }')
    ask('rule("drop 81", { before = "seven" }) (function(flow) if flow.dst_port == 81 then return drop end end)')
    ask('rule("first", { after = "drop 81" }) { match = { dst_port = 82 }, accept = true }')
    local names = {}
    for i, r in ipairs(value("rules()")) do names[i] = r.name .. "/" .. r.from:gsub(":%d+$", "") end
    assert.same({ "drop 81/typed in", "first/typed in", "seven/conf.lua", "eight/typed in" }, names)
    assert.equal(8, value('inject "tcp ::1 1 ::1 80 atlas 1"').activity)
    assert.equal("eight", value('flows{dst_port=80}')[1].rule)
    assert.matches("dropped by a rule", ask('inject "tcp ::1 1 ::1 81 atlas 1"'), 1, true)
    assert.equal(1, value('inject "tcp ::1 1 ::1 82 atlas 1"').activity)
    -- Typed again it takes the place of the one before.
    ask('rule "eight" { match = { dst_port = 80 }, set = { activity = 9 } }')
    assert.equal(9, value('inject "tcp ::1 2 ::1 80 atlas 1"').activity)
    assert.equal(4, #value("rules()"))
    fails('rule "x" { match = { prot = 1 } }', "unknown field")
    fails('rule("x", { before = "svn" }) { drop = true }', "there is no rule \"svn\"")
    fails('rule("x", { at = 1 }) { drop = true }', "there is no placement at")
    assert.equal(4, #value("rules()"))
    local text = ask("reload()")
    assert.matches("^reloaded; gone with it", text)
    assert.matches('rule "eight" { match = { dst_port = 80 }, set = { activity = 9 } },', text, 1, true)
    assert.equal(1, #value("rules()"))
    assert.equal("reloaded\n", ask("reload()"))
    -- What they decided is still known to be theirs.
    assert.matches("rule +eight %(the rules have changed since%)", ask('flow "tcp ::1 2 ::1 80"'))
    assert.equal(2, value('flows{rule="eight", count=true}'))
    assert.same({ value = 65535, name = "(of a configuration before)", flows = 3, bytes_sent = 0, bytes_received = 0 },
      value('flows{by="rule"}')[1])
  end)

  it("rule works where the files have none, with what was assigned at the prompt", function()
    start()
    local c = assert(client.connect(d.console))
    local function tell(code) assert.equal(S.ok, (c:ask("eval", code, nil, function() end))) end
    tell('ours = flowd.prefixes { "2001:db8::/32" }')
    tell('rule "ours" (function(flow) if flow.src:within(ours) then flow.activity = 11 end end)')
    d:write(announce(1000))
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal(11, value("flows{}")[1].activity)
    assert.matches("-- ours was assigned at the prompt", ask("delta()"), 1, true)
    c:close()
    d:write(announce(1001))
    d:wait_for_counter("flowd_flows_open", 2)
    assert.equal(11, value("flows{src_port=1001}")[1].activity)
  end)

  it("delta prints Lua that can go into the files", function()
    start({ rules = 'rule "seven" { set = { activity = 7 } },' })
    assert.matches("nothing", ask("delta()"), 1, true)
    ask('rule("eight", { before = "seven" }) { match = { dst_port = 80 }, set = { activity = 8 } }')
    local text = ask("delta()")
    assert.matches('-- before rule "seven":', text, 1, true)
    daemon.write_config(d.dir, {}, text .. 'rule "seven" { match = { dst_port = 81 }, set = { activity = 7 } },')
    ask("reload()")
    assert.equal(8, value('inject "tcp ::1 1 ::1 80 atlas 1"').activity)
    assert.not_matches("before = ", text, 1, true)
  end)

  it("reapply runs the rules over open flows, and dry only counts", function()
    start()
    assert.matches("^reapply %(dry: nothing was changed%): %d+ open flows", ask("reapply{dry=true}"))
    assert.matches("^reapply: %d+ open flows", ask("reapply()"))
    fails("reapply{dri=true}", "unknown option dri")
  end)

  it("explain tells rule by rule what would become of a flow", function()
    start({ rules = 'rule "seven" { match = { dst_port = 80 }, set = { activity = 7 } }, rule "all" { drop = true },' })
    local text = ask('explain "tcp ::1 1 ::1 80 atlas Data_Challenge"')
    assert.matches("1 +seven +yes +activity: Data Challenge %(26%) %-> ", text)
    assert.matches("Result: dropped", text, 1, true)
    assert.matches("dst_port is 81; expected 80",
      ask('explain{src="::1", src_port=1, dst="::1", dst_port=81, experiment="atlas"}'), 1, true)
    assert.equal(0, d:counter("flowd_events_dropped_total"))
    fails('explain "tcp nowhere"', "explain: ")
  end)

  it("trace shows live events rule by rule, those that match, as many as are asked for", function()
    start({ rules = 'rule "seven" { match = { dst_port = 443 }, set = { activity = 7 } },' })
    local c = console.raw(d.console)
    c:eval('trace{src_port="1001-1002", count=2}')
    d:wait_for_counter("flowd_console_requests_total", 1)
    for port = 1000, 1003 do d:write(announce(port)) end
    local status, _, out = c:finish(SECONDS)
    assert.equal(S.ok, status)
    assert.matches("start tcp [2001:db8::3e9]:1001", out, 1, true)
    assert.matches("1  seven  yes    activity: default (1)", out, 1, true)
    assert.matches("start tcp [2001:db8::3ea]:1002", out, 1, true)
    assert.not_matches(":1000", out, 1, true)
    c:eval("trace{count=2}", "format=json")
    d:wait_for_counter("flowd_console_requests_total", 2)
    for port = 1004, 1005 do d:write(announce(port)) end
    _, _, out = c:finish(SECONDS)
    local events = {}
    for line in out:gmatch("[^\n]+") do events[#events + 1] = json.decode(line) end
    assert.same({ 2, "delivered", 7 }, { #events, events[1].result.outcome, events[2].result.activity })
    -- One that is interrupted leaves nothing behind.
    c:eval("trace{}")
    c:send(console.frame(3, ""))
    assert.equal(S.interrupted, (c:finish(SECONDS)))
    d:write(announce(1010))
    d:wait_for_counter("flowd_flows_open", 7)
    c:close()
  end)

  it("stats finds counters by a part of their names", function()
    start()
    assert.matches("0  flowd_flows_open\n", ask('stats("flows_open")'), 1, true)
    assert.equal("flowd_flows_open", value('stats("flows_open")')[1].name)
    assert.is_true(#value("stats()") > 20)
    fails("stats(1)", "stats: expected")
  end)

  it("plugins and backends say what runs and what failed, and why", function()
    start({ config = { backends = { firefly = {}, second = { use = "firefly", collectors = { "x" } } } } })
    assert.matches("pipe +running", ask("plugins()"))
    assert.matches("firefly +running", ask("backends()"))
    assert.equal(2, #value("backends()"))
    ask('inject "tcp ::1 1 ::1 2 atlas 1 application=xrootd"')
    for filter, wanted in pairs({ ['backend="firefly"'] = 1, ['backend={"second"}'] = 1, ['application="xr*"'] = 1,
      ['plugin="console"'] = 1 }) do
      assert.equal(wanted, value("flows{count=true, " .. filter .. "}"), filter)
    end
    fails('flows{backend="fierfly"}', 'flows: backend: there is no backend "fierfly" — did you mean "firefly"?')
    assert.same({ "x" }, { value("backends()")[2].options.collectors[1].host or "x" })
  end)

  it("plugins that failed are listed with their reason", function()
    local dir = temp.dir()
    temp.write(dir .. "/file", "x")
    start({ config = { plugins = { pipe = { paths = { dir .. "/file" } } } } })
    assert.matches("pipe +failed +%S", ask("plugins()"))
  end)

  it("backends is empty when there is none", function()
    start()
    assert.equal("none is configured\n", ask("backends()"))
  end)

  it("registry lists experiments and activities with their ids", function()
    start()
    assert.matches("atlas (2)\n", ask("registry()"), 1, true)
    assert.matches("  Data Challenge (26)\n", ask('registry("atlas")'), 1, true)
    fails('registry("atlsa")', 'did you mean "atlas"')
  end)

  it("marker says that it does not run, where it does not", function()
    start()
    fails("marker()", "the backend 'marker' is not running")
  end)

  it("marker tells interfaces, marks and packets", function()
    if not require("spec.support.marking").available() then return pending("needs what marking needs") end
    start({ config = { backends = { marker = { interfaces = { "lo" } } } } })
    d:write("start tcp ::1 1000 ::1 2000 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 1)
    local m = value("marker()")
    assert.same({ "lo", true, 1 }, { m.interfaces[1].name, m.interfaces[1].attached, m.flows })
  end)

  it("loglevel sets and tells", function()
    start()
    assert.equal("debug\n", ask("loglevel()"))
    assert.equal("warn\n", ask('loglevel("warn")'))
    assert.equal("warn\n", ask("loglevel()"))
    fails('loglevel("loud")', "loglevel: expected")
    ask('loglevel("info")')
  end)

  it("reload takes what the files say", function()
    start()
    daemon.write_config(d.dir, {}, 'rule "new" { set = { activity = 7 } },')
    assert.equal("reloaded\n", ask("reload()"))
    assert.equal("new", value("rules()")[1].name)
    assert.equal('"reloaded"\n', ask("reload()", { format = "json" }))
  end)
end)
