-- SPDX-License-Identifier: Apache-2.0
--- Children of a test: start, watch, stop; and waiting for a condition.
---
---     local child = process.start{ "iperf3", "-s", namespace = ns }
---     child:expect("Server listening", 5)
---     child:signal("TERM")
---     assert.equal(0, child:wait(2).code)
---
--- Output goes to a memory file, so a child never blocks on a full pipe, and all of it
--- (child:stdout(), child:stderr()) can be read at any time. Children die with the test
--- process, even if that is killed.
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")

ffi.cdef([[
int fork(void);
void _exit(int);
int execvp(const char *, const char **);
int dup2(int, int);
int dup3(int, int, int);
int close(int);
int pipe2(int *, int);
int memfd_create(const char *, unsigned int);
int close_range(unsigned int, unsigned int, int);
int open(const char *, int, ...);
long read(int, void *, size_t);
long write(int, const void *, size_t);
long pread(int, void *, size_t, int64_t);
int fcntl(int, int, ...);
int kill(int, int);
int waitpid(int, int *, int);
int setpgid(int, int);
int setns(int, int);
int chdir(const char *);
int setenv(const char *, const char *, int);
int unsetenv(const char *);
int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long);
int getppid(void);
void (*signal(int, void (*)(int)))(int);
char *strerror(int);
long sysconf(int);
struct lab_timespec { long tv_sec; long tv_nsec; };
struct lab_pollfd { int fd; short events; short revents; };
int ppoll(struct lab_pollfd *, unsigned long, const struct lab_timespec *, const void *);
int clock_gettime(int, struct lab_timespec *);
]])
local C = ffi.C

local O_RDONLY, O_WRONLY, O_RDWR = 0, 1, 2
local O_CREAT, O_APPEND, O_NONBLOCK, O_CLOEXEC = 0x40, 0x400, 0x800, 0x80000
local F_GETFL, F_SETFL = 3, 4
local EINTR, EAGAIN, EPIPE = 4, 11, 32
local WNOHANG = 1
local PR_SET_PDEATHSIG = 1
local CLOSE_RANGE_CLOEXEC = 4
local CLONE_NEWNET = 0x40000000
local SIG_SETMASK = 2
local CLOCK_MONOTONIC = 1
local POLLIN, POLLOUT = 1, 4

local signals = { HUP = 1, INT = 2, QUIT = 3, ABRT = 6, KILL = 9, USR1 = 10, SEGV = 11, USR2 = 12, PIPE = 13,
  ALRM = 14, TERM = 15, CHLD = 17, CONT = 18, STOP = 19 }
local signal_names = {}
for name, number in pairs(signals) do signal_names[number] = name end

local process = { signals = signals }

---@return string text of errno
local function errno_text()
  return ffi.string(C.strerror(ffi.errno()))
end
process.errno_text = errno_text

local now_spec = ffi.new("struct lab_timespec")

--- Seconds on a clock that only runs forward.
---@return number
function process.now()
  C.clock_gettime(CLOCK_MONOTONIC, now_spec)
  return tonumber(now_spec.tv_sec) + tonumber(now_spec.tv_nsec) / 1e9
end

local function pause(seconds)
  local spec = ffi.new("struct lab_timespec", math.floor(seconds), (seconds % 1) * 1e9)
  C.ppoll(nil, 0, spec, nil)
  cleanup.check_interrupt()
end

--- Call `condition` until it returns something true, at most `seconds` long.
---@param what string|fun(): string what is waited for, for the message
---@param seconds number deadline
---@param condition fun(): any
---@return any # what the condition returned
function process.wait_for(what, seconds, condition)
  local deadline = process.now() + seconds
  local step = 0.0005
  while true do
    local result = condition()
    if result then return result end
    if process.now() >= deadline then
      error(("waited %g s in vain for %s"):format(seconds, type(what) == "function" and what() or what), 2)
    end
    pause(step)
    step = math.min(step * 1.5, 0.02)
  end
end

--- True when fd can be read (or "w": written) within `seconds`.
---@param fd integer
---@param seconds number
---@param mode string|nil "r" (default) or "w"
---@return boolean
function process.ready(fd, seconds, mode)
  local set = ffi.new("struct lab_pollfd", fd, mode == "w" and POLLOUT or POLLIN, 0)
  local deadline = process.now() + seconds
  repeat
    local left = math.min(math.max(deadline - process.now(), 0), 0.1)
    local n = C.ppoll(set, 1, ffi.new("struct lab_timespec", math.floor(left), (left % 1) * 1e9), nil)
    cleanup.check_interrupt()
    if n > 0 then return true end
  until process.now() >= deadline
  return false
