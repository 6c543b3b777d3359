-- SPDX-License-Identifier: Apache-2.0
-- What a daemon costs that has nothing to do. (That an idle pipe costs no time: pipe_spec.)
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")

local marked_it = require("spec.support.marked")(it)

local MEMORY_MAX = 10e6

describe("an idle daemon", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)

  marked_it("holds at most 10 MB of memory: libraries, both Lua states and the table of marks included", function()
    if os.getenv("ASAN_OPTIONS") then return pending("sanitizers have memory of their own") end
    local d = daemon.start({ namespace = netns.new(), log_level = "info",
      config = { backends = { marker = { interfaces = { "lo" } }, firefly = {} } } })
    d:expect("is ready")
    local memory = d.child:memory()
    assert.is_true(memory <= MEMORY_MAX, ("%.1f MB"):format(memory / 1e6))
  end)
end)
