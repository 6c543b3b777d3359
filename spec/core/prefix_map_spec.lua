-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")
local machine = require("spec.support.machine")

local function address(text)
  local out = ffi.new("struct flow_address")
  assert(api.address_parse(text, #text, out) > 0, text)
  return out
end

local function prefix(text)
  local host, bits = text:match("^(.-)/(%d+)$")
  local a = address(host)
  return a, tonumber(bits) + (api.address_family(a) == 4 and 96 or 0)
end

local function new_map(prefixes)
  local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
  for _, entry in ipairs(prefixes or {}) do
    local a, bits = prefix(entry[1])
    assert.equal(0, api.prefix_map_add(m, a, bits, entry[2]))
  end
  assert.equal(0, api.prefix_map_build(m, nil, nil))
  return m
end

local function find(m, text) return api.prefix_map_find(m, address(text)) end

-- Small random numbers of our own: the same in every run.
local function random_source(seed)
  local state = seed
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return math.floor(state / 65536) % n
  end
end

describe("prefix map", function()
  it("holds nothing when empty", function()
    local m = new_map()
    assert.equal(0, find(m, "::1"))
    assert.equal(0, find(m, "192.0.2.1"))
  end)

  it("answers with the longest prefix that holds the address", function()
    local m = new_map({
      { "2001:db8::/32", 1 }, { "2001:db8:1::/48", 2 }, { "2001:db8:1:2::/64", 3 }, { "2001:db8:1:2::7/128", 4 },
      { "192.0.2.0/24", 5 }, { "192.0.2.128/25", 6 }, { "192.0.2.129/32", 7 },
    })
    assert.equal(1, find(m, "2001:db8:ffff::1"))
    assert.equal(2, find(m, "2001:db8:1:3::1"))
    assert.equal(3, find(m, "2001:db8:1:2::8"))
    assert.equal(4, find(m, "2001:db8:1:2::7"))
    assert.equal(0, find(m, "2001:db9::"))
    assert.equal(5, find(m, "192.0.2.127"))
    assert.equal(6, find(m, "192.0.2.128"))
    assert.equal(7, find(m, "192.0.2.129"))
    assert.equal(0, find(m, "192.0.3.0"))
  end)

  it("keeps IPv4 and IPv6 apart", function()
    local m = new_map({ { "::/0", 1 } })
    assert.equal(0, find(m, "192.0.2.1"))
    assert.equal(1, find(m, "2001:db8::1"))
    m = new_map({ { "0.0.0.0/0", 2 } })
    assert.equal(2, find(m, "192.0.2.1"))
    assert.equal(0, find(m, "2001:db8::1"))
  end)

  it("refuses what is out of range, and bits beyond a prefix's length", function()
    local m = new_map()
    local EINVAL, ERANGE = 22, 34
    assert.equal(-EINVAL, api.prefix_map_add(m, address("::"), 129, 1))
    assert.equal(-EINVAL, api.prefix_map_add(m, address("::"), 0, 0))
    assert.equal(-EINVAL, api.prefix_map_add(m, address("::"), 0, 0x40000000))
    assert.equal(-ERANGE, api.prefix_map_add(m, address("2001:db8::1"), 32, 1))
    assert.equal(-ERANGE, api.prefix_map_add(m, address("192.0.2.1"), 120, 1))
    assert.equal(0, api.prefix_map_count(m))
  end)

  it("clears the bits beyond a length", function()
    local a = address("2001:db8:ffff:ffff:ffff::1")
    local text = ffi.new("char[46]")
    for _, case in ipairs({ { 128, "2001:db8:ffff:ffff:ffff::1" }, { 65, "2001:db8:ffff:ffff:8000::" },
      { 64, "2001:db8:ffff:ffff::" }, { 33, "2001:db8:8000::" }, { 0, "::" } }) do
      api.prefix_mask(a, case[1])
      assert.equal(case[2], ffi.string(text, api.address_format(a, text)))
    end
  end)

  it("names two additions of one prefix with different values, and then answers as before", function()
    local m = new_map({ { "10.0.0.0/8", 1 } })
    local a, bits = prefix("10.0.0.0/8")
    assert.equal(0, api.prefix_map_add(m, address("::"), 0, 9))
    assert.equal(0, api.prefix_map_add(m, a, bits, 1))
    local first, second = ffi.new("uint32_t[1]"), ffi.new("uint32_t[1]")
    assert.equal(0, api.prefix_map_build(m, first, second))
    assert.equal(0, api.prefix_map_add(m, a, bits, 2))
    assert.equal(-17, api.prefix_map_build(m, first, second)) -- EEXIST
    assert.equal(2, first[0])
    assert.equal(3, second[0])
    assert.equal(1, find(m, "10.1.2.3"))
  end)

  it("finds what was added after a build only after the next one", function()
    local m = new_map({ { "10.0.0.0/8", 1 } })
    local a, bits = prefix("10.1.0.0/16")
    assert.equal(0, api.prefix_map_add(m, a, bits, 2))
    assert.equal(1, find(m, "10.1.0.1"))
    assert.equal(0, api.prefix_map_build(m, nil, nil))
    assert.equal(2, find(m, "10.1.0.1"))
  end)

  -- The model: every prefix is tried, the longest that holds the address wins.
  it("agrees with a linear search for random prefixes of every length", function()
    local random = random_source(7)
    local function random_address(octets, mapped)
      local a = ffi.new("struct flow_address")
      if mapped then
        a.octet[10], a.octet[11] = 0xff, 0xff
        for i = 12, 15 do a.octet[i] = random(octets) end
      else
        -- Few different octets: prefixes nest and share their starts.
        a.octet[0] = 0x20
        for i = 1, 15 do a.octet[i] = random(octets) end
      end
      return a
    end
    local function holds(p, a)
      local masked = ffi.new("struct flow_address", a)
      api.prefix_mask(masked, p.bits)
      return masked.half[0] == p.address.half[0] and masked.half[1] == p.address.half[1]
    end
    for _, octets in ipairs({ 2, 3, 256 }) do
      local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
      local prefixes, taken = {}, {}
      for i = 1, 300 do
        local mapped = random(3) == 0
        local a = random_address(octets, mapped)
        local bits = mapped and 96 + random(33) or random(129)
        api.prefix_mask(a, bits)
        local key = ffi.string(a, 16) .. bits
        if not taken[key] then
          taken[key] = true
          prefixes[#prefixes + 1] = { address = a, bits = bits, value = i, mapped = mapped }
          assert.equal(0, api.prefix_map_add(m, a, bits, i))
        end
      end
      assert.equal(0, api.prefix_map_build(m, nil, nil))
      for round = 1, 2000 do
        local mapped = random(3) == 0
        local a
        if round % 2 == 0 then
          local p = prefixes[1 + random(#prefixes)]
          a = ffi.new("struct flow_address", p.address)
          mapped = p.mapped
          local i = mapped and 12 + random(4) or random(16)
          a.octet[i] = bit.bxor(a.octet[i], bit.lshift(random(2), random(8)))
        else
          a = random_address(octets, mapped)
        end
        local best, best_bits = 0, -1
        for _, p in ipairs(prefixes) do
          if p.mapped == mapped and p.bits > best_bits and holds(p, a) then best, best_bits = p.value, p.bits end
        end
        assert.equal(best, api.prefix_map_find(m, a))
      end
    end
  end)

  it("takes 100,000 prefixes, two by two 127 bits alike, at 200 octets each", function()
    local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
    local a = ffi.new("struct flow_address")
    a.octet[0], a.octet[1] = 0x20, 0x01
    for i = 1, 50000 do
      a.word[1] = i * 2654435761 % 4294967296
      for host = 2, 3 do
        a.octet[15] = host
        assert.equal(0, api.prefix_map_add(m, a, 128, 2 * i + host))
      end
    end
    assert.equal(0, api.prefix_map_build(m, nil, nil))
    assert.equal(2 * 50000 + 3, api.prefix_map_find(m, a))
    assert.equal(100000, api.prefix_map_count(m))
    assert.is_true(tonumber(api.prefix_map_memory(m)) <= 100000 * 200)
  end)

  -- In no order, many of them within others.
  local function add_many(m, count)
    local list, known, state = {}, {}, 4
    -- The source above repeats itself too soon for so many.
    local function random(n)
      state = state * 48271 % 2147483647
      return math.floor(state / 256) % n
    end
    while #list < count do
      local a = ffi.new("struct flow_address")
      a.octet[0] = 0x20
      for i = 1, 6 do a.octet[i] = random(i < 3 and 4 or 256) end
      local bits = 8 + random(49)
      api.prefix_mask(a, bits)
      local key = ffi.string(a, 16) .. bits
      if not known[key] then
        list[#list + 1], known[key] = a, #list + 1
        assert.equal(0, api.prefix_map_add(m, a, bits, #list))
      end
    end
    return list, known
  end

  it("answers as fast with 100,000 prefixes as with 100", function()
    local function map_of(count)
      local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
      local list = add_many(m, count)
      assert.equal(0, api.prefix_map_build(m, nil, nil))
      return m, list
    end
    local few, list = map_of(100)
    local many = map_of(100000)
    local function best(m)
      local least = math.huge
      for _ = 1, 50 do
        local before = api.clock_monotonic_ns()
        for i = 1, 100 do api.prefix_map_find(m, list[i]) end
        least = math.min(least, tonumber(api.clock_monotonic_ns() - before) / 100)
      end
      return least
    end
    local among_few, among_many = best(few), best(many)
    assert.is_true(among_many < 5 * among_few, ("%g ns, among few %g ns"):format(among_many, among_few))
  end)

  it("is right when its prefixes are more than are sorted at a time", function()
    for _, count in ipairs({ 2047, 2048, 2049, 4097, 7001 }) do
      local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
      local list, known = add_many(m, count)
      assert.equal(0, api.prefix_map_build(m, nil, nil))
      for i = 1, count, 11 do
        local a = ffi.new("struct flow_address", list[i])
        a.octet[7] = i % 256
        local expected, masked = 0, ffi.new("struct flow_address", a)
        for bits = 64, 8, -1 do
          api.prefix_mask(masked, bits)
          expected = known[ffi.string(masked, 16) .. bits] or 0
          if expected ~= 0 then break end
        end
        assert.equal(expected, api.prefix_map_find(m, a))
      end
    end
  end)

  it("is built in steps, none of which takes long", function()
    local best = math.huge
    for _ = 1, 5 do
      local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
      local list = add_many(m, 50000)
      local all, longest, status = 0, 0, 1
      while status == 1 do
        local took = machine.cpu_ms(function() status = api.prefix_map_build_step(m, nil, nil) end)
        longest, all = math.max(longest, took), all + took
        -- Until it is done, the map answers as before.
        assert.equal(status == 1, api.prefix_map_find(m, list[1]) == 0)
      end
      assert.equal(0, status)
      best = math.min(best, longest / all)
      if best < 0.2 then break end
    end
    assert.is_true(best < 0.2, ("one step is %.0f %% of all"):format(best * 100))
  end)

  it("begins anew when something is added while it is built", function()
    local m = ffi.gc(api.prefix_map_new(), api.prefix_map_free)
    add_many(m, 5000)
    for _ = 1, 4 do assert.equal(1, api.prefix_map_build_step(m, nil, nil)) end
    local a, bits = prefix("2001:db8::/32")
    assert.equal(0, api.prefix_map_add(m, a, bits, 9999))
    assert.equal(0, api.prefix_map_build(m, nil, nil))
    assert.equal(9999, find(m, "2001:db8::1"))
  end)
end)
