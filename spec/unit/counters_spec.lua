-- SPDX-License-Identifier: Apache-2.0
--- Every counter that the sources name has a help text, and every help text a counter.
local counters = require("flowd.counters")

local function sources()
  local list = {}
  for path in io.popen("find src lua conf/cookbook -name '*.c' -o -name '*.lua' | sort"):lines() do
    if path ~= "lua/flowd/counters.lua" then list[#list + 1] = path end
  end
  return list
end

describe("help of counters", function()
  -- flowd_api and its like are no counters: a name counts when a literal starts with it.
  local used = {}
  for _, path in ipairs(sources()) do
    local f = assert(io.open(path))
    local text = f:read("*a")
    f:close()
    for name in text:gmatch('"(flowd_[a-z0-9_]+)[{"]') do
      if name ~= "flowd_api" then used[name] = used[name] or path end
    end
  end

  it("is there for each counter in the sources", function()
    assert.is_not_nil(used.flowd_counters_overflow_total, "the search finds nothing")
    for name, path in pairs(used) do
      assert.is_string(counters.help[name], ("%s, used in %s, has no line in counters.help"):format(name, path))
    end
  end)

  it("is one sentence, and names follow the rules", function()
    for name, help in pairs(counters.help) do
      assert.is_truthy(name:find("^flowd_[a-z0-9_]+$"), name)
      assert.is_truthy(help:find("^%u.*%.$"), name .. ": " .. help)
      assert.is_nil(help:find("[\n\\]"), name)
    end
  end)

  it("names no counter that nothing uses", function()
    for name in pairs(counters.help) do
      assert.is_string(used[name], name .. " is in counters.help and nowhere else")
    end
  end)
end)
