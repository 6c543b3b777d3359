-- SPDX-License-Identifier: Apache-2.0
local binary = os.getenv("FLOWD_BIN") or "bin/flowd-lua"

-- Output of a script in a process of its own; `environment` stands before the command.
local function run(body, environment, redirections)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write([[
local ffi = require("ffi")
local api = require("flowd.api")
ffi.cdef("int pipe(int *); long read(int, void *, size_t); long write(int, const void *, size_t); int getpid(void);")
ffi.cdef("int sigprocmask(int, const uint64_t *, uint64_t *); int fcntl(int, int, ...); int dup2(int, int);")
local function get(fd)
  local buffer = ffi.new("char[64]")
  return ffi.string(buffer, ffi.C.read(fd, buffer, 64))
end
]], body)
  file:close()
  local pipe = assert(io.popen(("%s %s lua %s 2>&1 %s"):format(environment or "", binary, path, redirections or "")))
  local text = pipe:read("*a")
  pipe:close()
  os.remove(path)
  return text
end

describe("handing over to a new image", function()
  it("keeps the pid, the offered descriptors and their names, and closes all others", function()
    local text = run([[
if not api.handover_resumed() then
  local a, b, c = ffi.new("int[2]"), ffi.new("int[2]"), ffi.new("int[2]")
  ffi.C.pipe(a); ffi.C.pipe(b); ffi.C.pipe(c)
  ffi.C.write(a[1], "one", 3); ffi.C.write(b[1], "two", 3)
  assert(api.handover_offer("fifo:/run/a;b%c", a[0]) == 0)
  assert(api.handover_offer("second", b[0]) == 0)
  assert(api.handover_offer("gone", c[0]) == 0)
  api.handover_withdraw("gone")
  print(ffi.C.getpid(), c[0]); io.stdout:flush()
  print(api.handover_exec())
else
  print(ffi.C.getpid())
  local fd = api.handover_take("fifo:/run/a;b%c")
  print(get(fd), get(api.handover_take("second")), api.handover_take("gone"), api.handover_take("second"))
  print(ffi.C.fcntl(fd, 1) == 1) -- FD_CLOEXEC again
  local open = 0
  for i = 3, 30 do if ffi.C.fcntl(i, 1) >= 0 then open = open + 1 end end
  print(open <= 3, api.handover_close_rest())
end]])
    local pid, rest = text:match("^(%d+)\t%d+\n(.*)$")
    assert.equal(pid .. "\none\ttwo\t-1\t-1\ntrue\ntrue\t0\n", rest)
  end)

  it("starts the new image with an empty signal mask", function()
    local text = run([[
if not api.handover_resumed() then
  ffi.C.sigprocmask(0, ffi.new("uint64_t[16]", 2 ^ 14), nil)
  api.handover_exec()
end
for line in io.lines("/proc/self/status") do
  local mask = line:match("^SigBlk:%s*(%x+)")
  if mask then print(mask) end
end]])
    assert.equal("0000000000000000\n", text)
  end)

  it("is not mistaken by a child that inherits the environment", function()
    assert.equal("false\t-1\n", run([[print(api.handover_resumed(), api.handover_take("x"))]],
      "FLOWD_LUA_HANDOVER='1 0=x;'"))
  end)

  it("takes descriptors from systemd's store by their names, when they are meant for this process", function()
    local start = [[exec 3<<<three 4<<<four; export LISTEN_FDS=2 LISTEN_FDNAMES=fifo=/run/np:other LISTEN_PID=%s; exec ]]
    local function under_systemd(pid)
      return run([[
print(api.handover_resumed())
local fd = api.handover_take("fifo=/run/np")
print(fd >= 0 and get(fd), os.getenv("LISTEN_FDS"))]], ("bash -c '%s\"$0\" \"$@\"'"):format(start:format(pid)))
    end
    assert.equal("false\nthree\n\tnil\n", under_systemd("$$"))
    assert.matches("^false\nfalse\t2\n$", under_systemd("1"))
  end)

  it("refuses names that could not be passed on", function()
    local api = require("flowd.api")
    assert.is_true(api.handover_offer("", 0) < 0)
    assert.is_true(api.handover_offer(("x"):rep(200), 0) < 0)
    assert.is_true(api.handover_offer("a\nb", 0) < 0)
    assert.is_true(api.handover_offer("a", -1) < 0)
  end)

  it("finds a full list", function()
    local api = require("flowd.api")
    for i = 1, 128 do assert.equal(0, api.handover_offer("n" .. i, 0)) end
    assert.is_true(api.handover_offer("n129", 0) < 0)
    for i = 1, 128 do api.handover_withdraw("n" .. i) end
    assert.equal(0, api.handover_offer("n129", 0))
    api.handover_withdraw("n129")
  end)
end)
