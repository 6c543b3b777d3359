-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local cli = require("flowd.cli")
local log = require("flowd.log")
local snapshot = require("flowd.snapshot")

return {
  summary = "run the daemon in the foreground",
  doc = [[
Reads the configuration, starts its backends and plugins, and handles events until SIGTERM or SIGINT ends it.
It then ends all open flows: their last messages are sent, their marks are removed.
Nothing is started when the configuration has an error.]],
  options = {
    { name = "--user", value = "USER", doc = "Become this user when started as root. Overrides the configuration." },
  },
  run = function(_, options)
    -- There is hardly any garbage until the daemon is ready, and then there is time for it.
    collectgarbage("stop")
    -- What runs once is not worth being compiled.
    jit.off()
    api.marker_early_start()
    -- The process before us hung: what it ran is what runs, without the script that hung.
    local kept = snapshot.take()
    local ok, config, builder = pcall(cli.load_policy, options, kept)
    if not ok and kept then
      log.error("the configuration kept from before cannot be loaded: its files are read again")
      kept = nil
      ok, config, builder = pcall(cli.load_policy, options)
    end
    if not ok then
      api.marker_early_end()
      if type(config) ~= "table" or not config.errors then error(config, 0) end
      for _, message in ipairs(config.errors) do log.error("%s", message) end
      return 1
    end
    log.setup(config.values.log.level, config.values.log.time)
    return require("flowd.daemon").run(config, builder, kept)
  end,
}
