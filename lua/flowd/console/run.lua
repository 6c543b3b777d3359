-- SPDX-License-Identifier: Apache-2.0
--- Runs what was typed and shows its values. May be left anywhere.
jit.off(true, true)

local commands = require("flowd.console.commands")
local format = require("flowd.console.format")

require("flowd.slice").may_be_left()

local function show(session, count, ...)
  local write = function(text) session:write(text) end
  if session.json then
    if session.streamed and count == 0 then return end
    -- One value as it is, several as a list.
    if count ~= 1 then write("[") end
    for i = 1, count do
      if i > 1 then write(",") end
      format.json((select(i, ...)), write)
    end
    if count ~= 1 then write("]") end
    write("\n")
    return
  end
  for i = 1, count do
    local value = select(i, ...)
    local command = type(value) == "function" and commands.of(value)
    if command then
      -- Typed without brackets.
      write(("%s: %s\nhelp(%s) tells more\n"):format(command.usage, command.summary, command.name))
    elseif not (value == nil and count == 1 and session.interactive) then format.text(value, write, session.width) end
  end
end

--- Run a chunk to its end.
---@param session flowd.console.Session
---@param chunk function
return function(session, chunk)
  local function finish(...)
    local count = select("#", ...)
    if count > 0 or session.json then show(session, count, ...) end
    if count > 0 and (...) ~= nil then session.variables._ = (...) end
  end
  finish(chunk())
end
