-- SPDX-License-Identifier: Apache-2.0
--- Run a program without blocking the loop.
local ffi = require("ffi")
local api = require("flowd.api")
local loop = require("flowd.loop")

local subprocess = {}

local EAGAIN = 11
local READ_SIZE = 65536
local POLL_SECONDS = 0.01 -- between its last output and its end

local Process = {}
Process.__index = Process

function Process:finish(status, output)
  self:close()
  self.callback(status, output)
end

-- The output is complete; the exit status may take another moment.
function Process:reap()
  local status = api.subprocess_status(self.pid)
  if status ~= -EAGAIN then
    self.pid = nil
    return self:finish(status, table.concat(self.parts))
  end
  self.waiting = loop.after(POLL_SECONDS, function() self:reap() end)
end

function Process:read()
  local buffer = ffi.new("char[?]", READ_SIZE)
  while true do
    local n = tonumber(api.descriptor_read(self.fd, buffer, READ_SIZE))
    if n <= 0 then
      if n == -EAGAIN then return end
      self.handle:close()
      self.handle = nil
      return self:reap()
    end
    self.size = self.size + n
    -- The end of an endless output is not worth our memory.
    if self.size <= self.limit then self.parts[#self.parts + 1] = ffi.string(buffer, n) end
  end
end

--- End it, if it still runs; the callback is not called.
function Process:close()
  for _, name in ipairs({ "handle", "waiting", "deadline" }) do
    if self[name] then self[name]:close() end
    self[name] = nil
  end
  if self.fd then api.descriptor_close(self.fd) end
  self.fd = nil
  if self.pid then
    api.subprocess_kill(self.pid)
    -- It cannot refuse; its remains are collected when it is gone.
    local pid = self.pid
    local function collect()
      if api.subprocess_status(pid) == -EAGAIN then loop.after(POLL_SECONDS, collect) end
    end
    collect()
  end
  self.pid = nil
end

--- Start a program.
---@param argv string[] argv[1] is a path
---@param options { seconds: number?, limit: integer?, input: string? } deadline (default 60), octets of output kept
---  (1 MiB), what it reads on standard input (nothing)
---@param callback fun(status: integer, output: string) exit status; 128 + number of the signal that ended it;
---  -1 when the deadline passed
---@return table|nil handle with close()
---@return string|nil message why it could not be started
function subprocess.run(argv, options, callback)
  local list = ffi.new("const char *[?]", #argv + 1)
  for i, word in ipairs(argv) do list[i - 1] = word end
  local fd = ffi.new("int[1]")
  local input = -1
  if options.input then
    input = api.memory_file_make("input of " .. argv[1]:sub(-100), options.input, #options.input)
    if input < 0 then return nil, ("%s: its input: %s"):format(argv[1], ffi.string(api.error_text(input))) end
  end
  local pid = api.subprocess_start(list, input, fd)
  if input >= 0 then api.descriptor_close(input) end
  if pid < 0 then return nil, ("%s: %s"):format(argv[1], ffi.string(api.error_text(pid))) end
  local self = setmetatable({
    pid = pid, fd = fd[0], callback = callback, parts = {}, size = 0, limit = options.limit or 1048576,
  }, Process)
  self.handle = loop.fd(self.fd, "r", function() self:read() end)
  self.deadline = loop.after(options.seconds or 60, function() self:finish(-1, table.concat(self.parts)) end)
  return self
end

--- The same for a plugin: the program ends with it, and the callback is the plugin's. A program that cannot be
--- started calls back too, with nil and why.
---@param ctx table the owner
---@param argv string[]
---@param options { seconds: number?, limit: integer?, input: string? }
---@param callback fun(status: integer|nil, output: string)
---@return table handle with close()
function subprocess.owned(ctx, argv, options, callback)
  local handle, message
  local watched = ctx:watched(callback)
  handle, message = subprocess.run(argv, options, function(status, output)
    ctx.handles[handle] = nil
    watched(status, output)
  end)
  if not handle then return ctx:after(0, function() callback(nil, message) end) end
  return ctx:own(handle)
end

return subprocess
