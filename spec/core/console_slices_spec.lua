-- SPDX-License-Identifier: Apache-2.0
-- What clients of the console get and do does not depend on where their slices end: each command, left at every
-- instruction at which it may be left, with events and another client's commands in between.
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local emit = require("flowd.emit")
local evaluator = require("flowd.console.evaluator")
local flows = require("spec.support.flows")
local pipeline = require("flowd.pipeline")
local place = require("flowd.console.place")
local policy = require("flowd.policy")
local rules = require("flowd.rules")
local slice_core = require("flowd.slice_core")
local support = require("spec.support.policy")

-- Rules that use what the framework keeps for all: addresses as text, an application's text, sets, the view.
local RULES = [[
rule "text" (function(flow) if tostring(flow.src) == "2001:db8::7" then flow.application = "seven" end end)
rule "within" (function(flow) if flow.dst:within("2001:db8:5::/48") then flow:tag("atlas", "Data Challenge") end end)
rule "cms" { match = { dst_port = 99 }, set = { experiment = "cms" } }
]]

local FLOWS = 12
local TAB = "\t" -- in place of json = true: the code is a line to complete

local batch = ffi.new("struct flow_batch")

describe("the console, left at every instruction,", function()
  local bound, inject, count_before, events, events_wanted

  local function chain_options()
    return {
      registry = support.names, backends = {}, source_id = function(name) return api.state_name_id(bound.state, name) end,
      source_name = function(id)
        local name = api.state_name(bound.state, id)
        return name ~= nil and ffi.string(name) or nil
      end,
    }
  end

  local host = {
    console_inject = function(event)
      local ok, message = inject(1, event)
      return ok, message
    end,
    console_rule = function(_, number) return bound.chain.rules[number].name end,
    console_modules = function(kind) return { { name = "a " .. kind, state = "running", options = { x = 1 } } } end,
    console_marker = function() return { flows = 1, memory = 2, interfaces = {} } end,
    console_loglevel = function() return "info" end,
    reapply_start = function() return true end,
    reapply_status = function() return { done = true, text = "reapply: done" } end,
  }

  -- A daemon's policy state, as far as the console sees it.
  local function open()
    flows.quiet()
    local state, flow_table = flows.open_table(1000)
    assert(api.state_name_id(state, "pipe") == 1)
    local environment = policy.new()
    assert(environment:load(RULES, "@site.lua"))()
    local made = environment:take_rules()
    bound = {
      env = environment.env, state = state, table = flow_table, bits = {}, registry = support.names,
      config = { rules = made, values = { plugins = { pipe = {} } }, registry = support.names },
      call = function(name, ...) return host[name] and host[name](...) end,
    }
    bound.chain = assert(rules.compile(made, chain_options()))
    place.bind(bound)
    local p = pipeline.new({ table = flow_table, batch = ffi.new("struct flow_batch"), backends = {}, chain = bound.chain })
    local put, flush = emit.inbox(support.names, function(injected)
      p.chain = bound.chain
      p:run(injected)
    end)
    inject = function(source, event)
      local ok, message = put(source, event)
      flush()
      return ok, message
    end
    for i = 1, FLOWS do
      assert(inject(1, { state = "start", protocol = "tcp", src = "2001:db8::" .. i, src_port = 1000 + i, dst = "2001:db8:5::1",
        dst_port = 443, experiment = "atlas", activity = 1 }))
    end
    batch.count = 2
    events = function()
      support.fill(batch.event[0], { src = "2001:db8::7", dst = "2001:db8:5::9", dst_port = 98 })
      support.fill(batch.event[1], { src = "192.0.2.1", dst = "192.0.2.9", dst_port = 99 })
      return batch
    end
    local first = events()
    bound.chain:run(first)
    events_wanted = support.results(first)
  end

  -- The events of a turn of the loop, which must not notice anything either.
  local function run_events()
    bound.chain:run(events())
    assert.same(events_wanted, support.results(batch))
  end

  -- Times, and how long something took, differ.
  local function normal(text)
    text = text:gsub("%d+%.?%d* us", "T"):gsub("%d+ ms", "T"):gsub("%d+s ago", "T"):gsub(" +%d+s ", " T ")
      :gsub("%d+( +%d+ +on  )", "HITS%1")
    return (text:gsub("%d%d%d%d%-%d%d%-%d%dT[%d:]+Z", "TIME"):gsub('"start":[%d.]+', "T"):gsub('"seen":[%d.]+', "T")
      :gsub('"took_ns":%d+', "T"):gsub('"time_us":%d+', "T"))
  end

  local function begin(client, code, json)
    evaluator[json == TAB and "complete" or "start"](client, code, { user = "root", width = 100, json = json })
  end

  -- Go on; true when it is over.
  local function step(client, out, budget_ns)
    local what, text, said, detail = evaluator.step(client, budget_ns or 0)
    out.text, out.said = (out.text or "") .. text, (out.said or "") .. said
    if what == "error" then out.text = out.text .. "error: " .. detail end
    return what == "done" or what == "error"
  end

  local function at_once(code, json)
    slice_core.count(500)
    begin(1, code, json)
    local out = {}
    while not step(1, out, 10e9) do assert.is_true(#out.text < 1e6) end
    evaluator.forget(1)
    return normal(out.text .. out.said)
  end

  -- What two clients get who do the same at the same time, with events between any two instructions.
  local function in_pieces(code, json)
    slice_core.count(1)
    local outs, over, steps = { {}, {} }, {}, 0
    begin(1, code, json)
    begin(2, code, json)
    repeat
      for client = 1, 2 do
        if not over[client] then over[client] = step(client, outs[client]) end
      end
      steps = steps + 1
      if steps % 7 == 0 then run_events() end
      if steps % 50 == 0 then collectgarbage("step", 1) end
    until over[1] and over[2]
    evaluator.forget(1)
    evaluator.forget(2)
    slice_core.count(count_before)
    return normal(outs[1].text .. outs[1].said), normal(outs[2].text .. outs[2].said), steps
  end

  setup(function()
    count_before = slice_core.count(1)
    slice_core.count(count_before)
  end)
  before_each(open)
  after_each(function()
    slice_core.count(count_before)
    evaluator.forget(1)
    evaluator.forget(2)
    cleanup.all()
  end)

  local function same(code, json)
    local wanted = at_once(code, json)
    local first, second, steps = in_pieces(code, json)
    assert.equal(wanted, first, code)
    assert.equal(wanted, second, code)
    assert.is_true(steps > 1, code)
    return steps, wanted
  end

  it("writes all of what it has to say", function()
    local data = 'local t = {} for i = 1, 24 do t[i] = { n = i, s = "x" .. i, f = i / 3, b = i % 2 == 0 } end '
    for _, json in ipairs({ true, false }) do
      assert.is_true(same(data .. "return t", json) > 5000)
      assert.is_true(same(data .. "for i, v in ipairs(t) do print(i, v.s, v) end", json) > 5000)
    end
    assert.is_true(same([[local t = {} for i = 1, 60 do t[i] = (i * 7919) % 61 end
      table.sort(t, function(a, b) return a > b end) return table.concat(t, " "), ("a1b2"):gsub("%d", function(d) return d + 1 end)]])
      > 1000)
  end)

  it("shows flows, rules and all else the same", function()
    local _, shown = same("flows{}")
    assert.matches("2001:db8::12", shown, 1, true)
    assert.matches("Data Challenge", shown)
    for _, code in ipairs({
      'flows{experiment="atlas", src="2001:db8::/64", sort="-src_port", limit=7}', "flows{count=true}", 'flows{by="experiment"}',
      "flows{where=function(f) return f.src_port % 3 == 0 end}", "flow(3)", 'flow "tcp 2001:db8::3 1003 2001:db8:5::1 443"',
      'explain "tcp 2001:db8::7 1 2001:db8:5::9 98 atlas 1"', 'explain "tcp ::1 1 ::2 99 atlas 1"', "rules()", "delta()",
      "local t = {} for _, f in ipairs(flows{}) do t[#t + 1] = tostring(f.src) end return t",
      'return flow(2).src:within("2001:db8::/32"), tostring(flow(5).src), flowd.address("2001:db8:0:0::00ff")',
      "help()", "help(flows)", "plugins()", "backends()", "marker()", 'stats("flows")', 'registry("atlas")', 'disable "tetx"',
      'flows{experiment="atlsa"}',
    }) do
      same(code)
    end
    same("flows{}", true)
    same("flow(1)", true)
    same('stats("flows")', true)
  end)

  it("completes lines the same", function()
    for line, candidate in pairs({
      ["fl"] = "flows", ["flows{exp"] = "experiment", ['flows{experiment="at'] = "atlas", ['disable("w'] = "within",
      ["string.re"] = "reverse", ["flow(3)."] = "application", ["rules()[2].st"] = "state", ['stats("flows")[1].'] = "help",
      ['print(flows{experiment="atlas", sort="-src_port", limit=2}[1].s'] = "src_port",
    }) do
      local _, shown = same(line, TAB)
      assert.matches("\n" .. candidate, shown, 1, true)
    end
  end)

  it("announces events whole", function()
    local code = [[for i = 1, 4 do inject{src="2001:db8::7", src_port=i, dst="2001:db8:5::1", dst_port=%d, experiment="atlas"} end]]
    in_pieces(code:format(5000))
    assert.equal("4\n", at_once("flows{dst_port=5000, count=true}"))
    assert.equal("seven\n", at_once("flows{dst_port=5000}[1].application"))
    in_pieces("local id = flows{dst_port=5000}[1].id pcall(close, id)")
    assert.equal("3\n", at_once("flows{dst_port=5000, count=true}"))
  end)

  it("takes rules of two clients in, and changes of both", function()
    slice_core.count(1)
    local outs = { {}, {} }
    begin(1, 'rule("one", { before = "text" }) { match = { dst_port = 1 }, set = { activity = 9 } } disable "cms" enable "cms"')
    begin(2, 'rule "two" { match = { dst_port = 2 }, set = { activity = 10 } }')
    local over, steps = {}, 0
    repeat
      steps = steps + 1
      for client = 1, 2 do over[client] = over[client] or step(client, outs[client]) end
      if steps % 5 == 0 then
        -- What decided has another number by now.
        bound.chain:run(events())
        local got = support.results(batch)
        assert.same({ "seven", 26, 3 }, { got[1].application, got[1].activity, got[2].experiment == 3 and 3 or got[2].rule == 0 and 3 })
      end
    until over[1] and over[2]
    assert.not_matches("error", outs[2].text)
    assert.not_matches("error", outs[1].text)
    assert.is_true(steps > 50)
    slice_core.count(count_before)
    local names = {}
    for i, rule in ipairs(bound.chain.rules) do names[i] = rule.name end
    assert.same({ "one", "text", "within", "cms", "two" }, names)
    evaluator.forget(1)
    evaluator.forget(2)
  end)

  it("tells traces no event twice and none not at all", function()
    slice_core.count(1)
    begin(1, "trace{count=40}")
    local out, sent, steps = {}, 0, 0
    while not step(1, out) do
      steps = steps + 1
      assert.is_true(steps < 3000000)
      if steps % 997 == 0 and sent < 40 then
        sent = sent + 1
        bound.chain:run(support.batch({ { src_port = sent } }))
      end
    end
    local seen = 0
    for port in out.text:gmatch("start tcp %[2001:db8::1%]:(%d+) %->") do
      seen = seen + 1
      assert.equal(seen, tonumber(port))
    end
    assert.equal(40, seen)
    evaluator.forget(1)
  end)
end)
