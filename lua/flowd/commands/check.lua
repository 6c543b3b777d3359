-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cli = require("flowd.cli")

local ERROR_SIZE = 512

-- Can this binary go on with what a running daemon keeps? true, or false and why not.
local function can_take_over(config)
  local message = ffi.new("char[?]", ERROR_SIZE)
  local state = api.state_view(config.values.runtime_dir .. "/state", message, ERROR_SIZE)
  if state == nil then return false, ffi.string(message) end
  api.state_close(state, false)
  return true
end

return {
  summary = "check the configuration and tell everything that is wrong",
  arguments = { { name = "takeover", optional = true, doc = "also: can this binary replace the daemon that runs?" } },
  doc = [[
Reads the configuration with all its rule files and checks it against the options of every plugin and backend that
it names, without starting anything.
Each error is a line with file, line, the option's path and what was expected.
With takeover, also whether this binary can take over from the daemon that runs: what a daemon asks of a new binary
before SIGUSR2 replaces it.]],
  run = function(arguments, options)
    local config = cli.load_config(options)
    if arguments[1] and arguments[1] ~= "takeover" then
      cli.fail('check: expected nothing or takeover, got "%s"', arguments[1])
    elseif arguments[1] then
      local ok, message = can_take_over(config)
      if not ok then
        io.stderr:write(message, "\n")
        return 1
      end
    end
    print(config.path .. ": configuration is valid")
    return 0
  end,
}
