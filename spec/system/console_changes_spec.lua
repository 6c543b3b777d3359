-- SPDX-License-Identifier: Apache-2.0
-- Changes from the console: who may make them, what the log tells, and what delta() makes of them.
local cleanup = require("spec.support.cleanup")
local commands = require("flowd.console.commands")
local console = require("spec.support.console")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local d

local function start(options)
  d = daemon.start(options)
  d.console = d.runtime_dir .. "/console"
end

local function ask(code, options) return console.answer(d.console, code, options) end

local function announce(port) return ("start tcp 2001:db8::%x %d 2001:db8:1::1 443 atlas 1\n"):format(port, port) end

describe("changes from the console:", function()
  after_each(cleanup.all)

  -- What each that changes something is tried with, besides its example.
  local changing = { rule = 'rule "tests" { match = { dst_port = 5201 }, drop = true }', close = "close(1)" }

  it("those that change something are refused to who may only ask, and logged with who it was", function()
    local dir = temp.dir()
    process.must({ "chmod", "0755", dir })
    start({ dir = dir, rules = 'rule "one" { set = { activity = 7 } },',
      config = { console = { group = "61001", readonly_group = "61002" } } })
    d:write(announce(1000))
    d:wait_for_counter("flowd_flows_open", 1)
    local function as(gid, code)
      return process.run({ "setpriv", "--reuid=" .. gid, "--regid=" .. gid, "--clear-groups", daemon.binary(), "--lua-path", "lua",
        "eval", "--socket", d.console, code })
    end
    local everything = [[local t = { loglevel() } for _, r in ipairs(rules()) do t[#t + 1] = r.name .. " " .. r.state end
      for _, f in ipairs(flows{}) do t[#t + 1] = f.id .. " " .. f.activity end return table.concat(t, ", ")]]
    local before = ask(everything)
    assert.equal("debug, one on, 1 7\n", before)
    for _, c in ipairs(commands.list) do
      local code = changing[c.name] or c.example
      if c.changes then
        local r = as(61002, code)
        assert.same({ 1, "" }, { r.code, r.stdout }, code)
        assert.matches(c.name .. ": you may ask, but not change anything (console.readonly_group)", r.stderr, 1, true)
        assert.equal(0, d:counter("flowd_console_changes_total"), code)
      end
    end
    for _, code in ipairs({ "loglevel()", "reapply{dry=true}" }) do assert.equal(0, as(61002, code).code, code) end
    assert.equal(before, ask(everything))
    local logged = 0
    for _, name in ipairs({ "inject", "rule", "disable", "enable", "loglevel", "reapply", "reload", "close" }) do
      local code = changing[name] or commands.find(name).example
      local r = as(61001, code)
      assert.equal(0, r.code, code .. ": " .. r.stderr)
      logged = logged + 1
      d:wait_for_counter("flowd_console_changes_total", logged)
      d:expect("console: user %(uid 61001, pid %d+%): " .. name)
    end
    for _, c in ipairs(commands.list) do
      if c.changes then logged = logged - 1 end
    end
    assert.equal(0, logged, "each command that changes something")
  end)

  it("delta of all that can be changed, pasted where it says, is what was there before", function()
    start({ rules = 'rule "seven" { set = { activity = 7 } },' })
    for _, code in ipairs({
      'disable "seven"', 'rule "fn" (function(flow)\n  if flow.dst_port == 81 then flow.activity = 9 end\nend)',
      'for i = 1, 2 do rule("loop " .. i) { match = { dst_port = 90 + i }, set = { activity = 10 + i } } end',
      'rule "a" { match = { dst_port = 95 }, drop = true } '
        .. 'rule "b" { match = { src = { "::2", "10.0.0.0/8" } }, set = { application = "b" } };',
      'local r = rule("in the middle", { after = "fn" }) { match = { application = "\\34x" }, drop = true } loglevel("warn")',
      "flowd.every(3600, function() end)",
    }) do
      ask(code)
    end
    local function state()
      local t = {}
      for _, port in ipairs({ 80, 81, 91, 92, 95 }) do
        t[#t + 1] = ask(('inject "tcp ::2 %d ::1 %d atlas 1" local f = flows{src_port=%d}[1] '
          .. 'if f then close(f.id) return f.activity, f.application, f.rule end return "none"'):format(port, port, port))
      end
      return table.concat(t)
    end
    local before, text = state(), ask("delta()")
    local rules, timer, option = text:match("^(.-)\n(%-%- a timer.-)\n(%-%- beside rules.*)$")
    assert.matches('-- rule "seven" (' .. d.conf, rules, 1, true)
    -- The rule that was switched off is taken out; each other goes where its comment says: here in their order, but one.
    local middle = rules:match('%-%- behind rule "fn":\n([^\n]*)')
    rules = rules:gsub('%-%- behind rule "fn":\n[^\n]*', "", 1):gsub("\nend%),", function(fn) return fn .. "\n" .. middle end)
    temp.write(d.conf, timer .. "\n" .. temp.read(d.conf):gsub('rule "seven"[^\n]*', function() return rules end)
      :gsub("rules = {", function(head) return option .. head end))
    assert.matches("^reloaded", ask("reload()"))
    assert.equal(before, state())
    assert.equal("nothing: what runs is what the files say\n", ask("delta()"))
    -- The daemon here has its level from --log-level.
    assert.matches('level = "warn"', process.must({ daemon.binary(), "--conf", d.conf, "conf" }), 1, true)
  end)
end)
