-- SPDX-License-Identifier: Apache-2.0
--- What the benchmarks share: tools in C, the daemon under test, figures, and rows of the table.
--
-- A benchmark is a Lua file scripts/bench/NAME.lua, run by `bin/flowd-lua lua`. It prints rows with
-- bench.row; scripts/bench/run collects those of all benchmarks into one table.
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local processors = require("spec.support.processors")
local temp = require("spec.support.temp")

local bench = { pin = processors.pin }

local TOOLS = "build/bench"

cleanup.catch_interrupts()

--- Compile scripts/bench/tools/NAME.c when it is newer than what is there.
---@param name string
---@return string path
function bench.tool(name)
  local source, binary = ("scripts/bench/tools/%s.c"):format(name), ("%s/%s"):format(TOOLS, name)
  process.must({ "sh", "-c", ('mkdir -p %s && { [ %s -nt %s ] || cc -O2 -Wall -Wextra -Werror -o %s %s; }')
    :format(TOOLS, binary, source, binary, source) })
  return binary
end

---@param list number[]
---@return number
function bench.median(list) return bench.percentile(list, 50) end

---@param list number[]
---@param percent number
---@return number
function bench.percentile(list, percent)
  local sorted = {}
  for i, value in ipairs(list) do sorted[i] = value end
  table.sort(sorted)
  return sorted[math.max(1, math.ceil(#sorted * percent / 100))]
end

--- A median and its standard error, with the standard deviation as the quartiles tell it.
---@param list number[]
---@return number median
---@return number uncertain
function bench.median_of(list)
  local spread = bench.percentile(list, 75) - bench.percentile(list, 25)
  return bench.median(list), 1.25 * spread / 1.35 / math.sqrt(#list)
end

--- One row of the table. `required` and `ok` are nil when nothing is promised of it.
---@param name string what is measured
---@param value string with its unit
---@param baseline string what it is compared with, with its unit; "" = nothing
---@param ratio number|nil value over baseline, or the other way round, as `required` says
---@param required string|nil
---@param ok boolean|nil
function bench.row(name, value, baseline, ratio, required, ok)
  io.write(("@\t%s\t%s\t%s\t%s\t%s\t%s\n"):format(name, value, baseline, ratio and ("%.2f"):format(ratio) or "",
    required or "", ok == nil and "" or ok and "ok" or "MISSED"))
  io.flush()
end

--- Words before a command that is to run before all others on the machine, whose load is not what is measured;
--- none where that is not allowed.
---@return string[]
function bench.realtime()
  local words = { "chrt", "--fifo", "10" }
  if process.run({ words[1], words[2], words[3], "true" }).code == 0 then return words end
  bench.note("no real-time priority here: what else runs on the machine shows in the figures")
  return {}
end

--- A remark for whoever watches.
function bench.note(format, ...)
  io.stderr:write("   ", format:format(...), "\n")
end

-- -- the counting sink ---------------------------------------------------------------

ffi.cdef([[
struct bench_sink { uint64_t datagrams, octets, starts, ends, first_ns, last_ns, dropped, ready; };
void *mmap(void *, size_t, int, int, int, int64_t);
]])

--- Start the sink (tools/sink.c) at ::1.
---@param namespace table
---@param port integer
---@param cpu integer|nil to run on
---@return table sink with .counters (struct bench_sink *)
function bench.sink(namespace, port, cpu)
  local path = temp.write(temp.dir() .. "/counters", ("\0"):rep(4096))
  local fd = ffi.C.open(path, 2)
  local map = ffi.C.mmap(nil, 4096, 3, 1, fd, 0)
  ffi.C.close(fd)
  local sink = { counters = ffi.cast("volatile struct bench_sink *", map) }
  sink.child = namespace:start({ "taskset", "-c", tostring(cpu or 1), bench.tool("sink"), port, path })
  process.wait_for("the sink", 5, function() return sink.counters.ready == 1 end)

  function sink:reset() -- luacheck: ignore 212
    local c = self.counters
    c.datagrams, c.octets, c.starts, c.ends, c.first_ns, c.last_ns = 0, 0, 0, 0, 0, 0
    self.dropped_before = tonumber(c.dropped)
  end

  --- Datagrams that did not fit into its receive buffer since the last reset.
  ---@return integer
  function sink:dropped() return tonumber(self.counters.dropped) - (self.dropped_before or 0) end -- luacheck: ignore 212

  --- Wait until nothing more can come: `count` datagrams, or none for three seconds (a sender
  --- that has no processor for a while has not ended).
  ---@return integer datagrams
  function sink:settle(count, seconds)
    local last, since = -1, process.now()
    process.wait_for("datagrams", seconds or 60, function()
      local n = tonumber(self.counters.datagrams)
      if n ~= last then last, since = n, process.now() end
      return n >= count or process.now() - since > 3
    end)
    return last
  end
  return sink
end

return bench
