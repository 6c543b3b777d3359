-- SPDX-License-Identifier: Apache-2.0
--- From exec to the first packet that is marked, and resident memory when idle. Daemon and stream run with
--- real-time priority where that is allowed: what else runs on the machine is not what is measured. The baseline
--- is what the kernel takes of it in any case: a program that does nothing but attach a BPF program
--- (tools/attach.c). Memory counts pages of libraries, which other processes share, and of the table of marks.
package.path = "./?.lua"
local api = require("flowd.api")
local bench = require("scripts.bench.bench")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local ROUNDS = tonumber(arg[1] or 11)

local ns = netns.new()
local realtime = bench.realtime()

local function with_priority(...)
  local command = { unpack(realtime) }
  for _, word in ipairs({ ... }) do command[#command + 1] = word end
  return command
end

local times, baselines = {}, {}
local memory
for i = 1, ROUNDS do
  local dir = temp.dir()
  process.must({ "mkdir", "-p", dir .. "/run" })
  process.must({ "mkfifo", "-m", "0660", dir .. "/run/np" })
  -- The flow's line waits in the FIFO and its stream runs when the daemon is started.
  local probe = ns:start(with_priority(bench.tool("probe"), dir .. "/run/np"))
  probe:expect("armed")
  local conf = daemon.write_config(dir, { backends = { marker = { interfaces = { "lo" } }, firefly = {} } })
  local before = api.clock_monotonic_ns()
  local d = daemon.start({ namespace = ns, prefix = realtime, dir = dir, conf = conf, log_level = "info", ready = false })
  assert(probe:wait(10).code == 0, probe:output())
  times[i] = (tonumber(probe:stdout():match("armed\n(%d+)")) - tonumber(before)) / 1e6
  d:expect("is ready")
  memory = d.child:memory()
  d:stop()
  before = api.clock_monotonic_ns()
  baselines[i] = (tonumber(ns:must(with_priority(bench.tool("attach")))) - tonumber(before)) / 1e6
end
local median, baseline = bench.median(times), bench.median(baselines)
bench.note("start: worst of %d: %.1f ms", ROUNDS, bench.percentile(times, 100))
bench.row("start: exec to the first marked packet", ("%.1f ms"):format(median), ("%.1f ms to attach any program"):format(baseline),
  median / baseline, "<= 40 ms", median <= 40)
bench.row("start: resident memory, idle", ("%.1f MB"):format(memory / 1e6), "", nil, "<= 10 MB", memory <= 10e6)
return 0
