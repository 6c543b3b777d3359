-- SPDX-License-Identifier: Apache-2.0
-- Which flows are marked, after batches of events. What the program does with packets is in spec/bpf.
local api = require("flowd.api")
local bit = require("bit")
local bpf = require("spec.support.bpf")
local ffi = require("ffi")
local marking = require("spec.support.marking")
local packets = require("spec.support.packets")
local process = require("spec.support.process")
local processors = require("spec.support.processors")

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

describe("marks", function()
  local m

  before_each(function() m = marking.open(1000) end)
  after_each(function() m:close() end)

  it("begin with a start and end with an end", function()
    assert.are.equal(0, m:label_of(5000))
    m:events({ { slot = 0, label = 0x10008 } })
    assert.are.equal(0x10008, m:label_of(5000))
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0, m:label_of(5000))
    local counts = m:counts()
    assert.are.equal(1, counts.added)
    assert.are.equal(1, counts.removed)
    assert.are.equal(0, counts.open)
  end)

  it("are of the whole 5-tuple", function()
    m:events({ { slot = 0, label = 0x30038 } })
    assert.are.equal(0x30038, m:label_of(5000))
    assert.are.equal(0, m:label_of(5001))
    assert.are.equal(0, m:label_of(5000, { dst_port = 444 }))
    assert.are.equal(0, m:label_of(5000, { src = "2001:db8::3" }))
    assert.are.equal(0, m:label_of(5000, { dst = "2001:db8::3" }))
    assert.are.equal(0, m:label_of(5000, { protocol = "udp" }))
    assert.are.equal(0, m:label_of(443, { src = packets.dst, dst = packets.src, dst_port = 5000 }))
  end)

  it("begin with an ongoing event of an unknown flow, and stay on later ones", function()
    m:events({ { state = "ongoing", slot = 3 } })
    assert.are.equal(0x20004, m:label_of(5000))
    m:events({ { state = "ongoing", slot = 3, known = true, decided = true } })
    assert.are.equal(0x20004, m:label_of(5000))
    assert.are.equal(0, m:counts().changed)
  end)

  it("wait for the flush", function()
    m:queue({ { slot = 0 } })
    assert.are.equal(0, m:label_of(5000))
    m:flush()
    assert.are.equal(0x20004, m:label_of(5000))
  end)

  it("change when a duplicate start brings another tag", function()
    m:events({ { slot = 0, label = 0x20004 } })
    m:events({ { slot = 0, label = 0x10008, known = true } })
    assert.are.equal(0x10008, m:label_of(5000))
    assert.are.equal(1, m:counts().changed)
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0, m:label_of(5000))
  end)

  it("end when a duplicate start is routed elsewhere", function()
    m:events({ { slot = 0 } })
    m:events({ { slot = 0, known = true, routed = false } })
    assert.are.equal(0, m:label_of(5000))
    assert.are.equal(0, m:counts().open)
    m:events({ { state = "end", slot = 0, known = true, decided = true, routed = false } })
    assert.are.equal(1, m:counts().removed)
  end)

  it("are none for events that are routed elsewhere, not delivered, or without a slot", function()
    m:events({ { slot = 0, routed = false }, { slot = 1, src_port = 5001, delivered = false }, { src_port = 5002 } })
    for port = 5000, 5002 do assert.are.equal(0, m:label_of(port)) end
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
    assert.are.equal(0, m:label_of(5000))
    assert.are.equal(0x30038, m:label_of(5001))
    assert.are.equal(1, m:counts().added)
    assert.are.equal(1, m:counts().open)

    -- The end and the new start of a flow that was open.
    m:events({
      { state = "end", slot = 2, src_port = 5001, known = true, decided = true },
      { slot = 0, src_port = 5001, label = 0x10008 },
    })
    assert.are.equal(0x10008, m:label_of(5001))
    assert.are.equal(1, m:counts().open)
    m:events({ { state = "end", slot = 0, src_port = 5001, known = true, decided = true } })
    assert.are.equal(0, m:label_of(5001))
    assert.are.equal(0, m:counts().open)
  end)

  it("share a local port until the last of its flows ends", function()
    m:events({ { slot = 0 }, { slot = 1, dst_port = 444 }, { slot = 2, protocol = "udp" } })
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0, m:label_of(5000))
    assert.are.equal(0x20004, m:label_of(5000, { dst_port = 444 }))
    m:events({ { state = "end", slot = 1, dst_port = 444, known = true, decided = true } })
    assert.are.equal(0x20004, m:label_of(5000, { protocol = "udp" }))
    m:events({ { state = "end", slot = 2, protocol = "udp", known = true, decided = true } })
    assert.are.equal(0, m:label_of(5000, { protocol = "udp" }))
  end)

  it("are right for a flow whose slot another one left without an end", function()
    m:events({ { slot = 0 } })
    m:events({ { slot = 0, src_port = 5001, label = 0x10008 } })
    assert.are.equal(0x10008, m:label_of(5001))
    m:events({ { state = "end", slot = 0, known = true, decided = true } })
    assert.are.equal(0x10008, m:label_of(5001))
    m:events({ { state = "end", slot = 0, src_port = 5001, known = true, decided = true } })
    assert.are.equal(0, m:label_of(5001))
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
    for port = 10001, 10900 do assert.are.equal(0x20004, m:label_of(port)) end
  end)

  it("evict nothing when there are as many as allowed: the next flow is refused and counted", function()
    local few = marking.open(4)
    local level = api.log_get_level()
    finally(function() api.log_setup(level, false) end)
    api.log_setup(ffi.C.LOG_LEVEL_ERROR + 1, false)
    few:events({ { slot = 0, src_port = 1 }, { slot = 1, src_port = 2 }, { slot = 2, src_port = 3 } })
    few:events({ { slot = 3, src_port = 4 }, { slot = 4, src_port = 5 }, { slot = 5, src_port = 6 } })
    for port = 1, 4 do assert.are.equal(0x20004, few:label_of(port)) end
    for port = 5, 6 do assert.are.equal(0, few:label_of(port)) end
    assert.are.equal(4, few:counts().open)
    assert.are.equal(2, few:counts().refused.full)
    -- An open flow is changed even then, and room that an end makes is used in the same batch.
    few:events({ { slot = 1, src_port = 2, known = true, label = 0x10008 } })
    assert.are.equal(0x10008, few:label_of(2))
    few:events({ { slot = 4, src_port = 5 }, { state = "end", slot = 0, src_port = 1, known = true, decided = true } })
    assert.are.equal(0x20004, few:label_of(5))
    assert.are.equal(0, few:label_of(1))
    assert.are.equal(2, few:counts().refused.full)
    few:close()
  end)
