-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
int mkfifo(const char *path, unsigned int mode);
int chmod(const char *path, unsigned int mode);
int chown(const char *path, unsigned int uid, unsigned int gid);
int symlink(const char *target, const char *path);
unsigned int umask(unsigned int mask);
int geteuid(void);
]])
local C = ffi.C

local KEEP = 0xffffffff
local EPERM, ENOENT, EAGAIN, EBUSY, EINVAL = 1, 2, 11, 16, 22
local O_WRONLY, O_NONBLOCK, O_CLOEXEC = 1, 0x800, 0x80000
local F_GETPIPE_SZ = 1032
local POLLHUP = 16
local NOBODY = 65534

local function open(path, options)
  options = options or {}
  local fifo = ffi.new("struct fifo")
  local message = ffi.new("char[512]")
  local settings = ffi.new("struct fifo_options", options.mode or 432, options.uid or KEEP, options.gid or KEEP,
    options.replace or false)
  local status = api.fifo_open(fifo, path, settings, message)
  cleanup.add(function() api.fifo_close(fifo) end)
  return status, ffi.string(message), fifo
end

local function stat(path)
  local text = process.must({ "stat", "-c", "%F %a %u %g", path })
  return (text:gsub("\n$", ""))
end

local function write_end(path)
  local fd = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
  local token = fd >= 0 and cleanup.add(function() C.close(fd) end)
  local function close()
    cleanup.forget(token)
    C.close(fd)
  end
  return fd, close
end

