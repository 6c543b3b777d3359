-- What `make run` starts: everything below the working directory and on the loopback interface.
-- Flows are announced in the pipe run/np; fireflies go to each flow's destination and nowhere else.

-- Where the example rule applies.
local loopback = flowd.prefixes { "::1/128", "127.0.0.0/8" }

return {
  runtime_dir = "run",
  state_dir = "",
  cache_dir = "",
  -- At this level every flow that starts or ends is logged.
  log = { level = "debug" },

  plugins = {
    pipe = { paths = { "run/np" } },
  },

  backends = {
    marker = { interfaces = { "lo" }, strategy = "label" },
    firefly = { to_destination = true, port = 10514, collectors = {} },
  },

  rules = {
    -- An example. A flow that is announced as "0 0" has no tag yet: between local ports from 5200 to
    -- 5299 it is a measurement. A flow that comes with a tag keeps it.
    rule "local iperf3 is a measurement" (function(flow)
      if flow.experiment ~= 0 or not flow.dst:within(loopback) then return end
      if flow.dst_port >= 5200 and flow.dst_port <= 5299 then
        flow.experiment = "default"
        flow.activity = "perfSONAR"
      end
    end),
  },
}
