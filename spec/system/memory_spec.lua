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
    -- At most the one event on which memory ran out in it.
    assert.is_true(d:counter('flowd_rule_errors_total{rule="busy"}') <= 1)
    assert.is_true(d:counter('flowd_rule_hits_total{rule="innocent"}') >= 599)
    assert.is_true(d:counter("flowd_policy_memory_octets") < 8e6)
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
