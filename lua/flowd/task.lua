-- SPDX-License-Identifier: Apache-2.0
--- Straight-line style: functions that wait without blocking the loop.
--
--     ctx.spawn(function()
--       ctx.sleep(1)
--       local response, message = ctx.http.get("https://example.org/")
--     end)
--
-- Inside, every service that takes a callback may be called without one: it then returns what the
-- callback would have been called with.
local task = {}

local Task = {}
Task.__index = Task

-- Coroutine -> its task.
local tasks = setmetatable({}, { __mode = "k" })

local function finish(self)
  self.closed = true
  self.ctx.handles[self] = nil
end

-- Run on until the next wait or the end.
local function step(self, ...)
  local ok, message = coroutine.resume(self.thread, ...)
  if not ok then
    finish(self)
    self.ctx:failed(message, self.thread)
  elseif coroutine.status(self.thread) == "dead" then
    finish(self)
  end
end

--- Give it up: it is never resumed.
function Task:close()
  if not self.closed then finish(self) end
end

--- Run a function that may wait; returns when it waits for the first time, or is done. What it raises is logged
--- and counted as an error of the plugin.
---@param ctx table the context that owns it
---@param fn function
---@param ... any its arguments
---@return table handle with close()
function task.spawn(ctx, fn, ...)
  if type(fn) ~= "function" then error("spawn: expected a function, got " .. type(fn), 2) end
  local self = setmetatable({ ctx = ctx, thread = coroutine.create(fn) }, Task)
  tasks[self.thread] = self
  ctx:own(self)
  step(self, ...)
  return self
end

--- Are we inside of a task?
---@return boolean
function task.inside()
  local thread = coroutine.running()
  return thread ~= nil and tasks[thread] ~= nil
end

--- For services: wait until `start`'s argument is called, and return what it is called with.
---@param what string the service, for the message outside of a task
---@param start fun(resume: fun(...))
function task.wait(what, start)
  local thread = coroutine.running()
  local self = thread and tasks[thread]
  if not self then error(what .. ": expected a callback; only inside of ctx.spawn can it be left out", 3) end
  local waiting, results = false, nil
  start(function(...)
    if results then return end
    results = { n = select("#", ...), ... }
    if waiting and not self.closed then step(self, ...) end
  end)
  if results then return unpack(results, 1, results.n) end
  waiting = true
  return coroutine.yield()
end

return task
