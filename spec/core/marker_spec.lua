-- SPDX-License-Identifier: Apache-2.0
-- Which flows are marked, after batches of events. What the program does with packets is in spec/bpf.
local api = require("flowd.api")
local bpf = require("spec.support.bpf")
local ffi = require("ffi")
local marking = require("spec.support.marking")
local packets = require("spec.support.packets")

local available, reason = marking.available()
if not available then
  describe("a marker that is not there", function()
    it("says why", function()
      assert.is_true(#reason > 20)
      if not reason:find("EBPF=0", 1, true) then pending(reason) end
    end)
  end)
  return
end

-- The label that a flow's packets leave with; 0 for an unmarked one.
local function label_of(m, src_port, fields)
  fields = fields or {}
  local transport = fields.protocol == "udp" and packets.udp or packets.tcp
  local frame = packets.ethernet(packets.ipv6({
    next = fields.protocol == "udp" and 17 or 6, src = fields.src, dst = fields.dst,
    payload = transport(src_port, fields.dst_port or 443),
  }))
  local out = assert(m:run(frame))
  return (out:byte(16) % 16) * 65536 + out:byte(17) * 256 + out:byte(18)
end

describe("marks", function()
  local m

  before_each(function() m = marking.open(1000) end)
  after_each(function() m:close() end)

  it("begin with a start and end with an end", function()
    assert.are.equal(0, label_of(m, 5000))
    m:events({ { slot = 0, label = 0x10008 } })
    assert.are.equal(0x10008, label_of(m, 5000))
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0, label_of(m, 5000))
    local counts = m:counts()
    assert.are.equal(1, counts.added)
    assert.are.equal(1, counts.removed)
    assert.are.equal(0, counts.open)
  end)

  it("are of the whole 5-tuple", function()
    m:events({ { slot = 0, label = 0x30038 } })
    assert.are.equal(0x30038, label_of(m, 5000))
    assert.are.equal(0, label_of(m, 5001))
    assert.are.equal(0, label_of(m, 5000, { dst_port = 444 }))
    assert.are.equal(0, label_of(m, 5000, { src = "2001:db8::3" }))
    assert.are.equal(0, label_of(m, 5000, { dst = "2001:db8::3" }))
    assert.are.equal(0, label_of(m, 5000, { protocol = "udp" }))
    assert.are.equal(0, label_of(m, 443, { src = packets.dst, dst = packets.src, dst_port = 5000 }))
  end)

  it("begin with an ongoing event of an unknown flow, and stay on later ones", function()
    m:events({ { state = "ongoing", slot = 3 } })
    assert.are.equal(0x20004, label_of(m, 5000))
    m:events({ { state = "ongoing", slot = 3, known = true, decided = true } })
    assert.are.equal(0x20004, label_of(m, 5000))
    assert.are.equal(0, m:counts().changed)
  end)

  it("wait for the flush", function()
    m:queue({ { slot = 0 } })
    assert.are.equal(0, label_of(m, 5000))
    m:flush()
    assert.are.equal(0x20004, label_of(m, 5000))
  end)

  it("change when a duplicate start brings another tag", function()
    m:events({ { slot = 0, label = 0x20004 } })
    m:events({ { slot = 0, label = 0x10008, known = true } })
    assert.are.equal(0x10008, label_of(m, 5000))
    assert.are.equal(1, m:counts().changed)
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0, label_of(m, 5000))
  end)

  it("end when a duplicate start is routed elsewhere", function()
    m:events({ { slot = 0 } })
    m:events({ { slot = 0, known = true, routed = false } })
    assert.are.equal(0, label_of(m, 5000))
    assert.are.equal(0, m:counts().open)
    m:events({ { state = "end", slot = 0, known = true, decided = true, routed = false } })
    assert.are.equal(1, m:counts().removed)
  end)

  it("are none for events that are routed elsewhere, not delivered, or without a slot", function()
    m:events({ { slot = 0, routed = false }, { slot = 1, src_port = 5001, delivered = false }, { src_port = 5002 } })
    for port = 5000, 5002 do assert.are.equal(0, label_of(m, port)) end
    assert.are.equal(0, m:counts().added)
  end)

  it("are none for IPv4, which has no label, and that is counted", function()
    m:events({ { slot = 0, src = "192.0.2.1", dst = "192.0.2.2" } })
    assert.are.equal(0, m:counts().added)
    assert.are.equal(1, m:counts().ipv4)
  end)

  it("follow the order of the events of one batch", function()
    m:events({
      { slot = 0 }, { state = "end", slot = 0, known = true, decided = true },
      { slot = 1, src_port = 5001 }, { state = "end", slot = 1, src_port = 5001, known = true, decided = true },
      { slot = 2, src_port = 5001, label = 0x30038 },
    })
    assert.are.equal(0, label_of(m, 5000))
    assert.are.equal(0x30038, label_of(m, 5001))
    assert.are.equal(1, m:counts().added)
    assert.are.equal(1, m:counts().open)

    -- The end and the new start of a flow that was open.
    m:events({
      { state = "end", slot = 2, src_port = 5001, known = true, decided = true },
      { slot = 0, src_port = 5001, label = 0x10008 },
    })
    assert.are.equal(0x10008, label_of(m, 5001))
    assert.are.equal(1, m:counts().open)
    m:events({ { state = "end", slot = 0, src_port = 5001, known = true, decided = true } })
    assert.are.equal(0, label_of(m, 5001))
    assert.are.equal(0, m:counts().open)
  end)

  it("share a local port until the last of its flows ends", function()
    m:events({ { slot = 0 }, { slot = 1, dst_port = 444 }, { slot = 2, protocol = "udp" } })
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0, label_of(m, 5000))
    assert.are.equal(0x20004, label_of(m, 5000, { dst_port = 444 }))
    m:events({ { state = "end", slot = 1, dst_port = 444, known = true, decided = true } })
    assert.are.equal(0x20004, label_of(m, 5000, { protocol = "udp" }))
    m:events({ { state = "end", slot = 2, protocol = "udp", known = true, decided = true } })
    assert.are.equal(0, label_of(m, 5000, { protocol = "udp" }))
  end)

  -- Thousands on one port: some of them share a bit of the filter in front of the hash.
  it("stay when a flow ends that shares their bit of the filter", function()
    local count = 20000
    local big, sets = bpf.with_bss(function() return marking.open(count) end)
    local function peer(i) return ("2001:db8:%x::%x"):format(i * 40503 % 65536, i % 7) end
    local function each(from, step, fields)
      for first = from, count, 500 * step do
        local list = {}
        for i = first, math.min(first + 499 * step, count), step do
          list[#list + 1] = { slot = i - 1, dst = peer(i), dst_port = i, label = i, state = fields.state,
            known = fields.known, decided = fields.known }
        end
        big:events(list)
      end
    end
    local ended = { state = "end", known = true }
    assert.are.equal(0, sets:bits())
    each(1, 1, {})
    -- One is the port's.
    local bits = sets:bits() - 1
    assert.is_true(bits < count, "no two flows share a bit")
    assert.is_true(bits > 0.99 * count, "only " .. bits .. " bits for " .. count .. " flows")
    each(1, 2, ended)
    for i = 1, count do assert.are.equal(i % 2 == 0 and i or 0, label_of(big, 5000, { dst = peer(i), dst_port = i })) end
    each(2, 2, ended)
    assert.are.equal(0, sets:bits())
    assert.are.equal(count, big:counts().removed)
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
      assert.are.equal(port, label_of(big, port))
    end
    assert.are.equal(0, label_of(big, 0))
    big:close()
  end)

  it("are right for a flow whose slot another one left without an end", function()
    m:events({ { slot = 0 } })
    m:events({ { slot = 0, src_port = 5001, label = 0x10008 } })
    assert.are.equal(0x10008, label_of(m, 5001))
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0x10008, label_of(m, 5001))
    m:events({ { state = "end", slot = 0, src_port = 5001, known = true, decided = true } })
    assert.are.equal(0, label_of(m, 5001))
  end)

  it("of more events than a batch holds all take effect", function()
    for batch = 0, 2 do
      local list = {}
      for i = 1, 300 do list[i] = { slot = batch * 300 + i - 1, src_port = 10000 + batch * 300 + i } end
      m:queue(list)
      m:queue(list)
    end
    m:flush()
    assert.are.equal(900, m:counts().open)
    for port = 10001, 10900 do assert.are.equal(0x20004, label_of(m, port)) end
  end)

  it("evict nothing when there are as many as allowed: the next flow is refused and counted", function()
    local few = marking.open(4)
    local level = api.log_get_level()
    finally(function() api.log_setup(level, false) end)
    api.log_setup(ffi.C.LOG_LEVEL_ERROR + 1, false)
    few:events({ { slot = 0, src_port = 1 }, { slot = 1, src_port = 2 }, { slot = 2, src_port = 3 } })
    few:events({ { slot = 3, src_port = 4 }, { slot = 4, src_port = 5 }, { slot = 5, src_port = 6 } })
    for port = 1, 4 do assert.are.equal(0x20004, label_of(few, port)) end
    for port = 5, 6 do assert.are.equal(0, label_of(few, port)) end
    assert.are.equal(4, few:counts().open)
    assert.are.equal(2, few:counts().refused.full)
    -- An open flow is changed even then, and room that an end makes is used in the same batch.
    few:events({ { slot = 1, src_port = 2, known = true, label = 0x10008 } })
    assert.are.equal(0x10008, label_of(few, 2))
    few:events({ { slot = 4, src_port = 5 }, { state = "end", slot = 0, src_port = 1, known = true, decided = true } })
    assert.are.equal(0x20004, label_of(few, 5))
    assert.are.equal(0, label_of(few, 1))
    assert.are.equal(2, few:counts().refused.full)
    few:close()
  end)
