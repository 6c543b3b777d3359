-- SPDX-License-Identifier: Apache-2.0
--- bench/table: a million flows in and out of the flow table, against uthash and a Lua table.
-- Batches of 1,024 events; the time of the table's calls counts, not that of making the batch. An
-- insert is a start that opens a flow (resolve, commit, release), a look-up an ongoing event, a delete an end.
package.path = "./?.lua"
local ffi = require("ffi")
local bench = require("scripts.bench.bench")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local FLOWS = tonumber(arg[1]) or 1000000
local BATCH = ffi.C.FLOW_BATCH_MAX
local STRIDES = { insert = 7919, lookup = 104729, delete = bit.bor(15485863 % FLOWS, 1) }

-- Time of the processor, not of the clock on the wall: others may be at work on the machine.
local spec = ffi.new("struct lab_timespec")
local CLOCK_PROCESS_CPUTIME_ID = 2

local function cpu_ns()
  ffi.C.clock_gettime(CLOCK_PROCESS_CPUTIME_ID, spec)
  return spec.tv_sec * 1000000000ULL + spec.tv_nsec
end

local function write_key(key, n)
  key.src.word[0], key.dst.word[0] = 0x00b80120, 0x00b80120
  key.dst.word[3] = math.floor(n / 32)
  key.src_port, key.dst_port, key.protocol, key.family = 1094, 1024 + n % 32, 6, 6
end

local at = 0

-- `count` events into the batch; each flow number comes once in FLOWS events.
local function fill(b, count, stride, state)
  b.count, b.now_us = count, 1
  for i = 0, count - 1 do
    local e = b.event[i]
    write_key(e.key, at)
    e.state, e.time_us, e.route, e.experiment, e.activity = state, 1, -1, 0, 0
    e.application = "xrdcp"
    at = (at + stride) % FLOWS
  end
end

local function tag(b)
  for i = 0, b.count - 1 do
    local e = b.event[i]
    e.experiment, e.activity = 2, 26
  end
end

local function measure(t, b, stride, state)
  at = 0
  local resolve, commit, release, clock = api.flow_table_resolve, api.flow_table_commit, api.flow_table_release,
    cpu_ns
  local taken = 0ULL
  for done = 0, FLOWS - 1, BATCH do
    fill(b, math.min(BATCH, FLOWS - done), stride, state)
    local start = clock()
    resolve(t, b)
    taken = taken + (clock() - start)
    if state == ffi.C.FLOW_START then tag(b) end
    start = clock()
    commit(t, b, 0xff)
    release(t, b)
    taken = taken + (clock() - start)
  end
  return tonumber(taken) / FLOWS
end

local function measure_table()
  -- Where a runtime directory lies: in memory.
  local dir = temp.dir()
  if os.execute("test -w /dev/shm") == 0 then dir = "/dev/shm" end
  local path = ("%s/flowd-lua-bench.%d"):format(dir, ffi.C.getpid())
  local message = ffi.new("char[?]", 256)
  local s = api.state_open(path, FLOWS, message, 256)
  if s == nil then error(ffi.string(message)) end
  cleanup.add(function() os.remove(path) end)
  local t = api.flow_table_open(s)
  local b = ffi.new("struct flow_batch")
  local result = { insert = measure(t, b, STRIDES.insert, ffi.C.FLOW_START) }
  assert(api.flow_table_count(t) == FLOWS, "not every flow was opened")
  result.octets = tonumber(api.flow_table_memory(t)) / FLOWS
  result.lookup = measure(t, b, STRIDES.lookup, ffi.C.FLOW_ONGOING)
  result.delete = measure(t, b, STRIDES.delete, ffi.C.FLOW_END)
  assert(api.flow_table_count(t) == 0, "not every flow was closed")
  -- Slots that were used before, pages that are there: as in a daemon that has run for a while.
  result.reinsert = measure(t, b, STRIDES.insert, ffi.C.FLOW_START)
  api.flow_table_close(t)
  api.state_close(s, true)
  return result
