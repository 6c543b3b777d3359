-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local C = ffi.C
local O_NONBLOCK, O_CLOEXEC = 0x800, 0x80000
local EAGAIN, ENOSPC = 11, 28
local F_SETPIPE_SZ = 1031
local BATCH_MAX = C.FLOW_BATCH_MAX
local USED, SKIPPING, MOVING = C.LINE_READER_USED, C.LINE_READER_SKIPPING, C.LINE_READER_MOVING

local batch = ffi.new("struct flow_batch")

-- A line whose source port is `port`.
local function line(port, ending)
  return ("start tcp 192.0.2.1 %d 198.51.100.7 443 2 16%s"):format(port, ending or "\n")
end

describe("a line reader", function()
  local state, input, reader, read_fd, write_fd, counts

  local function open_reader()
    reader = api.line_reader_open(input, "test")
    assert.is_true(reader ~= nil)
    for reason = 0, C.FLOW_LINE_REASONS - 1 do
      counts[reason] = counts[reason] or ffi.new("struct counter")
      api.line_reader_count(reader, reason, counts[reason])
    end
  end

  -- What the next process finds after a kill.
  local function reopen_reader()
    api.line_reader_close(reader)
    open_reader()
  end

  local function close_writer()
    if write_fd then C.close(write_fd) end
    write_fd = nil
  end

  before_each(function()
    local message = ffi.new("char[512]")
    local level = api.log_get_level()
    api.log_setup(5, false)
    state = api.state_open(temp.dir() .. "/state", 1000, message, 512)
    assert.is_true(state ~= nil, ffi.string(message))
    input = api.state_input_open(state, "test", 16384)
    counts = {}
    open_reader()
    local ends = ffi.new("int[2]")
    assert.equal(0, C.pipe2(ends, bit.bor(O_NONBLOCK, O_CLOEXEC)))
    read_fd, write_fd = ends[0], ends[1]
    C.fcntl(write_fd, F_SETPIPE_SZ, ffi.cast("int", 1048576))
    cleanup.add(function()
      api.log_setup(level, false)
      close_writer()
      C.close(read_fd)
      api.line_reader_close(reader)
      api.state_close(state, true)
    end)
  end)
  after_each(cleanup.all)

  local function put(text) assert.equal(#text, tonumber(C.write(write_fd, text, #text))) end
  local function fill() return api.line_reader_fill(reader, read_fd) end

  local function count(reason) return tonumber(counts[C["FLOW_LINE_" .. reason]].value) end

  -- Source ports of the events of one parse (or finish), not committed.
  local function parse(at_end)
    batch.count = 0
    local n = (at_end and api.line_reader_finish or api.line_reader_parse)(reader, batch, 77)
    assert.equal(n, batch.count)
    local ports = {}
    for i = 0, n - 1 do
      assert.equal(77, batch.event[i].source)
      ports[#ports + 1] = batch.event[i].key.src_port
    end
    return ports
  end

  local function take(at_end)
    local ports = parse(at_end)
    api.line_reader_commit(reader)
    return ports
  end

  local function append(all, more)
    for _, port in ipairs(more) do all[#all + 1] = port end
  end

  -- Everything that is in the pipe.
  local function take_all(at_end)
    local all = {}
    while true do
      local n = fill()
      if n <= 0 and n ~= -ENOSPC then break end
      repeat
        append(all, take())
      until batch.count < BATCH_MAX
    end
    if at_end then append(all, take(true)) end
    return all
  end

  it("makes an event of each line", function()
    put(line(1) .. line(2) .. line(3))
    assert.same({ 1, 2, 3 }, take_all())
    assert.equal(3, count("OK"))
    local now = tonumber(api.clock_realtime_us())
    assert.is_true(math.abs(now - tonumber(batch.now_us)) < 5e6)
    assert.equal(0, input.length)
  end)

  it("says that there is nothing, or no writer", function()
    assert.equal(-EAGAIN, fill())
    close_writer()
    assert.equal(0, fill())
    assert.same({}, take(true))
  end)

  it("joins lines that are split anywhere", function()
    local text = line(1) .. line(2, " \r\n") .. line(3)
    for at = 0, #text do
      put(text:sub(1, at))
      local ports = take_all()
      put(text:sub(at + 1))
      append(ports, take_all())
      assert.same({ 1, 2, 3 }, ports)
      assert.is_false(api.line_reader_within_line(reader))
    end
  end)

  it("joins lines that come octet by octet", function()
    local text, ports = line(1) .. "\n" .. line(2), {}
    for i = 1, #text do
      put(text:sub(i, i))
      append(ports, take_all())
      local within = text:sub(i, i) ~= "\n"
      assert.equal(within, api.line_reader_within_line(reader))
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
      put(text:sub(at, at + n - 1))
      at = at + n
      append(ports, take_all())
    end
    assert.same(expected, ports)
  end)

  it("gives a full batch, and the rest with the next", function()
    local parts = {}
    for i = 1, 300 do parts[i] = "end udp ::1 " .. i .. " ::1 1 1 1\n" end
    local text = table.concat(parts)
    local total = 0
    for _ = 1, 10 do put(text) end
    while fill() > 0 do
      repeat
        total = total + #take()
      until batch.count < BATCH_MAX
    end
    assert.equal(3000, total)

    -- Into a batch that has events already.
    put(line(5) .. line(6))
    fill()
    batch.count = BATCH_MAX - 1
    assert.equal(1, api.line_reader_parse(reader, batch, 1))
    assert.equal(0, api.line_reader_parse(reader, batch, 1))
    assert.equal(BATCH_MAX, batch.count)
    assert.same({ 6 }, take())
  end)

  it("takes what stands before the end of the file for a line", function()
    put(line(1) .. line(2, ""))
    close_writer()
    assert.same({ 1, 2 }, take_all(true))
    assert.is_false(api.line_reader_within_line(reader))
    assert.same({}, take(true))
  end)

  it("refuses what does not parse, counts why, and goes on", function()
    put(line(1) .. "start tcp x\n" .. line(2):gsub("443", "70000") .. line(3):gsub("2 16", "512 1")
      .. line(4):gsub("16", "64") .. line(5):gsub("tcp", "icmp") .. line(6):gsub("start", "stop")
      .. line(7):gsub("192", "292") .. "\n \t \n" .. line(8))
    assert.same({ 1, 8 }, take_all())
    for reason, n in pairs({ OK = 2, FIELDS = 1, PORT = 1, EXPERIMENT = 1, ACTIVITY = 1, PROTOCOL = 1, STATE = 1,
      ADDRESS = 1, EMPTY = 2, TOO_LONG = 0, UNFINISHED = 0 }) do
      assert.equal(n, count(reason), reason)
    end
  end)

  it("is not harmed by NUL and control octets", function()
    local octets = {}
    for i = 0, 255 do octets[#octets + 1] = i ~= 10 and string.char(i) or "" end
    put(("\0"):rep(300) .. "\n" .. line(1) .. table.concat(octets) .. "\n" .. line(2) .. "\0" .. line(3) .. line(4))
    assert.same({ 1, 2, 4 }, take_all())
  end)

  describe("of lines that are too long", function()
    local function padded(port, length) return line(port, (" "):rep(length - #line(port, "")) .. "\n") end

    it("takes 4096 octets and refuses 4097", function()
      put(padded(1, 4096) .. padded(2, 4097) .. line(3))
      assert.same({ 1, 3 }, take_all())
      assert.equal(1, count("TOO_LONG"))
    end)

    it("finds the next line, wherever the long one is split", function()
      local text = line(1) .. padded(2, 9000) .. line(3)
      for _, at in ipairs({ 1, 40, 47, 48, 60, 4143, 4144, 4145, 4146, 4147, 9000, 9046, 9047, 9048, 9049, 9090 }) do
        put(text:sub(1, at))
        local ports = take_all()
        put(text:sub(at + 1))
        append(ports, take_all())
        assert.same({ 1, 3 }, ports, at)
      end
      assert.equal(16, count("TOO_LONG"))
    end)

    it("counts one that is longer than the buffer once", function()
      for _ = 1, 20 do
        put(("x"):rep(10000))
        take_all()
        assert.is_true(api.line_reader_within_line(reader))
      end
      put("start tcp\n" .. line(1))
      assert.same({ 1 }, take_all())
      assert.equal(1, count("TOO_LONG"))
    end)

    it("ends one with its writer", function()
      put(("x"):rep(5000))
      assert.same({}, take_all(true))
      assert.is_false(api.line_reader_within_line(reader))
      put(line(1))
      assert.same({ 1 }, take_all())
      put(("x"):rep(5000))
      take_all()
      put(("x"):rep(10))
      assert.same({}, take_all(true))
      put(line(2, ""))
      assert.same({ 2 }, take_all(true))
    end)
  end)

  describe("after a kill", function()
    it("repeats what was not committed, and nothing that was", function()
      put(line(1) .. line(2))
      fill()
      assert.same({ 1, 2 }, take())
      put(line(3) .. line(4))
      fill()
      assert.same({ 3, 4 }, parse())
      reopen_reader()
      assert.same({ 3 }, take())
      assert.same({ 4 }, take())
      reopen_reader()
      assert.same({}, take())
    end)

    local function suspect()
      local length = ffi.new("size_t[1]")
      local octets = api.line_reader_suspect(reader, length)
      return octets ~= nil and ffi.string(octets, length[0]) or nil
    end

    it("goes line by line through what was in hand, and only through that", function()
      put(line(1) .. line(2) .. "nonsense\n" .. line(3))
      fill()
      assert.same({ 1, 2, 3 }, parse())
      put(line(4) .. line(5))
      fill()
      reopen_reader()
      assert.is_true(api.line_reader_careful(reader))
      assert.same({ 1 }, take())
      assert.same({ 2 }, take())
      assert.is_true(api.line_reader_careful(reader))
      assert.same({ 3 }, take())
      assert.is_false(api.line_reader_careful(reader))
      assert.same({ 4, 5 }, take())
      assert.is_nil(suspect())
    end)

    it("suspects the line that is in hand at the second time, and goes on behind it", function()
      put(line(1) .. line(2) .. line(3) .. line(4))
      fill()
      assert.same({ 1, 2, 3, 4 }, parse())
      reopen_reader()
      assert.is_nil(suspect())
      assert.same({ 1 }, take())
      assert.same({ 2 }, parse())
      reopen_reader()
      assert.equal(line(2), suspect())
      api.line_reader_drop_suspect(reader)
      assert.is_nil(suspect())
      assert.same({ 3 }, parse())
      -- Another one in the same batch.
      reopen_reader()
      assert.equal(line(3), suspect())
      api.line_reader_drop_suspect(reader)
      assert.same({ 4 }, take())
      reopen_reader()
      assert.same({}, take())
      assert.is_false(api.line_reader_careful(reader))
    end)

    it("suspects nothing when it came between two lines, or after what was in hand", function()
      put(line(1) .. line(2))
      fill()
      parse()
      reopen_reader()
      take()
      reopen_reader()
      assert.is_nil(suspect())
      take()
      put(line(3))
      fill()
      parse()
      reopen_reader()
      assert.is_nil(suspect())
      assert.same({ 3 }, take())
    end)

    it("suspects nothing when it is known to be somebody else's fault", function()
      put(line(1) .. line(2))
      fill()
      parse()
      api.state_input_forgive(state)
      reopen_reader()
      assert.is_false(api.line_reader_careful(reader))
      assert.same({ 1, 2 }, parse())
      reopen_reader()
      assert.same({ 1 }, parse())
      api.state_input_forgive(state)
      reopen_reader()
      assert.is_nil(suspect())
      assert.same({ 1 }, take())
      assert.same({ 2 }, take())
    end)

    it("finds octets that were read but not recorded", function()
      put(line(1) .. line(2, ""))
      fill()
      assert.same({ 1 }, take())
      -- As read(2) leaves them when the process ends right after it.
      local more = "\n" .. line(3) .. line(4)
      ffi.copy(api.state_input_data(input) + input.length, more, #more)
      reopen_reader()
      assert.same({ 2, 3, 4 }, take())
    end)

    it("does not take old octets for new ones", function()
      for port = 1, 600 do
        put(line(port))
        fill()
        assert.same({ port }, take())
        reopen_reader()
        assert.same({}, parse())
      end
      for _, size in ipairs({ 16000, 10 }) do
        put(("x"):rep(size) .. "\n" .. line(1, ""))
        fill()
        take()
        reopen_reader()
        put("\n")
        fill()
        reopen_reader()
        assert.equal(#line(1), input.length - input.consumed)
        assert.same({ 1 }, take())
      end
    end)

    it("is consistent while a line's start is moved to the front", function()
      put(line(1) .. line(2, ""))
      fill()
      take()
      local length, rest = input.length, input.length - input.consumed
      local data = api.state_input_data(input)
      -- Copied, flag set, but the offsets are still the old ones.
      ffi.copy(data, data + input.consumed, rest)
      input.flags = bit.bor(input.flags, MOVING)
      reopen_reader()
      assert.equal(0, bit.band(input.flags, MOVING))
      assert.equal(length, input.length)
      -- The offsets are the new ones, the old octets are still there.
      api.state_input_set(input, rest, 0)
      input.flags = bit.bor(input.flags, MOVING)
      reopen_reader()
      assert.equal(rest, input.length)
      put("\n")
      fill()
      assert.same({ 2 }, take())
      reopen_reader()
      assert.equal(#line(2), input.length)
    end)

    it("still skips a line that is too long", function()
      put(("x"):rep(5000))
      take_all()
      assert.equal(SKIPPING, bit.band(input.flags, SKIPPING))
      reopen_reader()
      put(line(1) .. line(2))
      assert.same({ 2 }, take_all())
      assert.equal(USED, input.flags)
    end)
  end)

  it("refuses the start of a line when it has to stop", function()
    put(line(1) .. line(2, ""))
    assert.same({ 1 }, take_all())
    api.line_reader_abandon(reader)
    assert.equal(1, count("UNFINISHED"))
    assert.equal(input.length, input.consumed)
    api.line_reader_abandon(reader)
    assert.equal(1, count("UNFINISHED"))
  end)

  it("gives lines of any other format as they are", function()
    local length = ffi.new("size_t[1]")
    local function next_line(at_end)
      local text = api.line_reader_next(reader, at_end or false, length)
      return text ~= nil and ffi.string(text, length[0]) or nil
    end
    put("one\n\n\0two\n" .. ("x"):rep(5000) .. "\nthree")
    fill()
    assert.equal("one", next_line())
    assert.equal("", next_line())
    assert.equal("\0two", next_line())
    assert.is_nil(next_line())
    assert.equal(1, count("TOO_LONG"))
    assert.equal("three", next_line(true))
    assert.is_nil(next_line(true))
    api.line_reader_commit(reader)
    assert.equal(input.length, input.consumed)
  end)

  it("has every octet counted as consumed once", function()
    put(line(1) .. "x\n" .. line(2, ""))
    take_all(true)
    assert.equal(#line(1) + 2 + #line(2, ""), tonumber(input.total))
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
