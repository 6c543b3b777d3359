-- SPDX-License-Identifier: Apache-2.0
-- What rules remember (flowd.state): what outlives what.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")

local RULES = [[
  rule "remember" (function(flow)
    local seen = flowd.state.table("seen")
    flowd.state.counter("flows"):add()
    flow.activity = seen:add("flows")
  end)
]]

describe("flowd.state", function()
  after_each(cleanup.all)

  -- The next flow: its activity tells what the table has counted, and what the counter has.
  local function step(d, port, in_table, in_counter)
    d:write(("start tcp ::1 %d ::1 2 atlas 1\n"):format(port))
    d:expect(("counted, port %d activity %d\n"):format(port, in_table))
    assert.equal(in_counter, d:counter('flowd_site_total{name="flows"}'))
  end

  local TELL = [[
    rule "tell" (function(flow) flowd.log("info", "counted, port %d activity %d", flow.src_port, flow.activity) end)
  ]]

  it("tables outlive a reload, counters a crash, an upgrade and on_stop = keep, too; a stop ends both", function()
    local config = { on_stop = "keep" }
    local rules = RULES .. ", " .. TELL
    local d = daemon.start({ config = config, rules = rules })
    step(d, 1, 1, 1)
    d:signal("HUP")
    d:expect("reload: [^\n]* is in use")
    step(d, 2, 2, 2)
    d:signal("USR2")
    d:expect("is ready: .* is ready: ")
    step(d, 3, 1, 3)
    d:signal("KILL")
    d:wait()
    d = daemon.start({ dir = d.dir, config = config, rules = rules, again = true })
    step(d, 4, 1, 4)
    assert.same({ code = 0 }, d:stop())
    d = daemon.start({ dir = d.dir, config = config, rules = rules, again = true })
    step(d, 5, 1, 5)
    daemon.write_config(d.dir, {}, rules)
    d:signal("HUP")
    d:expect("reload: [^\n]* is in use")
    step(d, 6, 2, 6)
    assert.same({ code = 0 }, d:stop())
    d = daemon.start({ dir = d.dir, config = {}, rules = rules, again = true })
    step(d, 7, 1, 1)
    assert.same({ code = 0 }, d:stop())
  end)
end)
