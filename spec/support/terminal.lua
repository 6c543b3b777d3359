-- SPDX-License-Identifier: Apache-2.0
--- A program at a terminal of its own, for specs: what is typed goes in, what the screen is sent comes out.
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
int posix_openpt(int);
int grantpt(int);
int unlockpt(int);
int ptsname_r(int, char *, size_t);
struct terminal_size { unsigned short rows, columns, x, y; };
int ioctl(int, unsigned long, ...);
]])
local C = ffi.C

local O_RDWR, O_NOCTTY, O_NONBLOCK, O_CLOEXEC = 2, 0x100, 0x800, 0x80000
local TIOCSWINSZ = 0x5414

local terminal = {}
local methods = {}
methods.__index = methods

--- Start a program at a new terminal, as the leader of a session, so that Ctrl-C is a signal to it.
---@param argv string[]
---@param options? { columns: integer?, env: table? }
function terminal.start(argv, options)
  options = options or {}
  local master = C.posix_openpt(bit.bor(O_RDWR, O_NOCTTY, O_CLOEXEC))
  assert(master >= 0 and C.grantpt(master) == 0 and C.unlockpt(master) == 0, "no terminal")
  local name = ffi.new("char[128]")
  assert(C.ptsname_r(master, name, 128) == 0)
  C.ioctl(master, TIOCSWINSZ, ffi.new("struct terminal_size", { 40, options.columns or 100, 0, 0 }))
  local slave = C.open(name, bit.bor(O_RDWR, O_NOCTTY, O_CLOEXEC))
  assert(slave >= 0, "no terminal")
  local env = options.env or {}
  env.TERM = env.TERM or "xterm"
  local command = { "setsid", "--ctty", "--wait", stdin = slave, stdout = slave, stderr = slave, env = env, name = argv[1] }
  for _, word in ipairs(argv) do command[#command + 1] = word end
  C.fcntl(master, 4, ffi.cast("int", bit.bor(O_RDWR, O_NONBLOCK)))
  local self = setmetatable({ master = master, text = "", seen = 1 }, methods)
  self.child = process.start(command)
  C.close(slave)
  cleanup.add(function() self:close() end)
  return self
end

local buffer = ffi.new("char[65536]")

local function fill(self)
  while true do
    local n = tonumber(C.read(self.master, buffer, 65536))
    if n <= 0 then return end
    self.text = self.text .. ffi.string(buffer, n)
  end
end

--- Wait until the screen has been sent a text behind the one that was waited for last.
---@param text string plain
function methods:expect(text, seconds)
  local first, last
  local ok = pcall(process.wait_for, text, seconds or 20, function()
    fill(self)
    first, last = self.text:find(text, self.seen, true)
    return first ~= nil
  end)
  if not ok then error(("the terminal did not show %q; it showed:\n%s"):format(text, self.text:sub(self.seen)), 2) end
  local before = self.text:sub(self.seen, first - 1)
  self.seen = last + 1
  return before
end

--- Type.
function methods:type(text)
  local n = tonumber(C.write(self.master, text, #text))
  assert(n == #text, "the terminal takes no more")
end

function methods:wait(seconds)
  local status
  process.wait_for("the end", seconds or 20, function()
    fill(self)
    return not self.child:running()
  end)
  status = self.child:wait(1)
  return status
end

function methods:close()
  if not self.master then return end
  C.close(self.master)
  self.master = nil
  self.child:stop()
end

return terminal
