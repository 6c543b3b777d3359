-- SPDX-License-Identifier: Apache-2.0
-- Rules on trial leave nothing behind.
local cleanup = require("spec.support.cleanup")
local dry = require("flowd.dry")
local explain = require("flowd.explain")
local slice = require("flowd.slice")
local state = require("flowd.state")
local support = require("spec.support.policy")

-- What a table holds, in order.
local function contents(t)
  local list = {}
  for key, value in t:each() do list[#list + 1] = tostring(key) .. "=" .. tostring(value) end
  return table.concat(list, " ")
end

local function try(fn)
  local ok, message = dry.run(fn)
  assert(ok, message)
end

describe("a trial", function()
  after_each(cleanup.all)

  it("puts tables of flowd.state back, whatever was done to them", function()
    math.randomseed(7)
    for round = 1, 60 do
      local forget = round % 2 == 0
      local t = state.table("dry one", { max = 8, when_full = forget and "forget" or "error" })
      t:clear()
      local function anything(times)
        for _ = 1, times do
          local what, key = math.random(20), math.random(12)
          if what == 1 then
            t:clear()
          elseif what < 7 then
            t:set(key, nil)
          elseif what < 14 then
            pcall(t.set, t, key, math.random(100))
          else
            pcall(t.add, t, key, 1)
          end
        end
      end
      anything(30)
      local before, count = contents(t), t:count()
      try(function()
        anything(40)
        -- It is seen while the trial goes on.
        t:set(99, nil)
        t:clear()
        t:set(99, "seen")
        assert.equal("99=seen", contents(t))
        anything(40)
      end)
      assert.equal(before, contents(t))
      assert.equal(count, t:count())
      -- And it goes on as any other does.
      local twin = state.table("dry twin", { max = 8, when_full = forget and "forget" or "error" })
      twin:clear()
      for key, value in t:each() do twin:set(key, value) end
      for _ = 1, 40 do
        local key, value = math.random(12), math.random(3) > 1 and math.random(100) or nil
        assert.equal((pcall(t.set, t, key, value)), (pcall(twin.set, twin, key, value)))
      end
      assert.equal(contents(twin), contents(t))
    end
  end)

  it("in parts leaves alone what happens between them, and goes on with what it had", function()
    math.randomseed(11)
    for round = 1, 200 do
      local settings = { max = 8, when_full = round % 2 == 0 and "forget" or "error" }
      local t, twin = state.table("dry parts", settings), state.table("dry parts twin", settings)
      t:clear()
      twin:clear()
      local counter = state.counter("dry parts")
      local real = counter:get()
      local function anything(tables)
        local what, key, value = math.random(20), math.random(12), math.random(100)
        for _, one in ipairs(tables) do
          if what == 1 then
            one:clear()
          elseif what < 7 then
            one:set(key, nil)
          else
            local ok, message = pcall(one.set, one, key, value)
            assert.is_true(ok or message:find("is full", 1, true) ~= nil, message)
          end
        end
      end
      local trial, mine = dry.trial(), 0
      for _ = 1, math.random(1, 6) do
        for _ = 1, math.random(0, 30) do anything({ t, twin }) end
        counter:add(2)
        real = real + 2
        local ok, message = trial:run(function()
          if mine > 0 then assert.equal(mine, t:get("mine")) end
          for _ = 1, math.random(0, 30) do anything({ t }) end
          mine = math.random(100)
          t:clear()
          t:set("mine", mine)
          counter:add(100)
        end)
        assert.is_true(ok, message)
        assert.equal(contents(twin), contents(t))
        assert.equal(twin:count(), t:count())
        assert.equal(real, counter:get())
        assert.is_nil(t:get("mine"))
      end
    end
  end)

  it("puts back counters, and what an error left", function()
    local counter, t = state.counter("dry"), state.table("dry one")
    t:clear()
    counter:add(3)
    local ok, message = dry.run(function()
      counter:add(4)
      t:set("a", 1)
      error("oh")
    end)
    assert.is_false(ok)
    assert.matches("oh", message)
    assert.same({ 3, 0, false }, { counter:get(), t:count(), dry.on })
  end)

  local policy = [[
  local turns = flowd.map.round_robin{ "atlas/Data Challenge", "cms/Data Challenge", "lhcb/Data Challenge" }
  local seen, hits = flowd.state.table("dry seen"), flowd.state.counter("dry hits")
  rule "remembers" (function(flow)
    seen:add(flow.src)
    hits:add()
    flow:tag(turns:find())
    flowd.log("warn", "%d seen", seen:count())
    print("told", flow.src_port)
    flowd.after(0.01, function() end)
  end)
  rule "fails" (function(flow) seen:add("fails") error("oh") end)
  ]]

  it("is what explain does: nothing is remembered, and what rules say is in the report", function()
    local chain = support.chain(policy)
    local text = "tcp 2001:db8::1 1094 2001:db8::2 40000"
    local first = explain.ask(chain, text)
    assert.same({ "warn: 1 seen", "told\t1094" }, first.rules[1].said)
    assert.matches("says warn: 1 seen\n", table.concat(explain.format(first), "\n"))
    for _ = 1, 4 do
      local report = explain.ask(chain, text)
      assert.equal(first.result.tag, report.result.tag)
      assert.same({ 0, 0 }, { state.table("dry seen"):count(), state.counter("dry hits"):get() })
    end
    local batch = support.batch({ {} })
    local said = support.logged(function() chain:run(batch) end)
    assert.equal(2, batch.event[0].experiment)
    assert.matches("1 seen", table.concat(said, "\n"))
    -- What a failed rule had set by then stays.
    assert.same({ 2, 1 }, { state.table("dry seen"):count(), state.counter("dry hits"):get() })
    assert.matches("^cms", explain.ask(chain, text).result.tag)
  end)

  it("of many rules, in a slice, is left between any two of them; events do not see it, and it does not see them", function()
    local rules = { "local t, hits = flowd.state.table('dry sliced'), flowd.state.counter('dry sliced')" }
    for i = 1, 100 do
      rules[#rules + 1] = ('rule "f%d" (function(flow) hits:add() t:add("n", 1) if t:get("n") ~= %d then error("lost") end end)'):format(
        i, i)
    end
    local chain, t, hits = support.chain(table.concat(rules, "\n")), state.table("dry sliced"), state.counter("dry sliced")
    local s = slice.among(function() return explain.ask(chain, "tcp 2001:db8::1 1094 2001:db8::2 40000") end)
    local steps, before = 0, hits:get()
    local what, report
    repeat
      what, report = s:step(0)
      steps = steps + 1
      assert.same({ false, 0, before + steps - 1 }, { dry.on, t:count(), hits:get() })
      -- An event between two parts.
      hits:add()
    until what ~= "more"
    assert.equal("done", what, tostring(report))
    for i, rule in ipairs(report.rules) do assert.equal("nothing", rule.outcome, i .. ": " .. tostring(rule.error)) end
    assert.is_true(steps > 100)
    -- One that nobody goes on with leaves nothing either.
    s = slice.among(function() return explain.ask(chain, "tcp 2001:db8::1 1094 2001:db8::2 40000") end)
    for _ = 1, 50 do assert.equal("more", (s:step(0))) end
    s:cancel()
    assert.same({ false, 0, before + steps }, { dry.on, t:count(), hits:get() })
  end)

  it("of a batch counts neither hits nor errors, and switches nothing off", function()
    local chain = support.chain(policy, { failures_max = 3, failures_window = 100 })
    local batch = support.batch({ {}, {}, {}, {}, {}, {} })
    state.table("dry seen"):clear()
    local before = { chain.rules[1].hits, chain.rules[2].errors, state.table("dry seen"):count() }
    assert.same({}, support.logged(function() chain:try(batch) end))
    assert.same({ 2, 3, 4, 2, 3, 4 }, (function()
      local list = {}
      for i = 0, 5 do list[i + 1] = batch.event[i].experiment end
      return list
    end)())
    assert.same(before, { chain.rules[1].hits, chain.rules[2].errors, state.table("dry seen"):count() })
    assert.is_false(chain.rules[2].off)
  end)
end)
