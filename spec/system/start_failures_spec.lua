-- SPDX-License-Identifier: Apache-2.0
-- A daemon that cannot start says so in one line that names what is wrong, and fails.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local marked_it = require("spec.support.marked")(it)

describe("a start fails with one line", function()
  after_each(cleanup.all)

  local dir
  before_each(function() dir = temp.dir() end)

  -- `config` as daemon.start takes it; or `conf`, the path of a file.
  local function refuse(expected, config, conf)
    local d = daemon.start({ dir = dir, config = config, conf = conf, ready = false, log_level = "info" })
    assert.same({ code = 1 }, d:wait(10))
    local log = d:log()
    assert.equal(1, select(2, log:gsub("\n", "")), log)
    assert.matches("^error [^\n]+\n$", log)
    assert.matches(expected:gsub("DIR", function() return dir end), log, 1, true)
    -- Nothing stays that would keep the next one from starting.
    assert.is_false(temp.exists(dir .. "/run/np"))
    assert.is_false(temp.exists(dir .. "/run/state"))
  end

  local function file(name, text) return temp.write(dir .. "/" .. name, text or "") end

  it("without a configuration, or with one that is wrong", function()
    refuse("DIR/none.lua: there is no such file; --conf FILE names another", nil, dir .. "/none.lua")
    refuse("DIR: not a regular file", nil, dir)
    refuse("DIR/bad.lua:1: max_flow: unknown option — did you mean \"max_flows\"?", nil, file("bad.lua", "return { max_flow = 1 }"))
    refuse("DIR/bad.lua:2: ", nil, file("bad.lua", "return {\n  max_flows = = 1 }"))
    process.must({ "chmod", "0666", file("open.lua", "return {}") })
    refuse("DIR/open.lua: ", nil, dir .. "/open.lua")
  end)

  it("when a directory cannot be had", function()
    file("file")
    for _, name in ipairs({ "runtime_dir", "state_dir", "cache_dir" }) do
      refuse(name .. ": DIR/file/x: ", { [name] = dir .. "/file/x" })
    end
    process.must({ "mkdir", "-m", "0777", dir .. "/open" })
    refuse("runtime_dir: DIR/open: ", { runtime_dir = dir .. "/open" })
  end)

  it("when there is no place for the state file, or the pid file", function()
    process.must({ "mkdir", "-p", dir .. "/run2/state" })
    refuse("DIR/run2/state: ", { runtime_dir = dir .. "/run2" })
    refuse("pid_file: DIR/no/pid: ", { pid_file = dir .. "/no/pid" })
  end)

  it("when a plugin that is required does not start", function()
    refuse("plugin 'pipe' is required and did not start: DIR/no/np: the directory DIR/no does not exist",
      { plugins = { pipe = { paths = { dir .. "/no/np" }, required = true } } })
  end)

  marked_it("when a backend that is required does not start", function()
    refuse("backend 'marker' is required and did not start: none of its interfaces can be marked: interface none0: there is none "
      .. "of that name", { backends = { marker = { interfaces = { "none0" }, required = true } } })
  end)

  marked_it("when a backend that is required lacks privileges", function()
    process.must({ "chmod", "0755", dir })
    process.must({ "install", "-d", "-o", "nobody", dir .. "/theirs" })
    local conf = daemon.write_config(dir .. "/theirs", { backends = { marker = { interfaces = { "lo" }, required = true } } })
    process.must({ "chown", "nobody", conf })
    local result = process.run({ "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", daemon.public_binary(),
      "--conf", conf, "run" })
    assert.equal(1, result.code)
    assert.matches("^error backend 'marker' is required and did not start: on lo: cannot load the marking program: "
      .. "Operation not permitted: needs CAP_BPF [^\n]*, which user 65534 does not have here\n$", result.stderr)
  end)

  it("when its user does not exist", function()
    refuse('user: there is no user "nobody-knows"', { user = "nobody-knows" })
  end)

  it("when the registry cannot be read", function()
    refuse("registry.file: DIR/none.json: ", { registry = { file = dir .. "/none.json" } })
  end)
end)
