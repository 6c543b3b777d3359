-- SPDX-License-Identifier: Apache-2.0
local cleanup = require("spec.support.cleanup")
local counters = require("flowd.counters")
local daemon = require("spec.support.daemon")
local ffi = require("ffi")
local flows = require("spec.support.flows")
local parser = require("flowd.json_parser")
local process = require("spec.support.process")
local stats = require("flowd.stats")
local temp = require("spec.support.temp")

local labels = { a = 'q"\\}\n",c="', b = "\\" }

local function find(document, name)
  for _, c in ipairs(document.counters) do
    if c.name == name and c.labels.a == labels.a and c.labels.b == labels.b then return c end
  end
end

describe("stats", function()
  before_each(flows.quiet)
  after_each(cleanup.all)

  local function open()
    local _, _, path = flows.open_table(10)
    counters.get("flowd_flows_started_total", labels).value = 0xfffffffffffffffeULL
    counters.get("flowd_flows_open").value = 3
    return path
  end

  it("print every counter of a running daemon as text", function()
    local text = assert(stats.render(open(), "text"))
    assert.is_truthy(text:find(("flowd-lua running with pid %d since "):format(ffi.C.getpid()), 1, true))
    assert.is_truthy(text:find("\n18446744073709551614  flowd_flows_started_total{", 1, true))
    assert.is_truthy(text:find("\n +3  flowd_flows_open\n"))
  end)

  it("print JSON that another implementation reads", function()
    local document = assert(parser.decode((assert(stats.render(open(), "json"):gsub("%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d+", "77")))))
    assert.is_true(document.state.running)
    assert.equal(ffi.C.getpid(), document.state.pid)
    assert.equal(10, document.state.flows_max)
    local c = assert(find(document, "flowd_flows_started_total"))
    assert.equal(77, c.value)
    assert.equal("counter", c.type)
  end)

  it("print Prometheus text: one HELP and TYPE a name, then its series", function()
    local text = assert(stats.render(open(), "prometheus"))
    local seen, current, series = {}, nil, 0
    for line in text:gmatch("([^\n]*)\n") do
      local name = line:match("^# HELP (%S+) %u")
      if name then
        assert.is_nil(seen[name], "two HELP lines of " .. name)
        seen[name], current = true, name
      elseif line:sub(1, 1) == "#" then
        assert.is_truthy(line == "# TYPE " .. current .. " counter" or line == "# TYPE " .. current .. " gauge", line)
        assert.equal(current:find("_total$") ~= nil, line:find(" counter$") ~= nil, line)
      else
        assert.is_truthy(line:find("^" .. current .. "[{ ]"), line)
        assert.is_truthy(line:find("^[a-z_]+%f[{ ].* %d+$"), line)
        series = series + 1
      end
    end
    assert.is_true(series > 8)
    assert.is_truthy(text:find([[flowd_flows_started_total{a="q\"\\}\n\",c=\"",b="\\"} 18446744073709551614]], 1, true))
  end)

  it("read what a killed daemon left, and say that it is not running", function()
    local dir = temp.dir()
    local script = temp.write(dir .. "/die.lua", [[
      package.path = "./?.lua;" .. package.path
      require("spec.support.process")
      local ffi = require("ffi")
      require("spec.support.flows").open_table(10, arg[1])
      require("flowd.counters").get("flowd_flows_ended_total").value = 42
      ffi.C.kill(ffi.C.getpid(), 9)
    ]])
    local child = process.start({ daemon.binary(), "lua", script, dir .. "/state" })
    child:wait(10)
    local text = assert(stats.render(dir .. "/state", "text"))
    assert.is_truthy(text:find("flowd%-lua not running: pid %d+, started [^,]+, was killed"))
    assert.is_truthy(text:find("\n *42  flowd_flows_ended_total\n"))
  end)

  it("say what is wrong with the file", function()
    local dir = temp.dir()
    local function refusal(path)
      local text, message = stats.render(path, "text")
      assert.is_nil(text)
      return message
    end
    assert.equal(("state file %s/no: no such file: no daemon runs with this runtime_dir"):format(dir), refusal(dir .. "/no"))
    assert.equal(("state file %s: not a regular file"):format(dir), refusal(dir))
    assert.equal(("state file %s/a: it is cut short"):format(dir), refusal(temp.write(dir .. "/a", "short")))
    assert.equal(("state file %s/b: it is no state file, or not finished"):format(dir),
      refusal(temp.write(dir .. "/b", ("x"):rep(2000000))))
    assert.equal('unknown format "xml": expected text, json or prometheus', select(2, stats.render(dir, "xml")))
  end)

  it("list this process's counters for its log", function()
    open()
    local found
    for _, line in ipairs(stats.lines()) do found = found or line:find("^ *3  flowd_flows_open$") end
    assert.is_truthy(found)
  end)
end)
