-- SPDX-License-Identifier: Apache-2.0
-- Traffic within the site is nobody else's business: both ends are ours. This is XRootD's `domain remote`, its default; for
-- `domain local` say `not` before the condition, for `domain any` leave the rule out.
local site = flowd.prefixes { "2001:db8:10::/44", "192.0.2.0/24" }

rule "inside the site" (function(flow)
  if flow.src:within(site) and flow.dst:within(site) then return drop end
end)
