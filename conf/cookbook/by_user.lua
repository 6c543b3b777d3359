-- SPDX-License-Identifier: Apache-2.0
-- The activity by user, and the experiment too: XRootD's `map2act atlas user prodatlas "Production Input"`, with wildcards. A flow
-- has a user when the plugin that announced it knows the process (discovery of connections does, the pipe does not: it is nil
-- there, and nothing is found).
local users = flowd.map.globs {
  ["prodatlas"] = "atlas/Production Input",
  ["atlas*"] = "atlas/Analysis Input",
  ["cms???"] = "cms",
}

rule "by user" (function(flow) flow:tag(users:find(flow.user)) end)
