-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local context = require("flowd.context")
local emit = require("flowd.emit")
local loop = require("flowd.loop")

local registry = {}
function registry:experiment_id(value)
  if value == "atlas" or value == 2 then return 2 end
  return nil, ("unknown experiment %s"):format(tostring(value))
end
function registry:activity_id(experiment, value)
  if experiment == 2 and (value == "Data Challenge" or value == 26) then return 26 end
  return nil, ("unknown activity %s"):format(tostring(value))
end

local function good(changes)
  local event = {
    state = "start", protocol = "tcp", src = "2001:db8::1", src_port = 1094, dst = "2001:db8::2", dst_port = 40000,
    experiment = "atlas", activity = "Data Challenge", application = "xrdcp",
  }
  for k, v in pairs(changes or {}) do
    if v == "nil" then event[k] = nil else event[k] = v end
  end
  return event
end

describe("an event made in Lua", function()
  local put, flush, batches

  before_each(function()
    batches = {}
    put, flush = emit.inbox(registry, function(batch)
      local copy = ffi.new("struct flow_batch")
      ffi.copy(copy, batch, ffi.sizeof(batch))
      batches[#batches + 1] = copy
    end)
  end)

  it("arrives with every field", function()
    put(7, good({ bytes_sent = 10, bytes_received = 2 ^ 40, time = 1700000000.25, state = "end" }))
    flush()
    assert.equal(1, #batches)
    local e = batches[1].event[0]
    assert.equal(ffi.C.FLOW_END, e.state)
    assert.equal(6, e.key.protocol)
    assert.equal(6, e.key.family)
    assert.equal(1094, e.key.src_port)
    assert.equal(40000, e.key.dst_port)
    assert.equal(0x20, e.key.src.octet[0])
    assert.equal(2, e.key.dst.octet[15])
    assert.equal(2, e.experiment)
    assert.equal(26, e.activity)
    assert.equal("xrdcp", ffi.string(e.application))
    assert.equal(7, e.source)
    assert.equal(-1, e.route)
    assert.equal(ffi.C.EVENT_HAS_BYTES, e.flags)
    assert.equal(10, tonumber(e.bytes_sent))
    assert.equal(2 ^ 40, tonumber(e.bytes_received))
    assert.equal(1700000000250000, tonumber(e.time_us))
  end)

  it("goes through at the end of the loop's turn, together with its neighbours", function()
    put(1, good())
    put(1, good({ src_port = 1095 }))
    assert.equal(0, #batches)
    loop.turn()
    assert.equal(1, #batches)
    assert.equal(2, batches[1].count)
  end)

  it("is not lost when one turn makes more than a batch holds", function()
    for i = 1, 2500 do put(1, good({ src_port = i })) end
    flush()
    local next_port = 1
    for _, batch in ipairs(batches) do
      for i = 0, batch.count - 1 do
        assert.equal(next_port, batch.event[i].key.src_port)
        next_port = next_port + 1
      end
    end
    assert.equal(2501, next_port)
  end)

  it("that is made while a batch runs waits for its turn", function()
    local entered, most = 0, 0
    local inner_put
    local seen = 0
    inner_put, flush = emit.inbox(registry, function(batch)
      entered = entered + 1
      most = math.max(most, entered)
      if seen == 0 then
        for i = 1, 1500 do inner_put(1, good({ src_port = i })) end
      end
      seen = seen + batch.count
      entered = entered - 1
    end)
    inner_put(1, good())
    flush()
    assert.equal(1, most)
    assert.equal(1501, seen)
  end)

  it("cuts an application's name to what a flow can hold", function()
    put(1, good({ application = ("x"):rep(100) }))
    flush()
    assert.equal(("x"):rep(47), ffi.string(batches[1].event[0].application))
  end)

  for field, case in pairs({
    state = { "begin", 'event.state: expected start, ongoing or end, got "begin"' },
    protocol = { "sctp", 'event.protocol: expected tcp or udp, got "sctp"' },
    src = { "host", 'event.src: expected an IPv4 or IPv6 address, got "host"' },
    dst = { "192.0.2.1", 'event.dst: expected an address of the family of src, 2001:db8::1, got "192.0.2.1"' },
    src_port = { 0, "event.src_port: expected an integer from 1 to 65535, got 0" },
    dst_port = { 65536, "event.dst_port: expected an integer from 1 to 65535, got 65536" },
    experiment = { "atlsa", "event.experiment: unknown experiment atlsa" },
    activity = { 64, "event.activity: unknown activity 64" },
    application = { 5, "event.application: expected a string, got 5" },
    time = { "now", 'event.time: expected seconds of UNIX time, got "now"' },
    bytes_sent = { -1, "event.bytes_sent: expected an integer from 0 to 9007199254740992, got -1" },
    speed = { 1, "event: unknown field 'speed'" },
  }) do
    it("with a bad " .. field .. " is refused with field, value and what was expected", function()
      local ok, message = put(1, good({ [field] = case[1] }))
      assert.is_nil(ok)
      assert.equal(case[2], message)
      flush()
      assert.equal(0, #batches)
    end)
  end

  it("that is refused is an error at the plugin's line", function()
    local ctx = context.new({ name = "mine", kind = "plugin", put = put, source_id = 1 })
    local ok, message = pcall(function() ctx:emit(good({ src_port = 0 })) end)
    assert.is_false(ok)
    assert.matches("^spec/unit/emit_spec%.lua:%d+: event%.src_port: expected an integer from 1 to 65535, got 0$", message)
    assert.has_error(function() ctx:emit("start") end)
  end)

  it("may leave out experiment and activity: rules can set them", function()
    put(1, good({ experiment = "nil", activity = "nil" }))
    flush()
    assert.equal(0, batches[1].event[0].experiment)
    assert.is_true(batches[1].now_us <= api.clock_realtime_us())
  end)
end)
