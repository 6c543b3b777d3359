-- SPDX-License-Identifier: Apache-2.0
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local counters = require("flowd.counters")
local flows = require("spec.support.flows")
local pipeline = require("flowd.pipeline")
local policy = require("spec.support.policy")

local C = ffi.C

-- A backend that writes down what it is told.
local function recorder(name, bit_mask, journal)
  local instance = { seen = {}, waiting = 0 }
  function instance:on_events(events, n)
    journal[#journal + 1] = name .. " events"
    for i = 0, n - 1 do
      local e = events[i]
      if flows.has(e, C.EVENT_DELIVER) and bit.band(e.route, bit_mask) ~= 0 then
        self.seen[#self.seen + 1] = ("%d %d/%d"):format(e.state, e.experiment, e.activity)
      end
    end
  end
  function instance:flush() journal[#journal + 1] = name .. " flush" end
  return { name = name, bit = bit_mask, instance = instance }
end

describe("pipeline", function()
  after_each(cleanup.all)

  local journal, first, second, p, flow_table

  local function start(rules, flows_max)
    local _
    _, flow_table = flows.open_table(flows_max or 1000)
    journal = {}
    first, second = recorder("first", 1, journal), recorder("second", 2, journal)
    p = pipeline.new({
      table = flow_table, batch = ffi.new("struct flow_batch"), backends = { first, second },
      chain = policy.chain(rules or 'rule "all" { set = { experiment = "atlas", activity = 26 } }',
        { backends = { first = 1, second = 2, third = 4 } }),
    })
  end

  it("opens a flow with what the rules decided, and ends it the same", function()
    start()
    p:run(flows.batch({ { "start", 1, time = 1000 } }))
    assert.equal(1, api.flow_table_count(flow_table))
    p:run(flows.batch({ { "end", 1, time = 2000 } }))
    assert.equal(0, api.flow_table_count(flow_table))
    assert.same({ "1 2/26", "3 2/26" }, first.instance.seen)
    assert.same({ "1 2/26", "3 2/26" }, second.instance.seen)
  end)

  it("lets all backends queue before the first sends", function()
    start()
    p:run(flows.batch({ { "start", 1 } }))
    assert.same({ "first events", "second events", "first flush", "second flush" }, journal)
    p:run(flows.batch({}))
    assert.equal(4, #journal)
  end)

  it("runs the rules on starts and not on ends of open flows", function()
    start('rule "r" (function(flow) if flow.state == "end" then flow:tag(9, 9) else flow:tag(2, 26) end end)')
    p:run(flows.batch({ { "start", 1 }, { "end", 1 }, { "end", 2 } }))
    assert.same({ "1 2/26", "3 2/26", "3 9/9" }, first.instance.seen)
  end)

  it("gives the end of a flow to the backends of its start, also of a flow that starts in the same batch", function()
    start('rule "r" (function(flow) flow:tag(2, 26); flow:route("second") end)')
    p:run(flows.batch({ { "start", 1 }, { "end", 1 } }))
    assert.same({}, first.instance.seen)
    assert.same({ "1 2/26", "3 2/26" }, second.instance.seen)
  end)

  it("delivers to nobody what is routed to a backend that did not start", function()
    start('rule "r" (function(flow) flow:tag(2, 26); flow:route("third") end)')
    p:run(flows.batch({ { "start", 1 } }))
    assert.same({}, first.instance.seen)
    assert.same({}, second.instance.seen)
    assert.equal(0, api.flow_table_slot(flow_table, api.flow_table_next(flow_table, 0)).route)
  end)

  it("neither opens nor delivers what a rule drops or leaves unmapped", function()
    start('rule "r" (function(flow) if flow.dst_port == 2 then return drop end end)')
    p:run(flows.batch({ { "start", 1 }, { "start", 2 } }))
    assert.equal(0, api.flow_table_count(flow_table))
    assert.same({}, first.instance.seen)
  end)

  it("goes on when a backend raises: logged, counted, the others have theirs", function()
    start()
    local errors = counters.get("flowd_backend_errors_total", { backend = "first" })
    local before = errors.value
    first.instance.on_events = function() error("cannot") end
    p = pipeline.new({ table = flow_table, batch = p.batch, chain = p.chain, backends = { first, second } })
    local lines = policy.logged(function()
      for n = 1, 7 do p:run(flows.batch({ { "start", n } })) end
    end)
    assert.equal(7, tonumber(errors.value - before))
    assert.equal(5, #lines)
    assert.matches("^error backend 'first': .*pipeline_spec.lua:%d+: cannot\nstack traceback", lines[1])
    assert.equal(7, #second.instance.seen)
    assert.equal(7, api.flow_table_count(flow_table))

    second.instance.flush = function() error("full") end
    p = pipeline.new({ table = flow_table, batch = p.batch, chain = p.chain, backends = { second } })
    lines = policy.logged(function() p:run(flows.batch({ { "start", 8 } })) end)
    assert.matches("^error backend 'second': .*: full", lines[1])
    assert.equal(8, #second.instance.seen)
  end)

  describe("at the end", function()
    local function open(n)
      for from = 1, n, 1000 do
        local events = {}
        for i = from, math.min(from + 999, n) do events[#events + 1] = { "start", i } end
        p:run(flows.batch(events))
      end
      first.instance.seen, second.instance.seen = {}, {}
    end
    local function deadline(seconds) return api.clock_monotonic_ns() + ffi.cast("uint64_t", seconds * 1e9) end

    it("ends every open flow at the backends that its start went to", function()
      start('rule "r" (function(flow) flow:tag(2, 26); if flow.dst_port % 2 == 0 then flow:route("second") end end)')
      open(900)
      local ended, left = p:drain(deadline(10))
      assert.same({ 900, 0 }, { ended, left })
      assert.equal(450, #first.instance.seen)
      assert.equal(900, #second.instance.seen)
      assert.equal("3 2/26", first.instance.seen[1])
      assert.equal(0, api.flow_table_count(flow_table))
    end)

    it("says how many were left when the deadline came first", function()
      start()
      open(10)
      assert.same({ 0, 10 }, { p:drain(deadline(0)) })
    end)

    it("waits for backends while they get on, so that no queue overflows", function()
      start(nil, 10000)
      open(9000)
      local highest = 0
      local counting = first.instance.on_events
      function first.instance:on_events(events, n)
        counting(self, events, n)
        self.waiting = self.waiting + n
        highest = math.max(highest, self.waiting)
      end
      -- A slow receiver: 100 messages at a time.
      function first.instance:flush() self.waiting = math.max(0, self.waiting - 100) end
      function first.instance:pending() return self.waiting end
      p = pipeline.new({ table = flow_table, batch = p.batch, chain = p.chain, backends = { first } })
      assert.same({ 9000, 0 }, { p:drain(deadline(10)) })
      assert.equal(9000, #first.instance.seen)
      assert.is_true(highest <= 3 * C.FLOW_BATCH_MAX)
    end)

    it("does not wait for one that does not", function()
      start()
      open(1000)
      function first.instance.pending() return 100000 end
      p = pipeline.new({ table = flow_table, batch = p.batch, chain = p.chain, backends = { first, second } })
      assert.same({ 1000, 0 }, { p:drain(deadline(60)) })
      assert.equal(1000, #second.instance.seen)
    end)
  end)
end)
