-- SPDX-License-Identifier: Apache-2.0
--- bench/console: what the console costs while events run: the round trip of eval '1+1', a query of a million
--- flows, and the largest delay of an event meanwhile, against the same without anybody at the console.
---
--- The delay of an event: from writing its line into a pipe of its own until the daemon has counted it. The largest one is
--- often the machine's, which lets another process run: what the console has to do with it is told by the daemon itself,
--- which measures how much of a processor the console takes in one go (flowd_console_longest_microseconds).
package.path = "./?.lua"
local ffi = require("ffi")
local api = require("flowd.api")
local bench = require("scripts.bench.bench")
local client = require("flowd.console.client")
local console = require("spec.support.console")
local daemon = require("spec.support.daemon")
local delay = require("scripts.bench.delay")
local live_counter = require("spec.support.live_counter")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local FLOWS = tonumber(arg[1] or 1000000)
local SECONDS = tonumber(arg[2] or 3)
local RATE = 20000 -- lines a second that run beside it

local dir = temp.dir()
local probe_pipe = dir .. "/run/probe"
-- From the first function to the last an explanation is a trial.
local rules = {}
for i = 1, 1000 do
  rules[i] = ("rule %q " .. (i % 100 == 1 and "(function(flow) if flow.dst_port == %d then flow.activity = 7 end end),"
    or "{ match = { dst_port = %d }, set = { activity = 7 } },")):format("r" .. i, i)
end

local d = daemon.start({
  dir = dir, log_level = "info", rules = table.concat(rules, "\n"),
  config = {
    max_flows = FLOWS + 100000,
    plugins = { pipe = { paths = { dir .. "/run/np" } }, ["pipe.probe"] = { use = "pipe", paths = { probe_pipe } } },
  },
})
local path = d.runtime_dir .. "/console"

local function line(state, i, experiment)
  return ("%s tcp 2001:db8:%x::%x %d 2001:db8:2::1 %d %s 1\n"):format(state, i % 7, i % 251, 1024 + i % 60000,
    20000 + math.floor(i / 60000), experiment)
end

local function write_lines(name, fn)
  local file = assert(io.open(dir .. "/" .. name, "w"))
  fn(file)
  file:close()
  return dir .. "/" .. name
end

-- A million open flows, 1 in 10 of atlas.
bench.note("console: opening %d flows", FLOWS)
local filling = process.start({ bench.tool("feed"), write_lines("fill", function(file)
  for i = 0, FLOWS - 1 do file:write(line("start", i, i % 10 == 0 and "atlas" or "cms")) end
end), d.pipe })
filling:wait(120)
d:wait_for_counter("flowd_flows_open", FLOWS, 120)

local traffic = process.start({ bench.tool("feed"), write_lines("traffic", function(file)
  for i = FLOWS, FLOWS + 5000 do file:write(line("start", i, "alice")) end
  for i = FLOWS, FLOWS + 5000 do file:write(line("end", i, "alice")) end
end), d.pipe, RATE })

local longest = live_counter(d.runtime_dir, "flowd_console_longest_microseconds")
local delay_ms = delay(d.runtime_dir, probe_pipe)

