-- SPDX-License-Identifier: Apache-2.0
local explain = require("flowd.explain")
local support = require("spec.support.policy")
local ffi = require("ffi")

local policy = [[
local storage = flowd.prefixes { "2001:db8:10::/48", "192.0.2.0/24" }
rule "no tests" { match = { dst_port = { 5001, "5201-5210" } }, drop = true }
rule "pool" { match = { src = "2001:db8:10:7::/64", experiment = "atlas" }, set = { activity = "Data Challenge" } }
rule "inside" (function(flow) if flow.src:within(storage) and flow.dst:within(storage) then return drop end end)
rule "broken" (function(flow) flow.experiment = 7; error("oops") end)
rule "tags" (function(flow) if flow.experiment == 0 then flow:tag("cms/Data Challenge") end end)
rule "route" { match = { dst = storage, plugin = "pipe", family = 6 }, route = "firefly", accept = true }
rule "last" (function(flow) flow.application = "last" end)
]]

local function ask(text, options)
  options = options or {}
  options.plugins = { "pipe", "http" }
  return explain.ask(options.chain or support.chain(policy), text, options)
end

local function outcomes(report)
  local list = {}
  for i, rule in ipairs(report.rules) do list[i] = rule.outcome end
  return list
end

describe("explain", function()
  it("tells of each rule what became of it", function()
    local report = ask("tcp 2001:db8:1::1 1094 2001:db8:10::2 40000 plugin=pipe")
    assert.same({ "no match", "no match", "nothing", "failed", "acted", "acted", "not reached" }, outcomes(report))
    assert.same({ { field = "dst_port", holds = false, actual = "40000", expected = "5001, 5201-5210" } }, report.rules[1].conditions)
    assert.same({
      { field = "src", holds = false, actual = "2001:db8:1::1", expected = "2001:db8:10:7::/64" },
      { field = "experiment", holds = false, actual = "unset", expected = "atlas" },
    }, report.rules[2].conditions)
    assert.matches("site.lua:5: oops", report.rules[4].error)
    assert.same({}, report.rules[4].changes)
    assert.same({
      { field = "experiment", from = "unset", to = "cms (3)" }, { field = "activity", from = "unset", to = "Data Challenge (4)" },
    }, report.rules[5].changes)
    assert.equal("accept", report.rules[6].verdict)
    assert.is_true(report.rules[6].took_ns >= 0)
    local result = report.result
    assert.same({ "delivered", 3, 4, "route", { "firefly" } },
      { result.outcome, result.experiment, result.activity, result.rule, result.route })
    assert.equal(tonumber(require("flowd.api").label_encode(3, 4, 0)), result.label)
  end)

  it("tells when a flow is dropped, or stays without experiment", function()
    assert.equal("dropped", ask("udp 192.0.2.1 1 192.0.2.2 2 atlas 1").result.outcome)
    local report = ask("tcp ::1 1 ::2 2", { chain = support.chain('rule "r" { match = { experiment = 3 }, set = { activity = 1 } }') })
    assert.equal("unmapped", report.result.outcome)
  end)

  it("changes and counts nothing", function()
    local chain = support.chain(policy)
    local before = {}
    for i, rule in ipairs(chain.rules) do before[i] = { rule.hits, rule.errors } end
    local batch = support.batch({ { dst = "2001:db8:10::2" } })
    local e = batch.event[0]
    local copy = ffi.new("struct flow_event", e)
    explain.run(chain, e)
    assert.equal(ffi.string(copy, ffi.sizeof(copy)), ffi.string(batch.event, ffi.sizeof(copy)))
    for i, rule in ipairs(chain.rules) do assert.same(before[i], { rule.hits, rule.errors }) end
  end)

  it("live does what the chain does", function()
    local live, chain = support.chain(policy), support.chain(policy)
    for _, fields in ipairs({ { dst = "2001:db8:10::2" }, { dst_port = 5001 }, { experiment = 2, activity = 3 } }) do
      local expected, batch = support.batch({ fields }), support.batch({ fields })
      support.logged(function() chain:run(expected) end)
      local hits = live.rules[5].hits
      explain.run(live, batch.event[0], { live = true })
      assert.same(support.results(expected), support.results(batch))
      assert.equal(fields.dst and hits + 1 or hits, live.rules[5].hits)
    end
  end)

  it("is readable", function()
    local lines = explain.format(ask("tcp 2001:db8:1::1 1094 2001:db8:10::2 40000 plugin=pipe"))
    local text = table.concat(lines, "\n")
    assert.matches("^start tcp %[2001:db8:1::1%]:1094 %-> %[2001:db8:10::2%]:40000: announced as unset by pipe", text)
    assert.matches("\n   1  no tests  no     dst_port is 40000; expected 5001, 5201%-5210", text)
    assert.matches("\n   4  broken    ERROR  site.lua:5: oops %(the flow goes on", text)
    assert.matches("\n   5  tags      yes    experiment: unset %-> cms %(3%)", text)
    assert.matches("\n   6  route     yes    route: all backends %-> firefly", text)
    assert.matches("\n   7  last      %-      not reached: rule 6 was the last word", text)
    assert.matches("\nResult: cms %(3%) / Data Challenge %(4%), to firefly; flow label 0x%x+, give or take", text)
    local brief = table.concat(explain.format(ask("tcp ::1 1 ::2 2"), { brief = true }), "\n")
    assert.is_nil(brief:find("no tests"))
    assert.matches("4 rules that did nothing are not shown", brief)
  end)

  it("names the word that is wrong in a flow", function()
    for text, expected in pairs({
      [""] = { "a flow is missing", "" },
      ["tcp ::1"] = { "source port is missing", "" },
      ["tpc ::1 1 ::2 2"] = { 'protocol: expected one of tcp, udp — did you mean "tcp"%?', "tpc" },
      ["tcp ::1 1 ::g 2"] = { "destination address: expected an IPv4 or IPv6 address", "::g" },
      ["tcp ::1 1 192.0.2.1 2"] = { "destination address: expected IPv6, as the source is", "192.0.2.1" },
      ["tcp ::1 0 ::2 2"] = { "source port: expected 1 to 65535", "0" },
      ["tcp ::1 1 ::2 2 atlsa 1"] = { 'did you mean "atlas"', "atlsa" },
      ["tcp ::1 1 ::2 2 600 1"] = { "511", "600" },
      ["tcp ::1 1 ::2 2 atlas"] = { "activity %(0 for none%) is missing", "" },
      ["tcp ::1 1 ::2 2 0 input"] = { "a name needs an experiment", "input" },
      ["tcp ::1 1 ::2 2 plugin=pip"] = { 'no plugin "pip" is configured', "plugin=pip" },
      ["tcp ::1 1 ::2 2 bytes_sent=many"] = { "bytes_sent: expected octets", "bytes_sent=many" },
      ["tcp ::1 1 ::2 2 time=noon"] = { "time: expected a time in UTC", "time=noon" },
      ["tcp ::1 1 ::2 2 colour=red"] = { 'unknown key "colour"', "colour=red" },
      ["tcp ::1 1 ::2 2 state=end state=end"] = { "state is given twice", "state=end" },
    }) do
      local report, message = ask(text)
      assert.is_nil(report, text)
      assert.matches(expected[1], message)
      local line, marks = message:match("\n  ([^\n]*)\n  ( *%^+)$")
      assert.equal(text, line)
      local first, last = marks:find("%^+")
      assert.equal(expected[2], text:sub(first, last))
    end
  end)

  it("reads a flow as the log writes it", function()
    for _, text in ipairs({ "tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000 atlas 1",
      "start tcp [2001:db8::1]:1094 [2001:db8::2] 40000 atlas 1" }) do
      local report, message = ask(text)
      assert.is_nil(message)
      assert.equal("start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000", report.flow)
    end
    assert.truthy(ask("udp 192.0.2.1:1 -> 192.0.2.2:2"))
    assert.matches("source port: expected 1 to 65535\n.*\n      %^+$", select(2, ask("tcp [::1]:0 -> [::2]:1")))
    assert.matches("destination address: expected an IPv4 or IPv6 address", select(2, ask("tcp [::1]:1 -> ->")))
  end)

  it("reads everything an event can say", function()
    local report = ask('end udp 192.0.2.1 1 198.51.100.1 2 atlas Data_Challenge application="xrd cp" time=2026-03-01T12:00:00 '
      .. "start_time=2026-03-01T11:00:00 bytes_sent=10M plugin=http", { chain = support.chain([[
      rule "all" { match = { application = "xrd cp", duration = "1h", bytes_sent = "10M", bytes_received = 0, plugin = "http",
        end_time = "2026-03-01", state = "end", protocol = "udp", family = "ipv4", experiment = "atlas",
        activity = "Data Challenge" }, route = "marker" }]]) })
    assert.same({ "acted" }, outcomes(report))
    assert.matches("runs no rules", report.note)
  end)
end)
