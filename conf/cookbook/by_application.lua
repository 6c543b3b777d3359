-- SPDX-License-Identifier: Apache-2.0
-- By the name of the program that makes the transfer, where the announcement tells it.
local programs = flowd.map.globs {
  ["fts3-atlas*"] = "atlas/Data Challenge",
  ["*-cms"] = "cms",
  ["rucio?"] = "atlas",
}

rule "by application" (function(flow)
  if flow.experiment == 0 then flow:tag(programs:find(flow.application)) end
end)
