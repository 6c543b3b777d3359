-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")

local function read_all(file)
  local text, message = file:read("*a")
  if not text then cli.fail("standard input: %s", message or "cannot be read") end
  return text
end

return {
  summary = "ask the running daemon: evaluate Lua in its console",
  doc = [[
Sends CODE to the running daemon's console and prints the result; "-" reads the code from standard input.
The result goes to standard output, errors to standard error. The exit status is 0 when it was evaluated, 1 when it
raised an error or the daemon cannot be asked.
What can be asked is in flowd-lua-console(7); the command console is for people.]],
  arguments = { { name = "CODE", doc = 'An expression or statements, as in \'flows{experiment="atlas"}\'.' } },
  options = {
    { name = "--json", doc = "Print the result as JSON." },
    { name = "--socket", value = "FILE", doc = "The console's socket; by default that of the configuration." },
  },
  run = function(arguments, options)
    local code = arguments[1]
    if code == "-" then code = read_all(io.stdin) end
    local client = require("flowd.console.client")
    local connection, message = client.connect(client.path(options))
    if not connection then cli.fail("%s", message) end
    local status, text = connection:ask("eval", code, {
      format = options.json and "json" or "text", width = tonumber(os.getenv("COLUMNS")) or 120,
    }, function(output, for_people)
      local stream = for_people == 1 and io.stderr or io.stdout
      local ok, problem = stream:write(output)
      -- What goes on for long is seen as it comes.
      if ok then ok, problem = stream:flush() end
      if not ok then cli.fail("standard output: %s", problem) end
    end)
    io.stdout:flush()
    if status == client.status.ok then return 0 end
    io.stderr:write("flowd-lua: ", text ~= "" and text or "refused", "\n")
    return 1
  end,
}
