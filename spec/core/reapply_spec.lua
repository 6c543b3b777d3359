-- SPDX-License-Identifier: Apache-2.0
--- Rules that changed, over flows that are open.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local counters = require("flowd.counters")
local flows = require("spec.support.flows")
local pipeline = require("flowd.pipeline")
local policy = require("spec.support.policy")
local reapply = require("flowd.reapply")

local C = ffi.C

local function recorder(name, bit_mask)
  local instance = { seen = {} }
  function instance:on_events(events, n)
    for i = 0, n - 1 do
      local e = events[i]
      if flows.has(e, C.EVENT_DELIVER) and bit.band(e.route, bit_mask) ~= 0 then
        self.seen[#self.seen + 1] = ("%d: %s %d/%d from %d"):format(flows.number(e.key), ({ "start", "ongoing", "end" })[e.state],
          e.experiment, e.activity, tonumber(e.start_us))
      end
    end
  end
  return { name = name, bit = bit_mask, instance = instance }
end

describe("reapply", function()
  after_each(cleanup.all)

  local first, second, p, flow_table

  local function chain(rules) return policy.chain(rules, { backends = { first = 1, second = 2 } }) end

  local function start(rules)
    local _
    _, flow_table = flows.open_table(5000)
    first, second = recorder("first", 1), recorder("second", 2)
    p = pipeline.new({ table = flow_table, batch = ffi.new("struct flow_batch"), backends = { first, second }, chain = chain(rules) })
  end

  -- Flows 1..n, announced as experiment/activity.
  local function open(n, experiment, activity)
    for from = 1, n, 1000 do
      local events = {}
      for i = from, math.min(from + 999, n) do events[#events + 1] = { "start", i, time = 1000 + i } end
      local batch = flows.batch(events)
      for i = 0, batch.count - 1 do batch.event[i].experiment, batch.event[i].activity = experiment or 0, activity or 0 end
      p:run(batch)
    end
    first.instance.seen, second.instance.seen = {}, {}
  end

  local function apply(rules, options)
    p.chain = chain(rules)
    local counts
    policy.logged(function() counts = reapply.run(p, options) end)
    return counts
  end

  local function slot(n) return api.flow_table_slot(flow_table, api.flow_table_find(flow_table, flows.key(n))) end

  it("gives a flow the tag that today's rules give it, in place", function()
    start('rule "old" { match = { experiment = "unset" }, set = { experiment = "atlas", activity = 7 } }')
    open(2)
    local label, id = slot(1).label, slot(1).id
    local counts = apply('rule "new" { match = { experiment = "unset" }, set = { experiment = "cms", activity = 4 } }')
    assert.same({ 2, 2, 0, 0 }, { counts.flows, counts.changed, counts.unchanged, counts.dropped })
    assert.same({ "1: start 3/4 from 1001", "2: start 3/4 from 1002" }, first.instance.seen)
    local f = slot(1)
    assert.same({ 3, 4 }, { f.experiment, f.activity })
    assert.equal(id, f.id)
    assert.equal(1001, tonumber(f.start_us))
    assert.equal(bit.band(label, 0xc0103), bit.band(f.label, 0xc0103))
    assert.equal(tonumber(api.label_encode(3, 4, 0)), bit.band(f.label, 0x3fefc))
    -- And its end has the new tag.
    p:run(flows.batch({ { "end", 1, time = 5000 } }))
    assert.equal("1: end 3/4 from 1001", first.instance.seen[3])
  end)

  it("tells nobody of what is the same", function()
    start('rule "r" { match = { experiment = "unset" }, set = { experiment = "atlas" } }')
    open(3)
    local counts = apply('rule "r" { match = { experiment = "unset" }, set = { experiment = "atlas" } }')
    assert.same({ 3, 3 }, { counts.flows, counts.unchanged })
    assert.same({}, first.instance.seen)
  end)

  it("tells a backend that is new in the route of a start, and one that is not in it any more of an end", function()
    start('rule "r" { route = "first" }')
    open(1, 2, 5)
    local counts = apply('rule "r" { route = "second" }')
    assert.equal(1, counts.rerouted)
    assert.same({ "1: end 2/5 from 1001" }, first.instance.seen)
    assert.same({ "1: start 2/5 from 1001" }, second.instance.seen)
    assert.equal(1, api.flow_table_count(flow_table))
    p:run(flows.batch({ { "end", 1, time = 5000 } }))
    assert.equal(1, #first.instance.seen)
    assert.equal("1: end 2/5 from 1001", second.instance.seen[2])
  end)

  it("ends a flow that is dropped now, or has no experiment, with its old tag", function()
    start('rule "r" { match = { experiment = "unset" }, set = { experiment = "atlas", activity = 9 } }')
    open(4)
    local counts = apply([[
      rule "drop" (function(flow) if flow.dst_port <= 3 then return drop end end)
    ]])
    assert.same({ 4, 2, 2 }, { counts.flows, counts.dropped, counts.unmapped })
    assert.equal(4, #first.instance.seen)
    assert.equal("1: end 2/9 from 1001", first.instance.seen[1])
    assert.equal(0, api.flow_table_count(flow_table))
    local before = counters.get("flowd_events_unmapped_total").value
    p:run(flows.batch({ { "end", 4, time = 5000 } }))
    assert.equal(4, #first.instance.seen)
    assert.equal(before + 1, counters.get("flowd_events_unmapped_total").value)
  end)

  it("goes in slices, over flows that were open when it began, while others start and end", function()
    start('rule "r" { match = { experiment = "unset" }, set = { experiment = "atlas" } }')
    open(2500)
    p.chain = chain('rule "r" { match = { experiment = "unset" }, set = { experiment = "cms" } }')
    local job = reapply.new(function() return p end)
    assert.is_false(job:step())
    assert.equal(1024, job:counts().flows)
    p:run(flows.batch({ { "start", 3001 }, { "end", 2400 }, { "end", 1 } }))
    policy.logged(function() while not job:step() do end end)
    assert.same({ 2499, 2499, true }, { job:counts().flows, job:counts().changed, job:counts().done })
    assert.equal(3, slot(2500).experiment)
  end)

  it("begins again when another configuration comes meanwhile", function()
    start('rule "r" { match = { experiment = "unset" }, set = { experiment = "atlas" } }')
    open(2500)
    local now = p
    local job = reapply.new(function() return now end)
    job:step()
    now = pipeline.new({ table = flow_table, batch = ffi.new("struct flow_batch"), backends = { first },
      chain = chain('rule "r" { match = { experiment = "unset" }, set = { experiment = "lhcb" } }') })
    policy.logged(function() while not job:step() do end end)
    assert.same({ 2500, 1 }, { job:counts().flows, job:counts().restarts })
    assert.equal(4, slot(1).experiment)
  end)

  it("dry, counts and changes nothing", function()
    start('rule "r" { match = { experiment = "unset" }, set = { experiment = "atlas" } }')
    open(2)
    local counts = apply('rule "dry" { match = { dst_port = 2 }, drop = true }', { dry = true })
    assert.same({ 1, 1, true }, { counts.dropped, counts.unmapped, counts.dry })
    assert.same({}, first.instance.seen)
    assert.equal(2, api.flow_table_count(flow_table))
    assert.equal(2, slot(1).experiment)
    assert.equal(0, p.chain.rules[1].hits)
  end)

  it("knows what a flow was announced with after a crash", function()
    flows.quiet()
    start('rule "r" { set = { experiment = "atlas", activity = 5 } }')
    open(1, 3, 4)
    local _
    _, flow_table = flows.reopen(nil, nil, 5000)
    p = pipeline.new({ table = flow_table, batch = ffi.new("struct flow_batch"), backends = { first }, chain = chain("") })
    policy.logged(function() reapply.run(p) end)
    assert.same({ 3, 4 }, { slot(1).experiment, slot(1).activity })
  end)
end)
