-- SPDX-License-Identifier: Apache-2.0
--- An index of declared rules in the making (src/rule_index.h): large ones, in steps.
local ffi = require("ffi")
local api = require("flowd.api")
local machine = require("spec.support.machine")
local support = require("spec.support.policy")

local C = ffi.C
local RULES = 2200

local function address(text)
  local a = ffi.new("struct flow_address")
  assert(api.address_parse(text, #text, a) > 0, text)
  return a
end

-- Conditions by rule, each a function(index, rule).
local function new(conditions)
  local x = ffi.gc(api.rule_index_new(RULES), api.rule_index_free)
  for rule = 0, RULES - 1 do
    for _, tell in ipairs(conditions[rule] or {}) do assert.equal(0, tell(x, rule)) end
  end
  return x
end

-- Each of so many values is of two rules, and hardly two values of the same two: each has a set of its own.
local function rules_of(value)
  return value % RULES, (value * 7 + math.floor(value / RULES)) % (RULES - 1)
end

local function spread(values, condition)
  local of = {}
  for rule = 0, RULES - 1 do of[rule] = {} end
  for value = 1, values do
    local one, two = rules_of(value)
    table.insert(of[one], condition(value))
    if two ~= one then table.insert(of[two], condition(value)) end
  end
  return of
end

local function port(value)
  return function(x, rule) return api.rule_index_range(x, rule, C.RULE_DST_PORT, value, value) end
end

local function prefix(text, bits)
  local a = address(text)
  return function(x, rule) return api.rule_index_prefix(x, rule, C.RULE_DST, a, bits) end
end

local function site(value) return prefix(("2001:db8:%x::"):format(value), 48) end

local function build(x)
  local status
  repeat status = api.rule_index_build_step(x) until status ~= 1
  assert.equal(0, status)
end

-- Which rules match each of these events.
local function matches(x, events)
  local hits = ffi.new("struct counter[?]", RULES)
  local effect = ffi.new("struct rule_effect")
  for rule = 0, RULES - 1 do
    effect.hits, effect.number = hits + rule, rule
    assert.equal(0, api.rule_index_effect(x, rule, effect))
  end
  local batch, found = support.batch(events), {}
  api.rule_index_begin(x, batch.event, batch.count, true, true)
  for i = 0, batch.count - 1 do
    api.rule_index_run(x, batch.event[i], 0, RULES - 1)
    local list = {}
    for rule = 0, RULES - 1 do
      if hits[rule].value > 0 then list[#list + 1] = rule end
      hits[rule].value = 0
    end
    found[#found + 1] = table.concat(list, " ")
  end
  return found
end

local function in_order(one, two)
  if one == two then return tostring(one) end
  return ("%d %d"):format(math.min(one, two), math.max(one, two))
end

describe("a large index of declared rules", function()
  for _, case in ipairs({ { "ports", port, 60000 }, { "prefixes", site, 30000 } }) do
    it("of " .. case[1] .. " is built in steps, none of which takes long", function()
      local share = math.huge
      for _ = 1, 5 do
        local x = new(spread(case[3], case[2]))
        local longest, all, status = 0, 0, nil
        repeat
          local took = machine.cpu_ms(function() status = api.rule_index_build_step(x) end)
          longest, all = math.max(longest, took), all + took
        until status ~= 1
        assert.equal(0, status)
        share = math.min(share, longest / all)
        if share < 0.2 then break end
      end
      assert.is_true(share < 0.2, ("one step is %.0f %% of all"):format(share * 100))
    end)
  end

  it("finds the rules of each port", function()
    local x = new(spread(60000, port))
    build(x)
    local events, expected = {}, {}
    for i = 1, 500 do
      local value = i * 7919 % 60000 + 1
      events[i], expected[i] = { dst_port = value }, in_order(rules_of(value))
    end
    assert.same(expected, matches(x, events))
  end)

  it("finds the rules of each prefix, and of those around it", function()
    local of = spread(7001, site)
    for value = 1, 7001 do
      local inner = of[value * 3 % RULES]
      inner[#inner + 1] = prefix(("2001:db8:%x:1::"):format(value), 64)
    end
    local x = new(of)
    build(x)
    local events, expected = {}, {}
    for i = 1, 250 do
      local value = i * 7919 % 7001 + 1
      local one, two = rules_of(value)
      events[2 * i - 1], expected[2 * i - 1] = { dst = ("2001:db8:%x:2::1"):format(value) }, in_order(one, two)
      local all, seen = { one, two, value * 3 % RULES }, {}
      table.sort(all)
      for _, rule in ipairs(all) do
        if seen[#seen] ~= rule then seen[#seen + 1] = rule end
      end
      events[2 * i], expected[2 * i] = { dst = ("2001:db8:%x:1::1"):format(value) }, table.concat(seen, " ")
    end
    assert.same(expected, matches(x, events))
  end)

  it("can be given up at any step", function()
    for steps = 0, 120, 7 do
      local x = new(spread(9000, steps % 2 == 0 and port or site))
      for _ = 1, steps do
        if api.rule_index_build_step(x) ~= 1 then break end
      end
      api.rule_index_free(ffi.gc(x, nil))
    end
  end)

  it("is told rule by rule", function()
    local x = new({})
    assert.equal(0, port(7)(x, 5))
    assert.equal(0, port(8)(x, 5))
    assert.equal(-22, port(9)(x, 4))
    assert.equal(0, port(9)(x, 6))
  end)
end)
