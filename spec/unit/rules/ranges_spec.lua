-- SPDX-License-Identifier: Apache-2.0
local ranges = require("flowd.rules.ranges")
local support = require("spec.support.policy")

local function read(kind, item) return { ranges.read(kind, item) } end

describe("a range", function()
  it("of amounts", function()
    assert.same({ 5, 5 }, read("amount", 5))
    assert.same({ 10000000, math.huge }, read("amount", ">= 10M"))
    assert.same({ 1025, math.huge }, read("amount", "> 1Ki"))
    assert.same({ 0, 999 }, read("amount", "<1k"))
    assert.same({ 0, 1000 }, read("amount", "<= 1k"))
    assert.same({ 1000, 2000 }, read("amount", "1k..2k"))
    assert.same({ 0, 2500 }, read("amount", "..2.5k"))
    assert.same({ 7, math.huge }, read("amount", "7.."))
  end)

  it("of durations, in microseconds", function()
    assert.same({ 500000, 500000 }, read("duration", 0.5))
    assert.same({ 300000001, math.huge }, read("duration", "> 5m"))
    assert.same({ 3600e6, 7200e6 }, read("duration", "1h..2h"))
  end)

  it("of times, which mean all of a day, a minute or a second", function()
    assert.same({ 0, 86400e6 - 1 }, read("time", "1970-01-01"))
    assert.same({ 1709164800e6, 1709251200e6 - 1 }, read("time", "2024-02-29"))
    assert.same({ 1772368200e6, 1772368260e6 - 1 }, read("time", "2026-03-01T12:30"))
    assert.same({ 1772368205e6, 1772368206e6 - 1 }, read("time", "2026-03-01T12:30:05Z"))
    assert.same({ 1772323200e6, 1775001600e6 - 1 }, read("time", "2026-03-01..2026-03-31"))
    assert.same({ 1700000000e6, 1700000000e6 }, read("time", 1700000000))
  end)

  it("that is none is told with what was expected", function()
    for _, case in ipairs({
      { "amount", "many", "expected a number or a range" }, { "amount", -1, "got %-1" }, { "amount", "..", 'got "%.%."' },
      { "amount", "1X", 'got "1X"' }, { "amount", "2k..1k", "ends before it starts" }, { "amount", true, "got true" },
      { "duration", "5 weeks", "expected seconds" }, { "time", "2026-02-30", "expected a time in UTC" },
      { "time", "2026-03-01T25:00", "expected a time" }, { "time", "tomorrow", 'got "tomorrow"' },
    }) do
      local first, message = ranges.read(case[1], case[2])
      assert.is_nil(first)
      assert.matches(case[3], message)
    end
  end)
end)

describe("match by times and counters", function()
  local function hit(match, fields)
    return support.run(('rule "r" { match = { %s }, set = { activity = 1 } }'):format(match), fields).activity == 1
  end

  -- Events of these specs: start 1700000000, time 0.25 s later.
  it("holds where it should", function()
    assert.is_true(hit('start_time = "2023-11-14"'))
    assert.is_false(hit('start_time = ">= 2023-11-15"'))
    assert.is_true(hit('time = 1700000000.25'))
    assert.is_true(hit('duration = { 99, "200ms..300ms" }'))
    assert.is_true(hit('end_time = "2023-11-14"', { state = "end" }))
    assert.is_false(hit('end_time = "2023-11-14"'))
    assert.is_true(hit('bytes_sent = ">= 1k", bytes_received = 7', { bytes_sent = 1000, bytes_received = 7 }))
    assert.is_false(hit('bytes_sent = "..1k"'))
  end)

  it("that nobody knows does not hold", function()
    for _, match in ipairs({ "uid = 0", 'user = "root"', "pid = { 1, 2 }", 'comm = "xrootd"', 'cgroup = "/"' }) do
      assert.is_false(hit(match))
    end
  end)

  it("is refused where it makes no sense", function()
    local _, problems = support.compile([[
      rule "r" { match = { uid = "root", comm = 7, duration = "soon", bytes_sent = {} }, drop = true } ]])
    local text = table.concat(problems, "\n")
    assert.matches("match.uid: expected a user's id; got \"root\"", text)
    assert.matches("match.comm: expected the name of a process; got 7", text)
    assert.matches('match.duration: expected seconds, or a range .*; got "soon"', text)
    assert.matches("match.bytes_sent: the list is empty", text)
  end)

  it("and functions see the same", function()
    local result = support.run([[rule "r" (function(flow)
      if flow.end_time == 1700000000.25 and flow.duration == 0.25 and flow.start_time == 1700000000 then flow.activity = 1 end
    end)]], { state = "end" })
    assert.equal(1, result.activity)
    assert.equal(2, support.run('rule "r" (function(flow) if flow.end_time == nil then flow.activity = 2 end end)').activity)
  end)
end)
