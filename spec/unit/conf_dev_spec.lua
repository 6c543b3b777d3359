-- SPDX-License-Identifier: Apache-2.0
local config = require("flowd.config")
local rules = require("flowd.rules")
local ffi = require("ffi")
local support = require("spec.support.policy")

describe("conf/dev.lua", function()
  local loaded, errors = config.load("conf/dev.lua")

  it("is valid", function() assert.same(nil, errors) end)

  it("keeps to the working directory and the loopback interface", function()
    local values = loaded.values
    assert.same({ "run", "", "", "" }, { values.runtime_dir, values.state_dir, values.cache_dir, values.pid_file })
    assert.same({ "run/np" }, values.plugins.pipe.paths)
    assert.same({ "lo" }, values.backends.marker.interfaces)
    assert.equal("label", values.backends.marker.strategy)
  end)

  it("sends fireflies to the destination, port 10514, and nowhere else", function()
    local firefly = loaded.values.backends.firefly
    assert.is_true(firefly.to_destination)
    assert.equal(10514, firefly.port)
    assert.same({}, firefly.collectors)
  end)

  it("tags what has no tag, and leaves other tags alone", function()
    local chain = assert(rules.compile(loaded.rules, { registry = loaded.registry, backends = support.backends }))
    local batch = ffi.new("struct flow_batch")
    local cases = {
      { { dst = "::1", dst_port = 5201 }, 1, 2 },
      { { dst = "::1", dst_port = 5201, experiment = 2, activity = 26 }, 2, 26 },
      { { dst = "::1", dst_port = 5300 }, 0, 0 },
      { { dst = "2001:db8::1", dst_port = 5201 }, 0, 0 },
    }
    for i, case in ipairs(cases) do support.fill(batch.event[i - 1], case[1]) end
    batch.count = #cases
    chain:run(batch)
    for i, case in ipairs(cases) do
      local e = batch.event[i - 1]
      assert.same({ case[2], case[3] }, { e.experiment, e.activity })
    end
  end)
end)
