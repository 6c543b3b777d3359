-- SPDX-License-Identifier: Apache-2.0
-- The table that daemon and program share: every flow is found where it is, and nothing else, however it is
-- filled, emptied and grown.
local api = require("flowd.api")
local marking = require("spec.support.marking")

if not marking.available() then return end

describe("marks in the table", function()
  it("come again with flows that start again, whatever is left at their places", function()
    local count = 65000
    local big = marking.open(count)
    local function each(more)
      for first = 1, count, 1000 do
        local list = {}
        for i = first, first + 999 do
          list[#list + 1] = { dst = ("2001:db8:%x::2"):format(i), dst_port = 1 + i % 50000, slot = i - 1, label = i }
          for name, value in pairs(more) do list[#list][name] = value end
        end
        big:events(list)
      end
    end
    for _ = 1, 3 do
      each({ state = "start" })
      assert.are.equal(count, big:counts().open)
      each({ state = "end", known = true, decided = true })
      assert.are.equal(0, big:counts().open)
    end
    big:close()
  end)

  -- Ports are each flow's own, so that its mark is found by nothing else.
  it("stay when the table grows under them, and nothing else is marked", function()
    local count = 100000
    local big = marking.open(count)
    local function peer(i) return ("2001:db8:%x::%x"):format(i * 40503 % 65536, i % 7) end
    local function fields(i) return { protocol = "udp", dst = peer(i), dst_port = i % 60000 + 1 } end
    local function each(from, step, more)
      for first = from, count, 1000 * step do
        local list = {}
        for i = first, math.min(first + 999 * step, count), step do
          local flow = fields(i)
          flow.slot, flow.label = i - 1, i
          for name, value in pairs(more) do flow[name] = value end
          list[#list + 1] = flow
        end
        big:events(list)
      end
    end
    local ended = { state = "end", known = true, decided = true }
    local room, memory = api.marker_room(big.handle), api.marker_memory(big.handle)
    big:events({ { slot = 0, protocol = "udp", dst = peer(1), dst_port = 2, label = 1 } })
    assert.are.equal(1, big:label_of(5000, fields(1)))
    each(1, 1, {})
    assert.is_true(api.marker_room(big.handle) > room and api.marker_memory(big.handle) > memory)
    for i = 1, count, 371 do assert.are.equal(i, big:label_of(5000, fields(i))) end
    assert.are.equal(2, big:usage({ protocol = "udp", dst = peer(1), dst_port = 2 }).packets)
    each(1, 2, ended)
    for i = 1, count, 371 do assert.are.equal(i % 2 == 0 and i or 0, big:label_of(5000, fields(i))) end
    each(2, 2, ended)
    for i = 1, count, 997 do assert.are.equal(0, big:label_of(5000, fields(i))) end
    assert.are.equal(count, big:counts().removed)
    assert.are.equal(0, big:counts().open)
    big:close()
  end)

  it("may sit on every port", function()
    local big = marking.open(65535)
    local list = {}
    for port = 1, 65535 do
      list[#list + 1] = { slot = port - 1, src_port = port, label = port }
      if #list == 1024 then
        big:events(list)
        list = {}
      end
    end
    big:events(list)
    assert.are.equal(65535, big:counts().open)
    for _, port in ipairs({ 1, 63, 64, 65, 1023, 32767, 32768, 65534, 65535 }) do
      assert.are.equal(port, big:label_of(port))
    end
    assert.are.equal(0, big:label_of(0))
    big:close()
  end)

  -- At the load with which a table grows; half of the flows come and go each round.
  it("are found at any place, and what is no longer there is not", function()
    local room = api.marker_room(marking.open(1).handle)
    local m = marking.open(room)
    math.randomseed(20)
    local flows, open = {}, 0
    for i = 1, 2 * room do flows[i] = { src_port = 1 + i % 3, dst_port = i, slot = i - 1, label = i } end
    for _ = 1, 12 do
      local ends, starts = {}, {}
      for _, flow in ipairs(flows) do
        if flow.open and math.random() < 0.5 then
          flow.open = false
          ends[#ends + 1] = { state = "end", known = true, decided = true, src_port = flow.src_port, dst_port = flow.dst_port,
            slot = flow.slot, label = flow.label }
        end
      end
      open = open - #ends
      for _ = 1, 4 * room do
        local flow = flows[math.random(#flows)]
        if open < room and not flow.open then
          flow.open = true
          open = open + 1
          starts[#starts + 1] = flow
        end
      end
      for _, list in ipairs({ ends, starts }) do
        for first = 1, #list, 1000 do m:events({ unpack(list, first, math.min(first + 999, #list)) }) end
      end
      assert.are.equal(open, m:counts().open)
      assert.are.equal(0, api.marker_faults(m.handle))
      for _, flow in ipairs(flows) do
        local label = m:label_of(flow.src_port, { dst_port = flow.dst_port })
        if label ~= (flow.open and flow.label or 0) then
          error(("flow %d: label %d, open: %s"):format(flow.label, label, tostring(flow.open)))
        end
      end
    end
    for first = 1, #flows, 1000 do
      local list = {}
      for i = first, math.min(first + 999, #flows) do
        list[#list + 1] = { state = "end", known = true, decided = true, src_port = flows[i].src_port,
          dst_port = flows[i].dst_port, slot = i - 1 }
      end
      m:events(list)
    end
    assert.are.equal(0, m:counts().open)
    assert.are.equal(0, api.marker_faults(m.handle))
    m:close()
  end)
end)
