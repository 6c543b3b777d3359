-- SPDX-License-Identifier: Apache-2.0
--- flowd-lua explain, as typed.
local cleanup = require("spec.support.cleanup")
local console = require("spec.support.console")
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
  after_each(cleanup.all)

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

  for what, body in pairs({
    ["in compiled code"] = "local x = 0 while true do x = x + 1 end",
    ["in the interpreter"] = "while true do pcall(setmetatable, {}, {}) end",
    ["in a string pattern"] = 'return ("a"):rep(40):find(("a*"):rep(40) .. "b") and drop',
    ["in a call that it contains"] = "while true do pcall(function() while true do end end) end",
  }) do
    it("ends at a rule that never returns " .. what .. ", and names it", function()
      local dir = temp.dir()
      local conf = daemon.write_config(dir, {}, ('rule "first" (function() end),\nrule "spins" (function(flow) %s end),'):format(body))
      local result = process.run({ daemon.binary(), "explain", "--conf", conf, "tcp ::1 1 ::1 2", seconds = 60 })
      assert.equal(1, result.code)
      assert.matches('^flowd%-lua: rule "spins" %(.*conf%.lua:%d+%): never returned %(an endless loop%?%)\n$', result.stderr)
      assert.equal("", result.stdout)
    end)
  end

  it("refuses a text that is no flow, with status 2", function()
    local result = run("tcp 2001:db8::1 1094 2001:db8::2 port")
    assert.equal(2, result.code)
    assert.matches("destination port: expected 1 to 65535\n  tcp [^\n]*\n *%^%^%^%^\n", result.stderr)
  end)
end)

describe("flowd-lua explain of the running daemon", function()
  after_each(cleanup.all)

  local function explain(d, ...) return process.run({ daemon.binary(), "explain", "--socket", d.runtime_dir .. "/console", ... }) end

  local rules = [[
    rule "old" { match = { dst_port = 443 }, set = { experiment = "atlas" } },
    rule "limit" (function(flow)
      if flow.dst_port ~= 80 then return end
      if seen:add(flow.src) > 3 then return drop end
      alarms:add()
      flow:tag(turns:find())
    end), ]]
  local preamble = [[
    local seen, alarms = flowd.state.table("seen"), flowd.state.counter("alarms")
    local turns = flowd.map.round_robin{ "atlas/Data Challenge", "cms/Data Challenge", "lhcb/Default" }
  ]]

  local function start()
    local dir = temp.dir()
    local conf = daemon.write_config(dir, {}, rules)
    temp.write(conf, preamble .. temp.read(conf))
    return daemon.start({ dir = dir, conf = conf, log_level = "info" })
  end

  it("tells what runs, not what its files say meanwhile, nor what --conf names", function()
    local d = start()
    temp.write(d.conf, (temp.read(d.conf):gsub('"old"', '"new"'):gsub('"atlas" }', '"cms" }')))
    local result = explain(d, "tcp 2001:db8::1 1094 2001:db8::2 443")
    assert.same({ 0, "" }, { result.code, result.stderr })
    assert.matches("1  old    yes    experiment: unset %-> atlas %(2%)", result.stdout)
    result = d:command("explain", "tcp 2001:db8::1 1094 2001:db8::2 443")
    assert.matches("1  new    yes    experiment: unset %-> cms %(3%)", result.stdout)
    -- What was typed in at the console is there too.
    assert.equal(0, (console.ask(d.runtime_dir .. "/console", 'rule "typed" { set = { activity = 7 } }')))
    result = explain(d, "--json", "tcp 2001:db8::1 1094 2001:db8::2 443 plugin=pipe")
    local report = require("flowd.json_parser").decode(result.stdout)
    assert.same({ "the running daemon", 2, 7, "typed" },
      { report.of, report.result.experiment, report.result.activity, report.result.rule })
    assert.matches("typed  yes", explain(d, "--brief", "tcp 2001:db8::1 1094 2001:db8::2 1").stdout)
    d:signal("HUP")
    d:expect("is in use: ")
    assert.matches("1  new ", explain(d, "tcp 2001:db8::1 1094 2001:db8::2 443").stdout)
    assert.same({ code = 0 }, d:stop())
  end)

  it("changes nothing that rules remember, as often as it is asked", function()
    local d = start()
    local before = d:stats()
    for _ = 1, 6 do
      local result = explain(d, "tcp ::1 1 ::2 80")
      assert.equal(0, result.code, result.stderr)
      assert.matches("Result: atlas", result.stdout)
    end
    local after = d:stats()
    for series, value in pairs(before) do
      if series:find("flowd_rule") or series:find("flowd_site") or series:find("flowd_flows") then
        assert.equal(value, after[series], series)
      end
    end
    for port = 1, 3 do d:write(("start tcp ::1 %d ::2 80 0 0\n"):format(port)) end
    d:wait_for_counter("flowd_flows_open", 3)
    assert.equal(3, d:counter('flowd_site_total{name="alarms"}'))
    assert.matches("Result: dropped", explain(d, "tcp ::1 9 ::2 80").stdout)
    -- The next in turn is the first again.
    local _, flows = console.ask(d.runtime_dir .. "/console", "flows{limit=9}", { format = "json" })
    assert.matches("lhcb", flows)
    assert.matches("Result: atlas", explain(d, "tcp ::3 9 ::2 80").stdout)
    assert.same({ code = 0 }, d:stop())
  end)

  it("says what is wrong with the flow, and with the daemon", function()
    local d = start()
    local result = explain(d, "tcp 2001:db8::1 1094 2001:db8::2 port")
    assert.equal(2, result.code)
    assert.matches("^flowd%-lua: explain: [^\n]*destination port: expected 1 to 65535\n  tcp [^\n]*\n *%^%^%^%^\n", result.stderr)
    assert.same({ code = 0 }, d:stop())
    result = explain(d, "tcp ::1 1 ::2 80")
    assert.equal(1, result.code)
    assert.matches("console: no daemon answers there", result.stderr)
  end)

  it("says so when no daemon answers, and explains the files", function()
    local default = io.open(require("flowd.cli").default_conf)
    if default then
      default:close()
      return pending("this machine has a configuration of its own")
    end
    local result = process.run({ daemon.binary(), "explain", "tcp ::1 1 ::2 80" })
    assert.equal(1, result.code)
    assert.matches("no daemon answers there[^\n]*: what the files of /etc/flowd%-lua/conf.lua say is explained\n", result.stderr)
    assert.matches("/etc/flowd%-lua/conf.lua: [^\n]*there is no such file", result.stderr)
  end)
end)
