-- SPDX-License-Identifier: Apache-2.0
-- A collector for each experiment: XRootD's `ffdest`, by experiment. The configuration has one firefly backend per collector:
--   backends = { firefly = {}, ["firefly.cms"] = { use = "firefly", collectors = { "collector.cms.example.org" } }, … }
rule "cms has its own collector" { match = { experiment = "cms" }, route = { "marker", "firefly.cms" } }
rule "the others share one" (function(flow)
  if flow.experiment_name ~= "cms" then flow:route("marker", "firefly") end
end)
