-- SPDX-License-Identifier: Apache-2.0
local addresses = require("flowd.addresses")

-- The message of an error, with its position, which error_matches of luassert cuts off.
local function fails(fn, pattern)
  local ok, message = pcall(fn)
  assert.is_false(ok)
  assert.matches("^%./?spec/unit/addresses_spec.lua:%d+: " .. pattern, "./" .. message:gsub("^%./", ""))
end

local function address(text) return assert(addresses.parse(text)) end

describe("addresses", function()
  it("read and write text", function()
    for _, text in ipairs({ "2001:db8::1", "::", "192.0.2.1", "fe80::1:0:0:1" }) do
      assert.equal(text, tostring(address(text)))
    end
    assert.equal("192.0.2.1", tostring(address("::ffff:192.0.2.1")))
    assert.equal("to 192.0.2.1.", "to " .. address("192.0.2.1") .. ".")
    local value, message = addresses.parse("192.0.2.256")
    assert.is_nil(value)
    assert.equal('expected an IP address; got "192.0.2.256"', message)
    assert.is_nil(addresses.parse(7))
  end)

  it("know their family", function()
    assert.equal(4, address("192.0.2.1").family)
    assert.equal(4, address("::ffff:0:1").family)
    assert.equal(6, address("2001:db8::1").family)
    assert.equal(6, address("::1").family)
  end)

  it("are equal when they are the same", function()
    assert.is_true(address("2001:db8::1") == address("2001:DB8:0::1"))
    assert.is_false(address("2001:db8::1") == address("2001:db8::2"))
    for position = 1, 4 do
      local groups = { "1", "1", "1", "1", "1", "1", "1", "1" }
      groups[2 * position] = "2"
      assert.is_false(address("1:1:1:1:1:1:1:1") == address(table.concat(groups, ":")))
    end
  end)

  it("cannot be given fields, and name the ones they have", function()
    fails(function() address("::1").port = 1 end, "an address cannot be changed")
    fails(function() return address("::1").port end, 'an address has no field "port"')
    assert.is_false(getmetatable(address("::1")))
  end)

  describe("within", function()
    it("takes a prefix, an address, a list or a set", function()
      local a = address("2001:db8:1::1")
      assert.is_true(a:within("2001:db8::/32"))
      assert.is_false(a:within("2001:db8::/48"))
      assert.is_true(a:within("2001:db8:1::1"))
      assert.is_true(a:within({ "192.0.2.0/24", "2001:db8:1::/48" }))
      assert.is_false(a:within({ "192.0.2.0/24" }))
      assert.is_false(a:within({}))
      assert.is_true(a:within(addresses.prefixes({ "192.0.2.0/24", "2001:db8:1::/48" })))
      assert.is_true(a:within({ addresses.prefixes("192.0.2.0/24"), addresses.prefixes("2001:db8::/32") }))
    end)

    it("refuses anything else", function()
      local a = address("2001:db8:1::1")
      fails(function() a:within(7) end, "within: expected a prefix")
      fails(function() a:within(nil) end, "within: expected a prefix")
      fails(function() a:within(a) end, "within: .* compare addresses with ==")
      fails(function() a:within("2001:db8::/129") end,
        'prefix "2001:db8::/129": expected a length of 0 to 128; got 129')
    end)
  end)

  describe("sets of prefixes", function()
    it("are made of prefixes, lists and sets", function()
      local site = addresses.prefixes({ "192.0.2.0/24", "2001:db8::/32" })
      local both = addresses.prefixes({ site, { "198.51.100.7" } })
      assert.is_true(both:contains(address("192.0.2.9")))
      assert.is_true(both:contains("2001:db8::9"))
      assert.is_true(both:contains("198.51.100.7"))
      assert.is_false(both:contains("198.51.100.8"))
      assert.equal("prefixes{192.0.2.0/24, 2001:db8::/32, 198.51.100.7}", tostring(both))
    end)

    it("count the length of dotted text from the dotted part", function()
      local set = addresses.prefixes({ "10.0.0.0/8", "::ffff:192.0.2.0/120" })
      assert.is_true(set:contains("10.255.0.1"))
      assert.is_true(set:contains("192.0.2.255"))
      assert.is_false(set:contains("192.0.3.0"))
    end)

    it("say everything that is wrong with a list", function()
      local function refused(list, ...)
        local ok, message = pcall(addresses.prefixes, list)
        assert.is_false(ok)
        for _, text in ipairs({ ... }) do assert.matches(text, message, 1, true) end
      end
      refused({ "2001:db8::/32", "nonsense", "10.0.0.0/33" }, 'got "nonsense"', "expected a length of 0 to 32; got 33")
      refused({ "2001:db8::1/32" }, 'prefix "2001:db8::1/32" has bits set beyond its length — did you mean "2001:db8::/32"?')
      refused({ "10.1.0.0/8" }, 'did you mean "10.0.0.0/8"?')
      refused({ 7 }, "got the number 7")
      refused({ lan = "10.0.0.0/8" }, 'got the key "lan"')
    end)

    it("cannot be changed, and hide what they are made of", function()
      local set = addresses.prefixes("10.0.0.0/8")
      fails(function() set.contains = 1 end, "a set of prefixes cannot be changed")
      assert.is_false(getmetatable(set))
      for _, value in pairs(set) do assert.is_not.equal("cdata", type(value)) end
    end)

    it("refuse to look for what is no address", function()
      local set = addresses.prefixes("10.0.0.0/8")
      fails(function() set:contains("host") end, 'expected an IP address; got "host"')
      fails(function() set:contains(nil) end, "expected an IP address; got nil")
    end)

    it("live as long as they are used", function()
      local set = addresses.prefixes({ "10.0.0.0/8", "2001:db8::/32" })
      collectgarbage()
      collectgarbage()
      assert.is_true(set:contains("10.0.0.1"))
    end)
  end)

  it("tell private, global and special addresses", function()
    local function classes(text) return address(text):is_private(), address(text):is_global() end
    for _, text in ipairs({ "10.1.2.3", "172.31.0.1", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1", "fd00::1",
      "fe80::1", "::1" }) do
      assert.same({ true, false }, { classes(text) }, text)
    end
    for _, text in ipairs({ "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "2001:db8::1", "ff02::1",
      "::", "2001:2::1", "192.0.0.8" }) do
      assert.same({ false, false }, { classes(text) }, text)
    end
    for _, text in ipairs({ "8.8.8.8", "172.32.0.1", "192.0.0.9", "2a00::1", "2001:200::1", "2001:4:112::1" }) do
      assert.same({ false, true }, { classes(text) }, text)
    end
  end)
end)
