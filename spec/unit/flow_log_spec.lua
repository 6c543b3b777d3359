-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local flow_log = require("flowd.flow_log")
local log = require("flowd.log")
local policy = require("spec.support.policy")
local registry = require("flowd.registry")

describe("the log of flows", function()
  local level
  before_each(function() level = api.log_get_level() end)
  after_each(function() api.log_setup(level, false) end)

  local function logged(at, fields)
    local batch = policy.batch({ fields })
    for name, value in pairs({ flags = fields.flags, label = fields.label, route = fields.route }) do
      batch.event[0][name] = value
    end
    local say = flow_log.new(registry.load_embedded(), { marker = 1, firefly = 2, other = 4 })
    log.setup(at, false)
    return policy.logged(function() say(batch.event, batch.count) end)
  end

  it("names tag and backends at level debug", function()
    local lines = logged("debug", { experiment = 2, activity = 26, flags = ffi.C.EVENT_DELIVER, label = 0x10068, route = 3 })
    assert.same({ "debug start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000: atlas (2) / Data Challenge (26), label 0x10068, "
      .. "to firefly, marker" }, lines)
  end)

  it("tells why an event goes nowhere", function()
    assert.matches("dropped by a rule", logged("debug", { experiment = 2, flags = ffi.C.EVENT_DROPPED })[1])
    assert.matches("experiment is unknown", logged("debug", { experiment = 0, flags = 0 })[1])
    assert.matches("to no backend",
      logged("debug", { experiment = 2, activity = 26, flags = ffi.C.EVENT_DELIVER, route = 0 })[1])
  end)

  it("is silent at level info", function()
    assert.same({}, logged("info", { experiment = 2, activity = 26, flags = ffi.C.EVENT_DELIVER }))
  end)
end)
