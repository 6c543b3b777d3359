-- SPDX-License-Identifier: Apache-2.0
-- Names of the rules that decided about open flows.
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local flows = require("spec.support.flows")
local rule_names = require("flowd.rule_names")
local temp = require("spec.support.temp")

describe("names of rules", function()
  local path, flow_table

  before_each(function()
    path = temp.dir() .. "/rules"
    flow_table = select(2, flows.open_table(10))
  end)
  after_each(cleanup.all)

  local function use(names, list)
    names:use(list, flow_table)
    return api.flow_table_rules(flow_table)
  end

  it("are known by list and number, also of lists before", function()
    local names = rule_names.open(path)
    local first = use(names, { "a", "b" })
    assert.equal(first, use(names, { "a", "b" }))
    local second = use(names, { "b" })
    assert.not_equal(first, second)
    assert.same({ "b", false }, { names:find(first, 2) })
    assert.same({ "b", true }, { names:find(second, 1) })
    assert.is_nil((names:find(second, 2)))
    assert.is_nil((names:find(0, 1)))
    assert.same({ first * 65536 + 2, second * 65536 + 1 }, names:numbers("b"))
  end)

  it("are known to the process that follows", function()
    local first = use(rule_names.open(path), { "a\nb%", "c" })
    local names = rule_names.open(path)
    assert.equal(first, use(names, { "a\nb%", "c" }))
    assert.equal("a\nb%", (names:find(first, 1)))
    assert.not_equal(first, use(names, {}))
    assert.equal("c", (rule_names.open(path):find(first, 2)))
    names:remove()
    assert.is_false(temp.exists(path))
  end)

  it("are forgotten after 16 lists, and numbers come round", function()
    local names = rule_names.open(path)
    names.lists[1] = { number = 65535, names = { "old" } }
    assert.equal(1, use(names, { "new" }))
    for i = 1, 15 do use(names, { "n" .. i }) end
    assert.is_nil((names:find(65535, 1)))
    assert.equal(16, #names.lists)
  end)

  it("survive a file that is none", function()
    temp.write(path, "nonsense\n1 2\nx\n")
    local names = rule_names.open(path)
    assert.equal(0, #names.lists)
    assert.is_true(use(names, { "a" }) > 0)
  end)
end)
