-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local addresses = require("flowd.addresses")
local numbers = require("flowd.numbers")

describe("numbers", function()
  it("stand for what took them, and for the empty thing when nobody has them", function()
    local empty = ffi.new("int[1]", -1)
    local n = numbers.new("const int *", 4, empty)
    local a, b = ffi.new("int[1]", 7), ffi.new("int[1]", 8)
    assert.equal(1, n:take(a))
    assert.equal(2, n:take(b))
    assert.same({ -1, 7, 8, -1 }, { n.pointers[0][0], n.pointers[1][0], n.pointers[2][0], n.pointers[3][0] })
  end)

  it("come back when their object is collected", function()
    local n = numbers.new("const int *", 4, ffi.new("int[1]", -1))
    local released = 0
    for _ = 1, 50 do
      assert.is_number(n:take(ffi.new("int[1]", 7), function() released = released + 1 end))
    end
    collectgarbage()
    collectgarbage()
    assert.equal(50, released)
    for number = 0, 3 do assert.equal(-1, n.pointers[number][0]) end
  end)

  it("run out with a message", function()
    local n = numbers.new("const int *", 3, ffi.new("int[1]", -1))
    local held = { ffi.new("int[1]", 1), ffi.new("int[1]", 2), ffi.new("int[1]", 3) }
    n:take(held[1])
    n:take(held[2])
    local number, message = n:take(held[3])
    assert.is_nil(number)
    assert.equal("there are 2 already", message)
  end)

  it("that a script makes up reach other sets, or none, and nothing else", function()
    local set = addresses.prefixes("10.0.0.0/8")
    assert.is_true(set:contains("10.0.0.1"))
    for _, forged in ipairs({ 0, 16383, 0.5, 5000 }) do
      set[1] = forged
      assert.is_boolean(set:contains("10.0.0.1"))
    end
    for _, forged in ipairs({ -1, 16384, 1e300, -1e300, 0 / 0, 1 / 0 }) do
      set[1] = forged
      assert.has_error(function() set:contains("10.0.0.1") end)
      assert.has_error(function() assert(addresses.parse("10.0.0.1")):within(set) end)
    end
    set[1] = "x"
    assert.has_error(function() set:contains("10.0.0.1") end)
  end)
end)
