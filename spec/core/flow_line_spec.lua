-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")

local LAYOUT = "eight fields: start|end tcp|udp SRC-IP SRC-PORT DST-IP DST-PORT EXPERIMENT ACTIVITY"

local event = ffi.new("struct flow_event")
local refusal = ffi.new("struct flow_line_error")
local text = ffi.new("char[?]", 64)

local function address(a) return ffi.string(text, api.address_format(a, text)) end

-- Parse; returns the event as a table, or nil and the error as a table.
local function parse(line)
  ffi.fill(event, ffi.sizeof(event), 0xAA)
  ffi.fill(refusal, ffi.sizeof(refusal), 0xAA)
  local status = api.flow_line_parse(line, #line, 1234567, event, refusal)
  if status == 0 then
    local key = event.key
    return {
      state = event.state, protocol = key.protocol, family = key.family, src = address(key.src),
      src_port = key.src_port, dst = address(key.dst), dst_port = key.dst_port,
      experiment = event.experiment, activity = event.activity,
    }
  end
  assert.equal(-22, status)
  return nil, {
    reason = ffi.string(api.flow_line_reason_name(refusal.reason)), field = ffi.string(refusal.field),
    value = line:sub(refusal.value_offset + 1, refusal.value_offset + refusal.value_length),
    expected = ffi.string(refusal.expected),
  }
end

local function line_with(changes)
  local fields = { "start", "tcp", "192.0.2.1", "1094", "198.51.100.7", "45678", "2", "16" }
  for position, value in pairs(changes) do fields[position] = value end
  return table.concat(fields, " ")
end

local good = {
  state = 1, protocol = 6, family = 4, src = "192.0.2.1", src_port = 1094, dst = "198.51.100.7", dst_port = 45678,
  experiment = 2, activity = 16,
}

describe("a flow line", function()
  before_each(function()
    api.flow_line_names_clear()
    for _, entry in ipairs({
      { 2, 0, "atlas" }, { 2, 26, "Data Challenge" }, { 2, 1, "default" }, { 3, 0, "cms" }, { 3, 4, "Data Challenge" },
      { 6, 0, "Belle II" },
    }) do
      assert.equal(0, api.flow_line_name_add(unpack(entry)))
    end
  end)
  after_each(function() api.flow_line_names_clear() end)

  it("gives every field of the event", function()
    assert.same(good, parse(line_with({})))
    assert.same({
      state = 3, protocol = 17, family = 6, src = "2001:db8::1", src_port = 1, dst = "2001:db8::2", dst_port = 65535,
      experiment = 511, activity = 63,
    }, parse("end udp 2001:db8::1 1 2001:0db8:0:0::2 65535 511 63"))
  end)

  it("leaves the rest of the event unset", function()
    assert(parse(line_with({})))
    assert.equal(1234567ULL, event.time_us)
    assert.equal(0ULL, event.start_us)
    assert.equal(-1, event.route)
    assert.equal(-1, event.slot)
    assert.equal(0, event.flags)
    assert.equal(0, event.label)
    assert.equal(0, event.source)
    assert.equal(0, event.key.zero)
    assert.equal("", ffi.string(event.application))
  end)

  it("may be in any case and have any blanks around its fields", function()
    assert.same(good, parse("START TCP 192.0.2.1 1094 198.51.100.7 45678 2 16"))
    assert.same(good, parse("  sTaRt\ttCp   192.0.2.1  1094\t \t198.51.100.7 45678 2 16  "))
    assert.same(good, parse(line_with({}) .. "\r"))
    assert.same(good, parse("\v\f" .. line_with({})))
  end)

  it("holds numbers with leading zeros", function()
    assert.same(good, parse(line_with({ [4] = "01094", [7] = "0002", [8] = "016" })))
  end)

  it("takes an IPv4-mapped IPv6 address for IPv4", function()
    assert.same(good, parse(line_with({ [3] = "::ffff:192.0.2.1" })))
    assert.same(good, parse(line_with({ [3] = "::ffff:192.0.2.1", [5] = "::FFFF:c633:6407" })))
  end)

  it("may leave experiment or activity unset for a rule", function()
    assert.equal(0, parse(line_with({ [7] = "0", [8] = "0" })).experiment)
    assert.equal(0, parse(line_with({ [8] = "0" })).activity)
  end)

  it("may name experiment and activity as the registry does", function()
    local spellings = { { "atlas", "Data_Challenge" }, { "ATLAS", "data_challenge" }, { "2", "DATA_CHALLENGE" } }
    for _, names in ipairs(spellings) do
      local e = assert(parse(line_with({ [7] = names[1], [8] = names[2] })))
      assert.equal(2, e.experiment)
      assert.equal(26, e.activity)
    end
    assert.equal(6, parse(line_with({ [7] = "belle_ii" })).experiment)
  end)

  it("means the activity of its own experiment", function()
    assert.equal(4, parse(line_with({ [7] = "cms", [8] = "data_challenge" })).activity)
    local e, err = parse(line_with({ [7] = "belle_ii", [8] = "data_challenge" }))
    assert.is_nil(e)
    assert.same({ reason = "activity", field = "activity", value = "data_challenge",
      expected = "0 to 63, or the name of an activity of the line's experiment" }, err)
    assert.is_nil((parse(line_with({ [7] = "cms", [8] = "default" }))))
  end)

  it("cannot name an activity of an experiment that is unset", function()
    local _, err = parse(line_with({ [7] = "0", [8] = "Data_Challenge" }))
    assert.equal("activity", err.field)
    assert.matches("experiment of 0", err.expected, 1, true)
    -- Names of experiments share the table; they are no activities.
    assert.is_nil((parse(line_with({ [7] = "0", [8] = "atlas" }))))
  end)

  describe("is refused with field, value and expectation:", function()
    for _, case in ipairs({
      { line_with({ [1] = "begin" }), "state", "state", "begin", "start or end" },
      { line_with({ [1] = "ongoing" }), "state", "state", "ongoing", "start or end" },
      { line_with({ [1] = "star\x14" }), "state", "state", "star\x14", "start or end" },
      { line_with({ [1] = "starts" }), "state", "state", "starts", "start or end" },
      { line_with({ [2] = "sctp" }), "protocol", "protocol", "sctp", "tcp or udp" },
      { line_with({ [2] = "6" }), "protocol", "protocol", "6", "tcp or udp" },
      { line_with({ [3] = "192.0.2" }), "address", "source address", "192.0.2", "an IPv4 or IPv6 address" },
      { line_with({ [3] = "fe80::1%eth0" }), "address", "source address", "fe80::1%eth0", "an IPv4 or IPv6 address" },
      { line_with({ [5] = "[::1]" }), "address", "destination address", "[::1]", "an IPv4 or IPv6 address" },
      { line_with({ [5] = "a.example" }), "address", "destination address", "a.example", "an IPv4 or IPv6 address" },
      { line_with({ [5] = "::1" }), "address", "destination address", "::1", "an IPv4 address, as the source" },
      { line_with({ [3] = "::1" }), "address", "destination address", "198.51.100.7", "an IPv6 address, as the source" },
      { line_with({ [4] = "0" }), "port", "source port", "0", "1 to 65535" },
      { line_with({ [4] = "65536" }), "port", "source port", "65536", "1 to 65535" },
      { line_with({ [6] = "-1" }), "port", "destination port", "-1", "1 to 65535" },
      { line_with({ [6] = "+80" }), "port", "destination port", "+80", "1 to 65535" },
      { line_with({ [6] = "http" }), "port", "destination port", "http", "1 to 65535" },
      { line_with({ [6] = "4294967376" }), "port", "destination port", "4294967376", "1 to 65535" },
      { line_with({ [4] = "18446744073709551696" }), "port", "source port", "18446744073709551696", "1 to 65535" },
      { line_with({ [7] = "512" }), "experiment", "experiment", "512", "0 to 511, or the name of an experiment" },
      { line_with({ [7] = "65535" }), "experiment", "experiment", "65535", "0 to 511, or the name of an experiment" },
      { line_with({ [7] = "4294967298" }), "experiment", "experiment", "4294967298",
        "0 to 511, or the name of an experiment" },
      { line_with({ [7] = "atals" }), "experiment", "experiment", "atals", "0 to 511, or the name of an experiment" },
      { line_with({ [7] = ("a"):rep(500) }), "experiment", "experiment", ("a"):rep(500),
        "0 to 511, or the name of an experiment" },
      { line_with({ [8] = "64" }), "activity", "activity", "64",
        "0 to 63, or the name of an activity of the line's experiment" },
      { line_with({ [8] = "1.5" }), "activity", "activity", "1.5",
        "0 to 63, or the name of an activity of the line's experiment" },
      { line_with({ [8] = "16\0" }), "activity", "activity", "16\0",
        "0 to 63, or the name of an activity of the line's experiment" },
      { line_with({ [8] = "16 x" }), "fields", "ninth field", "x", LAYOUT },
      { line_with({ [8] = "" }), "fields", "activity", "", LAYOUT },
      { "start", "fields", "protocol", "", LAYOUT },
      { "", "empty", "state", "", "a line with eight fields" },
      { " \t ", "empty", "state", "", "a line with eight fields" },
    }) do
      it(("%q"):format(case[1]:sub(1, 80)), function()
        local e, err = parse(case[1])
        assert.is_nil(e)
        assert.same({ reason = case[2], field = case[3], value = case[4], expected = case[5] }, err)
      end)
    end
  end)

  it("that holds anything but these octets is refused, wherever it stands", function()
    local line = line_with({})
    for at = 1, #line do
      for _, octet in ipairs({ 0, 1, 0x1b, 0x7f, 0x80, 0xa0, 0xff }) do
        local damaged = line:sub(1, at - 1) .. string.char(octet) .. line:sub(at + 1)
        assert.is_nil((parse(damaged)), damaged)
      end
    end
  end)

  it("cut anywhere never reads beyond its length", function()
    local line = line_with({})
    for length = 0, #line - 3 do
      ffi.fill(event, ffi.sizeof(event))
      assert.equal(-22, api.flow_line_parse(line, length, 1, event, refusal))
      assert.is_true(refusal.value_offset + refusal.value_length <= length)
    end
  end)
end)

describe("the table of names", function()
  before_each(function() api.flow_line_names_clear() end)
  after_each(function() api.flow_line_names_clear() end)

  local function find(experiment, name) return api.flow_line_name_find(experiment, name, #name) end

  it("knows nothing at first and forgets everything", function()
    assert.equal(0, find(0, "atlas"))
    api.flow_line_name_add(2, 0, "atlas")
    assert.equal(2, find(0, "atlas"))
    api.flow_line_names_clear()
    assert.equal(0, find(0, "atlas"))
  end)

  it("keeps the first of two meanings and says so", function()
    assert.equal(0, api.flow_line_name_add(2, 0, "atlas"))
    assert.equal(0, api.flow_line_name_add(2, 0, "ATLAS"))
    assert.equal(-17, api.flow_line_name_add(3, 0, "Atlas"))
    assert.equal(2, find(0, "atlas"))
    assert.equal(0, api.flow_line_name_add(2, 5, "a b"))
    assert.equal(-17, api.flow_line_name_add(2, 6, "A_B"))
  end)

  it("refuses ids out of range and names that no line can hold", function()
    for _, entry in ipairs({ { 0, 0, "x" }, { 512, 0, "x" }, { 0, 1, "x" }, { 1, 64, "x" }, { 1, 1, "" } }) do
      assert.equal(-22, api.flow_line_name_add(unpack(entry)))
    end
    assert.equal(-36, api.flow_line_name_add(1, 1, ("n"):rep(120)))
    assert.equal(0, api.flow_line_name_add(1, 1, ("n"):rep(119)))
    assert.equal(1, find(1, ("N"):rep(119)))
    assert.equal(0, find(1, ("N"):rep(118)))
  end)

  it("holds every name that ids allow", function()
    local function activity_name(experiment, activity)
      return "Activity " .. (activity * experiment % 64) .. "/" .. activity
    end
    for experiment = 1, 511 do
      assert.equal(0, api.flow_line_name_add(experiment, 0, "experiment " .. experiment))
      for activity = 1, 63 do
        assert.equal(0, api.flow_line_name_add(experiment, activity, activity_name(experiment, activity)))
      end
    end
    for experiment = 1, 511 do
      assert.equal(experiment, find(0, "EXPERIMENT_" .. experiment))
      for activity = 1, 63, 7 do
        assert.equal(activity, find(experiment, activity_name(experiment, activity):upper()))
      end
    end
    assert.equal(0, find(1, "experiment_1"))
  end)
end)
