-- SPDX-License-Identifier: Apache-2.0
local binary = os.getenv("FLOWD_BIN") or "bin/flowd-lua"

-- Run a script under the watchdog in a process of its own. `body` runs the first time; after a handover
-- the note is printed instead.
local function run(body)
  local path, state = os.tmpname(), os.tmpname()
  os.remove(state)
  local file = assert(io.open(path, "w"))
  file:write(([[
local ffi = require("ffi")
local api = require("flowd.api")
local message = ffi.new("char[512]")
local state = api.state_open(%q, 1000, message, 512)
if state == nil then print(ffi.string(message)) return 1 end
local note = api.state_running(state)
if api.handover_resumed() then
  print("replaced", note.kind, note.number, ffi.string(note.name), note.crashes)
  return 0
end
assert(api.watchdog_start(note) == 0)
%s
print("returned", note.kind)
return 0
]]):format(state, body))
  file:close()
  local pipe = assert(io.popen(("timeout 30 %s lua %s 2>&1"):format(binary, path)))
  local text = pipe:read("*a")
  pipe:close()
  os.remove(path)
  os.remove(state)
  return (text:gsub("[^\n]-info [^\n]*\n", ""))
end

describe("the watchdog", function()
  it("replaces the process when a compiled loop never ends, and the note names the culprit", function()
    assert.equal("replaced\t1\t7\trule 'never ends'\t1\n", run([[
      api.watchdog_enter(1, 7, "rule 'never ends'")
      local x = 0
      while true do x = x + 1 end]]))
  end)

  it("replaces the process when an interpreted loop never ends", function()
    assert.matches("^replaced\t2\t0\tplugin", run([[
      jit.off()
      api.watchdog_enter(2, 0, "plugin")
      while true do end]]))
  end)

  it("replaces the process when a string pattern never ends", function()
    assert.matches("^replaced\t1\t", run([[
      api.watchdog_enter(1, 1, "pattern")
      local s = ("a"):rep(40)
      s:find(("a?"):rep(40) .. ("a"):rep(41))
      s:find(("a*"):rep(40) .. "b")]]))
  end)

  it("lets a script run on that reports progress", function()
    assert.equal("returned\t0\n", run([[
      api.watchdog_enter(4, 0, "long but alive")
      local deadline = api.clock_monotonic_ns() + 2500000000ULL
      while api.clock_monotonic_ns() < deadline do api.watchdog_progress() end
      api.watchdog_leave(0)]]))
  end)

  it("leaves work alone that is no script's", function()
    assert.equal("returned\t0\n", run([[
      api.watchdog_enter(1, 0, "short")
      api.watchdog_leave(0)
      local deadline = api.clock_monotonic_ns() + 2500000000ULL
      while api.clock_monotonic_ns() < deadline do end]]))
  end)

  it("does not take waiting for the CPU for a hang", function()
    assert.equal("returned\t0\n", run([[
      ffi.cdef("int getpid(void);")
      api.watchdog_enter(1, 0, "stopped")
      local pid = ffi.C.getpid()
      io.popen(("sh -c 'kill -STOP %d; sleep 2; kill -CONT %d'"):format(pid, pid)):read("*a")
      api.watchdog_leave(0)]]))
  end)

  it("does not take it for a hang when ticks are late: then the machine stood still, whatever the CPU clock says", function()
    -- As a virtual machine that gets no CPU: the CPU clock goes on, and one tick comes at the end.
    local stand_still = [[
      ffi.cdef("int sigprocmask(int, const uint64_t *, uint64_t *);")
      local SIG_BLOCK, SIG_UNBLOCK = 0, 1
      local alarm = ffi.new("uint64_t[16]", bit.lshift(1ULL, 14 - 1))
      local function burn(seconds)
        local ends = os.clock() + seconds
        while os.clock() < ends do end
      end
      api.watchdog_enter(1, 3, "stolen from")
      burn(0.25) -- a tick has seen it
      for _ = 1, %d do
        ffi.C.sigprocmask(SIG_BLOCK, alarm, nil)
        burn(0.5)
        ffi.C.sigprocmask(SIG_UNBLOCK, alarm, nil)
      end
      %s
      api.watchdog_leave(0)]]
    assert.equal("returned\t0\n", run(stand_still:format(2, "")))
    -- It is found all the same, when it goes on for ever.
    assert.matches("^replaced\t1\t3\t", run(stand_still:format(2, "while true do end")))
    assert.matches("^replaced\t1\t3\t", run(stand_still:format(1000, "")))
  end)

  it("knows the script that waits for another, also when that one raised", function()
    assert.equal("replaced\t2\t5\touter\t1\n", run([[
      api.watchdog_enter(2, 5, "outer")
      local mark = api.watchdog_enter(1, 7, "inner")
      api.watchdog_enter(3, 8, "innermost, never left")
      api.watchdog_leave(mark)
      while true do end]]))
  end)

  it("does not take a stop of the whole process for a hang", function()
    assert.equal("returned\t0\n", run([[
      ffi.cdef("int getpid(void);")
      api.watchdog_enter(1, 0, "stopped")
      local pid = ffi.C.getpid()
      io.popen(("sh -c 'sleep 0.3; kill -STOP %d; sleep 10.5; kill -CONT %d'"):format(pid, pid)):read("*a")
      api.watchdog_leave(0)]]))
  end)

  it("cuts a long name, and needs no note to be called", function()
    local api = require("flowd.api")
    api.watchdog_enter(1, 1, "nobody listens")
    api.watchdog_leave(0)
    assert.matches("^replaced\t1\t1\t" .. ("x"):rep(95) .. "\t1\n$", run([[
      api.watchdog_enter(1, 1, ("x"):rep(500))
      while true do end]]))
  end)
end)
