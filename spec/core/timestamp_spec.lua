-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")

local out = ffi.new("char[64]")

local function format(seconds, micro)
  local us = ffi.cast("uint64_t", seconds) * 1000000 + (micro or 0)
  return ffi.string(out, api.timestamp_format(us, out))
end

describe("timestamp_format", function()
  it("writes RFC 3339 in UTC with six fraction digits", function()
    assert.equal("2026-03-28T08:58:48.899646+00:00", format(1774688328, 899646))
    assert.equal("1970-01-01T00:00:00.000000+00:00", format(0))
    assert.equal("2000-02-29T23:59:59.000001+00:00", format(951868799, 1))
    assert.equal("2100-03-01T00:00:00.999999+00:00", format(4107542400, 999999))
  end)

  it("agrees with the C library on days and seconds all over the calendar", function()
    local seed = 12345
    for i = 1, 20000 do
      seed = (seed * 1103515245 + 12345) % 2147483648
      local seconds = i % 2 == 0 and (seed * 116) or (i * 86400 - i % 2)
      assert.equal(os.date("!%Y-%m-%dT%H:%M:%S.000000+00:00", seconds), format(seconds))
    end
  end)

  it("keeps to the day when calls alternate between days", function()
    for _ = 1, 3 do
      assert.equal("2026-12-31T23:59:59.999999+00:00", format(1798761599, 999999))
      assert.equal("2027-01-01T00:00:00.000000+00:00", format(1798761600))
    end
  end)

  it("shows what four digits cannot hold as the last instant of the year 9999", function()
    assert.equal("9999-12-31T23:59:59.999999+00:00", format(253402300799, 999999))
    assert.equal("9999-12-31T23:59:59.999999+00:00", format(253402300800))
    assert.equal("9999-12-31T23:59:59.999999+00:00", ffi.string(out, api.timestamp_format(-1ULL, out)))
  end)

  it("writes exactly 32 octets", function()
    ffi.fill(out, 64, 0x55)
    assert.equal(32, tonumber(api.timestamp_format(1, out)))
    assert.equal(0x55, out[32])
  end)
end)
