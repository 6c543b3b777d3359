-- SPDX-License-Identifier: Apache-2.0
-- Damaged and random lines, against a second parser written with other means, and through
-- the line reader in random pieces. FUZZ_SECONDS (default 2 each) and FUZZ_SEED may be set.
local api = require("flowd.api")
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
require("spec.support.process") -- declares pipe2, write, close
local temp = require("spec.support.temp")

ffi.cdef([[
int inet_pton(int af, const char *src, void *dst);
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int mprotect(void *address, size_t length, int protection);
int munmap(void *address, size_t length);
]])
local C = ffi.C

local seconds = tonumber(os.getenv("FUZZ_SECONDS") or 2)
local seed = tonumber(os.getenv("FUZZ_SEED") or os.time())
local O_NONBLOCK, O_CLOEXEC = 0x800, 0x80000

local names = { { 2, 0, "atlas" }, { 2, 26, "Data Challenge" }, { 3, 0, "cms" }, { 3, 4, "Data Challenge" } }

-- -- the other parser ---------------------------------------------------------------------

local octets = ffi.new("uint8_t[16]")

local function read_address(text)
  if text:find("%z") then return nil end
  if C.inet_pton(2, text, octets + 12) == 1 then return 4, ("\0"):rep(10) .. "\255\255" .. ffi.string(octets + 12, 4) end
  if C.inet_pton(10, text, octets) ~= 1 then return nil end
  local raw = ffi.string(octets, 16)
  return raw:sub(1, 12) == ("\0"):rep(10) .. "\255\255" and 4 or 6, raw
end

local function read_number(text, min, max)
  local digits = text:match("^0*(%d+)$")
  local value = digits and #digits <= 6 and tonumber(digits)
  return value and value >= min and value <= max and value or nil
end

local function read_name(experiment, text)
  for _, entry in ipairs(names) do
    local scope, id = entry[2] == 0 and 0 or entry[1], entry[2] == 0 and entry[1] or entry[2]
    if scope == experiment and entry[3]:lower():gsub("_", " ") == text:lower():gsub("_", " ") then return id end
  end
  return nil
end

