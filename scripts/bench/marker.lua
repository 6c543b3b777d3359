-- SPDX-License-Identifier: Apache-2.0
--- Cost of the label program per packet, above an empty program and against a baseline
--- (tools/marker_baseline.bpf.c), and of marks per flow. Usage: scripts/bench/run marker
package.path = "./?.lua;" .. package.path
local ffi = require("ffi")
local api = require("flowd.api")
local bench = require("scripts.bench.bench")
local marking = require("spec.support.marking")
local packets = require("spec.support.packets")
local process = require("spec.support.process")

local ROUNDS = tonumber(arg[1] or 11)
local REPEAT = tonumber(arg[2] or 300000)
local MANY = 100000
local SERVER_PORT, OTHER_PORT = 1094, 50000 -- of our end; the flows are at SERVER_PORT

ffi.cdef([[
struct bpf_object;
struct bpf_map;
struct bpf_program;
struct bpf_object *bpf_object__open_file(const char *, const void *);
int bpf_object__load(struct bpf_object *);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *, const char *);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *, const char *);
int bpf_map__fd(const struct bpf_map *);
int bpf_program__fd(const struct bpf_program *);
int bpf_map_update_elem(int, const void *, const void *, uint64_t);
struct bench_test_run {
  size_t size; const void *in; void *out; uint32_t in_size, out_size; const void *context_in; void *context_out;
  uint32_t context_in_size, context_out_size, verdict; int times; uint32_t duration, flags, cpu, batch;
};
int bpf_prog_test_run_opts(int, struct bench_test_run *);
]])
local C = ffi.C

-- -- the baseline ----------------------------------------------------------------------

local function compile()
  local source, object = "scripts/bench/tools/marker_baseline.bpf.c", "build/bench/marker_baseline.bpf.o"
  process.must({ "sh", "-c", ("mkdir -p build/bench && clang -target bpf -mcpu=v2 -O2 -g -Wall -Wno-unused-parameter "
    .. "-Isrc -I/usr/include/$(cc -print-multiarch) -c -o %s %s"):format(object, source) })
  return object
end

local object = C.bpf_object__open_file(compile(), nil)
assert(object ~= nil and C.bpf_object__load(object) == 0, "the baseline does not load")
local baseline_marks = C.bpf_map__fd(C.bpf_object__find_map_by_name(object, "marks"))
local function program(name) return C.bpf_program__fd(C.bpf_object__find_program_by_name(object, name)) end

local out = ffi.new("uint8_t[2048]")

local function runner(fd)
  return function(packet)
    local run = ffi.new("struct bench_test_run")
    run.size, run["in"], run.in_size = ffi.sizeof(run), ffi.cast("const void *", packet), #packet
    run.out, run.out_size, run.times = out, 2048, REPEAT
    assert(C.bpf_prog_test_run_opts(fd, run) == 0)
    return run.duration
  end
end

-- -- flows: clients of one server port -------------------------------------------------

local function client(i) return ("2001:db8:%x:%x::2"):format(math.floor(i / 256), i % 256), 10000 + i % 50000 end

local function events(first, last, fields)
  local list = {}
  for i = first, last do
    local dst, dst_port = client(i)
    list[#list + 1] = { src_port = SERVER_PORT, dst = dst, dst_port = dst_port, slot = i, label = 0x10008,
      state = fields.state, known = fields.known, decided = fields.decided }
  end
  return list
end

local ours = marking.open(2 * MANY)

local function fill_baseline(count)
  local label = ffi.new("uint32_t[1]", 0x10008)
  for i = 0, count - 1 do
    ours:fill(events(i, i, {}))
    assert(C.bpf_map_update_elem(baseline_marks, ours.batch.event[0].key, label, 0) == 0)
  end
end

local function run_ours(packet)
  local run = ffi.new("struct marker_packet_run")
  run.packet, run.length, run.out, run["repeat"] = ffi.cast("const void *", packet), #packet, out, REPEAT
  api.marker_forget_sockets(ours.handle)
  assert(api.marker_run(ours.handle, true, run) == 0)
  return run.duration_ns
end

-- -- packets ---------------------------------------------------------------------------

local function packet_of(src_port, dst, dst_port)
  return packets.ethernet(packets.ipv6({ next = 6, dst = dst, payload = packets.tcp(src_port, dst_port, ("x"):rep(64)) }))
end

local function cases()
  local dst, dst_port = client(0)
  return {
    { "hit", packet_of(SERVER_PORT, dst, dst_port) },
    { "miss, unused port", packet_of(OTHER_PORT, dst, dst_port), 0.5 },
    { "miss, port in use", packet_of(SERVER_PORT, dst, 9), 0.5 },
  }
end

local empty, baseline = runner(program("empty")), runner(program("baseline"))

local function measure(flows)
  for _, case in ipairs(cases()) do
    local name, packet, allowed = case[1], case[2], case[3]
    local times = { empty = {}, baseline = {}, ours = {} }
    for i = 1, ROUNDS do
      times.empty[i] = empty(packet)
      times.baseline[i] = baseline(packet)
      times.ours[i] = run_ours(packet)
    end
    local floor = bench.median(times.empty)
    local here, there = bench.median(times.ours) - floor, bench.median(times.baseline) - floor
    bench.note("%s, %d flows: %g ns, baseline %g ns, empty program %g ns", name, flows, here + floor, there + floor, floor)
    bench.row(("marker: packet, %s, %d flow%s"):format(name, flows, flows > 1 and "s" or ""),
      ("%d ns"):format(here), ("%d ns"):format(there), here / there, allowed and "<= " .. allowed,
      allowed and here / there <= allowed)
  end
end

-- -- marks -----------------------------------------------------------------------------

-- Time of making and ending `count` marks, `step` a flush, without that of making the events.
local function flows_per_second(count, step)
  local spent = { start = 0, ["end"] = 0 }
  for _, state in ipairs({ "start", "end" }) do
    for first = 0, count - 1, step do
      ours:fill(events(first, math.min(first + step, count) - 1, { state = state, known = state == "end",
        decided = state == "end" }))
      local before = api.clock_monotonic_ns()
      ours:queue_filled()
      ours:flush()
      spent[state] = spent[state] + tonumber(api.clock_monotonic_ns() - before)
    end
  end
  return count / spent.start * 1e9, count / spent["end"] * 1e9
end

fill_baseline(1)
ours:events(events(0, 0, {}))
measure(1)
ours:events(events(0, 0, { state = "end", known = true, decided = true }))

local single = { flows_per_second(MANY, 1) }
local batched = { flows_per_second(MANY, 1024) }
for i, what in ipairs({ "set", "removed" }) do
  bench.row(("marker: marks %s a second, 1,024 at once"):format(what), ("%.2f M"):format(batched[i] / 1e6),
    ("%.2f M singly"):format(single[i] / 1e6), batched[i] / single[i])
end

for first = 0, MANY - 1, 1000 do ours:events(events(first, first + 999, {})) end
fill_baseline(MANY)
measure(MANY)
ours:close()
return 0
