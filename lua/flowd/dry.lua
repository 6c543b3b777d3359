-- SPDX-License-Identifier: Apache-2.0
--- Rules on trial: what they remember is put back afterwards.
--
-- Whatever a rule can change outside of its event (flowd.state, maps that take turns, timers) notes here, while a
-- trial runs, how to take that back; what it says goes into the trial's report instead of the log. What a rule
-- keeps in locals of its file is its own affair.
local protected = require("flowd.protect").call

local dry = { on = false }

-- The trial that runs.
local current

---@class flowd.Trial
---@field steps table[] how to take back what was changed: { function, its arguments }
---@field count integer
---@field said string[]
local Trial = {}
Trial.__index = Trial

--- During a trial, before something changes: how to take it back.
---@param fn function puts something as it was and returns the arguments with which it would undo that; none where
---   this cannot be
---@param ... any its arguments, five at most
function dry.note(fn, a, b, c, d, e)
  local count = current.count + 1
  current.count = count
  current.steps[count] = { fn, a, b, c, d, e }
end

--- During a trial: what a rule says.
---@param text string
function dry.say(text)
  local said = current.said
  said[#said + 1] = text
end

--- What was said since the last call; nil: nothing.
---@return string[]|nil
function dry.take_said()
  local said = current.said
  if #said == 0 then return nil end
  current.said = {}
  return said
end

--- A trial that goes on in parts. Between them everything is as if there were none, so events may be handled; it
--- need not be brought to an end.
---@return flowd.Trial
function dry.trial() return setmetatable({ steps = {}, count = 0, said = {} }, Trial) end

local none = function() end

-- Puts something back, and keeps how to undo that.
local function turn(steps, i)
  local step = steps[i]
  local fn = step[1]
  local a, b, c, d, e = fn(step[2], step[3], step[4], step[5], step[6])
  if a == nil then fn = none end
  step[1], step[2], step[3], step[4], step[5], step[6] = fn, a, b, c, d, e
end

--- Its next part. It cannot be left in the middle, as other events must not see it: what runs in slices
--- (flowd.slice) may take 200 ms and then ends with an error. Nothing is returned.
---@param fn function
---@return boolean ok
---@return string|nil message with a traceback
function Trial:run(fn, ...)
  if dry.on then error("a trial runs already", 2) end
  dry.on, current = true, self
  for i = 1, self.count do turn(self.steps, i) end
  local ok, message = protected(fn, ...)
  for i = self.count, 1, -1 do turn(self.steps, i) end
  dry.on, current = false, nil
  return ok, message
end

--- A trial in one part.
---@param fn function
---@return boolean ok
---@return string|nil message
function dry.run(fn, ...) return dry.trial():run(fn, ...) end

return dry
