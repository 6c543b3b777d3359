-- SPDX-License-Identifier: Apache-2.0
--- The time that each rule takes: measured on a sample, and told of those that take too much.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local support = require("spec.support.policy")
local timing = require("flowd.rules.timing")

local work = ffi.new("struct flow_batch")

local function run(chain, batch)
  ffi.copy(work, batch, ffi.sizeof(work))
  chain:run(work)
end

local function now() return tonumber(api.clock_monotonic_ns()) end

-- A rule that takes time, about a microsecond for each 300 turns.
local function slow(name, turns)
  return ('rule %q (function(flow) local x = 0 for i = 1, %d do x = (x * 31 + i) %% 65537 end if x == -1 then return drop end end)\n')
    :format(name, turns)
end

local fast = [[
  rule "fast" (function(flow) if flow.dst_port == 1 then flow.activity = 3 end end)
  rule "declared" { match = { dst_port = 2 }, set = { activity = 4 } }
]]

-- Batches of events to different ports, as many in a batch as said, until the window is over so many times.
local function keep_busy(chain, per_batch, windows, pause)
  local list = {}
  for i = 1, per_batch do list[i] = { dst_port = i % 60000 } end
  local batch, before = support.batch(list), now()
  while now() - before < windows * timing.window_ns do
    run(chain, batch)
    if pause then pause() end
  end
  chain:update_times()
end

