-- SPDX-License-Identifier: Apache-2.0
--- What may be given to a command: values that take no time to look at. Commands are functions of the framework,
--- which cannot be left in the middle: a metamethod that never returns, or a text of megabytes, would hold up
--- events there.
jit.off(true, true)

local format = require("flowd.console.format")

require("flowd.slice").may_be_left()

local arguments = {}

local TEXT_MAX = 4096 -- octets
local ENTRIES_MAX = 2000 -- of a table with those inside it

local metatable_of = debug.getmetatable

-- Metatables that were made at a prompt.
local made_here = setmetatable({}, { __mode = "k" })

--- What setmetatable is at the prompt.
---@param object table
---@param metatable table|nil
---@return table object
function arguments.setmetatable(object, metatable)
  local ok, message = pcall(setmetatable, object, metatable)
  if not ok then error(message, 2) end
  if metatable then made_here[metatable] = true end
  return object
end

local function check(command, value, left)
  local kind = type(value)
  if kind == "string" and #value > TEXT_MAX then
    error(("%s: a text of %d octets is too long: at most %d can be given"):format(command, #value, TEXT_MAX), 0)
  elseif kind ~= "table" then
    return left
  end
  local metatable = metatable_of(value)
  if made_here[metatable] then
    error(("%s: expected a plain table; got one with a metatable, which was given to it at the prompt"):format(command), 0)
  end
  -- Addresses, sets and other objects of the policy's.
  if metatable and not format.view_of(value) then return left end
  for key, item in next, value do
    if left == 0 then
      error(("%s: more than %d values are too many here: a file of the configuration takes them"):format(command, ENTRIES_MAX), 0)
    end
    left = check(command, item, check(command, key, left - 1))
  end
  return left
end

--- An error when something else is among the arguments of a command.
---@param command string its name
---@param ... any
function arguments.check(command, ...)
  for i = 1, select("#", ...) do check(command, (select(i, ...)), ENTRIES_MAX) end
end

return arguments
