-- SPDX-License-Identifier: Apache-2.0
--- CPU time, and how much slower than the machine that figures are promised for this one is.
local ffi = require("ffi")
require("spec.support.process") -- declares clock_gettime

local CLOCK_PROCESS_CPUTIME_ID = 2
-- Of work() on the machine of the figures in README.md.
local USUAL_MS = 20

local machine = {}

local function now_ms()
  local now = ffi.new("struct lab_timespec")
  ffi.C.clock_gettime(CLOCK_PROCESS_CPUTIME_ID, now)
  return tonumber(now.tv_sec) * 1e3 + tonumber(now.tv_nsec) / 1e6
end

--- Milliseconds of CPU time that a function takes.
---@param fn fun()
---@return number
function machine.cpu_ms(fn)
  local before = now_ms()
  fn()
  return now_ms() - before
end

-- What console and rules do: tables, texts, calls, in the interpreter.
local function work()
  local t = {}
  for i = 1, 40000 do t[i] = { ("%d"):format(i) } end
  local sum = 0
  for i = 1, #t do sum = sum + #t[i][1] end
  return sum
end
jit.off(work, true)

--- 1 on that machine and on faster ones, 2 on one half as fast, as it is now: two threads of a core slow each other down.
--- By CPU time.
---@return number
function machine.slowness()
  local least = math.huge
  for _ = 1, 7 do
    collectgarbage()
    least = math.min(least, machine.cpu_ms(work))
  end
  if os.getenv("SPEC_FIGURES") then print(("the machine: %.1f ms, usual are %g"):format(least, USUAL_MS)) end
  return math.max(1, least / USUAL_MS)
end

return machine
