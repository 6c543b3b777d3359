-- SPDX-License-Identifier: Apache-2.0
-- Test transfers get tags in turn, to see that every one of them arrives: as flowd's iperf_rr and flowd-go's iperf3 plugin. For
-- a random choice write flowd.map.random, with weights { ["atlas/Data Challenge"] = 9, cms = 1 } if some are to come more often.
local turn = flowd.map.round_robin { "atlas/Data Challenge", "cms/Data Challenge", "lhcb", { 5, 1 } }

rule "iperf" (function(flow)
  if flow.dst_port >= 5201 and flow.dst_port <= 5299 then flow:tag(turn:find()) end
end)