local function named(lines)
  local names = {}
  for _, line in ipairs(lines) do names[#names + 1] = line:match('rule "([^"]+)" is slow') end
  return names
end

describe("the time of rules", function()
  local window, first = timing.window_ns, timing.first_ns
  before_each(function() timing.window_ns, timing.first_ns = 250e6, 250e6 end)
  after_each(function() timing.window_ns, timing.first_ns = window, first end)

  it("names the one that takes a large part of it, and no other", function()
    local text = fast .. slow("heavy", 3000) .. slow("light", 30) .. fast:gsub('rule "', 'rule "also ')
    local chain = support.chain(text, { slow_percent = 20 })
    local slows = counters.get("flowd_rule_slow_total", { rule = "heavy" })
    local before = slows.value
    local lines = support.logged(function()
      keep_busy(chain, 200, 4)
      -- On a busy machine it takes longer; at last it is named.
      for _ = 1, 40 do
        if slows.value == before then keep_busy(chain, 200, 1) end
      end
    end)
    assert.same({ "heavy" }, named(lines))
    assert.matches('^warn site.lua:%d+: rule "heavy" is slow: it takes %d+ %% of the daemon\'s time, [%d.]+ us for each event '
      .. 'that it sees %(slow_rule_percent is 20%)$', lines[1])
    assert.is_true(slows.value > before)
    for _, rule in ipairs(chain.rules) do
      if rule.name == "heavy" then
        assert.is_true(rule.share > 0.2 and rule.share <= 1.05, ("its share is %.3f"):format(rule.share))
        assert.is_true(rule.event_ns > 1000, ("an event takes it %.0f ns"):format(rule.event_ns))
      else
        assert.is_true(rule.share < 0.2, ("the share of %s is %.3f"):format(rule.name, rule.share))
      end
    end
  end)

  it("counts what a rule takes", function()
    local chain = support.chain(slow("counted", 3000) .. fast, { slow_percent = 100 })
    local counter = counters.get("flowd_rule_microseconds_total", { rule = "counted" })
    local before, start = tonumber(counter.value), now()
    support.logged(function() keep_busy(chain, 200, 6) end)
    local share = (tonumber(counter.value) - before) * 1000 / (now() - start)
    assert.is_true(share > 0.05 and share <= 1.05, ("%.2f of the time is counted"):format(share))
  end)

  it("names none while the daemon has little to do, however long an event takes", function()
    local chain = support.chain(fast .. slow("heavy", 3000), { slow_percent = 20 })
    local lines = support.logged(function()
      keep_busy(chain, 1, 4, function()
        local before = now()
        while now() - before < 1e6 do end
      end)
    end)
    assert.same({}, named(lines))
    -- It is measured nevertheless: each event, as there is time for it.
    local heavy, light = chain.rules[3].event_ns, chain.rules[1].event_ns
    assert.is_true(heavy > 1000 and heavy > light, ("an event takes %.0f ns, and %.0f ns"):format(heavy, light))
  end)

  it("names none that was held up once", function()
    local held = false
    local chain = support.chain(fast .. [[ rule "held up" (function(flow) if flow.dst_port == 7 then flow.application = hold() end end) ]],
      { slow_percent = 10 })
    -- Rules are functions of the sandbox: what holds it up is put in from here.
    setfenv(chain.rules[3].fn, { hold = function()
      if held then return "x" end
      held = true
      local before = now()
      while now() - before < 100e6 do end
      return "x"
    end })
    local lines = support.logged(function()
      local one = support.batch({ { dst_port = 7 } })
      local before = now()
      while now() - before < 3 * timing.window_ns do
        run(chain, one)
        local pause = now()
        while now() - pause < 1e6 do end
      end
      chain:update_times()
    end)
    assert.is_true(held)
    assert.same({}, named(lines))
  end)

  it("is not measured with 0", function()
    local chain = support.chain(fast, { slow_percent = 0 })
    keep_busy(chain, 10, 2)
    assert.equal(nil, chain.rules[1].share)
    assert.equal(nil, chain.rules[1].event_ns)
  end)

  it("of declared rules that are answered together is told of all of them", function()
    local text = {}
    for i = 1, 40 do text[i] = ('rule "%d" { match = { dst_port = %d }, set = { activity = 5 } }'):format(i, i) end
    local chain = support.chain(table.concat(text, "\n"), { slow_percent = 100 })
    local counter = counters.get("flowd_rule_microseconds_total", { rule = "declared rules, together" })
    local before = tonumber(counter.value)
    keep_busy(chain, 1000, 3)
    assert.is_true(tonumber(counter.value) > before)
    assert.equal(chain.rules[1].share, chain.rules[40].share)
    local sum = 0
    for _, rule in ipairs(chain.rules) do sum = sum + rule.share end
    assert.is_true(sum > 0.05 and sum <= 1.05, ("their share is %.3f"):format(sum))
  end)

  it("is measured on few events when there are many", function()
    local chain = support.chain(fast, { slow_percent = 100 })
    local samples, measured = 0, 0
    local sample = chain.timing.run
    function chain.timing:run(events, from, to)
      samples, measured = samples + 1, measured + to - from + 1
      return sample(self, events, from, to)
    end
    local before = now()
    keep_busy(chain, 1000, 4)
    local most = (now() - before) / 5e6 + 1
    assert.is_true(samples >= 3, ("%d samples"):format(samples))
    assert.is_true(samples <= most, ("%d samples, expected at most %.0f"):format(samples, most))
    assert.is_true(measured <= samples * 18)
  end)
end)

describe("an event whose rules are measured", function()
  -- Every batch is measured, all of it when it is small.
  local function always(chain)
    local original = chain.run
    function chain:run(batch)
      self.timing.clock.next_sample = 0
      original(self, batch)
    end
    return chain
  end

  local text = [[
    rule "drops" (function(flow) if flow.dst_port % 5 == 0 then return drop end end)
    rule "fails" (function(flow) flow.activity = 9 if flow.dst_port % 3 == 0 then error("oops") end end)
    rule "declared" { match = { dst_port = "1-8" }, set = { application = "low" } }
    rule "accepts" (function(flow) if flow.dst_port % 7 == 0 then flow.experiment = 3 return accept end end)
    rule "last" (function(flow) flow.experiment = flow.experiment + 2 end)
  ]]

  local function decided(options, prepare)
    local chain = support.chain(text, options)
    if prepare then prepare(chain) end
    local results = {}
    support.logged(function()
      for i = 1, 40 do
        local list = {}
        for port = i, i + i % 12 do list[#list + 1] = { dst_port = port } end
        local batch = support.batch(list)
        chain:run(batch)
        results[i] = support.results(batch)
      end
    end)
    return results, chain
  end

  it("becomes what it becomes otherwise, behind errors too", function()
    local expected = decided({ slow_percent = 0, failures_max = 1000 })
    local results, chain = decided({ slow_percent = 100, failures_max = 1000 }, always)
    assert.same(expected, results)
    assert.is_true(tonumber(chain.timing.clock.sampled) > 30)
  end)

  it("blames the rule that failed, and counts its time", function()
    local chain = always(support.chain([[
      rule "innocent" (function(flow) if flow.dst_port == 1 then return drop end end)
      rule "guilty" (function(flow) local x = 0 for i = 1, 30000 do x = (x * 31 + i) % 65537 end error("oops " .. x) end)
      rule "behind" (function(flow) flow.experiment = 2 end)
    ]], { slow_percent = 100, failures_max = 1000 }))
    local errors = {}
    for i, rule in ipairs(chain.rules) do errors[i] = rule.errors end
    local lines = support.logged(function()
      for _ = 1, 300 do assert.equal(2, (support.run(chain, { dst_port = 5 })).experiment) end
    end)
    assert.matches('rule "guilty" failed on start tcp .*: site.lua:2: oops', lines[1])
    for i, rule in ipairs(chain.rules) do errors[i] = rule.errors - errors[i] end
    assert.same({ 0, 300, 0 }, errors)
    chain.timing:judge()
    assert.is_true(chain.rules[2].share > 10 * chain.rules[1].share)
  end)

  it("has its turn among those of its batch", function()
    local chain = support.chain('rule "order" (function(flow) record(flow.dst_port) end)', { slow_percent = 100 })
    local seen, list, expected = {}, {}, {}
    setfenv(chain.rules[1].fn, { record = function(port) seen[#seen + 1] = port end })
    for port = 1, 1000 do list[port], expected[port] = { dst_port = port }, port end
    for _ = 1, 5 do
      seen = {}
      chain.timing.clock.next_sample = 0
      chain:run(support.batch(list))
      assert.same(expected, seen)
    end
  end)
end)
