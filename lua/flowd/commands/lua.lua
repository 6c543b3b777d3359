-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")

return {
  summary = "run a Lua script with the daemon's modules",
  doc = [[
For development and tests: runs FILE in this binary's Lua, where require finds the daemon's modules.
Everything behind FILE belongs to the script, as arg and as its arguments.
The script's result, if it is an integer, is the exit status.]],
  arguments = {
    { name = "FILE", doc = "The script." },
    { name = "ARGUMENT", optional = true, many = true, doc = "Handed to the script." },
  },
  raw = true,
  run = function(words)
    if not words[1] then error({ usage = "lua: missing FILE" }, 0) end
    local chunk, message = loadfile(words[1])
    if not chunk then cli.fail("%s", message) end
    arg = { [0] = words[1], unpack(words, 2) }
    return chunk(unpack(words, 2)) or 0
  end,
}
