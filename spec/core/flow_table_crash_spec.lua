-- SPDX-License-Identifier: Apache-2.0
--- What the next process finds when this one is killed between any two steps of a batch.
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local flows = require("spec.support.flows")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local C = ffi.C
local MAX = 200

describe("flow table of a killed daemon", function()
  before_each(flows.quiet)
  after_each(cleanup.all)

  local function decide(b)
    for i = 0, b.count - 1 do
      local e = b.event[i]
      if not flows.has(e, C.EVENT_DECIDED) then e.experiment, e.activity = 2, tonumber(e.time_us) % 60 + 1 end
    end
  end

  local steps = {
    function(t, b) api.flow_table_resolve(t, b) end,
    function(t, b) decide(b) api.flow_table_commit(t, b, 0xff) end,
    function(t, b) api.flow_table_release(t, b) end,
  }

  local function run(t, b, last)
    for i = 1, last or #steps do steps[i](t, b) end
    return b
  end

  --- Input of which a batch was made and that is not consumed yet.
  local function read_input(s)
    local input = api.state_input_open(s, "spec", 4096)
    api.state_input_set(input, 100, 50)
    return input
  end

  --- What backends saw of a batch: state, flow, start, label.
  local function seen(b)
    local list = {}
    for i = 0, b.count - 1 do
      local e = b.event[i]
      if flows.has(e, C.EVENT_DELIVER) then
        list[#list + 1] = ("%d %d start %s label %x"):format(e.state, flows.number(e.key), tostring(e.start_us), e.label)
      end
    end
    return list
  end

  local function open_flows(t)
    local list = {}
    local slot = api.flow_table_next(t, 0)
    while slot >= 0 do
      local f = api.flow_table_slot(t, slot)
      list[#list + 1] = ("%03d start %s label %x"):format(flows.number(f.key), tostring(f.start_us), f.label)
      assert.equal(slot, api.flow_table_find(t, f.key))
      slot = api.flow_table_next(t, slot + 1)
    end
    table.sort(list)
    return list
  end

  local first = { { "start", 1, time = 11 }, { "start", 2, time = 12 }, { "start", 3, time = 13 }, { "start", 7, time = 14 } }
  local batches = {
    { "an end", { { "end", 1, time = 21 } } },
    { "a start", { { "start", 4, time = 21 } } },
    { "a flow that ends and starts again", { { "end", 1, time = 21 }, { "start", 1, time = 22 } } },
    { "a flow that starts and ends", { { "start", 4, time = 21 }, { "end", 4, time = 22 } } },
    { "a flow that starts and ends twice", { { "start", 4, time = 21 }, { "end", 4, time = 22 }, { "start", 4, time = 23 },
      { "end", 4, time = 24 } } },
    { "everything", { { "end", 2, time = 21 }, { "start", 4, time = 22 }, { "start", 2, time = 23 }, { "ongoing", 3, time = 24 },
      { "end", 4, time = 25 }, { "end", 2, time = 26 }, { "start", 2, time = 27 }, { "start", 4, time = 28 },
      { "start", 7, time = 29 }, { "end", 3, time = 30 } } },
  }

  for _, case in ipairs(batches) do
    for last = 0, 3 do
      it(("sees %s again, killed after step %d, as it was seen before"):format(case[1], last), function()
        local s, t = flows.open_table(MAX)
        run(t, flows.batch(first))
        read_input(s)
        local undisturbed = run(t, flows.batch(case[2]), last)
        local before = seen(undisturbed)
        s, t = flows.reopen(s, t, MAX)
        local input = api.state_input_open(s, "spec", 4096)
        assert.equal(50, input.consumed)
        local again = run(t, flows.batch(case[2]))
        api.state_input_set(input, 100, 100)
        api.flow_table_settle(t)
        local after = seen(again)
        assert.equal(#case[2], #after)
        if last >= 2 then
          -- Once delivered, a firefly repeats with the same start time and label.
          assert.same(before, after)
        else
          -- Ends of flows that were open have their start times; nothing else was promised.
          for i, event in ipairs(case[2]) do
            if event[1] == "end" then
              assert.is_true(again.event[i - 1].start_us < again.event[i - 1].time_us, case[1])
            end
          end
        end
        -- Nothing is open that should not be, and nothing is missing.
        local expected = { [1] = 11, [2] = 12, [3] = 13, [7] = 14 }
        for _, event in ipairs(case[2]) do
          local n = event[2]
          if event[1] == "end" then expected[n] = nil else expected[n] = expected[n] or event.time end
        end
        local count = 0
        for n, start in pairs(expected) do
          local slot = api.flow_table_find(t, flows.key(n))
          assert.is_true(slot >= 0, n)
          assert.equal(start, tonumber(api.flow_table_slot(t, slot).start_us))
          count = count + 1
        end
        assert.equal(count, #open_flows(t))
        -- The process after that one finds the same.
        local list = open_flows(t)
        _, t = flows.reopen(s, t, MAX)
        assert.same(list, open_flows(t))
      end)
    end
  end

  it("is not asked to repeat a batch whose input was consumed", function()
    local s, t = flows.open_table(MAX)
    local input = read_input(s)
    run(t, flows.batch({ { "start", 1, time = 11 } }))
    run(t, flows.batch({ { "end", 1, time = 21 }, { "start", 1, time = 22 } }))
    api.state_input_set(input, 100, 60)
    -- Then other input came, and the process was killed before it was made into a batch.
    api.state_input_set(input, 150, 60)
    s, t = flows.reopen(s, t, MAX)
    api.state_input_open(s, "spec", 4096)
    local e = run(t, flows.batch({ { "end", 1, time = 31 } })).event[0]
    assert.equal(22ULL, e.start_us)
    assert.equal(0, api.flow_table_count(t))
  end)

  it("forgets flows that ended when nothing asks for them again", function()
    local s, t = flows.open_table(MAX)
    run(t, flows.batch(first))
    read_input(s)
    run(t, flows.batch({ { "end", 1, time = 21 }, { "end", 2, time = 22 }, { "start", 2, time = 23 } }))
    s, t = flows.reopen(s, t, MAX)
    api.flow_table_settle(t)
    assert.equal(3, api.flow_table_count(t))
    local b = run(t, flows.batch({ { "end", 1, time = 31 }, { "end", 2, time = 32 } }))
    assert.equal(31ULL, b.event[0].start_us)
    assert.equal(23ULL, b.event[1].start_us)
    assert.is_not_nil(s)
  end)

  it("has a changed flow's old tag or its new one, not half of each", function()
    local s, t = flows.open_table(MAX)
    run(t, flows.batch(first))
    local number = api.flow_table_find(t, flows.key(1))
    local h = api.state_header(s)
    local f = ffi.cast("struct flow_slot *", api.flow_table_slot(t, number))
    local label = f.label
    h.undo = f[0]
    h.undo_slot = number + 1
    f.experiment, f.activity, f.route = 99, 9, 0 -- and here the kill comes
    s, t = flows.reopen(s, t, MAX)
    f = api.flow_table_slot(t, api.flow_table_find(t, flows.key(1)))
    assert.equal(2, f.experiment)
    assert.equal(12, f.activity)
    assert.equal(label, f.label)
    assert.equal(0, api.state_header(s).undo_slot)
  end)

  it("keeps more flows than max_flows now allows, and refuses new ones", function()
    local s, t = flows.open_table(MAX)
    run(t, flows.batch(first))
    s, t = flows.reopen(s, t, 2)
    assert.equal(4, api.flow_table_count(t))
    assert.is_false(flows.has(run(t, flows.batch({ { "start", 9 } })).event[0], C.EVENT_DELIVER))
    run(t, flows.batch({ { "end", 1 }, { "end", 2 }, { "end", 3 } }))
    assert.is_true(flows.has(run(t, flows.batch({ { "start", 9 } })).event[0], C.EVENT_DELIVER))
    assert.is_not_nil(s)
  end)

  -- A child works through batches 1, 2, 3, … as fast as it can; each is a function of its number,
  -- and as many octets are consumed as batches are done. Whatever a kill leaves: when the batch after
  -- those is run again, exactly the flows of an undisturbed run are open.
  local worker = [[
    package.path = "./?.lua;" .. package.path
    local flows = require("spec.support.flows")
    local api = require("flowd.api")
    local s, t = flows.open_table(100, arg[1])
    local input = api.state_input_open(s, "spec", 1048576)
    local n = input.consumed
    io.write("ready\n") io.flush()
    while true do
      n = n + 1
      flows.run_numbered(t, n)
      api.state_input_set(input, n + 1, n)
    end
  ]]

  --- Octets of the first input that are consumed, seen from outside.
  local function consumed(path)
    local message = ffi.new("char[?]", 256)
    local view = assert(api.state_view(path, message, 256))
    local input = api.state_input_at(view, 0)
    local n = input ~= nil and input.consumed or 0
    api.state_close(view, false)
    return n
  end

  it("ends where an undisturbed one does, wherever the kill comes", function()
    local dir = temp.dir()
    local script = temp.write(dir .. "/worker.lua", worker)
    local path = dir .. "/state"
    local rounds = tonumber(os.getenv("SPEC_KILLS")) or 12
    local last_position = 0
    local model, model_at = {}, 0
    for round = 1, rounds do
      local child = process.start({ daemon.binary(), "lua", script, path })
      child:expect("ready\n", 10)
      process.wait_for("progress", 10, function() return consumed(path) > last_position + round * 7919 % 500 end)
      child:signal("KILL")
      child:wait(5)
      local s, t = flows.open_table(100, path)
      local input = api.state_input_open(s, "spec", 4096)
      local position = input.consumed
      assert.is_true(position > last_position)
      -- The next batch may have been under way: it is read again.
      flows.run_numbered(t, position + 1)
      api.state_input_set(input, position + 2, position + 1)
      api.flow_table_settle(t)
      while model_at <= position do
        model_at = model_at + 1
        flows.model_numbered(model, model_at)
      end
      local count = 0
      for n, flow in pairs(model) do
        local number = api.flow_table_find(t, flows.key(n))
        assert.is_true(number >= 0, ("flow %d after batch %d"):format(n, model_at))
        local f = api.flow_table_slot(t, number)
        assert.equal(flow.start, tonumber(f.start_us))
        assert.equal(flow.activity, f.activity)
        assert.equal(flow.activity, api.label_activity(f.label))
        count = count + 1
      end
      assert.equal(count, api.flow_table_count(t))
      last_position = position + 1
      flows.leave()
    end
  end)
end)
