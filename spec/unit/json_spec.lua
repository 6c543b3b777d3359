-- SPDX-License-Identifier: Apache-2.0
local json = require("flowd.json")
local parser = require("flowd.json_parser")

describe("JSON text", function()
  it("is what RFC 8259 says, keys sorted", function()
    assert.equal('{"a":[1,2.5,-3],"b":{"c":true,"d":null},"e":"x"}',
      json.encode({ e = "x", b = { d = json.null, c = true }, a = { 1, 2.5, -3 } }))
    assert.equal("[]", json.encode(json.array({})))
    assert.equal("{}", json.encode({}))
  end)

  it("escapes what must be escaped", function()
    assert.equal([["\"\\\b\f\n\r\t\u0000\u001f\u007f/é"]], json.encode('"\\\b\f\n\r\t\0\31\127/é'))
  end)

  it("writes integers exactly, 64-bit ones too", function()
    assert.equal("18446744073709551615", json.encode(0xffffffffffffffffULL))
    assert.equal("-9223372036854775808", json.encode(-0x8000000000000000LL))
    assert.equal("9007199254740991", json.encode(2 ^ 53 - 1))
    assert.equal("1099511627776", json.encode(2 ^ 40))
  end)

  it("repairs strings that are not UTF-8: overlong forms, surrogates, cut sequences", function()
    local bad = "\239\191\189"
    for text, expected in pairs({ ["a\255b"] = "a" .. bad .. "b", ["\192\128"] = bad .. bad, ["\195"] = bad,
      ["\237\160\128"] = bad:rep(3), ["\244\144\128\128"] = bad:rep(4), ["\226\130x"] = bad:rep(2) .. "x" }) do
      assert.equal('"' .. expected .. '"', json.encode(text))
    end
    for _, text in ipairs({ "é", "€", "\240\159\152\128", "\244\143\191\191", "\237\159\191" }) do
      assert.equal('"' .. text .. '"', json.encode(text))
    end
  end)

  it("is refused for what has none", function()
    local loop = {}
    loop.a = loop
    assert.has_error(function() json.encode(loop) end, "json: tables nested more than 64 deep")
    assert.has_error(function() json.encode(0 / 0) end)
    assert.has_error(function() json.encode(math.huge) end, "json: no number: inf")
    assert.has_error(function() json.encode({ f = print }) end, "json: cannot write a function")
    assert.has_error(function() json.encode({ [{}] = 1 }) end, "json: an object's key is a table")
  end)

  it("reads back as it was, by another implementation", function()
    math.randomseed(7)
    for _ = 1, 500 do
      local octets = {}
      for i = 1, math.random(0, 12) do octets[i] = string.char(math.random(1, 255)) end
      local text = json.encode({ s = table.concat(octets), n = math.random(2 ^ 31), f = math.random() })
      local value = assert(parser.decode(text))
      assert.equal(text, json.encode(value))
    end
  end)
end)