-- The event as one string, or nil.
local function oracle(line)
  local f = {}
  for word in line:gmatch("[^ \t\r\v\f\n]+") do f[#f + 1] = word end
  if #f ~= 8 then return nil end
  local state = ({ start = 1, ["end"] = 3 })[f[1]:lower()]
  local protocol = ({ tcp = 6, udp = 17 })[f[2]:lower()]
  local src_family, src = read_address(f[3])
  local dst_family, dst = read_address(f[5])
  local src_port, dst_port = read_number(f[4], 1, 65535), read_number(f[6], 1, 65535)
  local experiment = read_number(f[7], 0, 511) or (not f[7]:find("^%d+$") and read_name(0, f[7])) or nil
  if not (state and protocol and src and dst and src_family == dst_family and src_port and dst_port and experiment) then
    return nil
  end
  local activity = read_number(f[8], 0, 63)
    or (experiment ~= 0 and not f[8]:find("^%d+$") and read_name(experiment, f[8])) or nil
  if not activity then return nil end
  return table.concat({ state, protocol, src_family, src, src_port, dst, dst_port, experiment, activity }, "|")
end

local function as_string(e)
  local key = e.key
  return table.concat({ e.state, key.protocol, key.family, ffi.string(key.src.octet, 16), key.src_port,
    ffi.string(key.dst.octet, 16), key.dst_port, e.experiment, e.activity }, "|")
end

-- -- lines ---------------------------------------------------------------------------------

local random = math.random

local function pick(list) return list[random(#list)] end

local function any_octets(n)
  local all = {}
  for i = 1, n do all[i] = string.char(random(0, 255)) end
  return (table.concat(all):gsub("\n", " "))
end

local samples = {
  { "start", "end", "START", "End", "ongoing", "star" },
  { "tcp", "udp", "TCP", "Udp", "icmp", "6" },
  { "192.0.2.1", "::1", "2001:db8::1:2", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8", "::", "1.2.3", "fe80::1%lo", "::1.2.3.4" },
  { "1", "65535", "0", "65536", "080", "99999999999999999999", "http" },
  { "198.51.100.7", "::2", "2001:DB8:0:0::2", "255.255.255.255", "1::", "256.1.1.1", "1:2:3:4:5:6:1.2.3.4" },
  { "443", "1094", "000000000000065535", "70000", "-1", "+1" },
  { "2", "0", "511", "512", "atlas", "CMS", "65535", "alice", "00002" },
  { "16", "0", "63", "64", "data_challenge", "Data_Challenge", "DATA", "x" },
}
local blanks = { " ", " ", " ", "  ", "\t", " \t ", "\r", "\v", "\f" }

local function make_line()
  local words = {}
  for i, list in ipairs(samples) do
    -- Mostly what is right, so that errors come one by one.
    words[i] = random(6) == 1 and pick(list) or list[random(2)]
  end
  local line = words[1]
  for i = 2, 8 do line = line .. pick(blanks) .. words[i] end
  for _ = 1, random(4) - 2 do
    local at = random(#line)
    local how = random(4)
    if how == 1 then
      line = line:sub(1, at - 1) .. line:sub(at + 1)
    elseif how == 2 then
      line = line:sub(1, at) .. any_octets(random(3)) .. line:sub(at + 1)
    elseif how == 3 then
      line = line:sub(1, at)
    else
      line = line:sub(1, at) .. pick(blanks) .. line:sub(at + 1)
    end
    if line == "" then break end
  end
  return line
end

local function repeat_for(fn)
  local rounds, stop = 0, os.clock() + seconds
  repeat
    for _ = 1, 100 do fn() end
    rounds = rounds + 100
  until os.clock() >= stop
  return rounds
end

describe("flow lines under damage (FUZZ_SEED=" .. seed .. ")", function()
  before_each(function()
    math.randomseed(seed)
    api.flow_line_names_clear()
    for _, entry in ipairs(names) do assert(api.flow_line_name_add(unpack(entry)) == 0) end
  end)
  after_each(function()
    api.flow_line_names_clear()
    cleanup.all()
  end)

  it("are read as by the other parser", function()
    local event, refusal = ffi.new("struct flow_event"), ffi.new("struct flow_line_error")
    -- What lies behind the line must not even be read.
    local pages = C.mmap(nil, 16384, 3, 0x22, -1, 0)
    cleanup.add(function() C.munmap(pages, 16384) end)
    assert(C.mprotect(ffi.cast("char *", pages) + 8192, 8192, 0) == 0)
    local guard = ffi.cast("char *", pages) + 8192
    local accepted, total = 0, 0
    repeat_for(function()
      local line = random(20) == 1 and any_octets(random(0, 120)) or make_line()
      local exact = guard - #line
      ffi.copy(exact, line, #line)
      local expected = oracle(line)
      local status = api.flow_line_parse(exact, #line, 1, event, refusal)
      total = total + 1
      if status == 0 then
        accepted = accepted + 1
        if as_string(event) ~= expected then error(("%q: accepted; expected %s"):format(line, tostring(expected))) end
      else
        if expected then error(("%q: refused: %s"):format(line, ffi.string(refusal.field))) end
        if refusal.value_offset + refusal.value_length > #line then error(("%q: value out of bounds"):format(line)) end
        if refusal.reason < 1 or refusal.reason >= C.FLOW_LINE_REASONS then error(("%q: no reason"):format(line)) end
      end
    end)
    -- Both sides of the parser were exercised.
    assert.is_true(accepted > total / 20 and accepted < total * 19 / 20, accepted .. " of " .. total)
  end)

  it("come out of the reader however they are cut", function()
    local level = api.log_get_level()
    api.log_setup(5, false)
    local state = api.state_open(temp.dir() .. "/state", 1000, ffi.new("char[512]"), 512)
    local ends = ffi.new("int[2]")
    assert(C.pipe2(ends, bit.bor(O_NONBLOCK, O_CLOEXEC)) == 0)
    local reader = api.line_reader_open(api.state_input_open(state, "fuzz", 16384), "fuzz")
    local batch = ffi.new("struct flow_batch")
    cleanup.add(function()
      api.line_reader_close(reader)
      api.state_close(state, true)
      C.close(ends[0])
      C.close(ends[1])
      api.log_setup(level, false)
    end)

    local got = {}
    local function take(at_end)
      while at_end or api.line_reader_fill(reader, ends[0]) > 0 do
        repeat
          batch.count = 0;
          (at_end and api.line_reader_finish or api.line_reader_parse)(reader, batch, 1)
          for i = 0, batch.count - 1 do got[#got + 1] = as_string(batch.event[i]) end
          api.line_reader_commit(reader)
        until batch.count < C.FLOW_BATCH_MAX
        if at_end then break end
      end
    end

    local events = 0
    local stop = os.clock() + seconds
    repeat
      local parts, expected = {}, {}
      got = {}
      for i = 1, random(1, 400) do
        local line = make_line()
        if random(50) == 1 then line = line .. (" "):rep(random(4000, 4200)) end
        if random(80) == 1 then line = any_octets(random(0, 9000)) end
        parts[i] = line
        if #line <= 4096 then expected[#expected + 1] = oracle(line) end
      end
      local text = table.concat(parts, "\n") .. (random(2) == 1 and "\n" or "")
      local at = 1
      while at <= #text do
        local n = random(4) == 1 and random(30000) or random(200)
        local written = tonumber(C.write(ends[1], ffi.cast("const char *", text) + at - 1, math.min(n, #text - at + 1)))
        -- Less than all of it, or nothing: the kernel's buffer is full.
        at = at + math.max(written, 0)
        if written < n or random(3) > 1 then take() end
      end
      take()
      take(true)
      events = events + #expected
      assert.same(expected, got)
    until os.clock() >= stop
    assert.is_true(events > 1000)
  end)
end)
