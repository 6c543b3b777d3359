-- SPDX-License-Identifier: Apache-2.0
-- Scripts that never return: the daemon goes on without them, and nothing is lost.
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local restarts = require("spec.support.restarts")
local stopwatch = require("spec.support.stopwatch")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

-- From the hang to the next event. Time in which the daemon was ready to run and others had the CPU is the machine's;
-- sanitizers take theirs.
local SECONDS = os.getenv("ASAN_OPTIONS") and 30 or 2
local PATIENCE = 30

-- At the wire: the kernel tells when a datagram came, however late this process looks.
local function begin(d) return { d = d, since = tonumber(api.clock_realtime_us()) / 1e6, queued = stopwatch.queued(d.pid) } end

local function check_last(self, datagrams)
  local seconds, queued = datagrams[#datagrams].time - self.since, stopwatch.queued(self.d.pid) - self.queued
  assert(seconds > 0.1 and seconds - queued < SECONDS,
    ("the last event came after %.2f s, of which the daemon waited %.2f s for a CPU"):format(seconds, queued))
end

local compiled = [[ rule "compiled" (function(flow)
  if flow.dst_port == 6666 then
    local x = 0
    while true do x = x + 1 end
  end
end), ]]
-- A loop that calls what LuaJIT does not compile stays in the interpreter.
local interpreted = [[ rule "interpreted" (function(flow)
  if flow.dst_port == 6667 then
    while true do pcall(setmetatable, {}, {}) end
  end
end), ]]
local pattern = [[ rule "pattern" (function(flow)
  if flow.dst_port == 6668 then
    local text = ("a"):rep(40)
    return text:find(("a*"):rep(40) .. "b") and drop
  end
end), ]]
local innocent = [[ rule "innocent" { set = { activity = 7 } }, ]]

describe("a script that never returns", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b, sink
  before_each(function()
    a, b = netns.pair()
    sink = udp.open(b, b.address, 10514)
  end)
  after_each(cleanup.all)

  local function start(options)
    options.config = options.config or {}
    options.config.backends = options.config.backends or { firefly = { port = 10514 } }
    options.namespace, options.log_level = a, "info"
    return daemon.start(options)
  end

  local function line(port, state)
    return ("%s tcp %s 4000 %s %d atlas 1\n"):format(state or "start", a.address, b.address, port)
  end

  local function lines(from, to) return flow_lines.lines("start", a.address, b.address, "atlas 1", from, to) end

  -- One firefly of each flow at least, counting the replay of what was in hand.
  local function wait_for_starts(count)
    process.wait_for("fireflies of every flow", 20, function()
      pcall(sink.collect, sink, 1, 0.1)
      local _, n = firefly.by_flow(sink:datagrams(), "start")
      return n >= count
    end)
    return firefly.by_flow(sink:datagrams(), "start")
  end

  local function expect_recovery(d, text)
    d:expect(text, PATIENCE)
    d:expect(text .. ".-is ready: ", PATIENCE)
    -- By the daemon's own clock, from the moment that the script was entered.
    local seconds = tonumber(d:expect(text .. ".-events are handled again, ([%d.]+) s after", PATIENCE))
    assert(seconds - stopwatch.queued(d.pid) < SECONDS, ("took %.2f s"):format(seconds))
  end

  for _, case in ipairs({
    { "in compiled code", compiled, 6666, "compiled" },
    { "in the interpreter", interpreted, 6667, "interpreted" },
    { "in a string pattern", pattern, 6668, "pattern" },
  }) do
    it("as a rule, " .. case[1] .. ", is named and switched off; no event is lost, flows keep their start", function()
      local d = start({ rules = case[2] .. innocent })
      d:write(lines(0, 99))
      local before = wait_for_starts(100)
      local recovery = begin(d)
      d:write(lines(100, 199) .. line(case[3]) .. lines(200, 299))
      local starts, count = wait_for_starts(301)
      check_last(recovery, sink:datagrams())
      expect_recovery(d, 'rule "' .. case[4] .. '" never returned')
      assert.is_true(d:running())
      assert.equal(301, count)
      for flow, text in pairs(before) do
        assert.equal(firefly.member(text, "start-time"), firefly.member(starts[flow], "start-time"))
      end
      d:wait_for_counter("flowd_flows_open", 301)
      assert.equal(1, d:counter(('flowd_scripts_hung_total{kind="rule",name="%s"}'):format(case[4])))
      assert.equal(1, d:counter("flowd_scripts_off"))
      -- The other rules go on.
      for _, text in pairs(starts) do assert.equal("7", tostring(firefly.member(text, "activity-id"))) end
      sink:clear()
      assert.same({ code = 0 }, d:stop())
      local ends, ended = firefly.by_flow(sink:datagrams(), "end")
      assert.equal(301, ended)
      for flow, text in pairs(before) do
        assert.equal(firefly.member(text, "start-time"), firefly.member(ends[flow], "start-time"))
      end
    end)
  end

  it("while the very first configuration is loaded is named, and nothing is started", function()
    local dir = temp.dir()
    local conf = temp.write(dir .. "/conf.lua", "while true do end")
    for _, command in ipairs({ "run", "check" }) do
      local before = process.now()
      local result = process.run({ daemon.binary(), "--conf", conf, command, seconds = 60 })
      assert.equal(1, result.code, result.stderr)
      assert.is_truthy(result.stderr:find(conf, 1, true), result.stderr)
      assert.is_true(process.now() - before < PATIENCE)
    end
  end)

  it("in a call that blocks is not waited for either", function()
    local dir = temp.dir()
    temp.write(dir .. "/sleeper.lua", [[
      local sleeper = { name = "sleeper", doc = "Blocks.", schema = {} }
      function sleeper:start() end
      function sleeper:on_events() os.execute("sleep 60") end
      return sleeper]])
    local d = start({ dir = dir, config = { backend_dirs = { dir },
      backends = { firefly = { port = 10514 }, sleeper = {} } } })
    local recovery = begin(d)
    d:write(lines(0, 9))
    local _, count = wait_for_starts(10)
    check_last(recovery, sink:datagrams())
    assert.equal(10, count)
    expect_recovery(d, "backend 'sleeper' never returned")
    assert.same({ code = 0 }, d:stop())
  end)

  it("never stops the marking: each packet has its label, and the next flow is marked", function()
    local can_mark, why = marking.available()
    if not can_mark then return pending(why) end
    local scene = restarts.new({ marked = true, rules = compiled })
    scene.d:write("start tcp ::1 4000 ::2 6666 atlas 1\nstart tcp ::1 4000 ::2 6665 atlas 1\n")
    process.wait_for("the mark behind the hang", PATIENCE, function() return scene:marks()["tcp [::1]:4000 [::2]:6665"] end)
    expect_recovery(scene.d, 'rule "compiled" never returned')
    scene:pass(50)
    scene:check_stream()
    assert.same({ code = 0 }, scene.d:stop())
  end)

  it("may be followed by another one", function()
    local d = start({ rules = compiled .. pattern .. innocent })
    d:write(lines(0, 9) .. line(6666) .. line(6668) .. lines(10, 19))
    expect_recovery(d, 'rule "compiled" never returned')
    expect_recovery(d, 'rule "pattern" never returned')
    local _, count = wait_for_starts(22)
    assert.equal(22, count)
    assert.equal(2, d:counter("flowd_scripts_off"))
    assert.equal(2, d:counter("flowd_scripts_hung_total"))
    assert.same({ code = 0 }, d:stop())
  end)

  it("as a plugin's timer is not started again, while the others run", function()
    local dir = temp.dir()
    temp.write(dir .. "/ticker.lua", [[
      local ticker = { name = "ticker", doc = "Hangs.", schema = {} }
      function ticker:start(ctx) ctx:after(0.3, function() while true do end end) end
      return ticker]])
    local d = start({ dir = dir, config = { plugin_dirs = { dir },
      plugins = { pipe = { paths = { dir .. "/run/np" } }, ticker = {} } } })
    d:write(lines(0, 9))
    expect_recovery(d, "plugin 'ticker' never returned")
    d:expect("plugin 'ticker' did not start: switched off")
    d:write(lines(10, 19))
    local _, count = wait_for_starts(20)
    assert.equal(20, count)
    assert.same({ code = 0 }, d:stop())
  end)

  it("as a backend is left out, and gets the others their events", function()
    local dir = temp.dir()
    temp.write(dir .. "/hole.lua", [[
      local hole = { name = "hole", doc = "Hangs.", schema = {} }
      function hole:start() end
      function hole:on_events() while true do end end
      return hole]])
    local d = start({ dir = dir, config = { backend_dirs = { dir },
      backends = { firefly = { port = 10514 }, hole = {} } } })
    d:write(lines(0, 9))
    expect_recovery(d, "backend 'hole' never returned")
    d:write(lines(10, 19))
    local _, count = wait_for_starts(20)
    assert.equal(20, count)
    assert.same({ code = 0 }, d:stop())
  end)

  it("does not bring in a configuration that is only being edited", function()
    local d = start({ rules = compiled .. innocent })
    temp.write(d.conf, "this is no Lua")
    d:write(line(6666) .. lines(0, 9))
    expect_recovery(d, 'rule "compiled" never returned')
    local starts, count = wait_for_starts(11)
    assert.equal(11, count)
    for _, text in pairs(starts) do assert.equal("7", tostring(firefly.member(text, "activity-id"))) end
    assert.same({ code = 0 }, d:stop())
  end)
end)