end

local function measure_uthash()
  local out = process.must({ bench.tool("table_baseline"), tostring(FLOWS) })
  local insert, lookup, delete, octets = out:match("([%d.]+) ([%d.]+) ([%d.]+) ([%d.]+)")
  return { insert = tonumber(insert), lookup = tonumber(lookup), delete = tonumber(delete),
    octets = tonumber(octets) }
end

local function measure_lua()
  local keys, flows, clock = ffi.new("struct flow_key[?]", BATCH), {}, cpu_ns
  local size = ffi.sizeof("struct flow_key")
  local function each(stride, act)
    at = 0
    local taken = 0ULL
    for done = 0, FLOWS - 1, BATCH do
      local count = math.min(BATCH, FLOWS - done)
      for i = 0, count - 1 do
        write_key(keys[i], at)
        at = (at + stride) % FLOWS
      end
      local start = clock()
      for i = 0, count - 1 do act(ffi.string(keys[i], size)) end
      taken = taken + (clock() - start)
    end
    return taken
  end
  collectgarbage()
  local before = collectgarbage("count")
  local result = {}
  result.insert = tonumber(each(STRIDES.insert, function(k)
    if not flows[k] then
      flows[k] = { start = 1, seen = 1, label = 0, route = -1, experiment = 2, activity = 26, application = "xrdcp" }
    end
  end)) / FLOWS
  collectgarbage()
  result.octets = (collectgarbage("count") - before) * 1024 / FLOWS
  result.lookup = tonumber(each(STRIDES.lookup, function(k) flows[k].seen = 2 end)) / FLOWS
  local deleted = each(STRIDES.delete, function(k) flows[k] = nil end)
  -- What free() is to uthash.
  local start = clock()
  collectgarbage()
  result.delete = tonumber(deleted + (clock() - start)) / FLOWS
  return result
end

-- Three runs in turns, of which the medians count; the Lua table, much the slowest, once.
local ours, uthash, lua = {}, { name = "uthash" }, { name = "Lua table" }
local runs = { { ours, measure_table }, { uthash, measure_uthash }, { lua, measure_lua } }
for turn = 1, 3 do
  for _, run in ipairs(runs) do
    collectgarbage()
    local measure_once = turn == 1 or run[1] ~= lua
    for field, value in pairs(measure_once and run[2]() or {}) do
      run[1][field .. "s"] = run[1][field .. "s"] or {}
      table.insert(run[1][field .. "s"], value)
    end
  end
end
for _, run in ipairs(runs) do
  for _, field in ipairs({ "insert", "reinsert", "lookup", "delete", "octets" }) do
    if run[1][field .. "s"] then run[1][field] = bench.median(run[1][field .. "s"]) end
  end
end
bench.note("uthash: insert %.0f, look-up %.0f, delete %.0f ns, %.0f octets; Lua table: %.0f, %.0f, %.0f ns, %.0f octets",
  uthash.insert, uthash.lookup, uthash.delete, uthash.octets, lua.insert, lua.lookup, lua.delete, lua.octets)

local function row(what, value, field)
  local best = uthash[field] <= lua[field] and uthash or lua
  local ratio = value / best[field]
  bench.row(("table: %s, %d flows"):format(what, FLOWS), ("%.0f ns"):format(value),
    ("%.0f ns (%s)"):format(best[field], best.name), ratio, "<= 1.00", ratio <= 1)
end

row("insert", ours.insert, "insert")
row("insert, slots used before", ours.reinsert, "insert")
row("look-up", ours.lookup, "lookup")
row("delete", ours.delete, "delete")
bench.row("table: octets a flow", ("%.0f"):format(ours.octets), ("%.0f (uthash)"):format(uthash.octets), nil, "<= 256",
  ours.octets <= 256)
cleanup.all()
