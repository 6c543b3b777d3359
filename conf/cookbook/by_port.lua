-- SPDX-License-Identifier: Apache-2.0
-- Each experiment has doors of its own: the port on which our servers listen tells.
local doors = flowd.map.ports {
  [1094] = "atlas",
  [1095] = "cms",
  ["20000-20999"] = "alice/Data Challenge",
}

rule "by port" (function(flow)
  if flow.experiment == 0 then flow:tag(doors:find(flow.src_port) or doors:find(flow.dst_port)) end
end)
