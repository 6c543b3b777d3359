-- SPDX-License-Identifier: Apache-2.0
-- XRootD's map directives, in their order: the transfer's own tag, then what is known of it, then the default. What an announcement
-- carries can be mapped here: addresses, ports, protocol, plugin, application, and the user and process where a plugin knows them.
--   map2exp default E, map2act E default A   the last line below, and default.lua
--   map2act E user NAME A                    by_user.lua
--   domain any|local|remote                  site_local.lua
--   ffdest host:port,origin                  collectors and to_destination of the firefly backend; collectors.lua by experiment
--   defsfile                                 registry.file or registry.url of the configuration
-- map2exp path P E, map2exp vo V E and map2act E role R A cannot be: no announcement carries the file's path, the VO or the role. XRootD
-- maps these itself, and writes experiment and activity into its announcement, which the rule below leaves as they are.
local known = flowd.map.first_of {
  { "src", flowd.map.prefixes { ["2001:db8:10:200::/56"] = "cms" } },
  { "application", flowd.map.globs { ["xrootd-alice*"] = "alice" } },
  "atlas/Production Input",
}

rule "xrootd" (function(flow)
  if flow.experiment == 0 then flow:tag(known:find(flow)) end
end)
