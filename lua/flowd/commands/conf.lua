-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")

return {
  summary = "show the effective configuration, defaults included",
  doc = [[
Shows every option with the value it has, as Lua that is itself a configuration.
Rules are shown as comments that say where each one is defined.]],
  options = {
    { name = "--template", doc = "Show a configuration with every option, its default and what it is for, instead." },
  },
  run = function(_, options)
    if options.template then
      io.stdout:write(require("flowd.conf_template").text())
      return 0
    end
    io.stdout:write(require("flowd.config_print").text(cli.load_config(options)))
    return 0
  end,
}