end)

describe("a marked TCP flow", function()
  local m
  local frame = packets.ethernet(packets.ipv6({ next = 6, payload = packets.tcp(5000, 443) }))

  before_each(function()
    m = marking.open(1000)
    m:events({ { slot = 0, label = 0x10008 } })
    assert.are_not.equal(frame, (m:run(frame)))
  end)
  after_each(function() m:close() end)

  -- Each run of the program has a socket of its own.
  local function is_marked() return m:run(frame, false, true) ~= frame end

  it("is that of the socket which sent its first packet: the next one with its 5-tuple is not marked", function()
    local cookie = m:usage({}).cookie
    assert.is_true(cookie > 0)
    assert.is_false(is_marked())
    assert.is_false(is_marked())
    assert.are.equal(2, m:counts().reused)
    assert.are.equal(1, m:counts().marked)
    assert.are.equal(cookie, m:usage({}).cookie)
  end)

  it("is another one when a start announces it", function()
    m:events({ { slot = 0, label = 0x10008, known = true } })
    assert.is_true(is_marked())
    assert.is_false(is_marked())
    assert.are.equal(2, m:usage({}).packets)
    -- Its end and the start of the next one in a batch.
    m:events({ { state = "end", slot = 0, known = true, decided = true }, { slot = 1, label = 0x10008 } })
    assert.are.equal(0, m:usage({}).packets)
    assert.is_true(is_marked())
    assert.is_false(is_marked())
    assert.are.equal(1, m:usage({}).packets)
    -- And apart.
    m:events({ { state = "end", slot = 1, known = true, decided = true } })
    assert.is_nil(m:usage({}))
    m:events({ { slot = 1, label = 0x10008 } })
    assert.are.same({ packets = 0, octets = 0, cookie = 0 }, m:usage({}))
    assert.is_true(is_marked())
  end)

  it("keeps its socket through what is no start", function()
    m:events({ { state = "ongoing", slot = 0, label = 0x30038, known = true } })
    assert.is_false(is_marked())
  end)

  it("is not one of UDP, whose datagrams may come from several sockets", function()
    m:events({ { slot = 1, protocol = "udp" } })
    local datagram = packets.ethernet(packets.ipv6({ next = 17, payload = packets.udp(5000, 443, "x") }))
    for _ = 1, 3 do assert.are_not.equal(datagram, (m:run(datagram, false, true))) end
    assert.are.same({ packets = 3, octets = 3 * (40 + 8 + 1), cookie = 0 }, m:usage({ protocol = "udp" }))
  end)
end)

