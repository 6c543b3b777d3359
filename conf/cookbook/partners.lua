-- SPDX-License-Identifier: Apache-2.0
-- Only flows to sites that agreed to look at marks are marked; the list is shared by several rule files. The file stands
-- beside the configuration: lists/partners.lua, `return flowd.prefixes { "2001:db8:100::/40", … }`.
local partners = require "lists.partners"

rule "marks for partners" (function(flow)
  if not flow.dst:within(partners) then flow:route("firefly") end
end)
