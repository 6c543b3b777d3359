-- SPDX-License-Identifier: Apache-2.0
--- See scripts/bench/firefly. Prints one line for each way of sending: datagrams a second that
-- the sink counted, and the ratio to the bare loop.
package.path = "./?.lua;" .. package.path
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")

ffi.cdef([[
int fork(void);
int pipe(int *);
int socket(int, int, int);
int bind(int, const void *, uint32_t);
int connect(int, const void *, uint32_t);
int getsockname(int, void *, uint32_t *);
int setsockopt(int, int, int, const void *, uint32_t);
int waitpid(int, int *, int);
int kill(int, int);
long read(int, void *, size_t);
long write(int, const void *, size_t);
void _exit(int);
int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long);
struct bench_address { uint16_t family; uint8_t port[2]; uint8_t octet[4]; uint8_t zero[8]; };
struct bench_vector { void *base; size_t length; };
struct bench_message { void *name; uint32_t name_length; struct bench_vector *vectors; size_t count;
  void *control; size_t control_length; int flags; };
struct bench_messages { struct bench_message header; unsigned int length; };
int sendmmsg(int, struct bench_messages *, unsigned int, int);
int recvmmsg(int, struct bench_messages *, unsigned int, int, void *);
]])
local C = ffi.C

local SECONDS = tonumber(arg[1]) or 1
local BATCH = ffi.C.FLOW_BATCH_MAX
local LOOPBACK = ffi.new("struct bench_address", { family = 2, octet = { 127, 0, 0, 1 } })
local SOL_SOCKET, SO_RCVBUFFORCE, SIGKILL, MSG_WAITFORONE = 1, 33, 9, 0x10000

local function seconds() return tonumber(api.clock_monotonic_ns()) / 1e9 end

local function messages(n, base, stride, length)
  local list = ffi.new("struct bench_messages[?]", n)
  local vectors = ffi.new("struct bench_vector[?]", n)
  for i = 0, n - 1 do
    vectors[i].base, vectors[i].length = base + i * stride, length
    list[i].header.vectors, list[i].header.count = vectors + i, 1
  end
  return list, vectors
end

-- -- the sink: counts, in a process of its own; told the count on request --------------------

local function start_sink()
  local fd = C.socket(2, 2, 0)
  C.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, ffi.new("int[1]", 512 * 1048576), 4)
  assert(C.bind(fd, LOOPBACK, 16) == 0)
  local name, size = ffi.new("struct bench_address"), ffi.new("uint32_t[1]", 16)
  C.getsockname(fd, name, size)
  local ask, tell = ffi.new("int[2]"), ffi.new("int[2]")
  assert(C.pipe(ask) == 0 and C.pipe(tell) == 0)
  local pid = C.fork()
  if pid == 0 then
    C.prctl(1, SIGKILL, 0, 0, 0) -- PR_SET_PDEATHSIG
    local room = ffi.new("char[?]", 64 * 2048)
    local list, vectors = messages(64, room, 2048, 2048)
    local count = ffi.new("uint64_t[1]")
    while true do
      local n = C.recvmmsg(fd, list, 64, MSG_WAITFORONE, nil)
      for i = 0, n - 1 do
        vectors[i].length = 2048
        -- An empty datagram asks for the count.
        if list[i].length == 0 then
          C.write(tell[1], count, 8)
          count[0] = 0
        else
          count[0] = count[0] + 1
        end
      end
    end
  end
  local port = name.port[0] * 256 + name.port[1]
  local probe = C.socket(2, 2, 0)
  assert(C.connect(probe, name, 16) == 0)
  return {
    pid = pid, port = port, name = name,
    count = function()
      local list = messages(1, ffi.new("char[1]"), 0, 0)
      C.sendmmsg(probe, list, 1, 0)
      local count = ffi.new("uint64_t[1]")
      assert(C.read(tell[0], count, 8) == 8)
      return tonumber(count[0])
    end,
  }
end

-- Call `send` (which sends BATCH datagrams) for a while; datagrams a second at the sink.
local function rate(sink, send)
  send()
  sink.count()
  local sent, start = 0, seconds()
  local finish = start + SECONDS
  repeat
    send()
    sent = sent + BATCH
    -- The sink may not fall behind by more than its buffer.
    if sent % (BATCH * 64) == 0 then assert(sink.count() == BATCH * 64, "datagrams were lost") end
  until seconds() >= finish
  local took = seconds() - start
  local rest = sink.count()
  assert(rest == sent % (BATCH * 64), ("datagrams were lost: %d of %d"):format(rest, sent % (BATCH * 64)))
  return sent / took
