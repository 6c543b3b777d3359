-- SPDX-License-Identifier: Apache-2.0
-- What was marked of each experiment's activity is added up from the flows' own counters, a part of the table at a
-- time, while flows come, go, and change their tags.
local api = require("flowd.api")
local ffi = require("ffi")
local marking = require("spec.support.marking")
local packets = require("spec.support.packets")

local available = marking.available()
if not available then
  describe("totals of what is marked", function()
    it("need a marker", function() pending("no marker") end)
  end)
  return
end

local OCTETS = 40 + #packets.udp(1, 1)
local TAGS = { { 2, 1 }, { 3, 14 }, { 2, 9 } }
local FLOWS, FIRST_PORT = 200, 5000
-- Fills that many more entries than are looked at in one go, so that a look takes several parts.
local OTHERS = 60000

local function name(tag) return ("%d/%d"):format(TAGS[tag][1], TAGS[tag][2]) end
local function label(tag) return api.label_encode(TAGS[tag][1], TAGS[tag][2], 0) end

describe("totals of what is marked", function()
  local m, flows, expected, told, counts, classes, random

  before_each(function()
    m, flows, expected, told = marking.open(200000), {}, {}, {}
    counts, classes = ffi.new("struct marker_counts"), ffi.new("struct marker_class[?]", ffi.C.MARKER_CLASSES_MAX)
    for tag = 1, #TAGS do expected[name(tag)], told[name(tag)] = 0, 0 end
    random = math.random
  end)
  after_each(function() m:close() end)

  local function event(port, state, tag, known)
    return { state = state, slot = port, protocol = "udp", src_port = port, label = label(tag), known = known }
  end

  local function fill_up()
    for from = 0, OTHERS - 1, 1000 do
      local list = {}
      for i = from, from + 999 do
        list[#list + 1] = { slot = i, src_port = 20000 + i % 40000, dst_port = 1 + math.floor(i / 40000), label = label(1) }
      end
      m:events(list)
    end
  end

  -- What has come since the last time. A packet is never told twice, whatever is under way.
  local function account()
    for i = 0, api.marker_account(m.handle, counts, classes) - 1 do
      local class = classes[i]
      local tag = class.experiment .. "/" .. class.activity
      assert.are.equal(tonumber(class.packets) * OCTETS, tonumber(class.octets))
      told[tag] = told[tag] + tonumber(class.packets)
    end
    for tag, count in pairs(told) do
      if count > expected[tag] then error(("%s: %d told of %d"):format(tag, count, expected[tag])) end
    end
  end

  local function look_at_all()
    repeat local done = api.marker_look(m.handle) until done
  end

  local actions = {
    function(port)
      local flow = flows[port]
      if not flow then return end
      assert.are.equal(label(flow), m:label_of(port, { protocol = "udp" }))
      expected[name(flow)] = expected[name(flow)] + 1
    end,
    function(port)
      if not flows[port] then
        flows[port] = random(#TAGS)
        m:events({ event(port, "start", flows[port]) })
      end
    end,
    function(port)
      if flows[port] then m:events({ event(port, "end", flows[port], true) }) end
      flows[port] = nil
    end,
    function(port)
      if not flows[port] then return end
      flows[port] = random(#TAGS)
      m:events({ event(port, "ongoing", flows[port], true) })
    end,
    -- Another flow of the same addresses, in one batch.
    function(port)
      if not flows[port] then return end
      local before = flows[port]
      flows[port] = random(#TAGS)
      m:events({ event(port, "end", before, true), event(port, "start", flows[port]) })
    end,
    function() api.marker_look(m.handle) end,
    account,
  }

  local function run(rounds)
    for _ = 1, rounds do
      local what = random(10)
      -- Packets and starts more often.
      actions[what > #actions and what % 2 + 1 or what](FIRST_PORT + random(FLOWS))
    end
  end

  local function check()
    -- What is under way, and then what that has left out.
    look_at_all()
    account()
    look_at_all()
    account()
    assert.are.same(expected, told)
  end

  it("are of every packet, once, whatever the flows do meanwhile", function()
    fill_up()
    for _ = 1, 20 do
      run(500)
      check()
    end
  end)

  it("outlast a larger table in the middle of a look", function()
    run(2000)
    fill_up()
    run(2000)
    check()
  end)

  it("do not tell again what moves out of a larger table before that is looked at", function()
    for port = FIRST_PORT, FIRST_PORT + FLOWS do
      actions[2](port)
      actions[1](port)
    end
    check()
    fill_up()
    for port = FIRST_PORT, FIRST_PORT + FLOWS do actions[3](port) end
    account()
    check()
  end)

  it("are told when all was looked at, not before", function()
    fill_up()
    actions[2](FIRST_PORT)
    actions[1](FIRST_PORT)
    assert.is_false(api.marker_look(m.handle))
    account()
    for _, count in pairs(told) do assert.are.equal(0, count) end
    check()
  end)
end)
