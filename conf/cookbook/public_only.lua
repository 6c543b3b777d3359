-- SPDX-License-Identifier: Apache-2.0
-- Only what crosses the Internet: private, link-local and loopback ends are left out, as flowd's netstat plugin does, and so are
-- networks that are public but internal (its NETSTAT_INTERNAL_NETWORKS).
local internal = flowd.prefixes { "198.51.100.0/25", "2001:db8:ffff::/48" }

rule "public only" (function(flow)
  for _, address in ipairs { flow.src, flow.dst } do
    if address:is_private() or address:within(internal) then return drop end
  end
end)
