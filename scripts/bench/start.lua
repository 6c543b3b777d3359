-- SPDX-License-Identifier: Apache-2.0
--- From exec to the first packet that is marked, and resident memory when idle. Daemon and stream run with
--- real-time priority where that is allowed: what else runs on the machine is not what is measured.
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
  -- What an exec with an embedded LuaJIT costs by itself.
  before = api.clock_monotonic_ns()
  process.must(with_priority(daemon.binary(), "version"))
  baselines[i] = tonumber(api.clock_monotonic_ns() - before) / 1e6
end
local median, baseline = bench.median(times), bench.median(baselines)
bench.note("start: worst of %d: %.1f ms", ROUNDS, bench.percentile(times, 100))
bench.row("start: exec to the first marked packet", ("%.1f ms"):format(median), ("%.1f ms `version`"):format(baseline),
  median / baseline, "<= 40 ms", median <= 40)
bench.row("start: resident memory, idle", ("%.1f MB"):format(memory / 1e6), "", nil, "<= 10 MB", memory <= 10e6)
return 0
