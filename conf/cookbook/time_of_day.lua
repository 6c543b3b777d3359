-- SPDX-License-Identifier: Apache-2.0
-- The experiment that uses the shared pool depends on the hour. Of several entries the one for the shortest time counts; times
-- are the machine's own unless a zone is given ("UTC", "+02:00" or a name such as "Europe/Zurich").
local pool = flowd.prefixes { "2001:db8:10:700::/56" }
local hours = flowd.map.schedule({
  ["mon-fri 08:00-18:00"] = "cms",
  ["sat sun"] = "lhcb",
  ["always"] = "atlas",
}, { zone = "UTC" })

rule "by the hour" (function(flow)
  if flow.src:within(pool) then flow:tag(hours:find(flow)) end
end)
