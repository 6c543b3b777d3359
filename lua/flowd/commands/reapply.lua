-- SPDX-License-Identifier: Apache-2.0
return {
  summary = "run today's rules over all open flows of the running daemon",
  doc = [[
What rules decide at a flow's start holds until its end, also when the rules change. This decides anew for every open flow, from
what it was announced with, and prints how many changed. Another tag changes the mark in place, without an unmarked packet;
backends that are new in the route get a start, those that are not in it any more an end; a flow that is dropped now, or
has no experiment, ends with its old tag. Asks the running daemon through its console.]],
  options = {
    { name = "--dry", doc = "Only count what would change." },
  },
  run = function(_, options)
    return require("flowd.commands.eval").run({ options.dry and "reapply{dry=true}" or "reapply()" }, options)
  end,
}
