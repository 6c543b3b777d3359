-- SPDX-License-Identifier: Apache-2.0
--- Run make as somebody does who has the sources: not as a part of the make that runs the tests, and
--- whatever that was told.
local process = require("spec.support.process")

local COMMAND = { "env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-u", "MFLAGS", "-u", "DESTDIR", "-u", "PREFIX", "-u", "BIN",
  "make", "--no-print-directory" }

--- It must succeed.
---@param ... string its arguments; the first may be a table: words in front of all
---@return string what it writes
return function(...)
  local arguments, command = { ... }, {}
  if type(arguments[1]) == "table" then command = table.remove(arguments, 1) end
  for _, list in ipairs({ COMMAND, arguments }) do
    for _, word in ipairs(list) do command[#command + 1] = word end
  end
  command.seconds = 300
  return process.must(command)
end
