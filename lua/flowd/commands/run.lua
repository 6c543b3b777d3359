-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")
local log = require("flowd.log")

return {
  summary = "run the daemon in the foreground",
  doc = [[
Reads the configuration, starts its backends and plugins, and handles events until SIGTERM or SIGINT ends it.
It then ends all open flows: their last messages are sent, their marks are removed.
Nothing is started when the configuration has an error.]],
  run = function(_, options)
    local ok, config = pcall(cli.load_config, options)
    if not ok then
      if type(config) ~= "table" or not config.errors then error(config, 0) end
      for _, message in ipairs(config.errors) do log.error("%s", message) end
      return 1
    end
    log.setup(config.values.log.level, config.values.log.time)
    return require("flowd.daemon").run(config, options)
  end,
}
