-- SPDX-License-Identifier: Apache-2.0
local support = require("spec.support.policy")

-- Tag by a map of dst or dst_port; returns "experiment/activity" of an event, or nil.
local function mapper(map, field)
  local chain = support.chain(("local map = %s\nrule 'r' (function(flow) flow:tag(map:find(flow.%s)) end)"):format(map, field))
  return function(value)
    local family4 = field == "dst" and not value:find(":")
    local result = support.run(chain, { [field] = value, src = family4 and "192.0.2.1" or nil })
    return result.rule == 1 and result.experiment .. "/" .. result.activity or nil
  end
end

local function problems(text)
  local chain, messages = support.compile(text)
  assert.is_nil(chain)
  return table.concat(messages, "\n")
end

describe("flowd.map.prefixes", function()
  it("finds the tag of the longest prefix", function()
    local find = mapper([[flowd.map.prefixes{
      ["2001:db8:1::/48"] = "atlas",
      ["2001:db8:1:2::/64"] = "atlas/Data Challenge",
      ["2001:db8:1:2::7"] = { "cms", "Data Challenge" },
      ["10.0.0.0/8"] = { 4, 5 },
      ["10.1.0.0/16"] = "6/7",
      ["10.2.0.0/16"] = 511 * 64 + 63,
    }]], "dst")
    assert.equal("2/0", find("2001:db8:1:3::1"))
    assert.equal("2/26", find("2001:db8:1:2::1"))
    assert.equal("3/4", find("2001:db8:1:2::7"))
    assert.is_nil(find("2001:db8:2::1"))
    assert.equal("4/5", find("10.0.0.1"))
    assert.equal("6/7", find("10.1.0.1"))
    assert.equal("511/63", find("10.2.0.1"))
    assert.is_nil(find("192.0.2.9"))
  end)

  it("says everything that is wrong when the rules are compiled, with file and line", function()
    local text = problems([[
local a = 1
local map = flowd.map.prefixes{
  ["2001:db8::/129"] = "atlas", ["10.0.0.0/8"] = "atlsa", ["10.1.0.0/8"] = "cms",
  ["fd00::/8"] = "atlas/Data Chalenge", ["fe80::/10"] = true, "atlas",
}
local other = flowd.map.prefixes{ ["10.0.0.0/8"] = "cms", ["010.0.0.0/8"] = "atlas" }
local clash = flowd.map.prefixes{ ["10.0.0.0/8"] = "cms", ["::ffff:10.0.0.0/104"] = "atlas" }
]])
    for _, expected in ipairs({
      'site.lua:2: map.prefixes: prefix "2001:db8::/129": expected a length of 0 to 128; got 129',
      'site.lua:2: map.prefixes: ["10.0.0.0/8"]: unknown experiment "atlsa" — did you mean "atlas"?',
      'prefix "10.1.0.0/8" has bits set beyond its length',
      '["fd00::/8"]: unknown activity of atlas "Data Chalenge" — did you mean "Data Challenge"?',
      '["fe80::/10"]: tag: expected "experiment/activity", a pair or a tag number; got true',
      'site.lua:2: map.prefixes: expected a prefix such as "2001:db8::/32"; got the number 1',
      'site.lua:6: map.prefixes: expected a prefix such as "2001:db8::/32"; got "010.0.0.0/8"',
      'site.lua:7: map.prefixes: prefix "::ffff:10.0.0.0/104" is the same as "10.0.0.0/8", with another value',
    }) do
      assert.matches(expected, text, 1, true)
    end
  end)

  it("takes addresses and their text, and nothing else", function()
    local chain = support.chain([[
      local map = flowd.map.prefixes{ ["10.0.0.0/8"] = "atlas" }
      rule "text" (function(flow) flow:tag(map:find("10.1.2.3")) end)
      rule "port" (function(flow)
        map:find(flow.dst_port) end)
    ]])
    local result
    local lines = support.logged(function() result = support.run(chain) end)
    assert.equal(2, result.experiment)
    assert.matches("site.lua:4: expected an IP address; got the number 40000", lines[1], 1, true)
  end)

  it("lives as long as a rule uses it", function()
    local find = mapper('flowd.map.prefixes{ ["10.0.0.0/8"] = "atlas", ["10.1.0.0/16"] = "cms" }', "dst")
    collectgarbage()
    collectgarbage()
    for i = 1, 100 do require("flowd.addresses").prefixes({ ("11.%d.0.0/16"):format(i) }) end
    assert.equal("3/0", find("10.1.0.1"))
  end)
end)

describe("flowd.map.ports", function()
  it("finds the tag of a port, single ones before ranges", function()
    local find = mapper(
      'flowd.map.ports{ [1094] = "atlas", ["20000-25000"] = "cms/Data Challenge", ["20500"] = "6/7", [65535] = "8", [1] = "9" }',
      "dst_port")
    assert.equal("2/0", find(1094))
    assert.equal("3/4", find(20000))
    assert.equal("3/4", find(25000))
    assert.equal("6/7", find(20500))
    assert.equal("8/0", find(65535))
    assert.equal("9/0", find(1))
    assert.is_nil(find(1095))
    assert.is_nil(find(19999))
    assert.is_nil(find(25001))
  end)

  it("says what is wrong with file and line", function()
    local text = problems([[
local map = flowd.map.ports{ [0] = "atlas", ["9-8"] = "atlas", web = "atlas", ["10-20"] = "cms", ["15-30"] = "atlas" }]])
    for _, expected in ipairs({
      "site.lua:1: map.ports: expected a port from 1 to 65535 or a range such as \"20000-25000\"; got 0",
      'the range "9-8" ends before it starts', 'got "web"',
      "port 15 is in two entries, 10-20 and 15-30, with different values",
    }) do
      assert.matches(expected, text, 1, true)
    end
    assert.matches("port 7 is in two entries", problems('local m = flowd.map.ports{ [7] = "atlas", ["7"] = "cms" }'), 1, true)
  end)

  it("takes nothing but ports", function()
    local chain = support.chain('local map = flowd.map.ports{ [1094] = "atlas" }\nrule "r" (function(flow) map:find(flow.dst) end)')
    local lines = support.logged(function() support.run(chain) end)
    assert.matches("site.lua:2: find: expected a port, a number from 1 to 65535; got 2001:db8::2", lines[1], 1, true)
  end)
end)

describe("a map", function()
  it("answers only when the rules run", function()
    local ok, message = pcall(support.rules, '\nlocal map = flowd.map.ports{ [1] = "atlas" }\nmap:find(1)')
    assert.is_false(ok)
    assert.equal("site.lua:3: a map answers when the rules run, not while the configuration loads", message)
  end)

  it("is made from a table, of a kind that there is, and cannot be changed", function()
    local function refused(text, expected)
      local ok, message = pcall(support.rules, text)
      assert.is_false(ok)
      assert.matches(expected, message, 1, true)
    end
    refused('flowd.map.ports "x"',
      'site.lua:1: map.ports: expected a table { [1094] = "atlas", ["20000-25000"] = "cms", … }'
      .. ' or the name of a file (.csv, .lua); got "x"')
    refused("flowd.map.port{}", 'site.lua:1: flowd.map.port is not available in configuration and rule files — did you mean "ports"?')
    refused("flowd.map.ports{}.find = 1", "site.lua:1: a map cannot be changed")
  end)
end)
