-- SPDX-License-Identifier: Apache-2.0
return {
  summary = "a Lua prompt into the running daemon",
  doc = [[
Opens the running daemon's console: a prompt with line editing, history and completion at which flows, rules and the rest can
be looked at, and rules tried on live traffic. help() there lists what there is; flowd-lua-console(7) is the same as a manual.
Input that is no terminal is read chunk by chunk; the exit status is 1 then when one of them failed. eval is for scripts.
The history is kept in $XDG_STATE_HOME/flowd-lua, or ~/.local/state/flowd-lua.]],
  options = {
    { name = "--socket", value = "FILE", doc = "The console's socket; by default that of the configuration." },
  },
  run = function(_, options)
    return require("flowd.console.terminal").run(require("flowd.console.client").path(options))
  end,
}
