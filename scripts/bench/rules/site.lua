-- SPDX-License-Identifier: Apache-2.0
-- Twenty rules such as a site has, ten declared and ten as functions. inline.lua beside it is the same
-- by hand.
local site = flowd.prefixes{ "2001:db8:1::/48", "192.0.2.0/24" }
local quarantine = flowd.prefixes{ "2001:db8:8001::/48", "2001:db8:8002::/48", "198.51.100.128/25" }
local partners = flowd.prefixes{ "2001:db8:100::/40", "2001:db8:200::/40", "198.51.100.0/24" }
local servers = flowd.map.prefixes{
  ["2001:db8:1:1::/64"] = "atlas", ["2001:db8:1:2::/64"] = "cms", ["2001:db8:1:3::/64"] = "lhcb",
  ["2001:db8:1:1::10/124"] = "atlas/Data Challenge", ["192.0.2.0/26"] = "atlas", ["192.0.2.64/26"] = "cms",
}
local doors = flowd.map.ports{ [2811] = "cms", [8443] = "lhcb", ["50000-51000"] = "alice" }

rule "inside the site" (function(flow)
  if flow.src:within(site) and flow.dst:within(site) then return drop end
end)
rule "quarantined" { match = { dst = quarantine }, drop = true }
rule "private ends" (function(flow)
  if flow.dst:is_private() then return drop end
end)
rule "tests" {
  match = { dst_port = { 9, 7, "5201-5299" }, experiment = "unset" },
  set = { experiment = "default", activity = "perfSONAR" },
}
rule "by server" (function(flow)
  if flow.experiment == 0 then flow:tag(servers:find(flow.src)) end
end)
rule "by door" (function(flow)
  if flow.experiment == 0 then flow:tag(doors:find(flow.src_port)) end
end)
rule "xrootd at partners" {
  match = { src_port = { 1094, "20000-25000" }, dst = partners, protocol = "tcp", plugin = "pipe", experiment = "unset" },
  set = { experiment = "atlas", activity = "Analysis Input" },
}
rule "third party" (function(flow)
  if flow.src_port == 1094 and flow.dst_port == 1094 then flow.activity = 8 end
end)
rule "udp tests" { match = { protocol = "udp", dst_port = "33434-33534" }, drop = true }
rule "old cms activity" { match = { experiment = "cms", activity = 3 }, set = { activity = 4 } }
rule "atlas staging" (function(flow)
  if flow.experiment == 2 and flow.activity == 0 and flow.src_port == 8444 then flow.activity = 9 end
end)
rule "unknown ids" (function(flow)
  if flow.experiment > 100 then return drop end
end)
rule "lhcb marks only" { match = { experiment = "lhcb" }, route = "marker" }
rule "IPv4 has no label" { match = { family = 4 }, route = "firefly" }
rule "partners get fireflies" (function(flow)
  if flow.dst:within(partners) and flow.protocol == "tcp" then flow:route("marker", "firefly") end
end)
rule "late ports" { match = { dst_port = { "1-1023" }, protocol = "tcp" }, set = { activity = 1 } }
rule "gridftp data" { match = { src_port = "50000-51000", experiment = "unset" }, set = { experiment = "alice" } }
rule "ends" (function(flow)
  if flow.state == "end" and flow.start_time > flow.time then return drop end
end)
rule "http door" { match = { src_port = { 80, 443, 8080, 8443 }, plugin = "http" }, set = { activity = 3 } }
rule "default" (function(flow)
  if flow.experiment == 0 then flow.experiment = 1 end
end)