end

--- Has a child come to its end? It stays to be looked at in /proc until somebody waits for it.
---@param pid integer
---@return boolean
function process.ended(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  if not file then return true end
  local text = file:read("*a")
  file:close()
  return text:match("%) (%u)") == "Z"
end

-- -- a child ---------------------------------------------------------------------

local child_methods = {}
local child_meta = { __index = child_methods }

local function close_fd(self, name)
  if self[name] then
    C.close(self[name])
    self[name] = nil
  end
end

local function read_all(fd, from)
  local chunks, size = {}, 65536
  local buffer = ffi.new("char[?]", size)
  while true do
    local n = tonumber(C.pread(fd, buffer, size, from))
    if n <= 0 then break end
    chunks[#chunks + 1] = ffi.string(buffer, n)
    from = from + n
  end
  return table.concat(chunks)
end

-- Where a child's stream goes: returns the descriptor to hand over, the one to keep.
local function open_stream(where, name)
  if where == nil or where == "memory" then
    local fd = C.memfd_create("flowd-lua-test-" .. name, 1)
    if fd < 0 then error("memfd_create: " .. errno_text()) end
    C.fcntl(fd, F_SETFL, ffi.cast("int", O_APPEND))
    return fd, fd
  elseif where == "pipe" then
    local ends = ffi.new("int[2]")
    if C.pipe2(ends, O_CLOEXEC) ~= 0 then error("pipe: " .. errno_text()) end
    return ends[1], ends[0], ends[1]
  elseif where == "null" then
    local fd = C.open("/dev/null", bit.bor(O_RDWR, O_CLOEXEC))
    return fd, nil, fd
  elseif type(where) == "number" then
    return where
  elseif where:sub(1, 1) == "/" then
    local fd = C.open(where, bit.bor(O_WRONLY, O_CREAT, O_APPEND, O_CLOEXEC), ffi.cast("int", 384))
    if fd < 0 then error("open " .. where .. ": " .. errno_text()) end
    return fd, nil, fd
  end
  error("unknown stream: " .. tostring(where))
end

-- In the child, between fork and exec: nothing here may return.
local function exec(argv, options, streams, status_fd, parent)
  local function die(what)
    local message = what .. ": " .. errno_text()
    C.write(status_fd, message, #message)
    C._exit(127)
  end
  C.prctl(PR_SET_PDEATHSIG, signals.KILL, 0, 0, 0)
  if C.getppid() ~= parent then C._exit(127) end
  C.setpgid(0, 0)
  for _, number in ipairs({ signals.PIPE, signals.INT, signals.TERM }) do C.signal(number, nil) end
  local none = ffi.new("struct cleanup_signal_set")
  C.sigemptyset(none)
  C.sigprocmask(SIG_SETMASK, none, nil)
  if options.namespace and C.setns(options.namespace.fd, CLONE_NEWNET) ~= 0 then die("setns") end
  if options.cwd and C.chdir(options.cwd) ~= 0 then die("chdir " .. options.cwd) end
  for name, value in pairs(options.env or {}) do
    if value then C.setenv(name, tostring(value), 1) else C.unsetenv(name) end
  end
  C.close_range(3, 0xffffffff, CLOSE_RANGE_CLOEXEC)
  -- Lift the three streams first, so that none is overwritten before it is in place.
  local lifted = {}
  for i = 0, 2 do lifted[i] = C.fcntl(streams[i], 1030 --[[F_DUPFD_CLOEXEC]], ffi.cast("int", 200)) end
  for i = 0, 2 do C.dup2(lifted[i], i) end
  for target, fd in pairs(options.fds or {}) do
    if target == fd then C.fcntl(fd, 2 --[[F_SETFD]], ffi.cast("int", 0)) else C.dup2(fd, target) end
  end
  C.execvp(argv[0], argv)
  die(ffi.string(argv[0]))
end

--- Start a program. `options` is the command (array part) and:
---   namespace  object with .fd, from netns.lua: the child runs in it
---   stdin      "null" (default), "pipe" (then child:write, child:close_stdin), or a descriptor
---   stdout     "memory" (default), "pipe" (then child.stdout_fd), "null", a descriptor, or "/a/file"
---   stderr     the same, and "stdout": both into one
---   cwd, env   working directory; variables to set, or false to unset
---   fds        { [number in the child] = descriptor here }
---@param options table
---@return table child with .pid
function process.start(options)
  local argv = ffi.new("const char *[?]", #options + 1)
  for i, word in ipairs(options) do
    options[i] = tostring(word)
    argv[i - 1] = options[i]
  end
  argv[#options] = nil

  local self = setmetatable({ name = options.name or options[1], command = table.concat(options, " ") }, child_meta)
  local streams, close_after = {}, {}
  local status = ffi.new("int[2]")
  if options.stdin == "pipe" then
    local ends = ffi.new("int[2]")
    if C.pipe2(ends, O_CLOEXEC) ~= 0 then error("pipe: " .. errno_text()) end
    streams[0], self.stdin_fd = ends[0], ends[1]
    close_after[1] = ends[0]
  elseif type(options.stdin) == "number" then
    streams[0] = options.stdin
  else
    streams[0] = C.open("/dev/null", bit.bor(O_RDONLY, O_CLOEXEC))
    close_after[1] = streams[0]
  end
  streams[1], self.stdout_fd, close_after[#close_after + 1] = open_stream(options.stdout, "stdout")
  if options.stderr == "stdout" then
    streams[2], self.stderr_fd = streams[1], nil
    self.merged = true
  else
    streams[2], self.stderr_fd, close_after[#close_after + 1] = open_stream(options.stderr, "stderr")
  end
  if options.stdout == "pipe" then
    C.fcntl(self.stdout_fd, F_SETFL, ffi.cast("int", bit.bor(C.fcntl(self.stdout_fd, F_GETFL), O_NONBLOCK)))
  end
  if C.pipe2(status, O_CLOEXEC) ~= 0 then error("pipe: " .. errno_text()) end

  local parent = C.getpid()
  local pid = C.fork()
  if pid == 0 then
    -- An error must not unwind into a second copy of this process.
    local _, message = pcall(exec, argv, options, streams, status[1], parent)
    message = tostring(message)
    C.write(status[1], message, #message)
    C._exit(127)
  end
  C.close(status[1])
  for _, fd in ipairs(close_after) do C.close(fd) end
  if pid < 0 then error("fork: " .. errno_text()) end
  self.pid = pid
  self.token = cleanup.add(function() self:stop() end)

  -- The status pipe closes at exec; an octet before that is the reason why there was none.
  local buffer = ffi.new("char[512]")
  local n
  repeat n = tonumber(C.read(status[0], buffer, 512)) until n >= 0 or ffi.errno() ~= EINTR
  C.close(status[0])
  if n > 0 then
    self:stop()
    error(("cannot start %s: %s"):format(self.name, ffi.string(buffer, n)), 2)
  end
  return self
end

-- Notes the status when the child has ended.
local function reap(self, flags)
  if self.status then return true end
  local status = ffi.new("int[1]")
  local pid
  repeat pid = C.waitpid(self.pid, status, flags) until pid >= 0 or ffi.errno() ~= EINTR
  if pid ~= self.pid then return false end
  local word = status[0]
  local signal = bit.band(word, 0x7f)
  if signal == 0 then
    self.status = { code = bit.band(bit.rshift(word, 8), 0xff) }
  else
    self.status = { signal = signal_names[signal] or signal }
  end
  return true
end

---@return boolean
function child_methods:running()
  return not reap(self, WNOHANG)
end

--- Everything the child wrote so far.
---@return string
function child_methods:stdout()
  return self.stdout_fd and read_all(self.stdout_fd, 0) or self.kept_stdout or ""
end

---@return string
function child_methods:stderr()
  if self.merged then return self:stdout() end
  return self.stderr_fd and read_all(self.stderr_fd, 0) or self.kept_stderr or ""
end

--- Standard output and standard error, for messages.
---@return string
function child_methods:output()
  return self.merged and self:stdout() or self:stdout() .. self:stderr()
end

--- Wait until the child ends.
---@param seconds number|nil deadline, default 10
---@return table status { code = N } or { signal = "KILL" }
function child_methods:wait(seconds)
  seconds = seconds or 10
  local ok = pcall(process.wait_for, "end", seconds, function() return reap(self, WNOHANG) end)
  if not ok then
    error(("%s (pid %d) still runs after %g s; it wrote:\n%s"):format(self.command, self.pid, seconds,
      self:output()), 2)
  end
  return self.status
end

--- Wait until the child's output (both streams) matches a Lua pattern.
---@param pattern string
---@param seconds number|nil deadline, default 10
---@return string ... captures, or the match
function child_methods:expect(pattern, seconds)
  local found
  local function matches()
    found = { self:output():match(pattern) }
    return #found > 0 or not self:running()
  end
  local ok = pcall(process.wait_for, "output", seconds or 10, matches)
  -- It may have written the text just before it ended.
  if #found == 0 then found = { self:output():match(pattern) } end
  if #found == 0 then
    error(("%s %s without writing \"%s\"; it wrote:\n%s"):format(self.command,
      ok and "ended" or ("ran %g s"):format(seconds or 10), pattern, self:output()), 2)
  end
  return unpack(found)
end

--- Send a signal ("TERM", "USR1", ...) to the child alone.
---@param name string
function child_methods:signal(name)
  local number = assert(signals[name], "unknown signal " .. tostring(name))
  if not self.status then C.kill(self.pid, number) end
end

--- Write all of `text` to the child's standard input.
---@param text string
function child_methods:write(text)
  local at = 0
  while at < #text do
    local n = tonumber(C.write(self.stdin_fd, ffi.cast("const char *", text) + at, #text - at))
    if n < 0 then
      if ffi.errno() == EPIPE then error(self.name .. " closed its standard input", 2) end
      if ffi.errno() ~= EINTR and ffi.errno() ~= EAGAIN then error("write: " .. errno_text(), 2) end
    else
      at = at + n
    end
  end
end

function child_methods:close_stdin()
  close_fd(self, "stdin_fd")
end

--- End the child and everything in its process group, by force if SIGTERM does not do
--- within `seconds` (default 0: at once). Harmless when it has ended.
---@param seconds number|nil
---@return table status
function child_methods:stop(seconds)
  if not reap(self, WNOHANG) and seconds and seconds > 0 then
    C.kill(self.pid, signals.TERM)
    pcall(process.wait_for, "end", seconds, function() return reap(self, WNOHANG) end)
  end
  C.kill(-self.pid, signals.KILL)
  reap(self, 0)
  cleanup.forget(self.token)
  if self.stdout_fd then
    self.kept_stdout = self:stdout()
    close_fd(self, "stdout_fd")
  end
  if self.stderr_fd then
    self.kept_stderr = self:stderr()
    close_fd(self, "stderr_fd")
  end
  close_fd(self, "stdin_fd")
  return self.status
end

--- CPU seconds used so far, by user and system code.
---@return number
function child_methods:cpu_seconds()
  local file = assert(io.open("/proc/" .. self.pid .. "/stat"))
  local text = file:read("*a")
  file:close()
  local user, system = text:match("%) %S+" .. (" %S+"):rep(10) .. " (%d+) (%d+)")
  return (user + system) / tonumber(C.sysconf(2 --[[_SC_CLK_TCK]]))
end

--- Resident memory in octets.
---@return integer
function child_methods:memory()
  local file = assert(io.open("/proc/" .. self.pid .. "/status"))
  local text = file:read("*a")
  file:close()
  return tonumber(text:match("VmRSS:%s+(%d+) kB")) * 1024
end

--- Run a program to its end. Options as in process.start, and:
---   input    text for its standard input
---   seconds  deadline, default 20
---@param options table
---@return table result { code =, signal =, stdout =, stderr = }
function process.run(options)
  if options.input then options.stdin = "pipe" end
  local child = process.start(options)
  if options.input then
    child:write(options.input)
    child:close_stdin()
  end
  local ok, status = pcall(child.wait, child, options.seconds or 20)
  child:stop()
  if not ok then error(status, 2) end
  return { code = status.code, signal = status.signal, stdout = child:stdout(), stderr = child:stderr() }
end

--- process.run, and an error unless it ends with status 0.
---@param options table
---@return string stdout
function process.must(options)
  local result = process.run(options)
  if result.code ~= 0 then
    error(("%s: status %s\n%s%s"):format(table.concat(options, " "), tostring(result.code or result.signal),
      result.stdout, result.stderr), 2)
  end
  return result.stdout
end

return process
