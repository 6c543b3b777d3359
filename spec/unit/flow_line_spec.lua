-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local flow_line = require("flowd.flow_line")

-- A registry that has the given names: { experiment id, name, activity id, name }.
local function registry_of(entries)
  return {
    each = function(_, fn)
      for _, entry in ipairs(entries) do fn(unpack(entry)) end
    end,
  }
end

local function find(experiment, name) return api.flow_line_name_find(experiment, name, #name) end

describe("the registry's names in flow lines", function()
  after_each(function() api.flow_line_names_clear() end)

  it("are the ones of the registry in use, and no others", function()
    flow_line.use_registry(registry_of({ { 2, "atlas" }, { 2, "atlas", 26, "Data Challenge" } }))
    assert.equal(2, find(0, "atlas"))
    assert.equal(26, find(2, "data_challenge"))
    flow_line.use_registry(registry_of({ { 3, "cms" }, { 3, "cms", 4, "Data Challenge" } }))
    assert.equal(0, find(0, "atlas"))
    assert.equal(0, find(2, "data_challenge"))
    assert.equal(3, find(0, "cms"))
    assert.equal(4, find(3, "data_challenge"))
  end)

  it("may not be ambiguous", function()
    assert.has_error(function()
      flow_line.use_registry(registry_of({ { 2, "atlas" }, { 3, "ATLAS" } }))
    end)
  end)
end)
