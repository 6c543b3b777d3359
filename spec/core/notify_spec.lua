-- SPDX-License-Identifier: Apache-2.0
local binary = os.getenv("FLOWD_BIN") or "bin/flowd-lua"

-- A service manager: a datagram socket that shows what arrives, and the contents of descriptors.
local manager = [[
import array, os, socket, subprocess, sys
path = sys.argv[1]
name = path if path[0] == '/' else '\0' + path[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(name)
s.settimeout(10)
env = dict(os.environ, NOTIFY_SOCKET=path, WATCHDOG_USEC='3000000')
child = subprocess.Popen(sys.argv[3:], env=env, stdout=subprocess.PIPE, text=True)
for _ in range(int(sys.argv[2])):
    data, control, _, _ = s.recvmsg(4096, 512)
    shown = data.decode().replace('\n', ' ')
    for level, kind, fds in control:
        fd = array.array('i', fds)[0]
        shown += ' fd:' + os.read(fd, 16).decode()
    print(shown)
print('child:', child.communicate(timeout=10)[0].strip())
]]

local function run(address, datagrams, body)
  local script, lua = os.tmpname(), os.tmpname()
  for path, text in pairs({ [script] = manager, [lua] = body }) do
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
  end
  local pipe = assert(io.popen(("python3 %s %s %d %s lua %s 2>&1"):format(script, address, datagrams, binary, lua)))
  local text = pipe:read("*a")
  pipe:close()
  for _, path in ipairs({ script, lua, address }) do os.remove(path) end
  return text
end

local body = [[
local api, ffi = require("flowd.api"), require("ffi")
ffi.cdef("int pipe(int *); long write(int, const void *, size_t);")
local p = ffi.new("int[2]")
ffi.C.pipe(p)
ffi.C.write(p[1], "stored", 6)
print(api.notify_send("READY=1\nSTATUS=fine"), api.notify_store("fifo=/run/np", p[0]), api.notify_unstore("fifo=/run/np"),
  api.notify_store("a:b", p[0]), tonumber(api.notify_watchdog_us()))
]]

describe("the service manager", function()
  local expected = table.concat({
    "READY=1 STATUS=fine",
    "FDSTORE=1 FDNAME=fifo=/run/np FDPOLL=0 fd:stored",
    "FDSTOREREMOVE=1 FDNAME=fifo=/run/np",
    "child: 1\t1\t1\t-22\t3000000",
    "",
  }, "\n")

  it("is told through a socket in the file system", function()
    assert.equal(expected, run(os.tmpname() .. ".sock", 3, body))
  end)

  it("is told through an abstract socket", function()
    assert.equal(expected, run("@flowd-lua-notify-spec-" .. tostring(os.time()) .. math.random(1e9), 3, body))
  end)

  it("need not exist", function()
    local api = require("flowd.api")
    assert.equal(0, api.notify_send("READY=1"))
    assert.equal(0, tonumber(api.notify_watchdog_us()))
  end)
end)
