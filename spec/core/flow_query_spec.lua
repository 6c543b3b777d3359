-- SPDX-License-Identifier: Apache-2.0
-- Queries of the flow table against the same in plain Lua, in steps of every size.
local ffi = require("ffi")
local api = require("flowd.api")
local temp = require("spec.support.temp")
local cleanup = require("spec.support.cleanup")

local C = ffi.C
local FLOWS = 700

local state, flows, model

local function open()
  local message = ffi.new("char[256]")
  state = api.state_open(temp.dir() .. "/state", 2000, message, 256)
  assert(state ~= nil, ffi.string(message))
  flows = api.flow_table_open(state)
  model = {}
  local b = ffi.new("struct flow_batch")
  math.randomseed(42)
  for i = 1, FLOWS do
    local e = b.event[b.count]
    ffi.fill(e, ffi.sizeof(e))
    local text = ("2001:db8:%x::%x"):format(i % 5, i)
    api.address_parse(text, #text, e.key.src)
    api.address_parse("192.0.2.1", 9, e.key.dst)
    e.key.family, e.key.protocol = 6, i % 3 == 0 and 17 or 6
    e.key.src_port, e.key.dst_port = 1000 + math.random(1, 50), 2000 + i
    e.state, e.route, e.slot, e.time_us = C.FLOW_START, -1, -1, 1e6 + i
    e.experiment, e.activity, e.source = 1 + i % 4, 1, 1
    e.bytes_sent, e.flags = math.random(0, 1000), C.EVENT_HAS_BYTES
    e.application = i % 2 == 0 and "xrootd" or "gridftp"
    model[i] = { number = i, port = e.key.src_port, protocol = e.key.protocol, experiment = e.experiment,
      bytes = tonumber(e.bytes_sent), application = ffi.string(e.application), net = i % 5, dst_port = 2000 + i }
    b.count = b.count + 1
  end
  b.now_us = 2e6
  api.flow_table_resolve(flows, b)
  api.flow_table_commit(flows, b, 0xff)
  api.flow_table_release(flows, b)
end

local function query(conditions, order, group)
  local q = ffi.gc(api.flow_query_new(flows), api.flow_query_free)
  for _, c in ipairs(conditions) do
    local condition = ffi.new("struct flow_query_condition")
    for key, value in pairs(c) do
      if key == "text" then ffi.copy(condition.text, value)
      elseif key == "prefix" then api.address_parse(value, #value, condition.prefix)
      else condition[key] = value end
    end
    assert.equal(0, api.flow_query_add(q, condition))
  end
  api.flow_query_order(q, unpack(order))
  if group then assert.equal(0, api.flow_query_group_by(q, group)) end
  return q
end

local function run(q, step)
  local steps = 0
  repeat
    steps = steps + 1
    assert(steps < 10000)
  until not api.flow_query_run(q, step)
  local ports = {}
  for i = 0, api.flow_query_rows(q) - 1 do
    ports[#ports + 1] = api.flow_table_slot(flows, api.flow_query_row(q, i).slot).key.dst_port
  end
  return ports, steps
end

local function expected(fits, before, limit)
  local list = {}
  for _, f in ipairs(model) do if fits(f) then list[#list + 1] = f end end
  if before then table.sort(list, before) end
  local ports = {}
  for i = 1, math.min(limit, #list) do ports[i] = list[i].dst_port end
  return ports, #list
end

describe("flow_query", function()
  before_each(open)
  after_each(function()
    api.flow_table_close(flows)
    api.state_close(state, true)
    cleanup.all()
  end)

  it("finds, sorts and limits as a plain search does, whatever the size of the steps", function()
    local function by_bytes(a, b)
      if a.bytes ~= b.bytes then return a.bytes > b.bytes end
      return a.number < b.number
    end
    local function fits(f) return (f.experiment == 2 or f.experiment == 3) and f.port >= 1010 and f.port <= 1040 end
    local conditions = {
      { field = C.FLOW_QUERY_EXPERIMENT, group = 0, low = 2, high = 2 },
      { field = C.FLOW_QUERY_EXPERIMENT, group = 0, low = 3, high = 3 },
      { field = C.FLOW_QUERY_SRC_PORT, group = 1, low = 1010, high = 1040 },
    }
    for _, step in ipairs({ 1, 7, 64, 100000 }) do
      for _, limit in ipairs({ 1, 5, 100, 1000 }) do
        local q = query(conditions, { C.FLOW_QUERY_BYTES_SENT, true, limit, false })
        local ports, total = expected(fits, by_bytes, limit)
        assert.same(ports, (run(q, step)))
        assert.equal(total, tonumber(api.flow_query_total(q).flows))
        assert.is_false(api.flow_query_short(q))
      end
    end
  end)

  it("stops where there are enough, in the order of the table", function()
    local q = query({}, { 0, false, 10, false })
    local ports, steps = run(q, 1)
    assert.equal(10, #ports)
    assert.is_true(steps <= 11)
    q = query({}, { 0, false, 10, true })
    assert.equal(10, #run(q, 50))
    assert.equal(FLOWS, tonumber(api.flow_query_total(q).flows))
  end)

  it("knows prefixes, texts with stars, alternatives of different fields", function()
    local function count(...)
      local q = query({ ... }, { 0, false, 0, true })
      run(q, 1000)
      return tonumber(api.flow_query_total(q).flows)
    end
    assert.equal(140, count({ field = C.FLOW_QUERY_SRC, prefix = "2001:db8:3::", prefix_length = 48 }))
    assert.equal(280, count({ field = C.FLOW_QUERY_SRC, prefix = "2001:db8:2::", prefix_length = 47 }))
    assert.equal(FLOWS, count({ field = C.FLOW_QUERY_DST, prefix = "192.0.2.0", prefix_length = 120 }))
    assert.equal(0, count({ field = C.FLOW_QUERY_DST, prefix = "192.0.3.0", prefix_length = 120 }))
    assert.equal(1, count({ field = C.FLOW_QUERY_SRC, prefix = "2001:db8:3::3", prefix_length = 128 }))
    for pattern, wanted in pairs({ xrootd = 350, ["xr*"] = 350, ["*d"] = 350, ["*oo*"] = 350, ["*"] = 700, xroot = 0, ["*x"] = 0,
      ["gridftp*"] = 350, ["*gridftp"] = 350, ["*gridftp*"] = 350, ["gridftp1*"] = 0 }) do
      assert.equal(wanted, count({ field = C.FLOW_QUERY_APPLICATION, text = pattern }), pattern)
    end
    assert.equal(2, count({ field = C.FLOW_QUERY_DST_PORT, low = 2001, high = 2001 },
      { field = C.FLOW_QUERY_SRC, prefix = "2001:db8:2::2", prefix_length = 128 }))
  end)

  it("sums up by a field", function()
    local q = query({ { field = C.FLOW_QUERY_PROTOCOL, low = 17, high = 17 } }, { 0, false, 0, true }, C.FLOW_QUERY_EXPERIMENT)
    run(q, 13)
    for id = 0, 5 do
      local flows_of, bytes = 0, 0
      for _, f in ipairs(model) do
        if f.protocol == 17 and f.experiment == id then flows_of, bytes = flows_of + 1, bytes + f.bytes end
      end
      local sum = api.flow_query_group(q, id)
      assert.same({ flows_of, bytes }, { tonumber(sum.flows), tonumber(sum.bytes_sent) })
    end
    assert.is_true(api.flow_query_group_by(q, C.FLOW_QUERY_SRC) < 0)
  end)

  it("refuses what it cannot look for", function()
    local q = query({}, { 0, false, 1, false })
    assert.is_true(api.flow_query_add(q, ffi.new("struct flow_query_condition", { field = 99 })) < 0)
    assert.is_true(api.flow_query_add(q, ffi.new("struct flow_query_condition", { field = C.FLOW_QUERY_SRC, prefix_length = 129 })) < 0)
    local c = ffi.new("struct flow_query_condition", { field = C.FLOW_QUERY_ID })
    for _ = 1, C.FLOW_QUERY_CONDITIONS_MAX do assert.equal(0, api.flow_query_add(q, c)) end
    assert.is_true(api.flow_query_add(q, c) < 0)
  end)

  it("holds for events too", function()
    local q = query({ { field = C.FLOW_QUERY_DST_PORT, low = 443, high = 443 } }, { 0, false, 0, false })
    local e = ffi.new("struct flow_event")
    e.key.dst_port = 443
    assert.is_true(api.flow_query_event(q, e))
    e.key.dst_port = 80
    assert.is_false(api.flow_query_event(q, e))
  end)
end)
