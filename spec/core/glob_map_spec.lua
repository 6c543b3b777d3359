-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")

local function new_map(patterns)
  local m = ffi.gc(api.glob_map_new(), api.glob_map_free)
  for value, pattern in ipairs(patterns) do assert.equal(0, api.glob_map_add(m, pattern, #pattern, value), pattern) end
  return m
end

local function find(m, text) return api.glob_map_find(m, text, #text) end

local function random_source(seed)
  local state = seed
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return math.floor(state / 65536) % n
  end
end

-- The same, the simple way: does a pattern (without \) match, and how many octets of its own has it?
local function matches(pattern, text)
  local lua = pattern:gsub("[%-%.%+%[%]%(%)%$%^%%]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".")
  return text:find("^" .. lua .. "$") ~= nil
end

local function own(pattern) return select(2, pattern:gsub("[^*?]", "")) end

describe("glob map", function()
  it("is empty when nothing was added", function()
    assert.equal(0, find(new_map({}), ""))
    assert.equal(0, find(new_map({}), "a"))
  end)

  it("answers as patterns tried one by one do", function()
    local random = random_source(7)
    local letters = { "a", "b", "*", "?", "a", "b" }
    local function text(most, alphabet)
      local parts = {}
      for i = 1, random(most) do parts[i] = alphabet[1 + random(#alphabet)] end
      return table.concat(parts)
    end
    for _ = 1, 60 do
      local patterns, seen = {}, {}
      for _ = 1, 12 do
        local pattern = text(7, letters)
        local folded = pattern:gsub("%*+", "*")
        if pattern ~= "" and not seen[folded] then patterns[#patterns + 1], seen[folded] = pattern, true end
      end
      local m = new_map(patterns)
      for _ = 1, 60 do
        local subject = text(8, { "a", "b", "c" })
        local most = -1
        for _, pattern in ipairs(patterns) do
          if matches(pattern, subject) then most = math.max(most, own(pattern)) end
        end
        local value = find(m, subject)
        local what = ("%q against %s: %d"):format(subject, table.concat(patterns, " "), value)
        if most < 0 then
          assert.equal(0, value, what)
        else
          assert.is_true(value > 0 and matches(patterns[value], subject) and own(patterns[value]) == most, what)
        end
      end
    end
  end)

  it("takes no longer when patterns are made to confuse it", function()
    local patterns = {}
    for i = 1, 200 do patterns[i] = ("*a"):rep(1 + i % 100) .. ("?"):rep(math.floor((i - 1) / 100)) .. "b" end
    local m = ffi.gc(api.glob_map_new(), api.glob_map_free)
    for value, pattern in ipairs(patterns) do api.glob_map_add(m, pattern, #pattern, value) end
    local started = api.clock_monotonic_ns()
    assert.equal(0, find(m, ("a"):rep(2000)))
    assert.is_true(tonumber(api.clock_monotonic_ns() - started) < 2e9)
  end)

  it("holds many patterns", function()
    local m = ffi.gc(api.glob_map_new(), api.glob_map_free)
    for i = 1, 20000 do
      local pattern = ("host-%d.*.example.org"):format(i)
      assert.equal(0, api.glob_map_add(m, pattern, #pattern, i))
    end
    assert.equal(12345, find(m, "host-12345.eth0.example.org"))
    assert.equal(0, find(m, "host-20001.eth0.example.org"))
  end)

  it("refuses what is no pattern", function()
    local m = new_map({ "a*" })
    local EINVAL, EEXIST = 22, 17
    assert.equal(-EINVAL, api.glob_map_add(m, "", 0, 1))
    assert.equal(-EINVAL, api.glob_map_add(m, "a\\", 2, 1))
    assert.equal(-EINVAL, api.glob_map_add(m, ("a"):rep(1025), 1025, 1))
    assert.equal(-EINVAL, api.glob_map_add(m, "a", 1, 0))
    assert.equal(-EEXIST, api.glob_map_add(m, "a**", 3, 2))
    assert.equal(0, api.glob_map_add(m, "a**", 3, 1))
  end)
end)
