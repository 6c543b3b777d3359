-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")

ffi.cdef([[
int inet_pton(int af, const char *src, void *dst);
const char *inet_ntop(int af, const void *src, char *dst, uint32_t size);
]])
local AF_INET, AF_INET6 = 2, 10

local address = ffi.new("struct flow_address")
local text = ffi.new("char[?]", 64)

local function octets(a)
  return (ffi.string(a.octet, 16):gsub(".", function(ch) return ("%02x"):format(ch:byte()) end))
end

local function parse(input)
  ffi.fill(address, 16, 0xAA)
  local family = api.address_parse(input, #input, address)
  return family, octets(address)
end

local function format(input)
  assert(api.address_parse(input, #input, address) > 0, input)
  ffi.fill(text, 64, 0x7e)
  local n = tonumber(api.address_format(address, text))
  assert.equal(0, text[n])
  return ffi.string(text, n)
end

-- What libc makes of the same text: family and octets, or nil.
local oracle_octets = ffi.new("struct flow_address")
local function oracle(input)
  if input:find("%z") then return nil end
  ffi.fill(oracle_octets, 16)
  if ffi.C.inet_pton(AF_INET, input, oracle_octets.octet + 12) == 1 then
    oracle_octets.octet[10], oracle_octets.octet[11] = 255, 255
    return 4, octets(oracle_octets)
  end
  ffi.fill(oracle_octets, 16)
  if ffi.C.inet_pton(AF_INET6, input, oracle_octets.octet) ~= 1 then return nil end
  local hex = octets(oracle_octets)
  return hex:sub(1, 24) == ("0"):rep(20) .. "ffff" and 4 or 6, hex
end

local function agree(input)
  local family, hex = parse(input)
  local expected, expected_hex = oracle(input)
  if expected then
    if family ~= expected or hex ~= expected_hex then
      error(("%q: %s %s, inet_pton says %s %s"):format(input, family, hex, expected, expected_hex))
    end
  elseif family ~= -22 or hex ~= ("a"):rep(32) then
    error(("%q: accepted as %s %s, inet_pton refuses it"):format(input, family, hex))
  end
  return expected ~= nil
end

describe("address_parse", function()
  it("reads IPv4 into its IPv4-mapped form", function()
    local family, hex = parse("192.0.2.255")
    assert.equal(4, family)
    assert.equal("00000000000000000000ffffc00002ff", hex)
  end)

  it("reads IPv6 in every spelling", function()
    for input, expected in pairs({
      ["::"] = ("0"):rep(32),
      ["::1"] = ("0"):rep(31) .. "1",
      ["1::"] = "0001" .. ("0"):rep(28),
      ["2001:db8::1"] = "20010db8" .. ("0"):rep(23) .. "1",
      ["2001:DB8:0:0:0:0:0:1"] = "20010db8" .. ("0"):rep(23) .. "1",
      ["1:2:3:4:5:6:7:8"] = "00010002000300040005000600070008",
      ["1:2:3:4:5:6:7::"] = "00010002000300040005000600070000",
      ["::2:3:4:5:6:7:8"] = "00000002000300040005000600070008",
      ["64:ff9b::192.0.2.33"] = "0064ff9b" .. ("0"):rep(16) .. "c0000221",
      ["1:2:3:4:5:6:1.2.3.4"] = "00010002000300040005000601020304",
    }) do
      local family, hex = parse(input)
      assert.equal(6, family, input)
      assert.equal(expected, hex, input)
    end
  end)

  it("takes IPv4-mapped IPv6 text for IPv4", function()
    for _, input in ipairs({ "::ffff:10.1.2.3", "::FFFF:a01:203", "0:0:0:0:0:ffff:10.1.2.3" }) do
      local family, hex = parse(input)
      assert.equal(4, family, input)
      assert.equal("00000000000000000000ffff0a010203", hex, input)
    end
  end)

  it("refuses what is no address and leaves the output alone", function()
    for _, input in ipairs({
      "", "1", ":", ":::", "1.2.3", "1.2.3.", "1.2.3.4.", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", "1.2.3.0004", ".1.2.3",
      "1..2.3", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4x", "0x1.2.3.4", "1.2.3.-4", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
      "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "1::2:3:4:5:6:7:8", "1::2::3", ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:",
      "12345::", "::g", "fe80::1%lo", "[::1]", "::1/128", "::1.2.3", "1:2:3:4:5:6:7:1.2.3.4", "1.2.3.4::", "::1\0",
      "\0",      "localhost", ("1:"):rep(200), ("1"):rep(45), ("0"):rep(60),
    }) do
      local family, hex = parse(input)
      assert.equal(-22, family, input)
      assert.equal(("a"):rep(32), hex, input)
      assert.is_nil((oracle(input)))
    end
  end)

  it("reads only as many octets as it is given", function()
    assert.equal(4, api.address_parse("1.2.3.45", 7, address))
    assert.equal(4, address.octet[15])
    assert.equal(6, api.address_parse("::12345", 6, address))
    assert.equal(-22, api.address_parse("1.2.3.4", 6, address))
  end)

  it("agrees with inet_pton on random addresses and on damaged ones", function()
    math.randomseed(7)
    local alphabet = "0123456789abcdefABCDEF::::....g% \0"
    local raw = ffi.new("uint8_t[16]")
    local accepted = 0
    for i = 1, 40000 do
      for k = 0, 15 do raw[k] = math.random(3) == 1 and 0 or math.random(0, 255) end
      local v4 = i % 3 == 0
      ffi.C.inet_ntop(v4 and AF_INET or AF_INET6, raw, text, 64)
      local input = ffi.string(text)
      if agree(input) then accepted = accepted + 1 end
      -- One octet replaced, removed or inserted.
      local at, pick = math.random(#input), math.random(#alphabet)
      local ch = alphabet:sub(pick, pick)
      local damage = math.random(3)
      input = input:sub(1, at - 1) .. (damage == 2 and "" or ch) .. input:sub(damage == 3 and at or at + 1)
      if agree(input) then accepted = accepted + 1 end
    end
    assert.is_true(accepted > 50000)
  end)

  it("agrees with inet_pton on every short text over the letters that matter", function()
    local letters = { "0", "1", "f", ":", ".", "g" }
    local function walk(prefix, depth)
      agree(prefix)
      if depth == 0 then return end
      for _, letter in ipairs(letters) do walk(prefix .. letter, depth - 1) end
    end
    walk("", 6)
    walk("1:2:3:4:5:6:", 4)
    walk("1.2.3", 4)
  end)
end)

describe("address_format", function()
  it("writes the canonical text of RFC 5952", function()
    for input, expected in pairs({
      ["::"] = "::",
      ["::1"] = "::1",
      ["1::"] = "1::",
      ["2001:0DB8::0001"] = "2001:db8::1",
      ["2001:db8:0:0:1:0:0:1"] = "2001:db8::1:0:0:1",
      ["2001:db8:0:1:1:1:1:1"] = "2001:db8:0:1:1:1:1:1",
      ["2001:0:0:1:0:0:0:1"] = "2001:0:0:1::1",
      ["fe80:0:0:0:0:0:0:0"] = "fe80::",
      ["0:0:1::"] = "0:0:1::",
      ["::1.2.3.4"] = "::102:304",
      ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
      ["0.0.0.0"] = "0.0.0.0",
      ["255.99.100.10"] = "255.99.100.10",
      ["::ffff:1.2.3.4"] = "1.2.3.4",
    }) do
      assert.equal(expected, format(input), input)
    end
  end)

  it("agrees with inet_ntop, and what it writes is read back", function()
    math.randomseed(11)
    local raw = ffi.new("struct flow_address")
    local mine = ffi.new("char[?]", 64)
    for i = 1, 50000 do
      for k = 0, 7 do
        raw.octet[2 * k] = math.random(2) == 1 and 0 or math.random(0, 255)
        raw.octet[2 * k + 1] = math.random(2) == 1 and 0 or math.random(0, 255)
        if math.random(3) == 1 then raw.octet[2 * k], raw.octet[2 * k + 1] = 0, 0 end
      end
      if i % 4 == 0 then
        ffi.fill(raw, 10)
        raw.octet[10], raw.octet[11] = 255, 255
      end
      local mapped = api.address_family(raw) == 4
      ffi.C.inet_ntop(mapped and AF_INET or AF_INET6, mapped and raw.octet + 12 or raw.octet, text, 64)
      local expected = ffi.string(text)
      local n = tonumber(api.address_format(raw, mine))
      -- libc writes the long deprecated IPv4-compatible addresses as dotted quads.
      if not (expected:find(":", 1, true) and expected:find(".", 1, true)) then
        assert.equal(expected, ffi.string(mine, n))
      end
      assert.equal(mapped and 4 or 6, api.address_parse(mine, n, address))
      assert.equal(octets(raw), octets(address))
    end
  end)
end)
