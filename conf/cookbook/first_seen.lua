-- SPDX-License-Identifier: Apache-2.0
-- An alarm when a server sends for an experiment for the first time: in the log, and counted for `flowd-lua stats`.
local seen = flowd.state.table("servers by experiment", { max = 100000, when_full = "forget" })
local alarms = flowd.state.counter "servers first seen"

rule "first seen" (function(flow)
  local key = ("%s %d"):format(tostring(flow.src), flow.experiment)
  if seen:get(key) then return end
  seen:set(key, true)
  alarms:add()
  flowd.log("warn", "first flow of %s from %s", flow.experiment_name or flow.experiment, tostring(flow.src))
end)
