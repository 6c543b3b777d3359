-- SPDX-License-Identifier: Apache-2.0
-- Loops over tables: those of LuaJIT's that can crash are not compiled (src/lua_next.h).
local jit_util = require("jit.util")

local function collect(t)
  local list = {}
  for key, value in pairs(t) do list[#list + 1] = tostring(key) .. "=" .. tostring(value) end
  table.sort(list)
  return table.concat(list, " ")
end

describe("next and pairs", function()
  it("go through a table", function()
    assert.equal("", collect({}))
    assert.equal("1=a 2=false x=1", collect({ "a", false, x = 1 }))
    local t = { 1, 2, 3, a = 1, b = 2 }
    for key in pairs(t) do t[key] = nil end
    assert.is_nil(next(t))
    local key, value = next({ 5 })
    assert.same({ 1, 5 }, { key, value })
    assert.is_nil((next({ 5 }, 1)))
    for k, v in next, { x = 1 }, nil do assert.same({ "x", 1 }, { k, v }) end
  end)

  it("refuse what is no table, and keys that are not in it", function()
    assert.error_matches(function() pairs(nil) end, "bad argument #1 to 'pairs' %(table expected, got nil%)")
    assert.error_matches(function() next(5) end, "bad argument #1 to 'next' %(table expected, got number%)")
    assert.error_matches(function() next({}, "nothing") end, "invalid key to 'next'")
  end)

  it("are calls in compiled code where LuaJIT's own could crash", function()
    if not jit.version:find("beta", 1, true) then return pending("this LuaJIT is newer") end
    -- LuaJIT compiles those functions of its own that have a number.
    assert.is_number(jit_util.funcinfo(ipairs).ffid)
    assert.is_nil(jit_util.funcinfo(next).ffid)
    assert.is_nil(jit_util.funcinfo(pairs).ffid)
    -- Hot: nothing of it may differ.
    local t, sum = { a = 1, b = 2, c = 3 }, 0
    for _ = 1, 1000 do
      for _, value in pairs(t) do sum = sum + value end
    end
    assert.equal(6000, sum)
  end)
end)
