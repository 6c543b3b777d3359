-- SPDX-License-Identifier: Apache-2.0
--- Stop a child at each of its system calls, before and after it.
---
---     local t = trace.attach(child.pid)
---     local stop = t:next()                    -- { nr = 0, after = false }
---     t:kill()                                 -- there and then: it never runs again
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
long ptrace(int request, int pid, void *address, void *data);
struct trace_info { uint8_t op, pad[3]; uint32_t arch; uint64_t ip, sp; union { uint64_t nr; int64_t result; }; uint64_t args[6]; };
]])
local C = ffi.C

local SYSCALL, DETACH, SEIZE, INTERRUPT, GET_SYSCALL_INFO = 24, 17, 0x4206, 0x4207, 0x420e
local OPTION_SYSGOOD = 1
local OP_ENTRY, OP_EXIT = 1, 2
local SIGTRAP, WAIT_ALL, EVENT_STOP = 5, 0x40000000, 128

local names = { x64 = { [0] = "read", [1] = "write", [3] = "close", [14] = "rt_sigprocmask", [38] = "setitimer", [44] = "sendto",
  [47] = "recvmsg", [72] = "fcntl", [77] = "ftruncate", [228] = "clock_gettime", [232] = "epoll_wait", [233] = "epoll_ctl",
  [257] = "openat", [281] = "epoll_pwait", [285] = "fallocate", [286] = "timerfd_settime", [299] = "recvmmsg",
  [307] = "sendmmsg", [321] = "bpf" } }

local trace = {}
local methods = {}
local meta = { __index = methods }

--- The name of a system call, or its number.
---@param nr integer
---@return string
function trace.name(nr) return names[jit.arch] and names[jit.arch][nr] or tostring(nr) end

local function request(what, self, address, data)
  return C.ptrace(what, self.pid, ffi.cast("void *", address or 0), ffi.cast("void *", data or 0))
end

-- Wait for the next stop: its signal and event, or nil when the process has ended.
local function wait_for_stop(self)
  local status = ffi.new("int[1]")
  local result
  process.wait_for("the traced process to stop", 10, function()
    result = C.waitpid(self.pid, status, bit.bor(WAIT_ALL, 1 --[[WNOHANG]]))
    return result ~= 0
  end)
  if result < 0 or bit.band(status[0], 0xff) ~= 0x7f then return nil end
  return bit.band(bit.rshift(status[0], 8), 0xff), bit.rshift(status[0], 16)
end

--- Trace a running child, which goes on with the first next().
---@param pid integer
---@return table trace
function trace.attach(pid)
  local self = setmetatable({ pid = pid, info = ffi.new("struct trace_info[1]") }, meta)
  if request(SEIZE, self, 0, OPTION_SYSGOOD) ~= 0 then error("ptrace: " .. process.errno_text()) end
  self.token = cleanup.add(function() self:detach() end)
  request(INTERRUPT, self)
  wait_for_stop(self)
  return self
end

--- Go on to the next system call, or its return.
---@return table|nil stop nr, name, after, result (after it); nil: the process has ended
function methods:next()
  local pass = 0
  while true do
    if request(SYSCALL, self, 0, pass) ~= 0 then return nil end
    local signal, event = wait_for_stop(self)
    if not signal then
      self.done = true
      return nil
    end
    if signal == SIGTRAP + 0x80 then
      local info = self.info[0]
      if request(GET_SYSCALL_INFO, self, ffi.sizeof(info), ffi.cast("uintptr_t", self.info)) > 0 then
        if info.op == OP_ENTRY then
          self.nr = tonumber(info.nr)
          return { nr = self.nr, name = trace.name(self.nr), after = false }
        elseif info.op == OP_EXIT then
          return { nr = self.nr or -1, name = trace.name(self.nr or -1), after = true, result = tonumber(info.result) }
        end
      end
      pass = 0
    else
      pass = event == EVENT_STOP and 0 or signal
    end
  end
end

--- End it where it stands.
function methods:kill()
  C.kill(self.pid, process.signals.KILL)
  self.done = true
  cleanup.forget(self.token)
end

--- Let it run.
function methods:detach()
  if self.done then return end
  self.done = true
  cleanup.forget(self.token)
  request(DETACH, self)
end

return trace
