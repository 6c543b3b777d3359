-- SPDX-License-Identifier: Apache-2.0
--- flowd-lua explain, as typed.
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local function run(...)
  local dir = temp.dir()
  local conf = dir .. "/conf.lua"
  local file = assert(io.open(conf, "w"))
  file:write([[return { runtime_dir = "]] .. dir .. [[/run", plugins = { pipe = {} }, backends = { firefly = {} }, rules = {
    rule "web" { match = { dst_port = 443, plugin = "pipe" }, set = { experiment = "atlas" } },
  } }]])
  file:close()
  return process.run({ daemon.binary(), "explain", "--conf", conf, ... })
end

describe("flowd-lua explain", function()
  it("explains a configuration that does not run", function()
    local result = run("tcp 2001:db8::1 1094 2001:db8::2 443 plugin=pipe")
    assert.equal(0, result.code)
    assert.matches('1  web   yes    experiment: unset %-> atlas %(2%)', result.stdout)
    assert.matches("Result: atlas %(2%) / ", result.stdout)
  end)

  it("takes words one by one, and writes JSON", function()
    local result = run("--json", "tcp", "192.0.2.1", "1", "192.0.2.2", "2")
    assert.equal(0, result.code)
    local report = require("flowd.json_parser").decode(result.stdout)
    assert.equal("unmapped", report.result.outcome)
    assert.equal("unknown", report.rules[1].conditions[1].actual)
  end)

  it("refuses a text that is no flow, with status 2", function()
    local result = run("tcp 2001:db8::1 1094 2001:db8::2 port")
    assert.equal(2, result.code)
    assert.matches("destination port: expected 1 to 65535\n  tcp [^\n]*\n *%^%^%^%^\n", result.stderr)
  end)
end)
