-- SPDX-License-Identifier: Apache-2.0
-- The real daemon and its pipes: every line that a writer got rid of is an event.
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
int mkfifo(const char *path, unsigned int mode);
int chown(const char *path, unsigned int uid, unsigned int gid);
int ioctl(int fd, unsigned long request, ...);
int geteuid(void);
]])
local C = ffi.C

local O_WRONLY, O_NONBLOCK, O_CLOEXEC = 1, 0x800, 0x80000
local F_SETFL = 4
local FIONREAD = 0x541b

-- The n-th of many flows, all different.
local function line(n, ending)
  local address = ("10.%d.%d.%d"):format(bit.band(bit.rshift(n, 16), 255), bit.band(bit.rshift(n, 8), 255),
    bit.band(n, 255))
  return ("start tcp %s %d 198.51.100.7 443 2 16%s"):format(address, 1 + n % 60000, ending or "\n")
end

local function lines(first, last)
  local all = {}
  for n = first, last do all[#all + 1] = line(n) end
  return table.concat(all)
end

-- A process that writes lines `first` to `last`, one write each, and prints how many it got rid of.
-- each: open and close the pipe for every line. It waits while there is no pipe or no reader.
local writer_source = [[
local ffi = require("ffi")
ffi.cdef("int open(const char *, int, ...); long write(int, const void *, size_t); int close(int);"
  .. "int fcntl(int, int, ...); int usleep(unsigned int);")
local C = ffi.C
local path, first, last, each = arg[1], tonumber(arg[2]), tonumber(arg[3]), arg[4] == "each"
local ENOENT, ENXIO = 2, 6
local function open()
  while true do
    local fd = C.open(path, 1 + 0x800)
    if fd >= 0 then
      C.fcntl(fd, 4, ffi.cast("int", 0))
      return fd
    end
    assert(ffi.errno() == ENOENT or ffi.errno() == ENXIO, ffi.errno())
  end
end
local fd = not each and open()
for n = first, last do
  local text = ("start tcp 10.%d.%d.%d %d 198.51.100.7 443 2 16\n"):format(bit.band(bit.rshift(n, 16), 255),
    bit.band(bit.rshift(n, 8), 255), bit.band(n, 255), 1 + n % 60000)
  if each then fd = open() end
  assert(C.write(fd, text, #text) == #text, ffi.errno())
  if each then C.close(fd) end
end
print("wrote " .. last - first + 1)
]]

local function start_writer(path, first, last, mode)
  local script = temp.write(temp.dir() .. "/writer.lua", writer_source)
  return process.start({ daemon.binary(), "lua", script, path, first, last, mode or "once" })
end

local function finish(writer, count, seconds)
  assert.same({ code = 0 }, writer:wait(seconds or 20), writer:output())
  assert.equal(("wrote %d\n"):format(count), writer:output())
end

local function open_writer(path)
  local fd = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
  assert(fd >= 0, path .. ": " .. process.errno_text())
  C.fcntl(fd, F_SETFL, ffi.cast("int", 0))
  local token = cleanup.add(function() C.close(fd) end)
  return {
    fd = fd,
    put = function(text) assert.equal(#text, tonumber(C.write(fd, text, #text))) end,
    -- Until the daemon has read everything.
    settle = function()
      local waiting = ffi.new("int[1]")
      process.wait_for("the daemon to read", 5, function()
        return C.ioctl(fd, FIONREAD, waiting) == 0 and waiting[0] == 0
      end)
    end,
    close = function()
      cleanup.forget(token)
      C.close(fd)
    end,
  }
end

describe("the daemon's pipe", function()
  local d
  local function start(options)
    options = options or {}
    options.log_level = options.log_level or "info"
    d = daemon.start(options)
    return d
  end

  after_each(cleanup.all)

  local function expect_flows(count, seconds)
    d:wait_for_counter("flowd_flows_started_total", count, seconds)
    assert.equal(count, d:counter("flowd_flows_started_total"))
    assert.equal(count, d:counter("flowd_lines_total"))
    assert.equal(0, d:counter("flowd_lines_refused_total"))
  end

  it("makes 100,000 events of 100,000 lines in one burst", function()
    start()
    d:write(lines(1, 100000))
    expect_flows(100000, 20)
    assert.equal(0, d:stop().code)
    assert.matches("ended 100000 open flows", d:log(), 1, true)
  end)

  it("serves ten writers at once", function()
    start()
    local writers = {}
    for i = 1, 10 do
      writers[i] = start_writer(d.pipe, i * 2000 + 1, (i + 1) * 2000, i % 2 == 0 and "each" or "once")
    end
    for _, writer in ipairs(writers) do finish(writer, 2000) end
    expect_flows(20000)
  end)

  it("misses no line that is written the very moment the pipe appears", function()
    for round = 1, 10 do
      local dir = temp.dir()
      local writer = start_writer(dir .. "/run/np", 1, 50, round % 2 == 0 and "each" or "once")
      start({ dir = dir })
      finish(writer, 50)
      expect_flows(50)
      assert.equal(0, d:stop().code)
    end
  end)

  it("joins lines that are split at any boundary", function()
    start()
    local n = 0
    local function three()
      n = n + 3
      return lines(n - 2, n)
    end
    local writer = open_writer(d.pipe)
    for at = 1, #lines(1, 3) - 1 do
      local text = three()
      writer.put(text:sub(1, at))
      writer.settle()
      writer.put(text:sub(at + 1))
      -- Every other time the pieces are glued to the next ones.
      if at % 2 == 0 then writer.settle() end
    end
    writer.close()
    expect_flows(n)
  end)

  it("takes a last line without a newline when the last writer closes", function()
    start()
    local first, second = open_writer(d.pipe), open_writer(d.pipe)
    first.put(line(1))
    second.put(line(2, ""))
    second.settle()
    second.close()
    d:wait_for_counter("flowd_lines_total", 1)
    -- Another writer is there: the line may go on.
    assert.equal(1, d:counter("flowd_lines_total"))
    first.close()
    expect_flows(2)
  end)

  it("does not let a line that is too long or garbage hurt its neighbours", function()
    start()
    d:write(line(1) .. ("x"):rep(100000) .. "\n" .. line(2) .. ("\0\1\27\255"):rep(50) .. "\n" .. line(3))
    d:wait_for_counter("flowd_lines_total", 3)
    assert.equal(1, d:counter('flowd_lines_refused_total{plugin="pipe",reason="too_long"}'))
    assert.equal(1, d:counter('flowd_lines_refused_total{plugin="pipe",reason="fields"}'))
    assert.equal(3, d:counter("flowd_flows_started_total"))
    assert.is_nil(d:log():find("[%z\1\27\255]"))
  end)

  it("makes writers wait while the daemon is busy, and then reads it all", function()
    start()
    d:signal("STOP")
    local writer = start_writer(d.pipe, 1, 40000)
    -- Asleep in write(2), for which there is no room.
    process.wait_for("the writer to wait", 10, function()
      return (temp.read("/proc/" .. writer.pid .. "/wchan") or ""):find("pipe_write", 1, true)
        or (temp.read("/proc/" .. writer.pid .. "/syscall") or ""):match("^1 ")
    end)
    assert.is_true(writer:running())
    d:signal("CONT")
    finish(writer, 40000)
    expect_flows(40000)
  end)

  it("costs no time when nobody writes", function()
    start()
    d:write(line(1))
    d:write(line(2, ""))
    expect_flows(2)
    local before = d.child:cpu_seconds()
    local finished = process.now() + 1
    process.wait_for("a second", 5, function() return process.now() >= finished end)
    assert.is_true(d.child:cpu_seconds() - before <= 0.03, d.child:cpu_seconds() - before)
  end)

  it("loses nothing while it is removed and made again under its writers", function()
    start()
    local writers = { start_writer(d.pipe, 1, 20000, "each"), start_writer(d.pipe, 20001, 40000, "each") }
    local removed = 0
    while writers[1]:running() or writers[2]:running() do
      if os.remove(d.pipe) then removed = removed + 1 end
      process.wait_for("a new pipe", 5, function() return temp.exists(d.pipe) end)
    end
    for _, writer in ipairs(writers) do finish(writer, 20000) end
    assert.is_true(removed > 0)
    expect_flows(40000)
  end)

  it("takes up a pipe that somebody else made in its place", function()
    start()
    local old = open_writer(d.pipe)
    old.put(line(1))
    os.remove(d.pipe)
    assert.equal(0, C.mkfifo(d.pipe, 384))
    d:expect("reading the FIFO that was made there", 5)
    d:write(line(2))
    old.put(line(3))
    old.close()
    expect_flows(3)
    assert.equal(0, d:stop().code)
    assert.is_true(temp.exists(d.pipe))
  end)

  it("is read to its end when the daemon stops", function()
    start()
    d:signal("STOP")
    d:write(lines(1, 5000) .. line(5001, ""))
    d:signal("TERM")
    d:signal("CONT")
    assert.equal(0, d:wait(10).code)
    assert.matches("ended 5001 open flows", d:log(), 1, true)
    assert.is_false(temp.exists(d.pipe))
  end)

  it("has the configured mode, owner and group", function()
    if C.geteuid() ~= 0 then return pending("needs root") end
    local dir = temp.dir()
    start({ dir = dir, config = { plugins = { pipe = { paths = { dir .. "/run/np", dir .. "/second" }, mode = "0620",
      owner = "daemon", group = "65534" } } } })
    for _, path in ipairs({ dir .. "/run/np", dir .. "/second" }) do
      assert.equal("fifo 620 daemon 65534\n", process.must({ "stat", "-c", "%F %a %U %g", path }))
    end
    d:write(line(1))
    d:write(line(2), dir .. "/second")
    expect_flows(2)
  end)

  describe("cannot be had when there is", function()
    -- The daemon must not start; returns what it says.
    local function refusal(prepare, options)
      local dir = temp.dir()
      process.must({ "mkdir", dir .. "/run" })
      local path = dir .. "/run/np"
      prepare(path)
      local settings = { paths = { path }, required = true }
      for key, value in pairs(options or {}) do settings[key] = value end
      start({ dir = dir, config = { plugins = { pipe = settings } }, ready = false })
      assert.equal(1, d:wait(10).code)
      local log = d:log()
      assert.matches(path .. ": ", log, 1, true)
      assert.is_nil(log:find("traceback"), log)
      return log, path
    end

    it("a regular file, which stays as it is", function()
      local log, path = refusal(function(path) temp.write(path, "old lines\n") end)
      assert.matches("replace_regular_file = true", log, 1, true)
      assert.equal("old lines\n", temp.read(path))
    end)

    it("a symbolic link", function()
      local log = refusal(function(path) process.must({ "ln", "-s", "/dev/null", path }) end)
      assert.matches("a symbolic link", log, 1, true)
    end)

    it("a FIFO of somebody else", function()
      if C.geteuid() ~= 0 then return pending("needs root") end
      local log = refusal(function(path)
        C.mkfifo(path, 438)
        C.chown(path, 65534, 65534)
      end)
      assert.matches("belongs to user 65534", log, 1, true)
    end)
  end)

  it("is reported as failed, and the daemon runs, unless it is required", function()
    local dir = temp.dir()
    start({ dir = dir, config = { plugins = { pipe = { paths = { dir .. "/no/np" } } } } })
    assert.matches("the directory " .. dir .. "/no does not exist", d:log(), 1, true)
    assert.equal(1, d:counter("flowd_modules_failed"))
    assert.equal(0, d:stop().code)
  end)

  it("may replace a regular file, which it renames", function()
    local dir = temp.dir()
    process.must({ "mkdir", dir .. "/run" })
    temp.write(dir .. "/run/np", "old lines\n")
    start({ dir = dir, config = { plugins = { pipe = { paths = { dir .. "/run/np" }, replace_regular_file = true } } } })
    local aside = d:log():match("the regular file that was there is now (%S+)")
    assert.equal("old lines\n", temp.read(aside))
    d:write(line(1))
    expect_flows(1)
  end)

  it("that was there before is used and stays", function()
    local dir = temp.dir()
    process.must({ "mkdir", dir .. "/run" })
    C.mkfifo(dir .. "/run/np", 384)
    start({ dir = dir })
    d:write(line(1))
    expect_flows(1)
    assert.equal(0, d:stop().code)
    assert.equal("fifo 600\n", process.must({ "stat", "-c", "%F %a", dir .. "/run/np" }))
  end)

  it("made by a daemon that was killed goes with the next one", function()
    start()
    d:signal("KILL")
    d:wait(5)
    local dir = d.dir
    assert.is_true(temp.exists(d.pipe))
    start({ dir = dir })
    d:write(line(1))
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal(0, d:stop().code)
    assert.is_false(temp.exists(d.pipe))
  end)
end)
