-- SPDX-License-Identifier: Apache-2.0
--- The tests of one kernel: luajit scripts/kernels/guest.lua RESULTS
---
--- Runs inside a guest of the matrix, and as well on any machine (root; only namespaces of its
--- own are touched). $FLOWD_BIN is the binary under test; what looks at it from outside is
--- LuaJIT's own, because a static binary cannot call the C library through FFI.
package.path = "./?.lua;" .. package.path
local checks = require("scripts.kernels.checks")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local result = require("scripts.kernels.result")
local temp = require("spec.support.temp")

local function trim(text) return (text:gsub("%s+$", "")) end

local release = trim(assert(temp.read("/proc/sys/kernel/osrelease"), "no /proc"))
local major, minor = release:match("^(%d+)%.(%d+)")
local context = {
  release = release,
  -- Guests have the machine for themselves: their kernel's log is theirs.
  guest = os.getenv("FLOWD_KERNELS_GUEST") == "1",
  has_tcx = tonumber(major) * 1000 + tonumber(minor) >= 6006,
  needs_perfmon = tonumber(major) * 1000 + tonumber(minor) < 6012,
  -- Programs and tables count as locked memory.
  counts_memory = tonumber(major) * 1000 + tonumber(minor) < 5011,
}

-- A machine's own kernel may be without some devices; those of the guests have them all.
local function missing_kind(message)
  return message:match("Error: Unknown device type") or message:match("Error: Specified qdisc kind is unknown")
end

local report = result.writer(assert(arg[1], "usage: guest.lua RESULTS"))
report.kernel(release)
local failed = 0

for _, check in ipairs(checks.list()) do
  local started = process.now()
  local ok, detail, state = pcall(cleanup.scope, check.run, context)
  local absent = not ok and not context.guest and missing_kind(detail)
  if absent then
    ok, state, detail = true, "absent", absent
  elseif not ok then
    failed = failed + 1
    io.stderr:write(("\n== %s\n%s\n"):format(check.name, detail))
    -- The first line says what; the traceback is on the console.
    detail = tostring(detail):match("^[^\n]*")
  end
  state = ok and (state or "pass") or "fail"
  report.check(check.name, state, detail)
  print(("%-8s %5.1f s  %s: %s"):format(state, process.now() - started, check.name, detail))
end
report.finish()
os.exit(failed == 0 and 0 or 1)
