-- SPDX-License-Identifier: Apache-2.0
--- Twenty typical rules (rules/site.lua) on batches, against the same by hand (rules/inline.lua); a thousand
--- (rules/many.lua) against the twenty; and whether LuaJIT compiled all of it. Usage: scripts/bench/run rules
package.path = "./?.lua;" .. package.path
local bench = require("scripts.bench.bench")
local ffi = require("ffi")
local api = require("flowd.api")
local policy = require("flowd.policy")
local registry = require("flowd.registry")
local rules = require("flowd.rules")
local many = require("scripts.bench.rules.many")
local temp = require("spec.support.temp")

local BATCH = ffi.C.FLOW_BATCH_MAX
local BATCHES, ROUNDS = 16, tonumber(arg[1] or 60)
local PIPE, HTTP = 1, 2

-- -- events: transfers of a site's servers ---------------------------------------------

local state = 4711
local function random(n)
  state = (state * 1103515245 + 12345) % 2147483648
  return math.floor(state / 65536) % n
end
local function one_of(list) return list[1 + random(#list)] end

local function fill(e)
  local src, dst
  local key = e.key
  if random(5) == 0 then
    src = ("192.0.2.%d"):format(random(256))
    dst = random(20) == 0 and ("10.0.%d.%d"):format(random(256), random(256)) or ("198.51.100.%d"):format(random(256))
  else
    src = ("2001:db8:1:%x::%x"):format(random(6), random(64))
    dst = random(20) == 0 and ("2001:db8:1:%x::%x"):format(random(6), random(64))
      or ("2001:db8:%x:%x::%x"):format(one_of({ 0x100, 0x101, 0x200, 0x300, 0x301, 0x4000, 0x8001 }), random(256), random(65536))
  end
  key.family = api.address_parse(src, #src, key.src)
  api.address_parse(dst, #dst, key.dst)
  key.src_port = one_of({ 1094, 1094, 1094, 2811, 8443, 8444, 443, 20000 + random(5000), 50000 + random(1000) })
  key.dst_port = random(10) == 0 and one_of({ 9, 80, 1094, 5201, 33440 }) or 32768 + random(28000)
  key.protocol = random(50) == 0 and ffi.C.FLOW_UDP or ffi.C.FLOW_TCP
  e.state = random(2) == 0 and ffi.C.FLOW_START or ffi.C.FLOW_END
  e.source = random(4) == 0 and HTTP or PIPE
  e.experiment = random(2) == 0 and 0 or one_of({ 2, 3, 4, 5, 200 })
  e.activity = e.experiment == 0 and 0 or random(10)
  e.time_us, e.start_us = 1700000001000000ULL, 1700000000000000ULL
  e.route, e.slot = -1, -1
end

-- The same kind of events, with what the thousand rules look at.
local function fill_many(e)
  local event = many.event(random)
  fill(e)
  e.key.family = api.address_parse(event.src, #event.src, e.key.src)
  api.address_parse(event.dst, #event.dst, e.key.dst)
  e.key.src_port, e.key.dst_port, e.experiment, e.activity = event.src_port, event.dst_port, event.experiment, 0
  e.key.protocol, e.source = ffi.C.FLOW_TCP, PIPE
  ffi.copy(e.application, event.application)
end

local function make_batches(fill_event)
  local batches = {}
  for n = 1, BATCHES do
    batches[n] = ffi.new("struct flow_batch")
    batches[n].count = BATCH
    for i = 0, BATCH - 1 do fill_event(batches[n].event[i]) end
  end
  return batches
end

local fresh, work = make_batches(fill), ffi.new("struct flow_batch")
local fresh_many = make_batches(fill_many)

-- -- rules ---------------------------------------------------------------------------

local names = registry.load_embedded()

-- As the daemon has them: with a sample of events measured. slow_percent = 0: without.
local function compile(title, text, slow_percent)
  local environment = policy.new()
  assert(environment:load(text, "@" .. title))()
  local chain, problems = rules.compile(environment:take_rules(), {
    registry = names, backends = { marker = 1, firefly = 2 },
    source_id = function(name) return name == "pipe" and PIPE or HTTP end,
    source_name = function(id) return id == PIPE and "pipe" or "http" end, slow_percent = slow_percent or 100,
  })
  return chain or error(table.concat(problems, "\n"))
end

local chain = compile("site.lua", temp.read("scripts/bench/rules/site.lua"))
local unmeasured = compile("site.lua", temp.read("scripts/bench/rules/site.lua"), 0)
local text_of_many = many.policy(random)
local before = api.clock_monotonic_ns()
local thousand = compile("many.lua", text_of_many)
local load_ms = tonumber(api.clock_monotonic_ns() - before) / 1e6
local by_hand = require("scripts.bench.rules.inline").make(PIPE, HTTP, names:experiment_id("lhcb"), names:experiment_id("alice"),
  names:activity_id(2, "Analysis Input"))

local function run_chain() chain:run(work) end
local function run_unmeasured() unmeasured:run(work) end
local function run_many() thousand:run(work) end
local function run_by_hand() by_hand(work.event, work.count) end
local function run_nothing() end

-- Both must come to the same: else the comparison means nothing.
local function compare()
  local other = ffi.new("struct flow_batch")
  for n = 1, BATCHES do
    ffi.copy(work, fresh[n], ffi.sizeof(work))
    run_chain()
    ffi.copy(other, work, ffi.sizeof(work))
    ffi.copy(work, fresh[n], ffi.sizeof(work))
    run_by_hand()
    for i = 0, BATCH - 1 do
      local a, b = other.event[i], work.event[i]
      assert(a.experiment == b.experiment and a.activity == b.activity and a.route == b.route and a.flags == b.flags,
        ("event %d of batch %d differs"):format(i, n))
    end
  end
end

-- Nanoseconds per event, copying included.
local function cost(run, batches)
  batches = batches or fresh
  local start = api.clock_monotonic_ns()
  for n = 1, BATCHES do
    ffi.copy(work, batches[n], ffi.sizeof(work))
    run()
  end
  return tonumber(api.clock_monotonic_ns() - start) / (BATCHES * BATCH)
end

-- -- what LuaJIT says -----------------------------------------------------------------

-- jit.v is part of a LuaJIT installation, not of the daemon.
local function watch()
  package.path = package.path .. ";/usr/share/luajit-2.1/?.lua;/usr/share/luajit-2.1.0-beta3/?.lua"
  local path = temp.dir() .. "/jit.v"
  require("jit.v").on(path)
  return function()
    require("jit.v").off()
    local text = assert(temp.read(path))
    local traces, aborted = 0, {}
    for line in text:gmatch("[^\n]+") do
      if line:find("^%[TRACE %-%-%-") then aborted[#aborted + 1] = line elseif line:find("^%[TRACE") then traces = traces + 1 end
    end
    return traces, aborted, text
  end
end

-- How far down events go: the number of the last rule that acted.
local function late_share()
  local late, total = 0, 0
  for n = 1, BATCHES do
    ffi.copy(work, fresh_many[n], ffi.sizeof(work))
    run_many()
    for i = 0, BATCH - 1 do
      total = total + 1
      if work.event[i].rule > #thousand.rules * 0.94 then late = late + 1 end
    end
  end
  return late / total
end

-- What measuring takes: both in turns, each so long that it has its share of samples. The middle one of the pairs: what
-- disturbs one half of a pair is not in it.
local function measuring()
  local pairs_of = {}
  for i = 1, 41 do
    local on, off = 0, 0
    for _ = 1, 12 do
      on = on + cost(run_chain) / 12
      off = off + cost(run_unmeasured) / 12
    end
    pairs_of[i] = { on, off }
  end
  table.sort(pairs_of, function(x, y) return x[1] / x[2] < y[1] / y[2] end)
  return pairs_of[21][1], pairs_of[21][2]
end

compare()
local late = late_share()
require("jit").flush()
local finish = watch()
for _ = 1, 100 do cost(run_chain) end
for _ = 1, 100 do cost(run_many, fresh_many) end
local traces, aborted, text = finish()
if os.getenv("BENCH_TRACES") then io.stderr:write(text) end
for _, line in ipairs(aborted) do bench.note("%s", line) end
for _ = 1, 100 do cost(run_by_hand) end
for _ = 1, 100 do cost(run_unmeasured) end

-- The least of many short rounds, which other programs on the machine disturb least.
local ours, theirs, of_many, copying = math.huge, math.huge, math.huge, math.huge
for _ = 1, ROUNDS do
  copying = math.min(copying, cost(run_nothing))
  ours = math.min(ours, cost(run_chain))
  theirs = math.min(theirs, cost(run_by_hand))
  of_many = math.min(of_many, cost(run_many, fresh_many))
end
local on, off = measuring()
on, off = on - copying, off - copying
ours, theirs, of_many = ours - copying, theirs - copying, of_many - copying
bench.row("rules: 20 typical, per event", ("%.0f ns"):format(ours), ("%.0f ns"):format(theirs), ours / theirs,
  "<= 3.00, <= 300 ns", ours <= 300 and ours / theirs <= 3)
bench.row("rules: 20 typical, the time of each measured or not", ("%.1f ns"):format(on), ("%.1f ns"):format(off), on / off,
  "<= 1.03", on / off <= 1.03)
bench.row("rules: 1,000 declared and 10 functions, 100,000 prefixes", ("%.0f ns"):format(of_many), ("%.0f ns"):format(ours),
  of_many / ours, "<= 2.00", of_many / ours <= 2)
bench.row("rules: of these events, decided by the last rules", ("%.0f %%"):format(late * 100), "", nil, ">= 50 %", late >= 0.5)
bench.row("rules: loading the 1,000 and the prefixes", ("%.0f ms"):format(load_ms), "", nil)
bench.row("rules: traces aborted", tostring(#aborted), ("of %d"):format(traces + #aborted), nil, "0", #aborted == 0)
if os.getenv("BENCH_TIMES") then
  for _ = 1, 6000 do cost(run_chain) end
  chain:update_times()
  for _, r in ipairs(chain.rules) do io.stderr:write(("%-20s %.4f %.1f\n"):format(r.name, r.share, r.event_ns)) end
  io.stderr:write(tostring(chain.timing.clock.lap), "\n")
end