-- Delays of events while a client asks for `case` again and again.
local function delays(case)
  local c, answers
  local function ask() c:send(console.frame(case.complete and 2 or 1, (case.options or "") .. "\n" .. case.code), true) end
  if case then
    c, answers = console.raw(path), 0
    longest[0] = 0
    ask()
  end
  local list, ends = {}, api.clock_monotonic_ns() + ffi.cast("uint64_t", SECONDS * 1e9)
  while api.clock_monotonic_ns() < ends do
    list[#list + 1] = delay_ms()
    if c then
      c:fill()
      local kind = c:frame()
      while kind do
        if kind == ffi.C.CONSOLE_END then
          answers = answers + 1
          ask()
        end
        kind = c:frame()
      end
    end
  end
  if c then c:close() end
  table.sort(list)
  return list, answers, tonumber(longest[0]) / 1e3
end

local function round_trips(code, count)
  local c = assert(client.connect(path))
  local list = {}
  for i = 1, count do
    local start = api.clock_monotonic_ns()
    local status, text = c:ask("eval", code, nil, function() end)
    if status ~= client.status.ok then error(code .. ": " .. tostring(text), 0) end
    list[i] = tonumber(api.clock_monotonic_ns() - start) / 1e6
  end
  c:close()
  return list
end

local trips = round_trips("1+1", 500)
bench.note("console: eval '1+1': median %.2f ms, 99 of 100 within %.2f ms", bench.median(trips), bench.percentile(trips, 99))
bench.row("console: eval '1+1', round trip while events run", ("%.2f ms"):format(bench.median(trips)), "", nil, "< 5 ms",
  bench.median(trips) < 5)

local limited = round_trips('flows{experiment="atlas", limit=20}', 10)
bench.row(("console: 20 flows of atlas of %d"):format(FLOWS), ("%.1f ms"):format(bench.median(limited)), "", nil, "< 300 ms",
  bench.median(limited) < 300)
for _, code in ipairs({ 'flows{experiment="atlas", count=true}', 'flows{experiment="atlas", sort="-start", limit=20}',
  'flows{by="experiment"}' }) do
  local times = round_trips(code, 5)
  bench.row("console: " .. code, ("%.0f ms"):format(bench.median(times)), "", nil, "< 300 ms", bench.median(times) < 300)
end

local cases = {
  { name = "queries of all flows", code = 'flows{experiment="atlas", sort="-start", limit=20}' },
  { name = "5,000 flows as JSON", code = "flows{limit=5000}", options = "format=json" },
  { name = "5,000 flows in columns, sorted", code = 'flows{limit=5000, sort="src"}' },
  { name = "a function asked about each flow", code = "flows{where=function(f) return f.src_port == 7 end}" },
  { name = "an endless loop", code = "while true do end" },
  { name = "a sort in Lua",
    code = "local t = {} for i = 1, 20000 do t[i] = (i * 7919) % 20011 end table.sort(t, function(a, b) return a > b end)" },
  { name = "a text as long as may be", code = 'return ("x"):rep(65000)' },
  { name = "replacements in it", code = 'local s = ("x"):rep(65000) while true do s:gsub("x", "y") end' },
  { name = "a large table", code = "local t = {} for i = 1, 20000 do t[('k%d'):format(i)] = { i } end return t" },
  { name = "a table of names as large as may be",
    code = "local t = {} pcall(function() for i = 1, 1e6 do t[('k%d'):format(i)] = i end end)" },
  { name = "as many texts as may be", code = "local t = {} for i = 1, 1e6 do t[i] = ('k%d'):format(i) end" },
  { name = "a list of prefixes as long as may be",
    code = "local t = {} for i = 1, 1000 do t[i] = '10.0.0.' .. i % 256 end return flowd.address('::1'):within(t)" },
  { name = "a list as long as may be", code = "local t = {} for i = 1, 1e7 do t[i] = i end" },
  { name = "a text that grows", code = "local s = 'x' while true do s = s .. s end" },
  { name = "much work in few instructions", code = "local s = ('x'):rep(65000) while true do s:find('[^x]') end" },
  { name = "an explanation of a thousand rules", code = 'explain "tcp ::1 2345 ::1 5777 atlas Data_Challenge"' },
  { name = "all counters", code = "stats()" },
  { name = "completion", code = 'flows{experiment="', complete = true },
}

local quiet = delays()
bench.note("console: nobody there: %d events, largest delay %.2f ms", #quiet, quiet[#quiet])
local worst, worst_name = 0, nil
local slow_quiet = bench.percentile(quiet, 99)
for _, case in ipairs(cases) do
  local list, answers, share = delays(case)
  bench.note("console: %s: %d events, %d answers; delay of an event: median %.2f ms, 99 in 100 within %.2f ms, largest %.2f ms; "
    .. "the console in one go: %.2f ms", case.name, #list, answers, bench.median(list), bench.percentile(list, 99), list[#list], share)
  bench.row("console: delay of an event, " .. case.name, ("%.2f ms, largest %.2f"):format(bench.percentile(list, 99), list[#list]),
    ("%.2f ms, largest %.2f, nobody there"):format(slow_quiet, quiet[#quiet]), nil, "at most 10 ms more",
    bench.percentile(list, 99) <= slow_quiet + 10)
  if share > worst then worst, worst_name = share, case.name end
end
bench.row("console: longest that it kept an event waiting", ("%.2f ms, %s"):format(worst, worst_name), "", nil, "at most 10 ms",
  worst <= 10)
traffic:stop()
d:stop(30)
return 0
