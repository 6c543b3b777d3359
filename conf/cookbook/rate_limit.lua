-- SPDX-License-Identifier: Apache-2.0
-- At most 1,000 new flows a minute are reported for each experiment; those beyond are marked only. What was counted survives
-- a reload.
local started = flowd.state.table("flows a minute", { when_full = "forget" })

rule "not too many reports" (function(flow)
  local minute = ("%d %d"):format(flow.experiment, flow.time / 60)
  if started:add(minute) > 1000 then flow:route("marker") end
end)
