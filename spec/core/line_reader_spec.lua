-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local reading = require("spec.support.reading")
local temp = require("spec.support.temp")

local EAGAIN = 11
local BATCH_MAX = ffi.C.FLOW_BATCH_MAX
local line, append = reading.line, reading.append

describe("a line reader", function()
  local r
  before_each(function() r = reading.new() end)
  after_each(cleanup.all)

  it("makes an event of each line", function()
    r:put(line(1) .. line(2) .. line(3))
    assert.same({ 1, 2, 3 }, r:take_all())
    assert.equal(3, r:count("OK"))
    local now = tonumber(api.clock_realtime_us())
    assert.is_true(math.abs(now - tonumber(r.batch.now_us)) < 5e6)
    assert.equal(0, r.input.length)
  end)

  it("says that there is nothing, or no writer", function()
    assert.equal(-EAGAIN, r:fill())
    r:close_writer()
    assert.equal(0, r:fill())
    assert.same({}, r:take(true))
  end)

  it("joins lines that are split anywhere", function()
    local text = line(1) .. line(2, " \r\n") .. line(3)
    for at = 0, #text do
      r:put(text:sub(1, at))
      local ports = r:take_all()
      r:put(text:sub(at + 1))
      append(ports, r:take_all())
      assert.same({ 1, 2, 3 }, ports)
      assert.is_false(api.line_reader_within_line(r.reader))
    end
  end)

  it("joins lines that come octet by octet", function()
    local text, ports = line(1) .. "\n" .. line(2), {}
    for i = 1, #text do
      r:put(text:sub(i, i))
      append(ports, r:take_all())
      local within = text:sub(i, i) ~= "\n"
      assert.equal(within, api.line_reader_within_line(r.reader))
    end
    assert.same({ 1, 2 }, ports)
  end)

  it("joins any pieces of many lines", function()
    math.randomseed(3)
    local parts, expected = {}, {}
    for port = 1, 3000 do
      parts[port] = line(port)
      expected[port] = port
    end
    local text, ports, at = table.concat(parts), {}, 1
    while at <= #text do
      local n = math.random(3) == 1 and math.random(20000) or math.random(90)
      r:put(text:sub(at, at + n - 1))
      at = at + n
      append(ports, r:take_all())
    end
    assert.same(expected, ports)
  end)

  it("gives a full r.batch, and the rest with the next", function()
    local parts = {}
    for i = 1, 300 do parts[i] = "end udp ::1 " .. i .. " ::1 1 1 1\n" end
    local text = table.concat(parts)
    local total = 0
    for _ = 1, 10 do r:put(text) end
    while r:fill() > 0 do
      repeat
        total = total + #r:take()
      until r.batch.count < BATCH_MAX
    end
    assert.equal(3000, total)

    -- Into a batch that has events already.
    r:put(line(5) .. line(6))
    r:fill()
    r.batch.count = BATCH_MAX - 1
    assert.equal(1, api.line_reader_parse(r.reader, r.batch, 1))
    assert.equal(0, api.line_reader_parse(r.reader, r.batch, 1))
    assert.equal(BATCH_MAX, r.batch.count)
    assert.same({ 6 }, r:take())
  end)

  it("takes what stands before the end of the file for a line", function()
    r:put(line(1) .. line(2, ""))
    r:close_writer()
    assert.same({ 1, 2 }, r:take_all(true))
    assert.is_false(api.line_reader_within_line(r.reader))
    assert.same({}, r:take(true))
  end)

  it("refuses what does not parse, counts why, and goes on", function()
    r:put(line(1) .. "start tcp x\n" .. line(2):gsub("443", "70000") .. line(3):gsub("2 16", "512 1")
      .. line(4):gsub("16", "64") .. line(5):gsub("tcp", "icmp") .. line(6):gsub("start", "stop")
      .. line(7):gsub("192", "292") .. "\n \t \n" .. line(8))
    assert.same({ 1, 8 }, r:take_all())
    for reason, n in pairs({ OK = 2, FIELDS = 1, PORT = 1, EXPERIMENT = 1, ACTIVITY = 1, PROTOCOL = 1, STATE = 1,
      ADDRESS = 1, EMPTY = 2, TOO_LONG = 0, UNFINISHED = 0 }) do
      assert.equal(n, r:count(reason), reason)
    end
  end)

  it("is not harmed by NUL and control octets", function()
    local octets = {}
    for i = 0, 255 do octets[#octets + 1] = i ~= 10 and string.char(i) or "" end
    r:put(("\0"):rep(300) .. "\n" .. line(1) .. table.concat(octets) .. "\n" .. line(2) .. "\0" .. line(3) .. line(4))
    assert.same({ 1, 2, 4 }, r:take_all())
  end)

  describe("of lines that are too long", function()
    local function padded(port, length) return line(port, (" "):rep(length - #line(port, "")) .. "\n") end

    it("takes 4096 octets and refuses 4097", function()
      r:put(padded(1, 4096) .. padded(2, 4097) .. line(3))
      assert.same({ 1, 3 }, r:take_all())
      assert.equal(1, r:count("TOO_LONG"))
    end)

    it("finds the next line, wherever the long one is split", function()
      local text = line(1) .. padded(2, 9000) .. line(3)
      for _, at in ipairs({ 1, 40, 47, 48, 60, 4143, 4144, 4145, 4146, 4147, 9000, 9046, 9047, 9048, 9049, 9090 }) do
        r:put(text:sub(1, at))
        local ports = r:take_all()
        r:put(text:sub(at + 1))
        append(ports, r:take_all())
        assert.same({ 1, 3 }, ports, at)
      end
      assert.equal(16, r:count("TOO_LONG"))
    end)

    it("counts one that is longer than the buffer once", function()
      for _ = 1, 20 do
        r:put(("x"):rep(10000))
        r:take_all()
        assert.is_true(api.line_reader_within_line(r.reader))
      end
      r:put("start tcp\n" .. line(1))
      assert.same({ 1 }, r:take_all())
      assert.equal(1, r:count("TOO_LONG"))
    end)

    it("ends one with its writer", function()
      r:put(("x"):rep(5000))
      assert.same({}, r:take_all(true))
      assert.is_false(api.line_reader_within_line(r.reader))
      r:put(line(1))
      assert.same({ 1 }, r:take_all())
      r:put(("x"):rep(5000))
      r:take_all()
      r:put(("x"):rep(10))
      assert.same({}, r:take_all(true))
      r:put(line(2, ""))
      assert.same({ 2 }, r:take_all(true))
    end)
  end)

  it("refuses the start of a line when it has to stop", function()
    r:put(line(1) .. line(2, ""))
    assert.same({ 1 }, r:take_all())
    api.line_reader_abandon(r.reader)
    assert.equal(1, r:count("UNFINISHED"))
    assert.equal(r.input.length, r.input.consumed)
    api.line_reader_abandon(r.reader)
    assert.equal(1, r:count("UNFINISHED"))
  end)

  it("gives lines of any other format as they are", function()
    local length = ffi.new("size_t[1]")
    local function next_line(at_end)
      local text = api.line_reader_next(r.reader, at_end or false, length)
      return text ~= nil and ffi.string(text, length[0]) or nil
    end
    r:put("one\n\n\0two\n" .. ("x"):rep(5000) .. "\nthree")
    r:fill()
    assert.equal("one", next_line())
    assert.equal("", next_line())
    assert.equal("\0two", next_line())
    assert.is_nil(next_line())
    assert.equal(1, r:count("TOO_LONG"))
    assert.equal("three", next_line(true))
    assert.is_nil(next_line(true))
    api.line_reader_commit(r.reader)
    assert.equal(r.input.length, r.input.consumed)
  end)

  it("has every octet counted as consumed once", function()
    r:put(line(1) .. "x\n" .. line(2, ""))
    r:take_all(true)
    assert.equal(#line(1) + 2 + #line(2, ""), tonumber(r.input.total))
  end)

  it("says in the log what is wrong, at a limited rate, whatever the line holds", function()
    local script = temp.write(temp.dir() .. "/lines.lua", [[
      local ffi = require("ffi")
      local api = require("flowd.api")
      ffi.cdef("int pipe(int *); long write(int, const void *, size_t);")
      local state = api.state_open(arg[1], 1000, ffi.new("char[512]"), 512)
      local reader = api.line_reader_open(api.state_input_open(state, "x", 65536), "plugin pipe: /run/np")
      local ends = ffi.new("int[2]")
      ffi.C.pipe(ends)
      local batch = ffi.new("struct flow_batch")
      for _, text in ipairs({
        "start tcp 192.0.2.1 1094 198.51.100.7 443 65535 16\n", "end tcp 192.0.2.1\n",
        "st\0a\27[31mrt\"\\ tcp 192.0.2.1 1094 198.51.100.7 443 2 16\n", ("y"):rep(5000) .. "\n",
        "start tcp 192.0.2.1 1094 198.51.100.7 443 2 " .. ("z"):rep(3000) .. "\n", ("bad\n"):rep(100) }) do
        ffi.C.write(ends[1], text, #text)
        api.line_reader_fill(reader, ends[0])
        api.line_reader_parse(reader, batch, 1)
        api.line_reader_commit(reader)
      end
      api.state_close(state, true)
    ]])
    local result = process.run({ daemon.binary(), "lua", script, temp.dir() .. "/state" })
    assert.equal(0, result.code, result.stderr)
    local lines = {}
    for text in result.stderr:gmatch("[^\n]+") do lines[#lines + 1] = text end
    assert.equal('warn  plugin pipe: /run/np: line refused: experiment "65535", expected 0 to 511, or the name of an '
      .. 'experiment: "start tcp 192.0.2.1 1094 198.51.100.7 443 65535 16"', lines[1])
    assert.equal("warn  plugin pipe: /run/np: line refused: source port is missing, expected eight fields: start|end "
      .. 'tcp|udp SRC-IP SRC-PORT DST-IP DST-PORT EXPERIMENT ACTIVITY: "end tcp 192.0.2.1"', lines[2])
    assert.matches('state "st\\x00a\\x1b[31mrt\\"\\\\", expected start or end', lines[3], 1, true)
    assert.matches("length 5000 or more, expected at most 4096 octets: \"" .. ("y"):rep(200) .. '"...', lines[4], 1, true)
    assert.matches('activity "' .. ("z"):rep(64) .. '"..., expected', lines[5], 1, true)
    assert.equal(10, #lines)
    for _, text in ipairs(lines) do assert.is_true(#text < 1200) end
  end)
end)
