-- SPDX-License-Identifier: Apache-2.0
--- bench/reapply: today's rules over a million open flows, of which each gets another tag; and the largest delay of an
--- event meanwhile, against the same without it. Usage: scripts/bench/run reapply; the daemon on a processor of its own.
package.path = "./?.lua"
local ffi = require("ffi")
local api = require("flowd.api")
local bench = require("scripts.bench.bench")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local delay = require("scripts.bench.delay")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local FLOWS = tonumber(arg[1] or 1000000)
-- A slice is one batch, of less than a millisecond; the rest is the machine's.
local REQUIRED_MS = 20

local dir = temp.dir()
local probe_pipe = dir .. "/run/probe"
local config = {
  max_flows = FLOWS + 100000,
  plugins = { pipe = { paths = { dir .. "/run/np" } }, ["pipe.probe"] = { use = "pipe", paths = { probe_pipe } } },
}

local function rules(activity)
  local list = {}
  for i = 1, 20 do list[i] = ('rule "r%d" { match = { dst_port = %d }, set = { activity = 9 } },'):format(i, i) end
  list[#list + 1] = ('rule "all" (function(flow) if flow.experiment == 2 then flow.activity = %d end end),'):format(activity)
  return table.concat(list, "\n")
end

local d = daemon.start({ dir = dir, log_level = "info", rules = rules(3), config = config })
bench.note("reapply: opening %d flows", FLOWS)
local path = dir .. "/lines"
local file = assert(io.open(path, "w"))
for i = 0, FLOWS - 1 do
  file:write(("start tcp 2001:db8:%x::%x %d 2001:db8:2::1 %d atlas 1\n"):format(i % 7, i % 251, 1024 + i % 60000,
    20000 + math.floor(i / 60000)))
end
file:close()
process.start({ bench.tool("feed"), path, d.pipe }):wait(120)
d:wait_for_counter("flowd_flows_open", FLOWS, 120)
daemon.write_config(dir, config, rules(5))
d:signal("HUP")
d:expect("reload: [^\n]* is in use", 60)

local delay_ms = delay(d.runtime_dir, probe_pipe)

local function delays(going_on)
  local list = {}
  repeat list[#list + 1] = delay_ms() until #list % 50 == 0 and not going_on()
  return list
end

local ends = api.clock_monotonic_ns() + ffi.cast("uint64_t", 2e9)
local idle = delays(function() return api.clock_monotonic_ns() < ends end)
local command = process.start({ daemon.binary(), "--conf", d.conf, "reapply" })
local busy = delays(function() return command:running() end)
local flows, changed, seconds = d:log():match("reapply: (%d+) open flows: %d+ unchanged, (%d+) with another tag.-took ([%d.]+) s")
assert(tonumber(changed) == FLOWS and tonumber(flows) >= FLOWS, d:log())

local function worst(list) return bench.percentile(list, 100) end
bench.row(("reapply of %d flows"):format(FLOWS), ("%s s"):format(seconds), "", nil)
bench.row("reapply: largest delay of an event meanwhile (without it)", ("%.1f ms"):format(worst(busy)),
  ("%.1f ms"):format(worst(idle)), nil, ("<= %d ms, or what it is without"):format(REQUIRED_MS),
  worst(busy) <= math.max(REQUIRED_MS, worst(idle)))
bench.row("reapply: 99 of 100 events within", ("%.2f ms"):format(bench.percentile(busy, 99)),
  ("%.2f ms"):format(bench.percentile(idle, 99)), nil)
assert(d:stop(60).code == 0)
cleanup.all()
return 0
