-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local decoder = require("spec.support.firefly_decoder")
local json_schema = require("spec.support.json_schema")

local C = ffi.C
local NOW = 1774688328899646ULL -- 2026-03-28T08:58:48.899646
local BUFFER = 2048
local out = ffi.new("char[?]", BUFFER)

local function style(options)
  options = options or {}
  local s = ffi.new("struct firefly_style")
  api.firefly_style_init(s, options.header ~= false, options.hostname or "transfer1.example.org")
  return s
end

local function event(fields)
  local e = ffi.new("struct flow_event")
  local address = ffi.new("struct flow_address")
  for _, side in ipairs({ "src", "dst" }) do
    local family = api.address_parse(fields[side], #fields[side], address)
    assert.is_true(family == 4 or family == 6)
    e.key[side] = address
    e.key.family = family
  end
  e.key.src_port, e.key.dst_port = fields.src_port or 5000, fields.dst_port or 1094
  e.key.protocol = fields.protocol or C.FLOW_TCP
  e.state = fields.state
  e.start_us, e.time_us = fields.start_us or 0, fields.time_us or 0
  e.experiment, e.activity = fields.experiment or 2, fields.activity or 26
  if fields.sent then
    e.flags = fields.received and C.EVENT_HAS_BYTES or C.EVENT_HAS_SENT
    e.bytes_sent, e.bytes_received = fields.sent, fields.received or 7
  end
  if fields.application then ffi.copy(e.application, fields.application, math.min(#fields.application, 48)) end
  return e
end

local function encode(e, s, now, size)
  ffi.fill(out, BUFFER, 0x7e)
  local n = tonumber(api.firefly_encode(out, size or 1472, s or style(), e, now or NOW))
  assert.equal(0x7e, out[n], "written beyond the length returned")
  return ffi.string(out, n)
end

local function decoded(e, s, now)
  local firefly, message = decoder.decode(encode(e, s, now))
  assert.is_nil(message)
  return firefly
end

describe("firefly_encode", function()
  it("writes a start as wire-formats 4.1 has it, octet by octet", function()
    local text = encode(event({ state = C.FLOW_START, src = "2001:db8:1::1", dst = "2001:db8:2::2",
      start_us = 1774688328000001ULL, time_us = 1774688328000001ULL, application = "xrootd 5.7" }))
    assert.equal('<134>1 2026-03-28T08:58:48.899646+00:00 transfer1.example.org flowd-lua - firefly-json - '
      .. '{"version":1,"flow-lifecycle":{"state":"start","start-time":"2026-03-28T08:58:48.000001+00:00",'
      .. '"current-time":"2026-03-28T08:58:48.899646+00:00"},'
      .. '"flow-id":{"afi":"ipv6","src-ip":"2001:db8:1::1","dst-ip":"2001:db8:2::2","protocol":"tcp",'
      .. '"src-port":5000,"dst-port":1094},'
      .. '"context":{"experiment-id":2,"activity-id":26,"application":"xrootd 5.7"}}', text)
  end)

  it("lets no flow end before its start, also when the clock was set back", function()
    local m = decoded(event({ state = C.FLOW_END, src = "::1", dst = "::1", start_us = 1774688328000001ULL,
      time_us = 1774688327000000ULL })).message
    assert.equal("2026-03-28T08:58:48.000001+00:00", m["flow-lifecycle"]["start-time"])
    assert.equal("2026-03-28T08:58:48.000001+00:00", m["flow-lifecycle"]["end-time"])
  end)

  it("writes the octets that were sent alone when those received are unknown", function()
    local text = encode(event({ state = C.FLOW_END, src = "2001:db8::1", dst = "2001:db8::2", sent = 123456 }))
    assert.truthy(text:find('"dst-port":1094},"usage":{"sent":123456},"context"', 1, true), text)
  end)

  it("writes an end with its times and its octets", function()
    local text = encode(event({ state = C.FLOW_END, src = "192.0.2.1", dst = "198.51.100.20", protocol = C.FLOW_UDP,
      src_port = 65535, dst_port = 1, start_us = 1774688328000001ULL, time_us = 1774688400500000ULL,
      sent = 18446744073709551615ULL, received = 0 }), style({ header = false }), 1774688400500100ULL)
    assert.equal('{"version":1,"flow-lifecycle":{"state":"end","start-time":"2026-03-28T08:58:48.000001+00:00",'
      .. '"end-time":"2026-03-28T09:00:00.500000+00:00","current-time":"2026-03-28T09:00:00.500100+00:00"},'
      .. '"flow-id":{"afi":"ipv4","src-ip":"192.0.2.1","dst-ip":"198.51.100.20","protocol":"udp",'
      .. '"src-port":65535,"dst-port":1},"usage":{"received":0,"sent":18446744073709551615},'
      .. '"context":{"experiment-id":2,"activity-id":26,"application":"flowd-lua ' .. _flowd.version .. '"}}', text)
  end)

  it("writes an ongoing event", function()
    local m = decoded(event({ state = C.FLOW_ONGOING, src = "::1", dst = "::1", start_us = 1774688328000001ULL })).message
    assert.equal("ongoing", m["flow-lifecycle"].state)
    assert.is_nil(m["flow-lifecycle"]["end-time"])
  end)

  it("has valid header and JSON for random events of all kinds", function()
    local seed = 42
    local function random(n)
      seed = (seed * 1103515245 + 12345) % 2147483648
      return math.floor(seed / 65536) % n
    end
    local function address(v4)
      if v4 then return ("%d.%d.%d.%d"):format(random(256), random(256), random(256), random(256)) end
      local words = {}
      for i = 1, 8 do words[i] = ("%x"):format(random(3) == 0 and 0 or random(65536)) end
      if words[1] == "0" then words[1] = "fd00" end
      return table.concat(words, ":")
    end
    for _ = 1, 2000 do
      local v4 = random(2) == 0
      local application = {}
      for i = 1, random(49) do application[i] = string.char(1 + random(255)) end
      local fields = { state = 1 + random(3), src = address(v4), dst = address(v4),
        src_port = 1 + random(65535), dst_port = 1 + random(65535), protocol = random(2) == 0 and 6 or 17,
        start_us = 1700000000000000ULL + random(32768) * 1000003ULL, time_us = 1750000000000000ULL + random(32768),
        experiment = 1 + random(511), activity = 1 + random(63), application = table.concat(application),
        sent = random(2) == 0 and random(32768) or nil, received = 7 }
      local e = event(fields)
      local firefly = decoded(e)
      local id, lifecycle = firefly.message["flow-id"], firefly.message["flow-lifecycle"]
      assert.equal(134, firefly.header.priority)
      assert.equal("flowd-lua", firefly.header.app)
      assert.equal("firefly-json", firefly.header.msgid)
      assert.equal(firefly.header.time, lifecycle["current-time"])
      assert.equal(v4 and "ipv4" or "ipv6", id.afi)
      local parsed = ffi.new("struct flow_address")
      for _, side in ipairs({ "src", "dst" }) do
        local text = id[side .. "-ip"]
        assert.is_true(api.address_parse(text, #text, parsed) > 0)
        assert.equal(ffi.string(e.key[side].octet, 16), ffi.string(parsed.octet, 16))
        assert.equal(fields[side .. "_port"], id[side .. "-port"])
      end
      assert.equal(({ "start", "ongoing", "end" })[fields.state], lifecycle.state)
      assert.equal(fields.state == C.FLOW_END, lifecycle["end-time"] ~= nil)
      assert.equal(fields.experiment, firefly.message.context["experiment-id"])
      assert.equal(fields.activity, firefly.message.context["activity-id"])
      assert.equal(fields.sent, (firefly.message.usage or {}).sent)
    end
  end)

  it("puts a time that is known in the place of one that is not", function()
    local only_time = decoded(event({ state = C.FLOW_END, src = "::1", dst = "::1", time_us = 1774688320000000ULL }))
    assert.equal("2026-03-28T08:58:40.000000+00:00", only_time.message["flow-lifecycle"]["start-time"])
    assert.equal("2026-03-28T08:58:40.000000+00:00", only_time.message["flow-lifecycle"]["end-time"])
    local none = decoded(event({ state = C.FLOW_END, src = "::1", dst = "::1" })).message["flow-lifecycle"]
    assert.equal("2026-03-28T08:58:48.899646+00:00", none["start-time"])
    assert.equal("2026-03-28T08:58:48.899646+00:00", none["end-time"])
  end)

  it("names the system's host when no other is given, and - when a name is unusable", function()
    local system = io.popen("uname -n"):read("*l")
    assert.equal(system, decoded(event({ state = 1, src = "::1", dst = "::1" }), style({ hostname = "" })).header.hostname)
    local odd = decoded(event({ state = 1, src = "::1", dst = "::1" }), style({ hostname = "a b\n<ü>" })).header.hostname
    assert.equal("a-b-<-->", odd)
    local long = decoded(event({ state = 1, src = "::1", dst = "::1" }), style({ hostname = ("h"):rep(300) }))
    assert.equal(("h"):rep(255), long.header.hostname)
  end)

  it("needs no header", function()
    local text = encode(event({ state = 1, src = "::1", dst = "::1" }), style({ header = false }))
    assert.is_table(assert(decoder.decode_json(text)))
    assert.equal("{", text:sub(1, 1))
  end)

  describe("application", function()
    local function application(text)
      return decoded(event({ state = 1, src = "::1", dst = "::1", application = text })).message.context.application
    end

    it("keeps text in any language", function()
      assert.equal("xrdcp Überträger 転送 😀", application("xrdcp Überträger 転送 😀"))
    end)

    it("escapes what JSON reserves", function()
      assert.equal('a"b\\c/d', application('a"b\\c/d'))
      assert.equal("\1\9\10\13\31\127", application("\1\9\10\13\31\127"))
    end)

    it("shows C1 control characters as escapes, not as octets", function()
      local text = encode(event({ state = 1, src = "::1", dst = "::1", application = "a\194\155b\194\160" }))
      assert.is_truthy(text:find('"application":"a\\u009bb\194\160"', 1, true))
    end)

    it("replaces each octet that is no UTF-8", function()
      local r = "\239\191\189"
      assert.equal(r, application("\128"))
      assert.equal(r .. r, application("\192\128")) -- overlong NUL
      assert.equal("a" .. r .. "b", application("a\255b"))
      assert.equal(r .. r .. r, application("\237\160\128")) -- a surrogate
      assert.equal(r .. r .. r .. r, application("\244\144\128\128")) -- beyond U+10FFFF
      assert.equal(r .. r .. r, application("\224\159\191")) -- overlong
      assert.equal(("x"):rep(46) .. r, application(("x"):rep(46) .. "\195")) -- cut inside a character
    end)

    it("may fill all of its room", function()
      assert.equal(("y"):rep(48), application(("y"):rep(48)))
    end)
  end)

  describe("size", function()
    local longest = event({ state = C.FLOW_END, src = "2001:db8:1111:2222:3333:4444:5555:6666",
      dst = "2001:db8:1111:2222:3333:4444:5555:7777", src_port = 65535, dst_port = 65535, experiment = 511,
      activity = 63, sent = -1ULL, received = -1ULL, start_us = 1, time_us = 2, application = ("\1"):rep(48) })

    it("fits a packet of 1,500 octets in either family, whatever the event", function()
      local text = encode(longest, style({ hostname = ("h"):rep(255) }))
      assert.is_true(#text <= C.FIREFLY_ENCODED_MAX, "the longest has " .. #text)
      assert.is_true(#text <= C.FIREFLY_SIZE_IPV6)
      assert.is_table(assert(decoder.decode(text)))
    end)

    it("is told as 0 when it does not fit the room, and nothing is written", function()
      local text = encode(longest)
      assert.equal(text, encode(longest, nil, nil, #text))
      ffi.fill(out, BUFFER, 0x7e)
      assert.equal(0, tonumber(api.firefly_encode(out, #text - 1, style(), longest, NOW)))
      assert.equal(("~"):rep(BUFFER), ffi.string(out, BUFFER))
      assert.equal(0, tonumber(api.firefly_encode(out, 0, style(), longest, NOW)))
    end)
  end)
end)

describe("the spec's own checker", function()
  local good = encode(event({ state = C.FLOW_END, src = "192.0.2.1", dst = "192.0.2.2", sent = 1, received = 2 }),
    style({ header = false }))

  local function verdict(pattern, replacement)
    local text, n = good:gsub(pattern, replacement)
    assert.equal(1, n, "the test changes nothing: " .. pattern)
    return (select(2, decoder.decode_json(text)))
  end

  it("accepts what is right, blanks at the end included", function()
    assert.is_nil((select(2, decoder.decode_json(good .. "    "))))
  end)

  it("finds what is wrong", function()
    assert.matches("is none of", verdict('"state":"end"', '"state":"over"'))
    assert.matches("end%-time is missing", verdict('"end%-time":"[^"]*",', ""))
    assert.matches("no date%-time", verdict('"start%-time":"[^"]*"', '"start-time":"2026-02-30T00:00:00Z"'))
    assert.matches("nothing is allowed", verdict('"src%-port"', '"extra":1,"src-port"'))
    assert.matches("above 65535", verdict('"src%-port":5000', '"src-port":65536'))
    assert.matches("below 1", verdict('"src%-port":5000', '"src-port":0'))
    assert.matches("expected integer", verdict('"sent":1', '"sent":1.5'))
    assert.matches("fits 0 of 2", verdict('"src%-ip":"192.0.2.1"', '"src-ip":"::1"'))
    assert.matches("fits 0 of 2", verdict('"afi":"ipv4"', '"afi":"ipv6"'))
    assert.matches("experiment%-id is missing", verdict('"experiment%-id":2,', ""))
    assert.matches("more after the JSON", verdict("}}$", "}}x"))
    assert.matches("control character", verdict("}}$", "}}\n"))
    assert.matches("not UTF%-8", verdict("flowd%-lua", "\255"))
    assert.matches("above 1", verdict('"version":1', '"version":2'))
    assert.has_error(function() json_schema.check({ minLength = 1 }, "") end)
  end)

  it("knows a header that is wrong", function()
    local header = "<134>1 2026-03-28T08:58:48.899646+00:00 h flowd-lua - firefly-json - "
    assert.is_table((decoder.header(header)))
    for _, bad in ipairs({ header:gsub("2026%S*", ""), header:gsub("2026%S*", "-"), header:gsub("^<134>", "<192>"),
      header:gsub("h flowd", "flowd"), header:gsub("h flowd", ("h"):rep(256) .. " flowd"), header:gsub(" %- $", " "),
      header:gsub("<134>1", "<134>0"), header:gsub("h flowd", "h\t flowd") }) do
      if type(bad) == "string" then assert.is_nil((decoder.header(bad)), bad) end
    end
  end)
end)

