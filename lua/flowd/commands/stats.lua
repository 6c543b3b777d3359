-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")

return {
  summary = "show every counter of the running daemon",
  doc = [[
Reads the counters from the state file in the configured runtime_dir, without asking the daemon: this works whatever the
daemon is doing.]],
  options = {
    { name = "--json", doc = "As one JSON object." },
    { name = "--prometheus", doc = "As Prometheus text exposition format." },
    { name = "--state", value = "FILE", doc = "The state file; by default that of the configuration." },
  },
  run = function(_, options)
    if options.json and options.prometheus then
      error({ usage = "stats: --json and --prometheus exclude each other" }, 0)
    end
    local path = options.state or cli.load_config(options).values.runtime_dir .. "/state"
    local format = options.json and "json" or options.prometheus and "prometheus" or "text"
    local ok, message = require("flowd.stats").print(path, format)
    if not ok then cli.fail("%s", message) end
    return 0
  end,
}
