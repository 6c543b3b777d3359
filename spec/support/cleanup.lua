-- SPDX-License-Identifier: Apache-2.0
--- What a test made is taken down again, whatever ends the test: a return, a failed
--- assertion, os.exit, Ctrl-C, SIGTERM. (Against kill -9 the other helpers choose means
--- that the kernel takes down by itself: see netns.lua and process.lua.)
---
---     after_each(cleanup.all)
local ffi = require("ffi")

ffi.cdef([[
int getpid(void);
struct cleanup_signal_set { uint64_t bits[16]; };
int sigemptyset(struct cleanup_signal_set *);
int sigaddset(struct cleanup_signal_set *, int);
int sigismember(const struct cleanup_signal_set *, int);
int sigpending(struct cleanup_signal_set *);
int sigprocmask(int, const struct cleanup_signal_set *, struct cleanup_signal_set *);
]])
local C = ffi.C

local cleanup = {}

local SIG_BLOCK, SIGINT, SIGTERM = 0, 2, 15
local owner = C.getpid()
local stack = {}
local interrupts = false

--- Have `fn` called when the test is over; last added, first called.
---@param fn fun()
---@return table token for cleanup.forget
function cleanup.add(fn)
  local token = { run = fn }
  stack[#stack + 1] = token
  return token
end

--- What the token stands for is gone already.
---@param token table|nil
function cleanup.forget(token)
  for i = #stack, 1, -1 do
    if stack[i] == token then
      table.remove(stack, i)
      return
    end
  end
end

local function unwind(depth)
  local first
  while #stack > depth do
    local token = table.remove(stack)
    local ok, message = pcall(token.run)
    if not ok and not first then first = message end
  end
  return first
end

--- Take down everything.
function cleanup.all()
  local message = unwind(0)
  if message then error(message, 0) end
end

--- Call fn(...); whatever was added during the call is taken down after it, error or not.
---@param fn fun(...): any
function cleanup.scope(fn, ...)
  local depth = #stack
  local function finish(ok, ...)
    local message = unwind(depth)
    if not ok then error((...), 0) end
    if message then error(message, 0) end
    return ...
  end
  return finish(xpcall(fn, function(message)
    return type(message) == "string" and debug.traceback(message, 2) or message
  end, ...))
end

--- From here on Ctrl-C and SIGTERM end the process only after everything is taken down.
--- They are noticed by cleanup.check_interrupt, which every wait in these helpers calls.
function cleanup.catch_interrupts()
  if interrupts then return end
  interrupts = true
  local set = ffi.new("struct cleanup_signal_set")
  C.sigemptyset(set)
  C.sigaddset(set, SIGINT)
  C.sigaddset(set, SIGTERM)
  C.sigprocmask(SIG_BLOCK, set, nil)
end

--- Ends the process (128 + signal) when Ctrl-C or SIGTERM has come.
function cleanup.check_interrupt()
  if not interrupts then return end
  local set = ffi.new("struct cleanup_signal_set")
  C.sigpending(set)
  for _, signal in ipairs({ SIGINT, SIGTERM }) do
    if C.sigismember(set, signal) == 1 then
      interrupts = false -- it stays pending: what takes things down waits too, and is to go on
      os.exit(128 + signal)
    end
  end
end

-- A child after fork shares this Lua state, but owns nothing.
local function at_exit()
  if C.getpid() == owner then
    local message = unwind(0)
    if message then io.stderr:write("cleanup: ", tostring(message), "\n") end
  end
end

local exit = os.exit
os.exit = function(...) -- luacheck: ignore 122
  at_exit()
  exit(...)
end

-- The Lua state is closed when a script returns.
cleanup.sentinel = newproxy(true)
getmetatable(cleanup.sentinel).__gc = at_exit

return cleanup
