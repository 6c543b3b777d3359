-- SPDX-License-Identifier: Apache-2.0
-- The label program on packets that nobody thought of (BPF_PROG_TEST_RUN): valid ones of all shapes combined, and
-- octets that are no packet. FUZZ_ROUNDS (default 100,000 in all) and FUZZ_SEED may be set.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local capture = require("spec.support.capture")
local marking = require("spec.support.marking")
local packets = require("spec.support.packets")

local available, reason = marking.available()
if not available then
  describe("the label program under random packets", function()
    it("leaves them alone", function() pending(reason) end)
  end)
  return
end

ffi.cdef("int memcmp(const void *a, const void *b, size_t size);")
local C = ffi.C

local rounds = tonumber(os.getenv("FUZZ_ROUNDS") or 100000)
local seed = tonumber(os.getenv("FUZZ_SEED") or os.time())
local NEXT, EINVAL = -1, -22
local random = math.random

local addresses = { "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1" }
local ports = { 1094, 5000, 50000 }

local function pick(list) return list[random(#list)] end

-- Half of the flows that the pools make, each with a label of its own.
local function make_flows()
  local list, labels = {}, {}
  for _, src in ipairs(addresses) do
    for _, dst in ipairs(addresses) do
      for _, src_port in ipairs(ports) do
        for _, dst_port in ipairs(ports) do
          for _, protocol in ipairs({ "tcp", "udp" }) do
            if random(2) == 1 then
              local label = #list * 3 + 1
              list[#list + 1] = { src = src, dst = dst, src_port = src_port, dst_port = dst_port, protocol = protocol,
                slot = #list, label = label }
              labels[table.concat({ src, dst, src_port, dst_port, protocol }, " ")] = label
            end
          end
        end
      end
    end
  end
  return list, labels
end

-- The Internet checksum (RFC 1071), 0 when the one inside is right.
local function checksum(octets)
  local sum = 0
  for i = 1, #octets, 2 do sum = sum + octets:byte(i) * 256 + (octets:byte(i + 1) or 0) end
  while sum > 0xFFFF do sum = bit.band(sum, 0xFFFF) + bit.rshift(sum, 16) end
  return bit.band(bit.bnot(sum), 0xFFFF)
end

local function pseudo_header(src, dst, protocol, length)
  return packets.address(src) .. packets.address(dst) .. packets.u32(length) .. "\0\0\0" .. string.char(protocol)
end

local function segment(src, dst, src_port, dst_port, protocol)
  local data = ("x"):rep(random(0, 40))
  local octets = protocol == "tcp" and packets.tcp(src_port, dst_port, data) or packets.udp(src_port, dst_port, data)
  local number, at = protocol == "tcp" and 6 or 17, protocol == "tcp" and 17 or 7
  octets = octets:sub(1, at - 1) .. "\0\0" .. octets:sub(at + 2)
  return octets:sub(1, at - 1) .. packets.u16(checksum(pseudo_header(src, dst, number, #octets) .. octets))
    .. octets:sub(at + 2)
end

local function any_octets(n)
  local list = {}
  for i = 1, n do list[i] = string.char(random(0, 255)) end
  return table.concat(list)
end

-- A packet of random shape, and all that is known of it.
local function make_packet()
  local p = { src = pick(addresses), dst = pick(addresses), src_port = pick(ports), dst_port = pick(ports),
    protocol = pick({ "tcp", "udp" }), walkable = true, bare = random(4) == 1, tags = {} }
  p.segment = segment(p.src, p.dst, p.src_port, p.dst_port, p.protocol)
  local payload, next_header = p.segment, p.protocol == "tcp" and 6 or 17
  if random(12) == 1 then next_header, p.walkable = pick({ 58, 59, 50, 132, 4, 41, 255 }), false end
  local count = random(3) == 1 and random(0, 10) or random(0, 2)
  for _ = 1, count do
    local kind = pick({ packets.HOP_BY_HOP, packets.ROUTING, packets.DESTINATION, packets.FRAGMENT, packets.AUTHENTICATION })
    if kind == packets.FRAGMENT then
      local offset = random(3) == 1 and random(8191) or 0
      if offset > 0 then p.walkable = false end
      payload = packets.fragment(next_header, offset, random(2) == 1) .. payload
    elseif kind == packets.AUTHENTICATION then
      payload = packets.authentication(next_header, random(0, 8)) .. payload
    else
      payload = packets.extension(next_header, any_octets(random(0, 60))) .. payload
    end
    next_header = kind
  end
  if count > 8 then p.walkable = false end
  if random(20) == 1 and count < 8 then
    payload, next_header = packets.jumbo(next_header, #payload + 8) .. payload, packets.HOP_BY_HOP
    p.jumbo = true
  end
  p.class, p.label, p.hop_limit = random(0, 255), random(0, 0xFFFFF), random(0, 255)
  p.octets = packets.ipv6({ src = p.src, dst = p.dst, next = next_header, payload = payload, class = p.class,
    label = p.label, hop_limit = p.hop_limit, payload_length = p.jumbo and 0 or nil })
  p.network = 0
  if not p.bare then
    for i = 1, random(3) == 1 and random(0, 3) or 0 do p.tags[i] = pick({ packets.VLAN, packets.QINQ, packets.OLD_QINQ }) end
    if #p.tags > 2 then p.walkable = false end
    p.octets = packets.ethernet(p.octets, { tags = p.tags })
    p.network = 14 + 4 * #p.tags
  end
  return p
end

local function labelled(p, label)
  local at = p.network
  local second = p.octets:byte(at + 2)
  return p.octets:sub(1, at + 1) .. string.char(second - second % 16 + bit.rshift(label, 16),
    bit.band(bit.rshift(label, 8), 255), bit.band(label, 255)) .. p.octets:sub(at + 5)
end

describe("the label program (FUZZ_SEED=" .. seed .. ")", function()
  local m, labels

  setup(function()
    math.randomseed(seed)
    local flows
    flows, labels = make_flows()
    m = marking.open(#flows)
    m:events(flows)
  end)
  teardown(function() m:close() end)

  it("changes of a valid packet the label alone, and only of a flow's", function()
    local marked, count = 0, math.max(1000, math.floor(rounds / 20))
    for _ = 1, count do
      local p = make_packet()
      local label = p.walkable
        and labels[table.concat({ p.src, p.dst, p.src_port, p.dst_port, p.protocol }, " ")] or nil
      local out, verdict = m:run(p.octets, p.bare)
      local expected = label and labelled(p, label) or p.octets
      if out ~= expected or verdict ~= NEXT then
        error(("verdict %d for %s (network at %d, label %s): %s"):format(verdict, packets.hex(p.octets), p.network,
          tostring(label), packets.hex(out or "")))
      end
      if label then
        marked = marked + 1
        -- Whoever gets it reads what was sent.
        local seen = capture.decode(ffi.cast("const uint8_t *", out), #out, not p.bare)
        if #p.tags == 0 then assert.are.equal(label, seen.flow_label) end
        local number = p.protocol == "tcp" and 6 or 17
        assert.are.equal(0, checksum(pseudo_header(p.src, p.dst, number, #p.segment) .. out:sub(-#p.segment)))
      end
    end
    assert.is_true(marked > count / 8 and marked < count * 3 / 4, marked .. " of " .. count)
  end)

  it("passes random octets on as they are", function()
    local size = 160
    local packet, out = ffi.new("uint8_t[?]", size), ffi.new("uint8_t[?]", size)
    local words = ffi.cast("uint64_t *", packet)
    local state = ffi.new("uint64_t", seed) * 2685821657736338717ULL + 1
    local function word()
      state = bit.bxor(state, bit.lshift(state, 13))
      state = bit.bxor(state, bit.rshift(state, 7))
      state = bit.bxor(state, bit.lshift(state, 17))
      return state
    end
    local templates = {}
    for i = 1, 64 do templates[i] = make_packet() end
    local run = ffi.new("struct marker_packet_run")
    run.packet, run.out = packet, out
    local ran, changed = 0, 0

    for _ = 1, rounds do
      for i = 0, size / 8 - 1 do words[i] = word() end
      local kind, bare, length = tonumber(bit.band(word(), 7)), false, tonumber(word() % 147ULL) + 14
      if kind < 4 then
        -- A valid one with a few octets damaged.
        local p = templates[tonumber(word() % 64ULL) + 1]
        bare, length = p.bare, math.min(#p.octets, size)
        ffi.copy(packet, p.octets, length)
        for _ = 1, kind do packet[tonumber(word() % ffi.cast("uint64_t", length))] = tonumber(bit.band(word(), 255)) end
      elseif kind < 7 then
        packet[12], packet[13], packet[14] = 0x86, 0xDD, 0x60 + tonumber(bit.band(word(), 15))
      else
        bare = true
      end
      run.length = length
      local r = api.marker_run(m.handle, not bare, run)
      if r == 0 then
        ran = ran + 1
        assert(run.verdict == NEXT and run.out_length == length)
        if C.memcmp(packet, out, length) ~= 0 then
          changed = changed + 1
          -- Then it was a flow's: nothing but three octets of some IPv6 header, and its label is in the table.
          local first, last
          for i = 0, length - 1 do
            if packet[i] ~= out[i] then first, last = first or i, i end
          end
          local at = bare and 0 or first < 18 and 14 or first < 22 and 18 or 22
          local label = bit.band(out[at + 1], 15) * 65536 + out[at + 2] * 256 + out[at + 3]
          local text = ("%s became %s"):format(packets.hex(ffi.string(packet, length)), packets.hex(ffi.string(out, length)))
          if first <= at or last > at + 3 or bit.rshift(packet[at + 1], 4) ~= bit.rshift(out[at + 1], 4)
            or label == 0 or label % 3 ~= 1 or label > 3 * 288 then error(text) end
        end
      else
        assert(r == EINVAL)
      end
    end
    assert.is_true(ran > rounds / 2 and changed > 0, ran .. " ran, " .. changed .. " changed")
  end)
end)