end

-- -- what is sent ------------------------------------------------------------------------------

local function make_events(different_destinations)
  local events = ffi.new("struct flow_event[?]", BATCH)
  for i = 0, BATCH - 1 do
    local e = events[i]
    local src, dst = "192.0.2.17", different_destinations and ("127.0.0.%d"):format(i % 250 + 1) or "127.0.0.1"
    e.key.family, e.key.protocol = 4, ffi.C.FLOW_TCP
    api.address_parse(src, #src, e.key.src)
    api.address_parse(dst, #dst, e.key.dst)
    e.key.src_port, e.key.dst_port = 40000 + i, 1094
    e.state = i % 2 == 0 and ffi.C.FLOW_START or ffi.C.FLOW_END
    e.time_us = api.clock_realtime_us()
    e.start_us = e.time_us - 1000000
    e.flags, e.route = ffi.C.EVENT_DELIVER, -1
    e.experiment, e.activity = 2, 26
  end
  return events
end

local function new_out(name, segments)
  local c = ffi.new("struct udp_out_counters")
  for _, field in ipairs({ "sent", "octets", "segmented", "calls", "refused", "failed", "dropped_full",
    "dropped_too_big", "dropped_unsendable", "dropped_stopped", "queued" }) do
    c[field] = counters.get("flowd_fireflies_sent_total", { to = name, reason = field })
  end
  local out = api.udp_out_new(name, 10000, c)
  api.udp_out_segments(out, segments)
  return out
end

local function new_sender(sink, kind, segments)
  local style = ffi.new("struct firefly_style")
  api.firefly_style_init(style, true, "transfer1.example.org")
  local sender = api.firefly_sender_new(style)
  if kind == "collector" then
    local out = new_out("bench", segments)
    local address = ffi.new("struct flow_address")
    api.address_parse("127.0.0.1", 9, address)
    assert(api.udp_out_connect(out, address, sink.port, false) == 0)
    api.firefly_sender_add(sender, out)
  else
    local v4, v6 = new_out("bench4", segments), new_out("bench6", segments)
    assert(api.udp_out_open(v4, 4) == 0 and api.udp_out_open(v6, 6) == 0)
    api.firefly_sender_destinations(sender, sink.port, v4, v6, counters.get("flowd_fireflies_sent_total"))
  end
  return sender
end

local function encode_cost(events)
  local style = ffi.new("struct firefly_style")
  api.firefly_style_init(style, true, "transfer1.example.org")
  local room = ffi.new("char[?]", 1472)
  local encode, now = api.firefly_encode, api.clock_realtime_us()
  local best, longest = math.huge, 0
  for _ = 1, 20 do
    local start = api.clock_monotonic_ns()
    for i = 0, BATCH - 1 do
      local length = tonumber(encode(room, 1472, style, events + i, now))
      if length > longest then longest = length end
    end
    best = math.min(best, tonumber(api.clock_monotonic_ns() - start) / BATCH)
  end
  return best, longest
end

local sink = start_sink()
local events = make_events(false)
local cost, length = encode_cost(events)
print(("encode                         %8.0f ns a firefly of up to %d octets"):format(cost, length))

local function bare()
  local fd = C.socket(2, 2, 0)
  assert(C.connect(fd, sink.name, 16) == 0)
  local list = messages(BATCH, ffi.new("char[?]", BATCH * length, 32), length, length)
  return function() assert(C.sendmmsg(fd, list, BATCH, 0) == BATCH) end
end

local function ours(kind, segments, which)
  local sender = new_sender(sink, kind, segments)
  return function()
    api.firefly_queue(sender, which, BATCH, api.clock_realtime_us(), 1)
    assert(api.firefly_flush(sender) == 0)
  end
end

local runs = {
  { "bare sendmmsg loop", bare() },
  { "collector, segmented", ours("collector", true, events) },
  { "collector, one by one", ours("collector", false, events) },
  { "one destination, segmented", ours("destination", true, events) },
}
local base
for round = 1, 2 do
  for _, run in ipairs(runs) do
    local r = rate(sink, run[2])
    if run == runs[1] then base = r end
    if round == 2 then print(("%-30s %8.0f /s   %.2f of the bare loop"):format(run[1], r, r / base)) end
  end
end
C.kill(sink.pid, SIGKILL)
C.waitpid(sink.pid, nil, 0)
os.exit(0)
