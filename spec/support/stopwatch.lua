-- SPDX-License-Identifier: Apache-2.0
--- Time as a process has it that is alone on the machine: while it is ready to run and others have the processor, its
--- watch stands still.
---
---     local watch = stopwatch.start(d.pid)
---     d:signal("TERM")
---     ...
---     assert.is_true(watch:seconds() < 2)
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local stopwatch = {}
local Stopwatch = {}
Stopwatch.__index = Stopwatch

--- Seconds in which a process was ready to run and others had the processor, in all its images. Of one that has
--- ended too, until somebody waited for it.
---@param pid? integer default: this one
---@return number
function stopwatch.queued(pid)
  local text = temp.read(("/proc/%s/schedstat"):format(pid or "self"))
  return tonumber(text and text:match("^%d+ (%d+)") or 0) / 1e9
end

--- Start one.
---@param pid? integer default: this process
---@return table watch
function stopwatch.start(pid)
  return setmetatable({ pid = pid, began = process.now(), queued = stopwatch.queued(pid) }, Stopwatch)
end

--- Seconds since its start.
---@return number
function Stopwatch:seconds() return process.now() - self.began - (stopwatch.queued(self.pid) - self.queued) end

return stopwatch
