-- SPDX-License-Identifier: Apache-2.0
-- Backends by experiment: CMS is marked and reported, ALICE reported only, and the rest marked only.
rule "cms: both" { match = { experiment = "cms" }, route = { "marker", "firefly" } }
rule "alice: report" { match = { experiment = "alice" }, route = "firefly" }
rule "others: mark" (function(flow)
  if flow.experiment_name ~= "cms" and flow.experiment_name ~= "alice" then flow:route("marker") end
end)
