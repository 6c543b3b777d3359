-- SPDX-License-Identifier: Apache-2.0
local json = require("flowd.json_parser")

describe("JSON", function()
  it("becomes Lua values", function()
    assert.same({ a = { 1, 2.5, -3 }, b = { c = true, d = false }, e = "xAé" },
      json.decode('{"a": [1, 2.5, -3], "b": {"c": true, "d": false}, "e": "x\\u0041é"}'))
    assert.equal(json.null, json.decode("null"))
    assert.equal("x", json.decode(' "x" '))
    assert.same({}, json.decode("[]"))
    assert.equal(2 ^ 53, json.decode("9007199254740992"))
  end)

  it("that is none is refused with line and column", function()
    local value, message, line, column = json.decode('{\n  "a": 1,\n  oops\n}')
    assert.is_nil(value)
    assert.truthy(message:find("oops"))
    assert.same({ 3, 6 }, { line, column })
    for _, bad in ipairs({ "", "{", "[1,]", "{} x", '{"a":1,"a":2}', "\255", '"\\u0000"', "NaN", "1e999" }) do
      value, message, line, column = json.decode(bad)
      assert.is_nil(value, bad)
      assert.equal("string", type(message))
      assert.is_true(line >= 1 and column >= 1)
    end
  end)

  it("may be 64 levels deep, not more", function()
    assert.equal("table", type(json.decode(("["):rep(64) .. ("]"):rep(64))))
    local value, message = json.decode(("["):rep(65) .. ("]"):rep(65))
    assert.is_nil(value)
    assert.equal("more than 64 levels of arrays and objects", message)
    assert.is_nil((json.decode(('{"a":'):rep(65) .. "1" .. ("}"):rep(65))))
    assert.is_nil((json.decode(("["):rep(100000))))
  end)

  it("may be 16 MiB long, not more", function()
    local text = '"' .. ("x"):rep(2 ^ 24 - 2) .. '"'
    assert.equal(2 ^ 24 - 2, #json.decode(text))
    local value, message = json.decode(text .. " ")
    assert.is_nil(value)
    assert.equal("larger than 16 MiB", message)
  end)
end)
