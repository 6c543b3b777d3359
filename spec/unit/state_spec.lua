-- SPDX-License-Identifier: Apache-2.0
local cleanup = require("spec.support.cleanup")
local counters = require("flowd.counters")
local state = require("flowd.state")
local support = require("spec.support.policy")

local number = 0
-- A name that no other test has used.
local function new_name()
  number = number + 1
  return "state_spec " .. number
end

local function fails(expected, fn, ...)
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(expected, message, 1, true)
end

describe("a counter of flowd.state", function()
  it("counts, is the same by its name, and is what stats shows", function()
    local name = new_name()
    local counter = state.counter(name)
    assert.equal(1, counter:add())
    assert.equal(6, counter:add(5))
    assert.equal(6, state.counter(name):get())
    assert.equal(counter, state.counter(name))
    assert.equal(6, tonumber(counters.get("flowd_site_total", { name = name }).value))
  end)

  it("takes whole numbers only, and is changed by its methods only", function()
    local counter = state.counter(new_name())
    for _, wrong in ipairs({ -1, 0.5, 0 / 0, "1", 1e300, true }) do
      fails("expected a whole number from 0 on", counter.add, counter, wrong)
    end
    fails("is changed by its methods", function() counter.value = 1 end)
    fails('a counter has no "value"', function() return counter.value end)
    fails("write counter:add() with a colon", function() counter.add() end)
    fails("expected a name of 1 to 64 characters", state.counter, "")
    fails("expected a name of 1 to 64 characters", state.counter, 7)
  end)
end)