describe("packets of a flow that no socket has for itself", function()
  after_each(function() processors.pin(nil) end)

  it("are counted whichever processor sends them", function()
    if processors.count() < 2 then return pending("there is one processor") end
    local m = marking.open(100)
    local datagram = packets.ethernet(packets.ipv6({ next = 17, payload = packets.udp(5000, 443, "x") }))
    local function send(cpu, count)
      processors.pin(cpu)
      for _ = 1, count do assert.are_not.equal(datagram, (m:run(datagram, false, true))) end
    end
    m:events({ { slot = 1, protocol = "udp" } })
    send(0, 3)
    send(1, 4)
    send(0, 2)
    assert.are.same({ packets = 9, octets = 9 * (40 + 8 + 1), cookie = 0 }, m:usage({ protocol = "udp" }))
    assert.are.equal(9, m:counts().marked)
    -- The next flow of these addresses has counted nothing.
    m:events({ { slot = 1, protocol = "udp", state = "end", known = true, decided = true }, { slot = 2, protocol = "udp" } })
    assert.are.equal(0, m:usage({ protocol = "udp" }).packets)
    send(1, 1)
    assert.are.equal(1, m:usage({ protocol = "udp" }).packets)
    m:close()
  end)
end)

describe("marked packets", function()
  after_each(function() processors.pin(nil) end)

  it("are counted with their octets, by experiment and activity, once for whoever asks", function()
    local m = marking.open(100)
    local function label(experiment, activity) return api.label_encode(experiment, activity, 0) end
    m:events({ { slot = 0, label = label(2, 1) }, { slot = 1, src_port = 5001, label = label(2, 1) },
      { slot = 2, src_port = 5002, label = label(3, 14) } })
    local size = 40 + #packets.tcp(1, 1)
    for port = 5000, 5002 do m:label_of(port) end
    m:label_of(5002)
    m:label_of(5003)
    assert.are.same({ packets = 2, octets = 2 * size }, m:account()["2/1"])
    m:label_of(5000)
    local classes, counts = m:account()
    assert.are.same({ ["2/1"] = { packets = 1, octets = size } }, classes)
    assert.are.equal(1, counts.marked)
    assert.are.equal(0, counts.missed)
    assert.are.equal(5, m:counts().marked)
    -- Another tag for a flow: what it counted stays where it was.
    m:events({ { slot = 2, src_port = 5002, label = label(2, 1), known = true } })
    m:label_of(5002)
    assert.are.same({ ["2/1"] = { packets = 1, octets = size } }, (m:account()))
    assert.are.equal(3, m:usage({ src_port = 5002 }).packets)
    m:close()
  end)

  -- The program reads, adds and writes: whatever the daemon had written in between would be gone.
  it("that are under way when their flow becomes another take nothing of the one before along", function()
    -- As in src/marker_flows.h.
    local entry_type = ffi.typeof("struct { uint64_t src[2], dst[2], key, identity, packets, octets; } *")
    local m, entries = bpf.with_map("^flows$", function() return marking.open(100) end)
    local fields, PORTS = { protocol = "udp" }, 0xbb018813ULL -- 5000 and 443, as on the wire
    local flow = { slot = 0, protocol = "udp", label = api.label_encode(2, 1, 0) }
    local datagram = packets.ethernet(packets.ipv6({ next = 17, payload = packets.udp(5000, 443) }))
    m:events({ flow })
    processors.pin(0)
    -- The first one makes the processor their owner, who counts in the entry.
    for _ = 1, 3 do m:run(datagram, false, true) end
    -- In an element each, or all in one.
    local element, at
    for i = 0, entries.count - 1 do
      local octets = entries:get(i)
      for from = 0, entries.size - 64, 64 do
        local entry = ffi.cast(entry_type, octets + from)
        -- What is not an entry has no such ports.
        if bit.band(entry.key, 0xffffffffULL) == PORTS and entry.packets == 2 then element, at = i, from end
      end
    end
    m:events({ { state = "end", slot = 0, protocol = "udp", known = true, decided = true }, flow })
    assert.are.equal(0, m:usage(fields).packets)
    local value = entries:get(element)
    local entry = ffi.cast(entry_type, value + at)
    entry.packets, entry.octets = 3, entry.octets + 48
    entries:set(element, value)
    assert.are.same({ packets = 1, octets = 48, cookie = 0 }, m:usage(fields))
    assert.are.same({ packets = 4, octets = 4 * 48 }, m:account()["2/1"])
    m:close()
  end)

  it("tell the end of a flow what it sent, where nothing else does", function()
    local m = marking.open(100)
    m:events({ { slot = 0, protocol = "udp" }, { slot = 1 }, { slot = 2, protocol = "udp", src_port = 5001 } })
    m:label_of(5000, { protocol = "udp" })
    m:label_of(5000)
    m:fill({ { state = "end", slot = 0, protocol = "udp" }, { state = "end", slot = 1 },
      { state = "end", slot = 2, protocol = "udp", src_port = 5001 }, { slot = 0, protocol = "udp" } })
    api.marker_fill_usage(m.handle, m.batch.event, 4)
    local function sent(i) return bit.band(m.batch.event[i].flags, ffi.C.EVENT_HAS_SENT) ~= 0 end
    assert.is_true(sent(0))
    assert.are.equal(40 + #packets.udp(1, 1), tonumber(m.batch.event[0].bytes_sent))
    assert.is_false(sent(1), "TCP through a socket here")
    assert.is_false(sent(2), "no packet was seen")
    assert.is_false(sent(3), "no end")
    m:close()
  end)
end)

describe("the lease", function()
  it("ends marking when it is not renewed; then it goes on", function()
    local m = marking.open(100)
    m:events({ { slot = 0 } })
    assert.are.equal(0, api.marker_lease(m.handle, 1))
    local start = api.clock_monotonic_ns()
    assert.are.equal(0x20004, m:label_of(5000))
    process.wait_for("the end of the lease", 10, function() return m:label_of(5000) == 0 end)
    assert.is_true(tonumber(api.clock_monotonic_ns() - start) > 0.9e9)
    assert.are.equal(1, m:counts().expired)
    assert.are.equal(0, m:label_of(5001))
    assert.are.equal(1, m:counts().expired)
    assert.are.equal(0, api.marker_lease(m.handle, 60))
    assert.are.equal(0x20004, m:label_of(5000))
    m:close()
  end)

  it("of 0 does not end", function()
    local m = marking.open(100)
    m:events({ { slot = 0 } })
    assert.are.equal(0, api.marker_lease(m.handle, 1))
    process.wait_for("the end of the lease", 10, function() return m:label_of(5000) == 0 end)
    assert.are.equal(0, api.marker_lease(m.handle, 0))
    assert.are.equal(0x20004, m:label_of(5000))
    m:close()
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
        assert.are.equal(expected, m:label_of(port))
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
