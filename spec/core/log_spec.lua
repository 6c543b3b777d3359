-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")

local binary = os.getenv("FLOWD_BIN") or "bin/flowd-lua"

-- What a script writes to standard error, in a process of its own.
local function logged(body, environment)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write('local api = require("flowd.api"); local log = require("flowd.log")\n', body)
  file:close()
  local pipe = assert(io.popen(("%s %s lua %s 2>&1 >/dev/null"):format(environment or "", binary, path)))
  local text = pipe:read("*a")
  pipe:close()
  os.remove(path)
  return text
end

describe("the log", function()
  it("writes a level and the message, one line each", function()
    assert.equal("info  one\nwarn  two 2\n", logged([[api.log_setup(2, false); log.info("one"); log.warn("two %d", 2)]]))
  end)

  it("leaves out what is below its level", function()
    assert.equal("error e\n", logged([[api.log_setup(4, false); log.warn("w"); log.error("e")]]))
  end)

  it("shows the time in UTC when asked", function()
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%d%d%d%dZ info  x\n$",
      logged([[api.log_setup(2, true); log.info("x")]]))
  end)

  it("uses the journal's priorities only when standard error is the journal", function()
    assert.equal("info  x\n", logged([[api.log_setup(2, false); log.info("x")]], "JOURNAL_STREAM=1:2"))
    local text = logged([[
      local ffi = require("ffi")
      ffi.cdef("int setenv(const char *, const char *, int);")
      local p = io.popen("stat -L -c %d:%i /proc/" .. io.open("/proc/self/stat"):read("*n") .. "/fd/2")
      ffi.C.setenv("JOURNAL_STREAM", p:read("*l"), 1)
      api.log_setup(2, false)
      log.warn("w"); log.error("e")]])
    assert.equal("<4>w\n<3>e\n", text)
  end)

  it("cannot be made to show a forged line", function()
    assert.equal("warn  a\\nerror b\\x1b[31m\n", logged([[api.log_setup(2, false); api.log_text(3, "a\nerror b\27[31m")]]))
  end)

  it("holds repeats back and says how many", function()
    local text = logged([[
      api.log_setup(2, false)
      local write = log.limited(2, 0.05)
      for i = 1, 5 do write("warn", "n %d", i) end
      local start = api.clock_monotonic_ns()
      while api.clock_monotonic_ns() - start < 60000000 do end
      write("warn", "later")]])
    assert.equal("warn  n 1\nwarn  n 2\nwarn  later (and 3 more of this kind)\n", text)
  end)

  it("knows which levels are on", function()
    local before = api.log_get_level()
    api.log_setup(ffi.C.LOG_LEVEL_WARN, false)
    assert.is_false(api.log_enabled(ffi.C.LOG_LEVEL_INFO))
    assert.is_true(api.log_enabled(ffi.C.LOG_LEVEL_ERROR))
    api.log_setup(before, false)
  end)
end)
