-- SPDX-License-Identifier: Apache-2.0
-- A rule that takes much of the daemon's time is named, and no other.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local flow_lines = require("spec.support.flow_lines")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local SECONDS = os.getenv("ASAN_OPTIONS") and 120 or 40

-- Some 40 us in compiled code.
local rules = [[
  rule "quick one" (function(flow) if flow.dst_port == 9 then return drop end end),
  rule "slow one" (function(flow)
    local x = flow.dst_port
    for i = 1, 4000 do x = (x * 31 + i) % 65537 end
    if x == -1 then return drop end
  end),
  rule "declared one" { match = { dst_port = "1-1023" }, set = { activity = 5 } },
  rule "last one" (function(flow) if flow.activity == 5 then flow.activity = 6 end end),
]]

describe("a rule that is slow", function()
  after_each(cleanup.all)

  local function start(config, flows)
    local d = daemon.start({ rules = rules, config = config, log_level = "info" })
    local path = temp.write(d.dir .. "/lines", flow_lines.lines("start", "::1", "::1", "atlas 1", 0, flows - 1))
    return d, process.start({ "dd", "if=" .. path, "of=" .. d.pipe, "bs=4k", "conv=notrunc,nocreat", "status=none" })
  end

  local function named(d)
    local names = {}
    for name in d:log():gmatch('rule "([^"\n]+)" is slow') do names[#names + 1] = name end
    return names
  end

  it("is named with its place, its time and its share, in the log and the counters; the others are not", function()
    local d, writer = start({}, 60000)
    d:expect('warn [^\n]*conf.lua:%d+: rule "slow one" is slow: it takes %d+ %% of the daemon\'s time, [%d.]+ [um]s for each '
      .. "event that it sees %(slow_rule_percent is 10%)", SECONDS)
    process.wait_for("the end of the lines", SECONDS, function() return not writer:running() end)
    d:wait_for_counter("flowd_lines_total", 60000, SECONDS)
    assert.same({ "slow one" }, named(d))
    assert.is_true(d:counter('flowd_rule_slow_total{rule="slow one"}') >= 1)
    local slow = d:counter('flowd_rule_microseconds_total{rule="slow one"}')
    assert.is_true(slow > 100000, ("%s us are counted"):format(slow))
    for _, name in ipairs({ "quick one", "declared one", "last one" }) do
      assert.is_true(d:counter(('flowd_rule_microseconds_total{rule=%q}'):format(name)) < slow / 5)
      assert.equal(nil, d:stats()[('flowd_rule_slow_total{rule=%q}'):format(name)])
    end
    assert.equal(0, d:stop(30).code)
  end)

  it("for each of many events at once is not taken for one that never returns", function()
    -- Some 5 ms; together more than twice what ends a script that makes no progress.
    local d = daemon.start({ log_level = "info", rules = [[ rule "slow one" (function(flow)
      local x = flow.dst_port
      for i = 1, 500000 do x = (x * 31 + i) % 65537 end
      if x == -1 then return drop end
    end), ]] })
    d:write(flow_lines.lines("start", "::1", "::1", "atlas 1", 0, 399))
    d:wait_for_counter("flowd_flows_open", 400, SECONDS)
    -- A later event is the end of the time that is looked at.
    process.wait_for("its name", SECONDS, function()
      d:write("start tcp ::1 7 ::1 8 atlas 1\n")
      return d:log():find('rule "slow one" is slow', 1, true) ~= nil
    end)
    d:expect('rule "slow one" is slow: [^\n]* [%d.]+ ms for each event', SECONDS)
    assert.equal(0, d:counter("flowd_scripts_hung_total"))
    assert.equal(401, d:counter("flowd_flows_open"))
    assert.equal(0, d:stop(30).code)
  end)

  it("is not looked for with slow_rule_percent = 0", function()
    local d, writer = start({ slow_rule_percent = 0 }, 20000)
    process.wait_for("the end of the lines", SECONDS, function() return not writer:running() end)
    d:wait_for_counter("flowd_lines_total", 20000, SECONDS)
    assert.same({}, named(d))
    assert.equal(nil, d:stats()['flowd_rule_microseconds_total{rule="slow one"}'])
    assert.equal(0, d:stop(30).code)
  end)
end)