local function put(fd, text) assert.equal(#text, tonumber(C.write(fd, text, #text))) end

-- What read(2) says: text, "" at the end of the file, or nil and errno.
local function get(fifo)
  local buffer = ffi.new("char[65536]")
  local n = tonumber(C.read(fifo.fd, buffer, 65536))
  if n < 0 then return nil, ffi.errno() end
  return ffi.string(buffer, n)
end

local function poll(fd)
  local set = ffi.new("struct lab_pollfd", fd, 1, 0)
  C.ppoll(set, 1, ffi.new("struct lab_timespec", 0, 0), nil)
  return set.revents
end

local function list(dir) return process.must({ "ls", "-A", dir }) end

describe("fifo_open", function()
  local dir, path
  before_each(function()
    dir = temp.dir()
    path = dir .. "/np"
  end)
  after_each(cleanup.all)

  it("makes a FIFO with exactly the configured mode, whatever the umask", function()
    local before = C.umask(63)
    local status, message, fifo = open(path, { mode = 438 })
    C.umask(before)
    assert.equal(0, status)
    assert.equal("", message)
    assert.is_true(fifo.created)
    assert.matches("^fifo 666 ", stat(path))
    assert.equal("np\n", list(dir))
  end)

  it("gives it to the configured user and group", function()
    if C.geteuid() ~= 0 then return pending("needs root") end
    assert.equal(0, (open(path, { mode = 400, uid = NOBODY, gid = 12345 })))
    assert.equal("fifo 620 65534 12345", stat(path))
  end)

  it("has a reader when it becomes visible", function()
    local rounds = 300
    -- Opens each FIFO as soon as there is one; without a reader that fails with ENXIO.
    local script = temp.write(dir .. "/writer.lua", [[
      local ffi = require("ffi")
      ffi.cdef("int open(const char *, int, ...); long write(int, const void *, size_t); int close(int);")
      for i = 1, ]] .. rounds .. [[ do
        local path, fd = "]] .. path .. [[" .. i
        repeat fd = ffi.C.open(path, 1 + 0x800) until fd >= 0 or ffi.errno() ~= 2
        assert(fd >= 0, "errno " .. ffi.errno())
        assert(ffi.C.write(fd, "line\n", 5) == 5)
        ffi.C.close(fd)
      end
    ]])
    local writer = process.start({ daemon.binary(), "lua", script })
    for i = 1, rounds do
      local status, message, fifo = open(path .. i)
      assert.equal(0, status, message)
      process.wait_for("a line; the writer says: " .. writer:output(), 5, function()
        return get(fifo) == "line\n" or not writer:running()
      end)
      api.fifo_close(fifo)
    end
    assert.same({ code = 0 }, writer:wait(5), writer:output())
    assert.equal("", writer:output())
  end)

  it("asks for a large buffer", function()
    local _, _, fifo = open(path)
    assert.equal(1048576, C.fcntl(fifo.fd, F_GETPIPE_SZ))
  end)

  it("uses a FIFO that was there as it is", function()
    assert.equal(0, C.mkfifo(path, 384))
    local status, message, fifo = open(path, { mode = 438, uid = NOBODY })
    assert.equal(0, status)
    assert.is_false(fifo.created)
    assert.matches("there before", message, 1, true)
    assert.matches("^fifo 600 " .. C.geteuid() .. " ", stat(path))
    assert.equal(0, api.fifo_remove(fifo, path))
    assert.matches("^fifo 600 ", stat(path))
  end)

  it("says when every user can write to the FIFO that was there", function()
    C.mkfifo(path, 384)
    C.chmod(path, 438)
    local status, message = open(path)
    assert.equal(0, status)
    assert.matches("every user can write", message, 1, true)
  end)

  it("refuses a FIFO of another user, unless that is the configured owner", function()
    if C.geteuid() ~= 0 then return pending("needs root") end
    C.mkfifo(path, 384)
    C.chown(path, NOBODY, NOBODY)
    local status, message, fifo = open(path)
    assert.equal(-EPERM, status)
    assert.equal(-1, fifo.fd)
    assert.matches(path .. ": the FIFO belongs to user 65534; expected root", message, 1, true)
    assert.equal(0, (open(path, { uid = NOBODY })))
  end)

  it("refuses a symbolic link, even to a FIFO", function()
    C.mkfifo(dir .. "/real", 384)
    C.symlink(dir .. "/real", path)
    local status, message = open(path)
    assert.equal(-EINVAL, status)
    assert.matches("found a symbolic link", message, 1, true)
    C.symlink("nowhere", dir .. "/dangling")
    assert.equal(-EINVAL, (open(dir .. "/dangling")))
  end)

  it("refuses a regular file, names the remedy and leaves it alone", function()
    temp.write(path, "start tcp ...\n")
    local status, message = open(path)
    assert.equal(-EINVAL, status)
    assert.matches(path, message, 1, true)
    assert.matches("regular file", message, 1, true)
    assert.matches("replace_regular_file = true", message, 1, true)
    assert.equal("start tcp ...\n", temp.read(path))
    assert.equal("np\n", list(dir))
  end)

  it("renames a regular file aside when it may, and says where", function()
    temp.write(path, "first\n")
    local status, message, fifo = open(path, { replace = true })
    assert.equal(0, status)
    assert.is_true(fifo.created)
    assert.matches("^fifo 660 ", stat(path))
    local aside = message:match("is now (.*)$")
    assert.equal("first\n", temp.read(aside))
    -- A second one in the same second does not overwrite the first.
    api.fifo_remove(fifo, path)
    temp.write(path, "second\n")
    local _, second = open(path, { replace = true })
    assert.equal("second\n", temp.read(second:match("is now (.*)$")))
    assert.equal("first\n", temp.read(aside))
  end)

  it("refuses directories, sockets and devices", function()
    local status, message = open(dir, { replace = true })
    assert.equal(-EINVAL, status)
    assert.matches("found a directory", message, 1, true)
    status, message = open("/dev/null", { replace = true })
    assert.equal(-EINVAL, status)
    assert.matches("found a device", message, 1, true)
  end)

  it("names the directory that is missing", function()
    local status, message = open(dir .. "/no/np")
    assert.equal(-ENOENT, status)
    assert.equal(dir .. "/no/np: the directory " .. dir .. "/no does not exist", message)
  end)

  it("refuses a FIFO that another reader has", function()
    open(path)
    local status, message = open(path)
    assert.equal(-EBUSY, status)
    assert.matches("another flowd-lua reads this FIFO", message, 1, true)
  end)

  it("leaves nothing behind when it fails", function()
    if C.geteuid() ~= 0 then return pending("needs root, to become somebody else") end
    process.must({ "chmod", "711", dir })
    process.must({ "install", "-d", "-o", "nobody", dir .. "/theirs" })
    local script = temp.write(dir .. "/open.lua", [[
      local api, ffi = require("flowd.api"), require("ffi")
      local message = ffi.new("char[512]")
      local options = ffi.new("struct fifo_options", 432, 0, 0)
      print(api.fifo_open(ffi.new("struct fifo"), "]] .. dir .. [[/theirs/np", options, message), ffi.string(message))
    ]])
    process.must({ "chmod", "644", script })
    local result = process.must({ "setpriv", "--reuid=65534", "--clear-groups", daemon.public_binary(), "lua", script })
    assert.equal(-EPERM, tonumber(result:match("^%-%d+")), result)
    assert.matches("cannot be given to user 0, group 0", result, 1, true)
    assert.equal("", list(dir .. "/theirs"))
  end)

  it("makes a FIFO under the longest name", function()
    assert.equal(0, (open(dir .. "/" .. ("n"):rep(255))))
    assert.equal(-36, (open(dir .. "/" .. ("n"):rep(256))))
  end)
end)

describe("fifo_reopen", function()
  local path, fifo, _
  before_each(function()
    path = temp.dir() .. "/np"
    _, _, fifo = open(path)
  end)
  after_each(cleanup.all)

  it("turns the hang-up of the last writer into silence", function()
    local fd, close = write_end(path)
    put(fd, "one\n")
    close()
    assert.equal("one\n", get(fifo))
    assert.equal("", get(fifo))
    assert.is_true(bit.band(poll(fifo.fd), POLLHUP) ~= 0)
    assert.equal(0, api.fifo_reopen(fifo))
    assert.equal(0, poll(fifo.fd))
  end)

  it("loses nothing that is written meanwhile", function()
    local _, first_close = write_end(path)
    first_close()
    local fd, close = write_end(path)
    put(fd, "between\n")
    close()
    assert.equal(0, api.fifo_reopen(fifo))
    assert.equal("between\n", get(fifo))
    assert.equal("", get(fifo))
  end)

  it("keeps an open writer connected", function()
    local fd, close = write_end(path)
    put(fd, "a")
    assert.equal(0, api.fifo_reopen(fifo))
    put(fd, "b")
    assert.equal("ab", get(fifo))
    assert.same({ nil, EAGAIN }, { get(fifo) })
    close()
    assert.is_true(bit.band(poll(fifo.fd), POLLHUP) ~= 0)
  end)

  it("stays with its FIFO when another one took the path", function()
    local fd = write_end(path)
    os.remove(path)
    C.mkfifo(path, 384)
    assert.equal(0, api.fifo_reopen(fifo))
    put(fd, "old")
    assert.equal("old", get(fifo))
    assert.equal(0, api.fifo_is_at(fifo, path))
  end)

  it("keeps the lock of the reader", function()
    assert.equal(0, api.fifo_reopen(fifo))
    assert.equal(-EBUSY, (open(path)))
  end)
end)

describe("fifo_is_at, fifo_remove and fifo_waiting", function()
  local path, fifo, _
  before_each(function()
    path = temp.dir() .. "/np"
    _, _, fifo = open(path)
  end)
  after_each(cleanup.all)

  it("know whether the path is still this FIFO's", function()
    assert.equal(1, api.fifo_is_at(fifo, path))
    os.remove(path)
    assert.equal(-ENOENT, api.fifo_is_at(fifo, path))
    temp.write(path, "")
    assert.equal(0, api.fifo_is_at(fifo, path))
  end)

  it("remove what we made, and nothing that took its place", function()
    assert.equal(0, api.fifo_remove(fifo, path))
    assert.is_false(temp.exists(path))
    C.mkfifo(path, 384)
    assert.equal(0, api.fifo_remove(fifo, path))
    assert.is_true(temp.exists(path))
  end)

  it("count the octets that wait", function()
    assert.equal(0, api.fifo_waiting(fifo))
    put((write_end(path)), "12345")
    assert.equal(5, api.fifo_waiting(fifo))
    api.fifo_close(fifo)
    assert.equal(0, api.fifo_waiting(fifo))
  end)
end)

describe("path_watch", function()
  local dir, path, watch
  before_each(function()
    dir = temp.dir()
    path = dir .. "/np"
    watch = api.path_watch_open(path)
    assert.is_true(watch >= 0)
    local fd = watch
    cleanup.add(function() api.path_watch_close(fd) end)
  end)
  after_each(cleanup.all)

  it("sees the name appear, vanish and be renamed, and nothing else", function()
    assert.equal(0, api.path_watch_read(watch, path))
    temp.write(dir .. "/other", "")
    assert.equal(1, poll(watch))
    assert.equal(0, api.path_watch_read(watch, path))
    C.mkfifo(path, 384)
    assert.equal(1, api.path_watch_read(watch, path))
    os.rename(path, dir .. "/elsewhere")
    assert.equal(1, api.path_watch_read(watch, path))
    os.rename(dir .. "/other", path)
    assert.equal(1, api.path_watch_read(watch, path))
    os.remove(path)
    assert.equal(1, api.path_watch_read(watch, path))
    assert.equal(0, poll(watch))
  end)

  it("is not woken by writers", function()
    local _, _, fifo = open(path)
    api.path_watch_read(watch, path)
    local fd, close = write_end(path)
    put(fd, "x")
    get(fifo)
    close()
    assert.equal(0, poll(watch))
  end)

  it("says that its directory is gone", function()
    process.must({ "rm", "-rf", dir })
    assert.equal(3, api.path_watch_read(watch, path))
  end)

  it("cannot watch a directory that is not there", function()
    assert.equal(-ENOENT, api.path_watch_open(dir .. "/no/np"))
  end)

  it("takes a path without a directory for one below the working directory", function()
    local fd = api.path_watch_open("np")
    assert.is_true(fd >= 0)
    api.path_watch_close(fd)
  end)
end)

describe("accounts", function()
  local id = ffi.new("uint32_t[1]")

  it("are found by name and by number", function()
    assert.equal(0, api.account_user("root", id))
    assert.equal(0, id[0])
    assert.equal(0, api.account_user("nobody", id))
    assert.equal(NOBODY, id[0])
    assert.equal(0, api.account_group("daemon", id))
    assert.equal(1, id[0])
    assert.equal(0, api.account_group("4294967294", id))
    assert.equal(4294967294, id[0])
  end)

  it("that do not exist are refused", function()
    for _, name in ipairs({ "", "no-such-user", "-1", "4294967295", "99999999999999999999", "1x", "root:" }) do
      assert.equal(-ENOENT, api.account_user(name, id), name)
      assert.equal(-ENOENT, api.account_group(name, id), name)
    end
  end)
end)
