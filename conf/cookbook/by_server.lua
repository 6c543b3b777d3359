-- SPDX-License-Identifier: Apache-2.0
-- Each experiment has servers of its own: the address tells. The table is a file, which is read again when it changes; a
-- broken one is refused, and what it said before stays in use. What was announced with an experiment keeps that.
local servers = flowd.map.prefixes "maps/servers.csv"

rule "by server" (function(flow)
  if flow.experiment == 0 then flow:tag(servers:find(flow.src) or servers:find(flow.dst)) end
end)
