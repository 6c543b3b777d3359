-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")

return {
  summary = "check the configuration and tell everything that is wrong",
  doc = [[
Reads the configuration with all its rule files and checks it against the options of every plugin and backend that
it names, without starting anything.
Each error is a line with file, line, the option's path and what was expected.]],
  run = function(_, options)
    local config = cli.load_config(options)
    print(config.path .. ": configuration is valid")
    return 0
  end,
}
