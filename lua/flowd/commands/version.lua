-- SPDX-License-Identifier: Apache-2.0
local version = require("flowd.version")

return {
  summary = "show the version",
  doc = "Shows the version of flowd-lua and of the Lua inside it.",
  run = function()
    print(version.text())
    return 0
  end,
}
