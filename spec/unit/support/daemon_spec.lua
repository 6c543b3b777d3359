-- SPDX-License-Identifier: Apache-2.0
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local temp = require("spec.support.temp")

describe("a configuration written for a test", function()
  after_each(cleanup.all)

  it("reads back as the table it was", function()
    local values = { backends = { marker = { interfaces = { "lo", "eth0" }, strategy = "label" } },
      plugins = { ["pipe.second"] = { required = true } }, max_flows = 1000, stop_deadline = 0.5, note = 'a "b"\n\\' }
    assert.same(values, assert(loadstring("return " .. daemon.to_lua(values)))())
  end)

  it("has directories and a pipe of its own, and its rules as source", function()
    local dir = temp.dir()
    local path = daemon.write_config(dir, { max_flows = 7 }, "rule_one, rule_two")
    local chunk = setfenv(assert(loadfile(path)), { rule_one = 1, rule_two = 2 })
    assert.same({ runtime_dir = dir .. "/run", state_dir = dir .. "/lib", cache_dir = dir .. "/cache", max_flows = 7,
      plugins = { pipe = { paths = { dir .. "/run/np" } } }, rules = { 1, 2 } }, chunk())
  end)
end)
