-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")

describe("counters", function()
  it("are the same one for the same name, and keep their value", function()
    local a = counters.get("flowd_flows_started_total", { spec = "same" })
    local before = a.value
    a.value = a.value + 3
    assert.equal(before + 3, counters.get("flowd_flows_started_total", { spec = "same" }).value)
    assert.not_equal(a, counters.get("flowd_flows_started_total", { spec = "other" }))
  end)

  it("are totals when the base name ends in _total, gauges otherwise", function()
    assert.equal(ffi.C.COUNTER_TOTAL, counters.get("flowd_flows_ended_total", { spec = "kind" }).kind)
    assert.equal(ffi.C.COUNTER_GAUGE, counters.get("flowd_flows_open", { spec = "a_total" }).kind)
  end)

  it("sort labels and escape their values as Prometheus wants", function()
    assert.equal([[flowd_flows_open{a="1",b="x\"\n\\y?"}]], counters.name("flowd_flows_open", { b = 'x"\n\\y\1', a = 1 }))
    assert.equal("flowd_flows_open", counters.name("flowd_flows_open", {}))
  end)

  it("refuse names that Prometheus would refuse, saying which", function()
    assert.has_error(function() counters.name("Flows") end,
      'counter "Flows": expected flowd_ and then lower-case letters, digits, underscores')
    assert.has_error(function() counters.name("flowd_flows_open", { ["a-b"] = 1 }) end,
      'counter flowd_flows_open: label "a-b": expected lower-case letters, digits, underscores')
  end)

  it("shorten label values that do not fit, and keep two of them apart", function()
    local seen = {}
    for i = 1, 20 do
      local name = counters.name("flowd_flows_open", { path = ("/long/é/"):rep(i) .. "x", other = ("y"):rep(90) .. i })
      assert.is_true(#name <= 111, name)
      assert.is_nil(seen[name])
      seen[name] = true
      -- Cut between characters: what precedes the mark is whole UTF-8.
      assert.is_nil(name:find("\195[^\128-\191]"))
    end
  end)

  it("are all listed", function()
    local c = counters.get("flowd_flows_open", { spec = "listed" })
    local found
    for name, each in counters.each() do
      if name == 'flowd_flows_open{spec="listed"}' then found = each end
    end
    assert.equal(c, found)
  end)

  it("yield the overflow counter for a name without room", function()
    local overflow = api.counter_get("flowd_counters_overflow_total")
    assert.equal(overflow, api.counter_get("flowd_" .. ("x"):rep(106)))
    assert.equal(overflow, api.counter_get(""))
    for _, bad in ipairs({ "flowd_a\nb", "other_total", "flowd_A", "flowd_a{", "flowd_a{}", 'flowd_a{b="c"', 'flowd_a{b="c"}d',
      'flowd_a{b="c",}', 'flowd_a{b=c}', 'flowd_a{="c"}', 'flowd_a{b="c""}', 'flowd_a{b="\\x"}', 'flowd_a{b="\n"}',
      'flowd_a}b="c"}' }) do
      assert.equal(overflow, api.counter_get(bad), bad)
    end
    assert.not_equal(overflow, api.counter_get([[flowd_a{b="\\\"\n,}é",c_1=""}]]))
    assert.not_equal(overflow, api.counter_get("flowd_" .. ("x"):rep(105)))
  end)
end)
