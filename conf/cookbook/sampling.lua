-- SPDX-License-Identifier: Apache-2.0
-- Mark everything, but report only one flow in a hundred. The choice is made at a flow's start and holds until its end.
rule "report one in a hundred" (function(flow)
  if math.random() >= 0.01 then flow:route("marker") end
end)
