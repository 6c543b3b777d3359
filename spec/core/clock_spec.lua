-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")

describe("clocks", function()
  it("tell UNIX time in microseconds", function()
    local now = tonumber(api.clock_realtime_us()) / 1e6
    assert.is_true(math.abs(now - os.time()) < 2)
  end)

  it("never run backwards", function()
    local last = api.clock_monotonic_ns()
    for _ = 1, 1000 do
      local now = api.clock_monotonic_ns()
      assert.is_true(now >= last)
      last = now
    end
  end)
end)
