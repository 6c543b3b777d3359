-- SPDX-License-Identifier: Apache-2.0
-- A map's file is changed under the running daemon.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local SECONDS = os.getenv("ASAN_OPTIONS") and 60 or 20

describe("the file of a map", function()
  after_each(cleanup.all)

  it("is in use soon after it changed, unless it is wrong", function()
    local dir = temp.dir()
    temp.write(dir .. "/ports.csv", "5000,cms\n")
    local d = daemon.start({ rules = ([[(function()
      local ports = flowd.map.ports "%s/ports.csv"
      return rule "map" (function(flow) flow:tag(ports:find(flow.dst_port)) end)
    end)(),]]):format(dir) })
    local port = 1000
    local function tag_becomes(pattern)
      process.wait_for(pattern, SECONDS, function()
        port = port + 1
        d:write(("start tcp ::1 %d ::1 5000 lhcb 1\n"):format(port))
        return d:log():match(("::1.:%d [^\n]*%s"):format(port, pattern))
      end)
    end
    tag_becomes("cms")
    temp.write(dir .. "/ports.csv", "5000,alice\n")
    tag_becomes("alice")
    temp.write(dir .. "/ports.csv", "5000,belle\n5001\n")
    process.wait_for("the refusal", SECONDS, function() return d:log():match("ports.csv:2: expected PORTS,TAG") end)
    tag_becomes("alice")
    temp.write(dir .. "/ports.csv", "5000,cms\n")
    tag_becomes("cms")
    assert.equal(1, d:counter('flowd_map_files_total{result="refused"}'))
    assert.equal(2, d:counter('flowd_map_files_total{result="ok"}'))
    assert.equal(0, d:counter("flowd_map_files_stale"))
    assert.same({ code = 0 }, d:stop())
  end)
end)
