-- SPDX-License-Identifier: Apache-2.0
-- The console's socket: who may, what comes back, and what a client that misbehaves can do.
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local client = require("flowd.console.client")
local console = require("spec.support.console")
local daemon = require("spec.support.daemon")
local live_counter = require("spec.support.live_counter")
local machine = require("spec.support.machine")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local S = client.status
local SECONDS = os.getenv("ASAN_OPTIONS") and 60 or 20
local TRIES = 4

local function start(options)
  options = options or {}
  local d = daemon.start(options)
  d.console = d.runtime_dir .. "/console"
  return d
end

local function eval(d, code, ...) return d:command("eval", code, ...) end

local function mode(path) return (process.must({ "stat", "-c", "%a %g", path }):gsub("\n", "")) end

-- As another user: `flowd-lua eval` under setpriv. The directory must let others in.
local function eval_as(d, uid, gid, groups, code)
  return process.run({ "setpriv", "--reuid=" .. uid, "--regid=" .. gid,
    groups and "--groups=" .. groups or "--clear-groups", daemon.binary(), "--lua-path", "lua", "eval", "--socket", d.console, code })
end

local function open_directory(dir)
  process.must({ "chmod", "0755", dir })
  return dir
end

describe("the console", function()
  after_each(cleanup.all)

  it("evaluates: result on standard output, errors on standard error, the status right", function()
    local d = start()
    local r = eval(d, "1 + 1")
    assert.same({ 0, "2\n", "" }, { r.code, r.stdout, r.stderr })
    r = eval(d, 'print("a", 1) return "b", { c = true }')
    assert.same({ 0, "a\t1\nb\n{ c = true }\n", "" }, { r.code, r.stdout, r.stderr })
    r = eval(d, "local x = nil\nreturn x.y")
    assert.same({ 1, "" }, { r.code, r.stdout })
    assert.matches("console:2: attempt to index local 'x'", r.stderr, 1, true)
    r = eval(d, "1 +")
    assert.equal(1, r.code)
    assert.matches("unexpected symbol near '<eof>'", r.stderr, 1, true)
    r = eval(d, 'flwos = 1; return flows_')
    assert.matches("flows_ is not defined", r.stderr, 1, true)
    r = process.run({ daemon.binary(), "eval", "--socket", d.console, "-", input = "return 6 * 7\n" })
    assert.equal("42\n", r.stdout)
  end)

  it("writes JSON for programs, and keeps what is for people out of it", function()
    local d = start()
    local r = eval(d, 'print("note") return { a = { 1, 2 }, b = "x\\n", c = 1e300 * 1e300 }', "--json")
    assert.same({ 0, '{"a":[1,2],"b":"x\\n","c":null}\n', "note\n" }, { r.code, r.stdout, r.stderr })
    assert.equal('[1,null,"x"]\n', eval(d, 'return 1, nil, "x"', "--json").stdout)
    assert.equal('[]\n', eval(d, "local a = 1", "--json").stdout)
    -- What has entries of both kinds loses none.
    assert.equal('{"1":2,"n":3}\n', eval(d, "{ 2, n = 3 }", "--json").stdout)
    assert.equal('[{"1":1,"3":3},[1,2,3],{}]\n', eval(d, "{ { [1] = 1, [3] = 3 }, { 1, 2, 3 }, {} }", "--json").stdout)
  end)

  it("is as privileged as the policy and no more", function()
    local d = start()
    for _, code in ipairs({ "require('ffi')", "ffi", "io", "os.execute", "debug", "jit", "loadstring", "package", "_G", "collectgarbage",
      "getfenv", "rawset", "string.dump", "coroutine" }) do
      local r = eval(d, "return " .. code)
      assert.equal(1, r.code, code)
    end
    assert.equal("nil\n", eval(d, 'return getmetatable("")').stdout)
    assert.matches("only source text", eval(d, "\27LJ").stderr, 1, true)
  end)

  it("tells a daemon that is not there from one that does not let in", function()
    local d = start()
    local r = process.run({ daemon.binary(), "eval", "--socket", d.dir .. "/nowhere", "1" })
    assert.equal(1, r.code)
    assert.matches("no daemon answers there", r.stderr, 1, true)
    open_directory(d.dir)
    r = eval_as(d, 65534, 65534, nil, "1")
    assert.equal(1, r.code)
    assert.matches("may not use the console", r.stderr, 1, true)
  end)

  it("lets in root and the group, and those who may ask only", function()
    local dir = open_directory(temp.dir())
    local d = start({ dir = dir, config = { console = { group = "61001", readonly_group = "61002" } } })
    assert.equal("666 0", mode(d.console))
    assert.equal("2\n", eval(d, "1 + 1").stdout)
    assert.equal("2\n", eval_as(d, 60001, 61001, nil, "1 + 1").stdout)
    assert.equal("2\n", eval_as(d, 60001, 60001, "61001,60009", "1 + 1").stdout)
    assert.equal("info\n", eval_as(d, 60001, 60001, "61001", 'loglevel("info")').stdout)
    assert.matches('console: user %(uid 60001, pid %d+%): loglevel "info"', d:log())
    assert.equal("2\n", eval_as(d, 60002, 61002, nil, "1 + 1").stdout)
    local r = eval_as(d, 60002, 60002, "61002", 'loglevel("error")')
    assert.equal(1, r.code)
    assert.matches("you may ask, but not change anything", r.stderr, 1, true)
    r = eval_as(d, 60002, 60002, "61002", 'flowd.map.exact { a = 1 }')
    assert.matches("flowd.map: you may ask, but not change anything", r.stderr, 1, true)
    assert.equal("info\n", eval(d, "loglevel()").stdout)
    r = eval_as(d, 60003, 60003, nil, "1 + 1")
    assert.equal(1, r.code)
    assert.matches("this user may not use the console", r.stderr, 1, true)
    d:wait_for_counter('flowd_console_refused_total{reason="user"}', 1)
  end)

  it("lets in the user that the daemon runs as, and root; nobody else where no group is named", function()
    local dir = open_directory(temp.dir())
    local binary = daemon.public_binary()
    local d = start({ dir = dir, binary = binary, config = { user = "61003", group = "61003" } })
    assert.equal("2\n", eval(d, "1 + 1").stdout)
    local function as(uid)
      return process.run({ "setpriv", "--reuid=" .. uid, "--regid=" .. uid, "--clear-groups", binary, "eval", "--socket", d.console,
        'loglevel("info")' })
    end
    assert.same({ 0, "info\n" }, { as(61003).code, as(61003).stdout })
    assert.matches('console: user %(uid 61003, pid %d+%): loglevel "info"', d:log())
    local r = as(61004)
    assert.equal(1, r.code)
    assert.matches("this user may not use the console", r.stderr, 1, true)
    d:stop()
  end)

  it("gives the socket the mode and group that it is told", function()
    local d = start({ config = { console = { group = "61001" } } })
    assert.equal("660 61001", mode(d.console))
    d:stop()
    -- By name.
    d = start({ config = { console = { readonly_group = "daemon" } } })
    assert.equal("660 " .. process.must({ "sh", "-c", "getent group daemon | cut -d: -f3" }):gsub("\n", ""), mode(d.console))
    d:stop()
    d = start({ config = { console = { mode = "0640" } } })
    assert.equal("640 0", mode(d.console))
    d:stop()
    d = start({ config = { console = { enabled = false } } })
    assert.is_false(temp.exists(d.console))
    d:stop()
    d = start({ config = { console = { group = "no-such-group" } } })
    d:expect('console.group: there is no group "no%-such%-group"')
    assert.is_true(d:running())
  end)

  it("leaves nothing after a stop, replaces what a killed daemon left, and leaves alone what is not its own", function()
    local d = start()
    assert.same({ code = 0 }, d:stop())
    assert.is_false(temp.exists(d.console))
    d = start()
    d:signal("KILL")
    d:wait()
    assert.is_true(temp.exists(d.console))
    d = start({ dir = d.dir })
    assert.equal("2\n", eval(d, "1 + 1").stdout)
    local other = temp.dir()
    temp.write(other .. "/file", "precious")
    local e = start({ config = { console = { path = other .. "/file" } } })
    e:expect("is there and is no socket")
    e:stop()
    assert.equal("precious", temp.read(other .. "/file"))
    e = start({ config = { console = { path = d.console } } })
    e:expect("another process answers there")
    e:stop()
    assert.equal("2\n", eval(d, "1 + 1").stdout)
  end)

  it("goes on after an upgrade, without a moment in which nobody listens", function()
    local d = start()
    local before = process.must({ "stat", "-c", "%i", d.console })
    d:signal("USR2")
    d:expect("handing over.*is ready")
    assert.equal("2\n", eval(d, "1 + 1").stdout)
    assert.equal(before, process.must({ "stat", "-c", "%i", d.console }))
    d:stop()
    assert.is_false(temp.exists(d.console))
  end)

  it("keeps what is assigned, until the client leaves", function()
    local d = start()
    local c = assert(client.connect(d.console))
    local out
    local function ask(code) out = "" return c:ask("eval", code, nil, function(text) out = out .. text end) end
    assert.equal(S.ok, ask("a = 41"))
    assert.equal(S.ok, ask("return a + 1"))
    assert.equal("42\n", out)
    ask("_ + 1")
    assert.equal("43\n", out)
    c:close()
    assert.matches("a is not defined", eval(d, "a").stderr, 1, true)
  end)

  it("serves a hundred clients at once, one of which never ends", function()
    local d = start()
    local endless = console.raw(d.console)
    endless:eval("while true do end")
    local clients = {}
    for i = 1, 100 do
      clients[i] = console.raw(d.console)
      clients[i]:eval(("local s = 0 for i = 1, 20000 do s = s + i end return s + %d"):format(i))
    end
    for i, c in ipairs(clients) do
      local status, _, out = c:finish(SECONDS)
      assert.same({ S.ok, ("%d\n"):format(200010000 + i) }, { status, out })
      c:close()
    end
    endless:send(console.frame(3, ""))
    local status, message = endless:finish(SECONDS)
    assert.equal(S.interrupted, status)
    assert.matches("interrupted", message)
  end)

  it("keeps no event waiting for 10 ms, whatever is asked for: loops, large results, sorts, many rules", function()
    local rules = {}
    for i = 1, 1000 do
      -- Functions among them: from the first to the last of these an explanation is a trial.
      rules[i] = ("rule %q " .. (i % 50 == 1 and "(function(flow) if flow.dst_port == %d then flow.activity = 7 end end),"
        or "{ match = { dst_port = %d }, set = { activity = 7 } },")):format("r" .. i, i)
    end
    local d = start({ rules = table.concat(rules, "\n"), config = { log = { level = "info" } } })
    local lines = {}
    for i = 1, 5000 do lines[i] = ("start tcp 2001:db8::1 %d 2001:db8::2 5000 atlas 1\n"):format(i) end
    local endless = console.raw(d.console)
    endless:eval("while true do end")
    d:wait_for_counter("flowd_console_requests_total", 1)
    -- With traffic.
    d:write(table.concat(lines))
    d:wait_for_counter("flowd_flows_open", 5000, SECONDS)
    local function ask(code, format)
      local status, _, message = console.ask(d.console, code, { format = format })
      assert.equal(S.ok, status, code .. ": " .. message)
    end
    -- CPU time of the longest go; of some tries one must do, as the machine does other things, too.
    local most = os.getenv("ASAN_OPTIONS") and 100000 or 10000
    local longest = live_counter(d.runtime_dir, "flowd_console_longest_microseconds")
    local function hold_nothing_up(what, fn)
      local us
      for _ = 1, TRIES do
        longest[0] = 0
        fn()
        us = tonumber(longest[0])
        assert.is_true(us > 0, what)
        if us < most then return end
      end
      assert.is_true(us < most * machine.slowness(), ("%s: %d us in one go"):format(what, us))
    end
    for _, code in ipairs({
      "flows{limit=5000}", 'flows{limit=5000, sort="src"}', "flows{where=function(f) return f.src_port == 7 end}",
      'rule("new", { before = "r500" }) { match = { dst_port = 1 }, drop = true }', 'disable "r7"', "rules()",
      'explain "tcp ::1 1 ::1 1000 atlas 1"', "stats()", "help()",
      "local t = {} for i = 1, 20000 do t[i] = i * 7919 % 20011 end table.sort(t, function(a, b) return a > b end)",
      "local t = {} for i = 1, 5000 do t['k' .. i] = { i } end return t",
    }) do
      for _, format in ipairs({ "text", "json" }) do
        hold_nothing_up(code, function() ask(code, format) end)
      end
    end
    hold_nothing_up("completion", function()
      assert.equal(S.ok, (client.connect(d.console):ask("complete", 'disable("', nil, function() end)))
    end)
    endless:close()
  end)

  it("says no to the client too many", function()
    local d = start()
    local clients = {}
    for i = 1, ffi.C.CONSOLE_CLIENTS_MAX + 1 do
      clients[i] = console.raw(d.console)
      if i % 50 == 0 then d:command("version") end
    end
    local status, message = clients[#clients]:finish(SECONDS)
    assert.same({ S.busy, "too many clients" }, { status, message })
    for _, c in ipairs(clients) do c:close() end
    process.wait_for("room", SECONDS, function() return eval(d, "1 + 1").stdout == "2\n" end)
  end)

  it("drops a client that never reads, and holds back what it would get", function()
    local d = start({ config = { console = { patience = 1 } } })
    local c = console.raw(d.console)
    c:eval('while true do print(("x"):rep(1000)) end')
    d:wait_for_counter('flowd_console_dropped_total{reason="does_not_read"}', 1, SECONDS)
    assert.matches("is dropped: does_not_read", d:log(), 1, true)
    assert.equal("2\n", eval(d, "1 + 1").stdout)
    c:close()
  end)

  it("that calls a C function which does not come back costs a client its connection, and no event", function()
    local d = start()
    d:write("start tcp ::1 1000 ::1 2000 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 1)
    local c = console.raw(d.console)
    c:eval('return ("a"):rep(60):find(("a?"):rep(60) .. ("a"):rep(60))')
    d:expect("console: what root %(uid 0, pid %d+%) typed never returned", SECONDS)
    d:write("start tcp ::1 1001 ::1 2000 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 2)
    assert.equal("2\n", eval(d, "flows{count=true}").stdout)
    c:close()
  end)

  it("hands out a large result piece by piece, as the client takes it", function()
    local d = start()
    local r = eval(d, 'for i = 1, 100000 do print(("%010d"):format(i)) end')
    assert.equal(0, r.code)
    assert.equal(1100000, #r.stdout)
    r = eval(d, 'return ("x"):rep(65000)')
    assert.equal(65001, #r.stdout)
    -- Of a table no text is made that is as long as all of it.
    r = eval(d, 'local t = {} for i = 1, 100 do t[i] = { ("x"):rep(1900), { n = i } } end return { t, t }')
    assert.equal(0, r.code)
    assert.is_true(#r.stdout > 380000)
  end)

  it("ends what a client runs that goes away", function()
    local d = start()
    local c = console.raw(d.console)
    c:eval("while true do end")
    d:wait_for_counter("flowd_console_requests_total", 1)
    c:close()
    d:wait_for_counter("flowd_console_clients", 0)
    local before = d.child:cpu_seconds()
    eval(d, "1")
    local ok = pcall(process.wait_for, "work", 0.5, function() return d.child:cpu_seconds() > before + 0.3 end)
    assert.is_false(ok)
  end)

  it("answers what was asked by a client that sends no more, and drops one that left in the middle of a frame", function()
    local d = start()
    local c = console.raw(d.console)
    c:eval("1 + 1")
    c:eval("2 + 2")
    ffi.C.shutdown(c.fd, 1)
    local _, _, out = c:finish()
    assert.equal("2\n", out)
    _, _, out = c:finish()
    assert.equal("4\n", out)
    process.wait_for("the end", SECONDS, function() return not c:fill() end)
    c:close()
    c = console.raw(d.console)
    c:send(console.frame(1, "1 + 1"):sub(1, 11))
    ffi.C.shutdown(c.fd, 1)
    d:wait_for_counter('flowd_console_dropped_total{reason="in_a_frame"}', 1)
    c:close()
  end)

  it("refuses what is no frame, says why, and goes on with the others", function()
    local d = start()
    for _, case in ipairs({
      { console.frame(1, "x", 2), "frame of version 2: this daemon speaks version 1" },
      { console.frame(9, "x"), "frame of type 9" },
      { console.frame(1, "x", 1, 1), "status 1" },
      { console.frame(1, "x", 1, 0, 1), "last octet 1" },
      { console.frame(1, "", 1, 0, 0, 65537), "frame with a body of 65537 octets: at most 65536" },
    }) do
      local c = console.raw(d.console)
      c:send(case[1])
      local status, message = c:finish()
      assert.equal(S.malformed, status)
      assert.matches(case[2], message, 1, true)
      process.wait_for("the end", SECONDS, function() return not c:fill() end)
      c:close()
    end
    assert.equal("2\n", eval(d, "1 + 1").stdout)
  end)

  it("takes a flood of requests one after the other, with events going on", function()
    local d = start()
    local c = console.raw(d.console)
    local request = console.frame(1, "\n1")
    local flood, sent, answers = request:rep(2000), 0, 0
    process.wait_for("2000 answers", SECONDS, function()
      local n = c:send(flood:sub(sent + 1))
      sent = sent + n
      c:fill()
      local kind = c:frame()
      while kind do
        if kind == ffi.C.CONSOLE_END then answers = answers + 1 end
        kind = c:frame()
      end
      return answers == 2000
    end)
    d:write("start tcp ::1 1000 ::1 2000 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 1)
    c:send(console.frame(3, ""):rep(5000))
    assert.equal("2\n", eval(d, "1 + 1").stdout)
    c:close()
  end)

  it("reloads, and tells what is wrong when it cannot", function()
    local d = start({ rules = 'rule "one" { set = { activity = 7 } },' })
    local r = eval(d, "reload()")
    assert.same({ 0, "reloaded\n" }, { r.code, r.stdout })
    temp.write(d.conf, "return {\n  oh no\n}\n")
    r = process.run({ daemon.binary(), "eval", "--socket", d.console, "reload()" })
    assert.equal(1, r.code)
    assert.matches("the configuration has errors", r.stderr, 1, true)
    assert.matches("console: root (uid 0, pid", d:log(), 1, true)
    assert.equal("2\n", select(2, console.ask(d.console, "1 + 1")))
  end)

  it("interrupts what runs when a configuration is loaded anew", function()
    local d = start()
    local c = console.raw(d.console)
    c:eval("while true do end")
    d:wait_for_counter("flowd_console_requests_total", 1)
    d:signal("HUP")
    local status, message = c:finish()
    assert.equal(S.interrupted, status)
    assert.matches("loaded anew", message)
    c:eval("1 + 1")
    local _, _, out = c:finish()
    assert.equal("2\n", out)
    c:close()
  end)
end)
