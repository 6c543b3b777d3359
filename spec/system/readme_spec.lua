-- SPDX-License-Identifier: Apache-2.0
--- The README's first steps, pasted as they stand.
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local marked_it = require("spec.support.marked")(it)

local text = assert(temp.read("README.md"))

-- Fenced blocks of one language in a section.
local function blocks(section, language)
  local body = section and text:match("\n## " .. section:gsub("%p", "%%%0") .. "\n(.-)\n## ") or text
  local list = {}
  for block in assert(body, "no section " .. tostring(section)):gmatch("\n```" .. language .. "\n(.-\n)```") do
    list[#list + 1] = block
  end
  return list
end

describe("the README", function()
  after_each(cleanup.all)

  marked_it("shows a first marked flow that works when it is pasted", function()
    local available, reason = netns.available()
    if not available then
      pending(reason)
      return
    end
    local steps = blocks("Your first marked flow", "sh")
    assert.equal(5, #steps)
    local run, watch, start, finish, stop = unpack(steps)

    -- The first terminal: what `make run` starts, once it is built.
    assert.equal("make run\n", run)
    local recipe = temp.read("Makefile"):match("\nrun:.-\n\n")
    assert.matches("bin?%)?/flowd%-lua %-%-conf conf/dev%.lua run\n", recipe:gsub("%$%(BIN%)", "bin"))
    local ns = netns.new()
    local dir = temp.dir()
    local here = process.must({ "pwd" }):gsub("\n", "")
    local d = ns:start({ daemon.binary(), "--conf", here .. "/conf/dev.lua", "run", cwd = dir, stderr = "stdout" })
    d:expect("is ready")

    -- The second terminal: each block when the one before has had its effect.
    local shell = ns:start({ "bash", cwd = dir, stdin = "pipe" })
    shell:write(watch)
    local before = tonumber((shell:expect("flowlabel (0x%x+)", 20)))
    local function meaning(label) return bit.band(label, 0x3fefc) end
    assert.not_equal(meaning(0x10068), meaning(before))

    shell:write(start)
    shell:expect("<134>1 [^\n]*firefly%-json[^\n]*\"start\"", 20)
    local labels
    process.wait_for("a labelled packet", 20, function()
      labels = {}
      for label in shell:stdout():gmatch("flowlabel (0x%x+)") do labels[#labels + 1] = tonumber(label) end
      return meaning(labels[#labels]) == meaning(0x10068)
    end)
    -- The log names what the flow is.
    local line = d:expect("[^\n]*5777[^\n]*")
    assert.matches("atlas", line)
    assert.matches("Data Challenge", line)
    assert.matches("2345", line)

    shell:write(finish)
    local json = shell:expect("({[^\n]*\"end\"[^\n]*})", 20)
    assert.matches('"start%-time"', json)
    process.wait_for("packets without the label", 20, function()
      local last
      for label in shell:stdout():gmatch("flowlabel (0x%x+)") do last = tonumber(label) end
      return meaning(last) ~= meaning(0x10068)
    end)

    shell:write(stop .. "wait; echo all stopped\n")
    shell:expect("all stopped", 20)
    d:signal("INT")
    assert.same({ code = 0 }, d:wait(5))
    assert.is_false(temp.exists(dir .. "/run/np"))
  end)

  it("shows configurations that `check` accepts", function()
    local examples = blocks(nil, "lua")
    assert.is_true(#examples >= 2)
    for _, example in ipairs(examples) do
      -- A piece of a plugin is no configuration, but it is Lua.
      if not example:find("%f[%w]return {") then
        assert(loadstring(example))
        example = "return {}"
      end
      local dir = temp.dir()
      temp.write(dir .. "/conf.lua", example)
      local result = process.run({ daemon.binary(), "check", "--conf", dir .. "/conf.lua" })
      if result.code ~= 0 then error(result.stdout .. result.stderr .. "\n" .. example) end
    end
  end)

  it("names commands that there are, and leaves none out", function()
    local help = process.must({ daemon.binary(), "help" })
    for command in text:gmatch("`bin/flowd%-lua (%l+)") do
      assert.matches("\n%s+" .. command .. "%f[%W]", help)
    end
    for _, command in ipairs({ "run", "check", "conf", "stats", "registry", "version", "help" }) do
      assert.is_truthy(text:find("`bin/flowd-lua " .. command, 1, true) or text:find("`" .. command .. "`", 1, true), command)
    end
  end)

  it("names counters that there are", function()
    local help = require("flowd.counters").help
    local section = text:match("\n## Statistics\n(.-)\n## ")
    local count = 0
    for name in section:gmatch("`(flowd_[%l_]+)`") do
      assert.is_truthy(help[name], name)
      count = count + 1
    end
    assert.is_true(count > 0)
  end)

  it("names make targets that there are", function()
    local makefile = temp.read("Makefile")
    for target in text:gmatch("make (%l+)[`%s]") do
      if text:find("`make " .. target, 1, true) or text:find("    make " .. target, 1, true) then
        assert.is_truthy(makefile:find("\n" .. target .. ":", 1, true), "make " .. target)
      end
    end
  end)

  it("shows a session at the console that goes as it says", function()
    local session = text:match("<!%-%- session: begin %-%->\n```\n(.-)```\n<!%-%- session: end")
    local dir = temp.dir()
    -- Without what marking needs: a session is about rules.
    local conf = temp.read("conf/dev.lua"):gsub("\n    marker = [^\n]*", "\n")
    temp.write(dir .. "/dev.lua", conf)
    local d = daemon.start({ dir = dir, conf = dir .. "/dev.lua", cwd = dir })
    local asked = 0
    -- One client for all, as at a terminal.
    local c = assert(require("flowd.console.client").connect(dir .. "/run/console"))
    for block in (session .. "flowd> "):gmatch("(.-)flowd> ") do
      local typed, shown = block:match("^([^\n]*)\n(.*)$")
      if typed and typed ~= "" then
        asked = asked + 1
        local out = {}
        local status, message = c:ask("eval", typed, { width = 100, interactive = 1 }, function(t) out[#out + 1] = t end)
        assert.equal(0, status, typed .. ": " .. message)
        -- Times differ, and what is left out is shown as dots.
        local function plain(t) return (t:gsub("%[[%d.]+ us%]", "[time]")) end
        out = plain(table.concat(out))
        local wanted, more = plain(shown):match("^(.-)%.%.%.\n(.*)$")
        if wanted then
          assert.equal("", more)
          assert.equal(wanted, out:sub(1, #wanted), typed)
        else
          assert.equal(plain(shown), out, typed)
        end
      end
    end
    assert.equal(9, asked)
    c:close()
    d:stop()
  end)

  it("names files of the tree that are there", function()
    local section = text:match("\n## For developers\n(.*)")
    local count = 0
    for path in section:gmatch("`([%a_]+/[%w_./]*)`") do
      count = count + 1
      assert.equal(0, process.run({ "test", "-e", path }).code, path)
    end
    assert.is_true(count > 30)
  end)
end)
