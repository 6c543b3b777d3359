-- SPDX-License-Identifier: Apache-2.0
-- Scripts that allocate without end: an error for them, nothing for the others.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local SECONDS = os.getenv("ASAN_OPTIONS") and 60 or 20

local function line(port) return ("start tcp ::1 %d ::1 5000 atlas 1\n"):format(port) end

local innocent = [[ rule "innocent" (function(flow) local name = flow.plugin .. tostring(flow.src_port)
  if #name > 0 then flow.activity = 7 end end), ]]

describe("a script that allocates without end", function()
  after_each(cleanup.all)

  local function start(rules, preamble)
    local d = daemon.start({ config = { memory_limit = 24 }, rules = innocent, log_level = "info" })
    local text = temp.read(d.conf)
    assert.same({ code = 0 }, d:stop())
    temp.write(d.conf, (preamble or "") .. text:gsub("rules = {", function() return "rules = {\n" .. rules end))
    return daemon.start({ dir = d.dir, conf = d.conf, log_level = "info" })
  end

  for _, case in ipairs({
    { "at once, in tables", "local t = {} while true do t[#t + 1] = { #t } end" },
    { "at once, in strings", 'local t = {} for i = 1, math.huge do t[i] = ("x"):rep(100) .. i end' },
    { "at once, in one string", 'local t = "x" while true do t = t .. t end' },
    { "in string.rep", 'return #("x"):rep(2 ^ 31 - 16) > 0 and drop' },
  }) do
    it(case[1] .. " gets an error; the event goes on, and so does the daemon", function()
      local d = start(([[ rule "greedy" (function(flow) if flow.src_port == 666 then %s end end), ]]):format(case[2]))
      d:write(line(666) .. line(1000))
      d:wait_for_counter("flowd_flows_open", 2)
      d:expect('rule "greedy" failed on [^\n]*: not enough memory', SECONDS)
      assert.equal(1, d:counter('flowd_rule_errors_total{rule="greedy"}'))
      assert.equal(2, d:counter('flowd_rule_hits_total{rule="innocent"}'))
      assert.equal(0, d:counter("flowd_scripts_hung_total"))
      assert.same({ code = 0 }, d:stop())
    end)
  end

  it("in machine code that catches each error by itself does not harm anybody", function()
    local d = start([[ rule "catches" (function(flow)
      local t, refused = {}, 0
      local function one(i) t[i] = { i } end
      for i = 1, 5e5 do if not pcall(one, i) then refused = refused + 1 end if refused > 1000 then break end end
      if refused > 0 then refusals:add() end
    end), ]], "local refusals = flowd.state.counter('refusals')\n")
    for port = 1, 10 do d:write(line(port)) end
    d:wait_for_counter("flowd_flows_open", 10)
    assert.is_true(d:counter('flowd_site_total{name="refusals"}') > 0)
    assert.equal(10, d:counter('flowd_rule_hits_total{rule="innocent"}'))
    assert.same({ code = 0 }, d:stop())
  end)

  it("event by event is switched off, listed, and what it held is free again; innocent ones go on", function()
    local d = start([[ rule "hoarder" (function(flow) for i = 1, 2000 do hoard[#hoard + 1] = { i, flow.src_port } end end), ]]
      .. [[ rule "busy" (function(flow) local t = {} for i = 1, 500 do t[i] = { tostring(i) } end end), ]],
      "local hoard = {}\n")
    local ports = {}
    for port = 1001, 1600 do ports[#ports + 1] = line(port) end
    d:write(table.concat(ports))
    d:expect('rule "hoarder" is switched off: it holds %d+ MB of the 24 MB', SECONDS)
    d:wait_for_counter("flowd_flows_open", 600)
    assert.equal(1, d:counter('flowd_script_off{kind="rule",name="hoarder"}'))
    assert.equal(1, d:counter('flowd_memory_off_total{kind="rule",name="hoarder"}'))
    assert.equal(0, d:counter('flowd_script_off{kind="rule",name="busy"}'))
    assert.not_matches("internal error", d:log())
    assert.equal(0, d:counter('flowd_rule_errors_total{rule="busy"}'))
    assert.equal(600, d:counter('flowd_rule_hits_total{rule="innocent"}'))
    assert.is_true(d:counter("flowd_policy_memory_octets") < 8e6)
    assert.same({ code = 0 }, d:stop())
  end)

  it("and catches its errors is switched off, too; not one event is lost to an innocent one", function()
    local d = start([[ rule "hoarder" (function(flow) pcall(function()
        for i = 1, 2000 do hoard[#hoard + 1] = ("x"):rep(40) .. #hoard end end) end), ]]
      .. [[ rule "cache" (function(flow) cache[flow.src_port] = tostring(flow.src) .. flow.src_port
        flow.application = cache[flow.src_port] end), ]],
      "local hoard, cache = {}, {}\n")
    for from = 1001, 1600, 20 do
      local ports = {}
      for port = from, from + 19 do ports[#ports + 1] = line(port) end
      d:write(table.concat(ports))
    end
    d:expect('rule "hoarder" is switched off: it holds %d+ MB of the 24 MB', SECONDS)
    d:wait_for_counter("flowd_flows_open", 600)
    for _, name in ipairs({ "innocent", "cache" }) do
      assert.equal(0, d:counter(('flowd_rule_errors_total{rule="%s"}'):format(name)))
      assert.equal(600, d:counter(('flowd_rule_hits_total{rule="%s"}'):format(name)))
      assert.equal(0, d:counter(('flowd_script_off{kind="rule",name="%s"}'):format(name)))
    end
    assert.not_matches("internal error", d:log())
    assert.same({ code = 0 }, d:stop())
  end)

  it("in a timer is switched off alone", function()
    local d = start("", [[ local hoard = {}
      flowd.every(0.01, function() for i = 1, 5000 do hoard[#hoard + 1] = { i } end end)
      ]])
    d:expect("timer [^\n]*conf.lua:2 is switched off: it holds %d+ MB of the 24 MB", SECONDS)
    d:write(line(1000))
    d:wait_for_counter('flowd_rule_hits_total{rule="innocent"}', 1)
    assert.same({ code = 0 }, d:stop())
  end)

  it("while the configuration is loaded is refused; the one before goes on", function()
    local d = start("")
    local good = temp.read(d.conf)
    for _, text in ipairs({ "local t = {} while true do t[#t + 1] = { #t } end", 'return ("x"):rep(2^30)' }) do
      local before = select(2, d:log():gsub("goes on", ""))
      temp.write(d.conf, "-- \n" .. text)
      d:signal("HUP")
      process.wait_for("the refusal", SECONDS, function() return select(2, d:log():gsub("goes on", "")) > before end)
      assert.matches("conf.lua: not enough memory: memory_limit is %d+ MB", d:log())
    end
    temp.write(d.conf, good)
    d:write(line(1000))
    d:wait_for_counter('flowd_rule_hits_total{rule="innocent"}', 1)
    assert.same({ code = 0 }, d:stop())
  end)
end)

-- Modules of a site's own, written into `dir`.
local function write_module(dir, kind, name, body)
  temp.write(("%s/%s.lua"):format(dir, name), ([[
    local hoard = {}
    local module = { name = %q, doc = "Allocates.", schema = {} }
    %s
    return module]]):format(name, body))
  return { [kind .. "_dirs"] = { dir } }
end

describe("a plugin or backend that allocates without end", function()
  after_each(cleanup.all)

  local function start(kind, body)
    local dir = temp.dir()
    local config = write_module(dir, kind, "greedy", body)
    config.memory_limit = 16
    config.plugins = { pipe = { paths = { dir .. "/run/np" } }, greedy = kind == "plugin" and {} or nil }
    config.backends = { greedy = kind == "backend" and {} or nil }
    -- An innocent one of the same kind, which allocates too.
    config[kind .. "s"].innocent = {}
    temp.write(dir .. "/innocent.lua", [[
      local innocent = { name = "innocent", doc = "Counts.", schema = {} }
      function innocent:start(ctx)
        self.counter = ctx:counter("flowd_site_total", { name = "innocent" })
        ctx:every(0.02, function() local t = {} for i = 1, 200 do t[i] = { i } end self.counter.value = self.counter.value + #t end)
      end
      function innocent:on_events(_, n) self.counter.value = self.counter.value + n end
      return innocent]])
    return daemon.start({ dir = dir, config = config, rules = innocent, log_level = "info" })
  end

  -- The daemon, its rules and the innocent one go on.
  local function expect_alive(d)
    local before = d:counter('flowd_site_total{name="innocent"}')
    local open = d:counter("flowd_flows_open")
    d:write(line(2001) .. line(2002))
    d:wait_for_counter("flowd_flows_open", open + 2)
    d:wait_for_counter('flowd_site_total{name="innocent"}', before + 300)
    assert.is_true(d:counter('flowd_rule_hits_total{rule="innocent"}') >= 2)
    assert.equal(0, d:counter("flowd_scripts_hung_total"))
    assert.same({ code = 0 }, d:stop())
  end

  for _, case in ipairs({
    { "in a timer", "plugin", [[ function module:start(ctx) ctx:every(0.005, function()
        for i = 1, 5000 do hoard[#hoard + 1] = { i } end end) end ]] },
    { "in lines that it reads", "plugin", [[ function module:start(ctx)
        ctx:fifo({ path = ctx.runtime_dir .. "/own", mode = 438, on_line = function(text)
          for i = 1, 5000 do hoard[#hoard + 1] = { i, text } end end }) end ]] },
    { "in a coroutine", "plugin", [[ function module:start(ctx) ctx:spawn(function()
        while true do ctx:sleep(0.005) for i = 1, 5000 do hoard[#hoard + 1] = { i } end end end) end ]] },
    { "with events", "backend", [[ function module:start() end
      function module:on_events() for i = 1, 40000 do hoard[#hoard + 1] = { i } end end ]] },
  }) do
    it(case[1] .. " is stopped and listed; the others live", function()
      local d = start(case[2], case[3])
      local function feed()
        -- The FIFO goes with the plugin.
        if case[1] == "in lines that it reads" then pcall(d.write, d, "x\n", d.runtime_dir .. "/own") end
        if case[1] == "with events" then d:write(line(1000)) end
        return d:log():find("is stopped") ~= nil or not d:running()
      end
      process.wait_for("its end", SECONDS, feed)
      d:expect(case[2] .. " 'greedy' is stopped: it holds %d+ MB of the 16 MB that memory_limit allows each", SECONDS)
      assert.matches("not enough memory", d:log())
      assert.equal(1, d:counter(('flowd_memory_off_total{kind="%s",name="greedy"}'):format(case[2])))
      assert.equal(1, d:counter(('flowd_modules_failed{kind="%s",name="greedy"}'):format(case[2])))
      assert.matches("greedy[^\n]*it holds %d+ MB", d:command("stats").stdout)
      expect_alive(d)
    end)
  end

  for _, case in ipairs({
    { "in one string", "plugin", [[ function module:start(ctx) ctx:after(0.1, function() return ("x"):rep(2 ^ 30) end) end ]],
      "plugin greedy: a callback raised: not enough memory" },
    { "at once, with each event", "backend", [[ function module:start() end
      function module:on_events() local t = {} while true do t[#t + 1] = { #t } end end ]],
      "backend 'greedy': not enough memory" },
    { "in a connection whose peer takes nothing", "plugin", [[ function module:start(ctx)
        local path, text = ctx.runtime_dir .. "/own", ("x"):rep(1000000)
        ctx:listen({ path = path, on_connection = function(peer) peer:pause() end })
        ctx:connect({ path = path, output_max = 2 ^ 30 }, function(peer)
          ctx:every(0.005, function() peer:write(text) end)
        end) end ]], "plugin greedy: a connection: not enough memory: it holds 1[34]%.%d MB" },
    { "in C memory of LuaJIT's", "backend", [[ local ffi = require("ffi") function module:start() end
      function module:on_events() hoard[1] = ffi.new("char[?]", 1e9) end ]], "backend 'greedy': not enough memory" },
  }) do
    it(case[1] .. " gets an error, and goes on as it holds nothing", function()
      local d = start(case[2], case[3])
      d:write(line(1000))
      d:expect(case[4], SECONDS)
      assert.equal(0, d:counter("flowd_modules_failed"))
      expect_alive(d)
    end)
  end

  it("when it starts, is listed as one that did not", function()
    local d = start("plugin", [[ function module:start() while true do hoard[#hoard + 1] = { #hoard } end end ]])
    assert.matches("plugin 'greedy' did not start: not enough memory", d:log())
    expect_alive(d)
  end)

  it("is there again after a reload", function()
    local d = start("plugin", [[ function module:start(ctx) ctx:after(0.05, function()
      while true do hoard[#hoard + 1] = { 1 } end end) end ]])
    d:expect("plugin 'greedy' is stopped", SECONDS)
    d:signal("HUP")
    d:expect("plugin 'greedy' is stopped.-is in use: plugins [%a, ]*greedy;.-plugin 'greedy' is stopped", SECONDS)
    expect_alive(d)
  end)
end)

describe("C memory of maps and sets", function()
  after_each(cleanup.all)

  local function write_map(path, count)
    local rows = {}
    for i = 0, count - 1 do
      rows[#rows + 1] = ("2001:%x:%x::/48,atlas\n"):format(0xd00 + math.floor(i / 65536), i % 65536)
    end
    temp.write(path, table.concat(rows))
  end

  it("counts: a map that is too big is refused when it is loaded, and when its file grows", function()
    local dir = temp.dir()
    write_map(dir .. "/sites.csv", 1000)
    local conf = daemon.write_config(dir, { memory_limit = 16 }, innocent
      .. 'rule "by site" (function(flow) flow:tag(sites:find(flow.dst)) end)')
    temp.write(conf, 'local sites = flowd.map.prefixes "sites.csv"\n' .. temp.read(conf))
    local d = daemon.start({ dir = dir, conf = conf, log_level = "info" })
    local before = d:counter("flowd_policy_memory_octets")
    write_map(dir .. "/sites.csv", 200000)
    d:expect("sites.csv[^\n]*not enough memory", SECONDS)
    d:write("start tcp ::1 1 2001:d00:1::1 80 0 0\n")
    d:signal("HUP")
    d:expect("not enough memory[^\n]*\n.-the configuration before it goes on", SECONDS)
    write_map(dir .. "/sites.csv", 20000)
    d:wait_for_counter('flowd_map_files_total{result="ok"}', 1)
    d:wait_for_counter("flowd_flows_open", 1)
    d:write("start tcp ::1 1 2001:d00:4000::1 80 0 0\n")
    d:wait_for_counter("flowd_flows_open", 2)
    -- More than 40 octets for each of them, which nothing but the C memory is.
    assert.is_true(d:counter("flowd_policy_memory_octets") > before + 20000 * 40)
    assert.same({ code = 0 }, d:stop())
  end)

  it("counts for the rule that makes it, which is switched off", function()
    local dir = temp.dir()
    local list = {}
    for i = 1, 2000 do list[i] = ('"2001:db8:%x::/48"'):format(i) end
    local conf = daemon.write_config(dir, { memory_limit = 16 }, innocent
      .. 'rule "sets" (function(flow) hoard[#hoard + 1] = flowd.prefixes(list) end)')
    temp.write(conf, ("local hoard, list = {}, { %s }\n"):format(table.concat(list, ",")) .. temp.read(conf))
    local d = daemon.start({ dir = dir, conf = conf, log_level = "info" })
    for port = 1, 300 do d:write(line(port)) end
    d:expect('rule "sets" is switched off: it holds %d+ MB of the 16 MB', SECONDS)
    d:wait_for_counter("flowd_flows_open", 300)
    assert.equal(300, d:counter('flowd_rule_hits_total{rule="innocent"}'))
    assert.same({ code = 0 }, d:stop())
  end)
end)

describe("the index of declared rules", function()
  after_each(cleanup.all)

  it("counts: more rules than memory_limit allows are refused; what was there goes on", function()
    -- Each port is of two rules, and hardly two ports of the same two: each has a set of rules of its own.
    local function rules(count, ports)
      local of, list = {}, {}
      for i = 0, count - 1 do of[i] = {} end
      for port = 1, ports do
        for _, number in ipairs({ port % count, (port * 7 + math.floor(port / count)) % (count - 1) }) do
          of[number][#of[number] + 1] = port
        end
      end
      for i = 0, count - 1 do
        list[i + 1] = ('rule "r%d" { match = { dst_port = { %s } }, set = { activity = 3 } },'):format(i, table.concat(of[i], ","))
      end
      return table.concat(list, "\n")
    end
    local d = daemon.start({ config = { memory_limit = 24 }, rules = innocent .. rules(100, 1000), log_level = "info" })
    d:write(line(1000))
    d:wait_for_counter("flowd_flows_open", 1)
    local before, index = d:counter("flowd_policy_memory_octets"), d:counter("flowd_rules_index_octets")
    assert.is_true(index > 0 and before > index, ("%d octets, of which the index has %d"):format(before, index))
    daemon.write_config(d.dir, { memory_limit = 24 }, innocent .. rules(2200, 60000))
    d:signal("HUP")
    d:expect("not enough memory: memory_limit is 24 MB.-the configuration before it goes on", SECONDS)
    d:write(line(1001))
    d:wait_for_counter("flowd_flows_open", 2)
    assert.same({ code = 0 }, d:stop())
  end)
end)

describe("the limit that is the default", function()
  after_each(cleanup.all)

  it("is met with an error before the script is taken for one that never returns", function()
    local d = daemon.start({ log_level = "info", rules = innocent .. [[ rule "greedy" (function(flow)
      if flow.src_port == 666 then local t = { ("x"):rep(2 ^ 20) } while true do t[#t + 1] = t[1] .. #t end end end) ]] })
    d:write(line(666) .. line(1000))
    d:expect('rule "greedy" failed on [^\n]*: not enough memory', SECONDS)
    d:wait_for_counter("flowd_flows_open", 2)
    assert.equal(0, d:counter("flowd_scripts_hung_total"))
    assert.same({ code = 0 }, d:stop())
  end)
end)

describe("timers of a policy", function()
  after_each(cleanup.all)

  local function start(text)
    local d = daemon.start({ rules = innocent, log_level = "info" })
    assert.same({ code = 0 }, d:stop())
    temp.write(d.conf, text .. temp.read(d.conf))
    return daemon.start({ dir = d.dir, conf = d.conf, log_level = "info" })
  end

  it("run while the policy is in use, and end with it", function()
    local d = start([[ local n = 0
      local timer
      timer = flowd.every(0.02, function() n = n + 1 print("tick " .. n) if n == 3 then timer:stop() flowd.after(0.01,
        function() print("after three") end) end end)
      flowd.every(0.05, function() print("old policy") end)
      ]])
    d:expect("tick 3.-after three", SECONDS)
    assert.not_matches("tick 4", d:log())
    d:expect("old policy", SECONDS)
    daemon.write_config(d.dir, {}, innocent)
    temp.write(d.conf, "flowd.every(0.05, function() print('new policy') end) " .. temp.read(d.conf))
    d:signal("HUP")
    d:expect("is in use: ", SECONDS)
    local count = select(2, d:log():gsub("old policy", ""))
    d:expect(("new policy.-"):rep(5), SECONDS)
    assert.equal(count, (select(2, d:log():gsub("old policy", ""))))
    assert.same({ code = 0 }, d:stop())
  end)

  it("that raise are logged and counted; one that keeps failing is switched off", function()
    local d = start([[ flowd.every(0.01, function() error("oh dear") end)
      ]])
    d:expect("timer [^\n]*conf.lua:1 failed: [^\n]*conf.lua:1: oh dear", SECONDS)
    d:expect("timer [^\n]*conf.lua:1 is switched off: it failed 5 times in a row", SECONDS)
    assert.equal(5, d:counter("flowd_timer_errors_total"))
    assert.equal(1, d:counter("flowd_script_off"))
    assert.same({ code = 0 }, d:stop())
  end)

  it("that never return are named and not started again", function()
    local d = start([[ flowd.after(0.2, function() while true do end end)
      flowd.every(0.1, function() print("another one") end)
      ]])
    d:expect("timer [^\n]*conf.lua:1 never returned: [^\n]*.-is ready: ", SECONDS)
    d:expect("never returned.-another one", SECONDS)
    assert.equal(1, d:counter("flowd_scripts_off"))
    assert.equal(1, d:counter("flowd_scripts_hung_total"))
    assert.same({ code = 0 }, d:stop())
  end)

  it("say what is wrong where they are made", function()
    local dir = temp.dir()
    for text, message in pairs({
      ["flowd.every(0, print)"] = "conf.lua:1: flowd.every: expected seconds, a number from 0.01 to 1e%+08; got 0",
      ["flowd.after('5', print)"] = "conf.lua:1: flowd.after: expected seconds",
      ["flowd.after(5)"] = "conf.lua:1: flowd.after: expected a function; got nil",
      ["for i = 1, 1001 do flowd.after(5, print) end"] = "conf.lua:1: flowd.after: there are 1000 timers already",
    }) do
      local conf = temp.write(dir .. "/conf.lua", text .. " return {}")
      local result = process.run({ daemon.binary(), "--conf", conf, "check" })
      assert.equal(1, result.code)
      assert.matches(message, result.stderr)
    end
  end)
end)
