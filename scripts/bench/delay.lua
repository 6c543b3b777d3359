-- SPDX-License-Identifier: Apache-2.0
--- The delay of an event: from writing its line into a pipe of its own until the daemon has counted it.
local ffi = require("ffi")
local api = require("flowd.api")
local live_counter = require("spec.support.live_counter")

--- For a daemon that has a pipe plugin `pipe.probe`.
---@param runtime_dir string
---@param pipe string its FIFO
---@return fun(): number delay_ms of one event; raises after five seconds
return function(runtime_dir, pipe)
  local counted = live_counter(runtime_dir, 'flowd_lines_total{plugin="pipe.probe"}')
  local fd = ffi.C.open(pipe, 1)
  assert(fd >= 0)
  local number = 0
  local function delay_ms()
    number = number + 1
    local text = ("start udp ::1 %d ::2 %d lhcb 1\n"):format(1 + number % 60000, 1 + math.floor(number / 60000))
    local before, start = counted[0], api.clock_monotonic_ns()
    ffi.C.write(fd, text, #text)
    while counted[0] == before do
      if api.clock_monotonic_ns() - start > 5e9 then error("an event took more than five seconds", 0) end
    end
    return tonumber(api.clock_monotonic_ns() - start) / 1e6
  end
  -- LuaJIT would take the counter for a constant of the loop.
  jit.off(delay_ms)
  return delay_ms
end