end)

describe("a random life of flows", function()
  it("leaves exactly the open ones marked", function()
    math.randomseed(7)
    local slots = 64
    local m = marking.open(slots)
    local open, free = {}, {}
    for slot = 0, slots - 1 do free[#free + 1] = slot end
    local decided = { known = true, decided = true }

    for _ = 1, 200 do
      local list, released = {}, {}
      for _ = 1, math.random(1, 60) do
        local port = math.random(1, 90)
        local flow = open[port]
        local what = math.random()
        if flow and what < 0.5 then
          list[#list + 1] = setmetatable({ state = "end", slot = flow.slot, src_port = port, routed = flow.routed },
            { __index = decided })
          released[#released + 1] = flow.slot
          open[port] = nil
        elseif flow and what < 0.8 then
          flow.label, flow.routed = math.random(1, 0xFFFFF), math.random() < 0.7
          list[#list + 1] = { slot = flow.slot, src_port = port, label = flow.label, routed = flow.routed, known = true }
        elseif flow then
          list[#list + 1] = setmetatable({ state = "ongoing", slot = flow.slot, src_port = port, label = flow.label,
            routed = flow.routed }, { __index = decided })
        elseif #free > 0 then
          flow = { slot = table.remove(free), label = math.random(1, 0xFFFFF), routed = math.random() < 0.7 }
          open[port] = flow
          list[#list + 1] = { slot = flow.slot, src_port = port, label = flow.label, routed = flow.routed }
        end
      end
      m:events(list)
      for _, slot in ipairs(released) do free[#free + 1] = slot end
      local marked = 0
      for port = 1, 90 do
        local flow = open[port]
        local expected = flow and flow.routed and flow.label or 0
        marked = marked + (expected ~= 0 and 1 or 0)
        assert.are.equal(expected, label_of(m, port))
      end
      assert.are.equal(marked, m:counts().open)
    end
    m:close()
  end)
end)

describe("attaching", function()
  it("names the interface that is not there", function()
    local m = marking.open(1)
    local r, message = m:attach("nosuchdevice0", "auto")
    assert.are.equal(-19, r)
    assert.are.equal("interface nosuchdevice0: there is none of that name", message)
    r, message = m:attach("a_name_too_long_for_linux", "auto")
    assert.are.equal(-19, r)
    assert.are.equal("interface a_name_too_long_for_linux: there is none of that name", message)
    assert.is_nil(m:attached("nosuchdevice0"))
    assert.are.equal(-2, m:detach("nosuchdevice0"))
    m:close()
  end)
end)

describe("opening", function()
  it("reports what the kernel refuses", function()
    local message = ffi.new("char[200]")
    assert.is_true(api.marker_open(0, message, 200) == nil)
    assert.are.equal("cannot load the marking program: Invalid argument", ffi.string(message))
  end)
end)
