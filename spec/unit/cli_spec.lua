-- SPDX-License-Identifier: Apache-2.0
-- The command line, through the real binary: exit status and both streams.
local cli = require("flowd.cli")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local binary = require("spec.support.daemon").binary()
local EXAMPLE = "flowd-lua help lists commands and options.\n"

local function run(...)
  local result = process.run({ binary, ... })
  return result.code, result.stdout, result.stderr
end

-- The arguments are refused with status 2 and this message.
local function usage_error(message, ...)
  assert.same({ 2, "", "flowd-lua: " .. message .. "\n" .. EXAMPLE }, { run(...) })
end

after_each(cleanup.all)

describe("flowd-lua", function()
  it("without a command says what to do", function() usage_error("no command given") end)

  it("refuses what it does not know, with the nearest word", function()
    usage_error('unknown command "chekc" — did you mean "check"?', "chekc")
    usage_error('unknown option "--config" — did you mean "--conf"?', "--config", "x", "check")
    usage_error('unknown option "-x"', "-x")
    usage_error("--conf needs a value: --conf FILE", "check", "--conf")
    usage_error("--log-time takes no value", "--log-time=1", "check")
    usage_error('--log-level: expected one of trace, debug, info, warn, error; got "wran" — did you mean "warn"?',
      "check", "--log-level", "wran")
    usage_error("--json is no option of the command check", "check", "--json")
    usage_error('version: unexpected argument "x"', "version", "x")
    usage_error("lua: missing FILE", "lua")
    usage_error("stats: --json and --prometheus exclude each other", "stats", "--json", "--prometheus")
    usage_error('help: unknown command "chec" — did you mean "check"?', "help", "chec")
  end)

  it("takes options before or after the command, with = or a blank", function()
    local path = temp.write(temp.dir() .. "/conf.lua", "return {}")
    local expected = { 0, path .. ": configuration is valid\n", "" }
    assert.same(expected, { run("check", "--conf", path) })
    assert.same(expected, { run("--conf", path, "check") })
    assert.same(expected, { run("--conf=" .. path, "check", "--log-level=error") })
    assert.same(expected, { run("--log-time", "check", "--conf=" .. path, "--") })
  end)

  it("takes Lua modules from the tree rather than from the binary when told so", function()
    local dir = temp.dir()
    process.must({ "mkdir", "-p", dir .. "/flowd/commands" })
    temp.write(dir .. "/flowd/commands/version.lua",
      'return { summary = "x", run = function() print("from the tree", require("flowd.log") ~= nil) return 0 end }')
    local expected = { 0, "from the tree\ttrue\n", "" }
    assert.same(expected, { run("--lua-path", dir, "version") })
    assert.same(expected, { run("version", "--lua-path=" .. dir) })
    assert.not_same(expected, { run("version") })
  end)

  it("says its version", function()
    for _, arguments in ipairs({ { "version" }, { "--version" } }) do
      local code, out, err = run(unpack(arguments))
      assert.equal(0, code)
      assert.truthy(out:find("^flowd%-lua %d+%.%d+%.%d+ %(LuaJIT .*%)\n$"))
      assert.equal("", err)
    end
  end)

  it("explains every command and option, on standard output", function()
    for _, arguments in ipairs({ { "help" }, { "-h" }, { "--help" } }) do
      local code, out, err = run(unpack(arguments))
      assert.same({ 0, "" }, { code, err })
      for _, name in ipairs(cli.commands) do assert.truthy(out:find("\n  " .. name, 1, true), name) end
      for _, option in ipairs(cli.options) do assert.truthy(out:find(option.name, 1, true), option.name) end
      for line in out:gmatch("[^\n]+") do assert.is_true(#line <= 100, line) end
    end
    for _, name in ipairs(cli.commands) do
      local code, out = run("help", name)
      assert.equal(0, code)
      assert.truthy(out:find("^usage: flowd%-lua %[options%] " .. name))
      for _, option in ipairs(cli.command(name).options or {}) do assert.truthy(out:find(option.name, 1, true)) end
      if name ~= "lua" then assert.same({ 0, out, "" }, { run(name, "--help") }) end
    end
  end)

  it("fails when its output cannot be written", function()
    local result = process.run({ binary, "version", stdout = "/dev/full" })
    assert.equal(1, result.code)
    assert.equal("flowd-lua: standard output: No space left on device\n", result.stderr)
  end)
end)

describe("flowd-lua check", function()
  it("tells every error, a line each, and fails", function()
    local path = temp.write(temp.dir() .. "/conf.lua", "return {\n max_flow = 1,\n log = { level = 5 } }")
    local code, out, err = run("check", "--conf", path)
    assert.equal(1, code)
    assert.equal("", out)
    assert.equal(path .. ':2: max_flow: unknown option — did you mean "max_flows"?\n'
      .. path .. ":3: log.level: expected one of trace, debug, info, warn, error; got 5\n", err)
  end)

  it("says where it looked", function()
    local code, _, err = run("check", "--conf", "/none/conf.lua")
    assert.equal(1, code)
    assert.equal("/none/conf.lua: there is no such file; --conf FILE names another\n", err)
  end)
end)

describe("flowd-lua run", function()
  it("starts nothing with a wrong configuration", function()
    local path = temp.write(temp.dir() .. "/conf.lua", "return {\n max_flow = 1 }")
    local code, out, err = run("run", "--conf", path)
    assert.equal(1, code)
    assert.equal("", out)
    assert.truthy(err:find(path .. ":2: max_flow: unknown option", 1, true))
    assert.equal(1, select(2, err:gsub("\n", "")))
  end)
end)

describe("flowd-lua conf", function()
  it("prints all options as Lua, with what the command line changes", function()
    local path = temp.write(temp.dir() .. "/conf.lua", "return { max_flows = 7 }")
    local code, out, err = run("conf", "--conf", path, "--log-level", "debug")
    assert.same({ 0, "" }, { code, err })
    local values = assert(loadstring(out))()
    assert.equal(7, values.max_flows)
    assert.equal("debug", values.log.level)
    assert.equal("/run/flowd-lua", values.runtime_dir)
  end)
end)

describe("flowd-lua registry", function()
  it("lists experiments, and the activities of one by name or id", function()
    local path = temp.write(temp.dir() .. "/conf.lua", "return {}")
    local code, out = run("registry", "--conf", path)
    assert.equal(0, code)
    assert.truthy(out:find("\n   2  atlas    23 activities\n", 1, true))
    assert.truthy(out:find("\n  14  xenon    1 activity\n", 1, true))
    local by_name, by_id = { run("registry", "ATLAS", "--conf", path) }, { run("registry", "2", "--conf", path) }
    assert.same(by_name, by_id)
    assert.equal(0, by_id[1])
    assert.truthy(by_id[2]:find("\n  26  Data Challenge\n", 1, true))
  end)

  it("reads the configured registry, or another file", function()
    local dir = temp.dir()
    temp.write(dir .. "/api.json", '{"version": 1, "experiments": [{"expName": "mine", "expId": 5, "activities": []}]}')
    local conf = temp.write(dir .. "/conf.lua", "return { registry = { file = 'api.json' } }")
    assert.same({ 0, "   5  mine  0 activities\n", "" }, { run("registry", "--conf", conf) })
    assert.same({ 0, "   5  mine  0 activities\n", "" }, { run("registry", "--file", dir .. "/api.json") })
    local code, _, err = run("registry", "--file", dir .. "/none")
    assert.same({ 1, "flowd-lua: " .. dir .. "/none: No such file or directory\n" }, { code, err })
  end)

  it("fails for a name it does not know", function()
    local path = temp.write(temp.dir() .. "/conf.lua", "return {}")
    assert.same({ 1, "", 'flowd-lua: unknown experiment "atals" — did you mean "atlas"?\n' },
      { run("registry", "atals", "--conf", path) })
    assert.same({ 1, "", "flowd-lua: the registry has no experiment 300\n" }, { run("registry", "300", "--conf", path) })
  end)
end)

describe("flowd-lua lua", function()
  it("runs a script with its arguments, options included", function()
    local path = temp.write(temp.dir() .. "/x.lua",
      "io.write(select('#', ...), ' ', table.concat({ ... }, ','), ' ', arg[1], ' ', require('flowd.version').number)\nreturn 3")
    local code, out = run("--log-level", "error", "lua", path, "--conf", "-h", "x")
    assert.equal(3, code)
    assert.truthy(out:find("^3 %-%-conf,%-h,x %-%-conf %d"))
  end)

  it("fails when the script does", function()
    local dir = temp.dir()
    local code, _, err = run("lua", dir .. "/none.lua")
    assert.equal(1, code)
    assert.equal("flowd-lua: cannot open " .. dir .. "/none.lua\n", err:gsub(": No such file or directory", ""))
    local path = temp.write(dir .. "/x.lua", "local x\nerror('oh')")
    code, _, err = run("lua", path)
    assert.equal(1, code)
    assert.truthy(err:find("x.lua:2: oh\nstack traceback:", 1, true))
  end)
end)

describe("flowd-lua stats", function()
  it("fails when no daemon has left a state file, and says where it looked", function()
    local dir = temp.dir()
    local path = temp.write(dir .. "/conf.lua", ("return { runtime_dir = %q }"):format(dir .. "/run"))
    for _, arguments in ipairs({ { "stats", "--conf", path }, { "stats", "--state", dir .. "/run/state" } }) do
      local code, out, err = run(unpack(arguments))
      assert.equal(1, code)
      assert.equal("", out)
      assert.truthy(err:find(dir .. "/run/state", 1, true), err)
      assert.equal(1, select(2, err:gsub("\n", "")))
    end
  end)
end)