describe("a table of flowd.state", function()
  after_each(cleanup.all)

  it("keeps plain values by number, text and address", function()
    local t = state.table(new_name())
    local address = require("flowd.addresses").parse("2001:DB8::1")
    t:set("a", 1)
    t:set(7, "text")
    t:set(address, true)
    assert.equal(1, t:get("a"))
    assert.equal("text", t:get(7))
    assert.is_nil(t:get("7"))
    assert.is_true(t:get(address))
    assert.is_true(t:get("2001:db8::1"))
    assert.equal(3, t:count())
    t:set("a", nil)
    assert.is_nil(t:get("a"))
    assert.equal(2, t:count())
    t:clear()
    assert.equal(0, t:count())
    assert.equal(1, t:add("n"))
    assert.equal(3.5, t:add("n", 2.5))
    assert.equal(3.5, t:get("n"))
  end)

  it("takes nothing else", function()
    local t = state.table(new_name())
    for _, wrong in ipairs({ {}, print, ("x"):rep(1025), coroutine.create(print), 7ULL }) do
      fails("expected a number, a boolean or a text of at most 1024 octets as value", t.set, t, "a", wrong)
    end
    for _, wrong in ipairs({ {}, print, ("x"):rep(257), true, 0 / 0, 7ULL }) do
      fails("expected a number, an address or a text of at most 256 octets as key", t.set, t, wrong, 1)
      fails("as key", t.get, t, wrong)
    end
    t:set("text", "x")
    fails("expected numbers to add", t.add, t, "text")
    fails("expected numbers to add", t.add, t, "n", "1")
    fails('a table of flowd.state has no "text"', function() return t.text end)
    fails("is changed by its methods", function() t.text = 1 end)
    fails("with a colon", function() t.get("a") end)
  end)

  it("that is full says so, or forgets its oldest key", function()
    local name = new_name()
    local t = state.table(name, { max = 3 })
    for i = 1, 3 do t:set(i, i) end
    fails(('state.table "%s" is full: it has 3 entries'):format(name), t.set, t, 4, 4)
    fails("is full", t.add, t, 4)
    t:set(3, "changed")
    assert.equal("changed", t:get(3))
    t:set(1, nil)
    t:set(4, 4)
    assert.equal(3, t:count())
    local forgetful = state.table(new_name(), { max = 3, when_full = "forget" })
    for i = 1, 10 do forgetful:set(i, i) end
    assert.equal(3, forgetful:count())
    assert.is_nil(forgetful:get(7))
    assert.equal(8, forgetful:get(8))
    -- Taken away and set again, a key is young again.
    forgetful:set(8, nil)
    forgetful:set(8, 8)
    forgetful:set(11, 11)
    assert.is_nil(forgetful:get(9))
    assert.equal(8, forgetful:get(8))
  end)

  it("stays within its bounds whatever is set and taken away", function()
    local t = state.table(new_name(), { max = 50, when_full = "forget" })
    local expected, order = {}, {}
    local random = 1
    for _ = 1, 20000 do
      random = random * 16807 % 2147483647
      local key, drop = random % 120, random % 7 == 0
      if drop then
        t:set(key, nil)
      else
        t:set(key, random)
      end
      if expected[key] ~= nil and drop or expected[key] == nil and not drop then
        for i, other in ipairs(order) do
          if other == key then table.remove(order, i) end
        end
        if not drop then order[#order + 1] = key end
      end
      expected[key] = not drop and random or nil
      if #order > 50 then expected[table.remove(order, 1)] = nil end
    end
    assert.equal(#order, t:count())
    local i = 0
    for key, value in t:each() do
      i = i + 1
      assert.equal(order[i], key)
      assert.equal(expected[key], value)
    end
    assert.equal(#order, i)
  end)

  it("is whole whatever a rule is doing when its stack is used up", function()
    -- Debian's LuaJIT may leave and enter a trace for ever when the stack ends in it: that is for the watchdog.
    jit.off()
    jit.flush()
    for padding = 0, 3 do
      -- Arguments that nobody gives: the end of the stack falls elsewhere.
      local chain = support.chain((([[
        local kept = flowd.state.table("deep", { max = 3, when_full = "forget" })
        local runs, broken = 0, 0
        local function change()
          runs = runs + 1
          kept:set(runs, runs)
          kept:add(runs % 2)
          kept:set(runs - 1, nil)
        end
        local function down(depth PADDING)
          if depth > 0 then return 1 + down(depth - 1) end
          change()
          return 0
        end
        rule "deep" (function(flow)
          -- The deepest that it gets, then every depth around: what is called in `change` ends in its middle.
          local fits, fails = 100, 60000
          while fails - fits > 1 do
            local middle = math.floor((fits + fails) / 2)
            if pcall(down, middle) then fits = middle else fails = middle end
          end
          local passed, failed = 0, 0
          for depth = fits - 40, fits + 40 do
            if pcall(down, depth) then passed = passed + 1 else failed = failed + 1 end
            local count = 0
            for _ in kept:each() do count = count + 1 end
            if count ~= kept:count() or count > 3 then broken = broken + 1 end
          end
          flow.experiment, flow.activity = passed > 0 and failed > 0 and 1 or 2, math.min(broken, 60)
        end)
      ]]):gsub("PADDING", (", _"):rep(padding))))
      local result
      local lines = support.logged(function() result = support.run(chain) end)
      assert.same({}, lines)
      assert.equal(1, result.experiment)
      assert.equal(0, result.activity)
    end
    jit.on()
  end)

  it("can be changed while it is walked over", function()
    local t = state.table(new_name())
    for i = 1, 200 do t:set(i, i) end
    local seen = 0
    for key in t:each() do
      seen = seen + 1
      t:set(key, nil)
      t:set(key + 1000, 1)
    end
    assert.equal(200, seen)
    assert.equal(200, t:count())
  end)

  it("wants settings that it knows", function()
    fails('unknown setting "size"', state.table, new_name(), { size = 7 })
    fails("max: expected a number from 1 to 1000000; got 0", state.table, new_name(), { max = 0 })
    fails('when_full: expected "error" or "forget" (the oldest key); got "drop"', state.table, new_name(), { when_full = "drop" })
    fails("expected a table of settings; got 7", state.table, new_name(), 7)
  end)

  it("is there for rules, and keeps what it holds when the rules are loaded again", function()
    local text = ([[
      local seen, starts = flowd.state.table(%q), flowd.state.counter(%q)
      rule "remember" (function(flow)
        flow.activity = seen:add(flow.src)
        starts:add()
      end)
    ]]):format(new_name(), new_name())
    assert.equal(1, support.run(text).activity)
    assert.equal(2, support.run(text).activity)
    assert.equal(1, support.run(text, { src = "2001:db8::7" }).activity)
    assert.equal(3, support.run(text).activity)
  end)

  it("is compiled without an aborted trace", function()
    local chain = support.chain(([[
      local seen = flowd.state.table(%q, { max = 100000 })
      local count = flowd.state.counter(%q)
      rule "remember" (function(flow)
        if seen:get(flow.src_port) then count:add() end
        seen:add(flow.dst_port)
        seen:set("last", flow.dst_port)
      end)
    ]]):format(new_name(), new_name()))
    local list, batches = {}, {}
    for i = 1, 1000 do list[i] = { dst_port = 1 + i, src_port = 1 + i % 3 } end
    for i = 1, 60 do batches[i] = support.batch(list) end
    chain:run(batches[60])
    local _, aborted = support.traces_of(function()
      for i = 1, 59 do chain:run(batches[i]) end
    end)
    assert.same({}, aborted)
    assert.equal(0, chain.rules[1].errors)
  end)
end)

describe("flowd.log", function()
  it("writes a line, at a limited rate", function()
    local lines = support.logged(function()
      support.run('rule "r" (function(flow) flowd.log("warn", "%s came from %s", flow.experiment, flow.src) end)', { experiment = 7 })
    end)
    assert.same({ "warn 7 came from 2001:db8::1" }, lines)
    lines = support.logged(function()
      local chain = support.chain('rule "r" (function(flow) for i = 1, 1000 do flowd.log("info", "again") end end)')
      support.run(chain)
    end)
    assert.is_true(#lines <= 20, #lines)
  end)

  it("knows its levels", function()
    local lines = support.logged(function() support.run('rule "r" (function() flowd.log("warning", "x") end)') end)
    assert.matches('site.lua:1: flowd.log: expected a level, "debug", "info", "warn" or "error"; got "warning"', lines[1], 1, true)
    lines = support.logged(function() support.run('rule "r" (function() flowd.log("info", "%d", "x") end)') end)
    assert.matches("site.lua:1: flowd.log: bad argument", lines[1], 1, true)
  end)
end)
