-- SPDX-License-Identifier: Apache-2.0
-- Numbers that the registry does not know are not passed on: somebody typed one, or has a registry of their own.
local refused = flowd.state.counter "unknown ids"

rule "unknown ids" (function(flow)
  if flow.experiment == 0 then return end
  if flow.experiment_name and (flow.activity == 0 or flow.activity_name) then return end
  refused:add()
  return drop
end)
