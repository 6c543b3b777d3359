-- SPDX-License-Identifier: Apache-2.0
--- Rules on trial: what they remember is put back afterwards.
--
-- Whatever a rule can change outside of its event (flowd.state, maps that take turns, timers) notes here, while a
-- trial runs, how to take that back; what it says goes into the trial's report instead of the log. What a rule
-- keeps in locals of its file is its own affair.
local protected = require("flowd.protect").call

local dry = { on = false }

local undo, count, said = {}, 0, nil

--- During a trial, before something changes: how to take it back.
---@param fn function
---@param ... any its arguments, five at most
function dry.note(fn, a, b, c, d, e)
  count = count + 1
  undo[count] = { fn, a, b, c, d, e }
end

--- During a trial: what a rule says.
---@param text string
function dry.say(text) said[#said + 1] = text end

--- What was said since the last call; nil: nothing.
---@return string[]|nil
function dry.take_said()
  if not said or #said == 0 then return nil end
  local list = said
  said = {}
  return list
end

--- Run a function on trial. It cannot be left in the middle, as other events must not see it: what runs in slices
--- (flowd.slice) may take 200 ms and then ends with an error. Nothing is returned.
---@param fn function
---@return boolean ok
---@return string|nil message with a traceback
function dry.run(fn, ...)
  if dry.on then error("a trial runs already", 2) end
  dry.on, count, said = true, 0, {}
  local ok, message = protected(fn, ...)
  for i = count, 1, -1 do
    local step = undo[i]
    undo[i] = nil
    step[1](step[2], step[3], step[4], step[5], step[6])
  end
  dry.on, count, said = false, 0, nil
  return ok, message
end

return dry
