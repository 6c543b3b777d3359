-- SPDX-License-Identifier: Apache-2.0
-- A source that announces more than 600 flows in a minute is left out for ten minutes, counted from the last of those beyond.
local started = flowd.state.table("starts by source", { max = 50000, when_full = "forget" })
local noisy = flowd.state.table("quarantine", { when_full = "forget" })

rule "quarantine" (function(flow)
  local key = ("%s %d"):format(tostring(flow.src), flow.time / 60)
  if started:add(key) > 600 then noisy:set(flow.src, flow.time + 600) end
  if (noisy:get(flow.src) or 0) > flow.time then return drop end
end)
