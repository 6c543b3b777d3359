-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local loop = require("flowd.loop")
local subprocess = require("flowd.subprocess")

-- Status and output of a shell command.
local function run(command, options)
  local status, output
  local handle, message = subprocess.run({ "/bin/sh", "-c", command }, options or {}, function(s, o)
    status, output = s, o
    loop.stop()
  end)
  assert(handle, message)
  loop.run()
  return status, output
end

describe("a subprocess", function()
  it("gives its exit status and both its outputs", function()
    assert.same({ 3, "out\nerr\n" }, { run("echo out; echo err >&2; exit 3") })
  end)

  it("tells the signal that ended it", function() assert.equal(128 + 15, (run("kill -TERM $$"))) end)

  it("reads what it is given, however long", function()
    local text = ("0123456789abcdef"):rep(20000)
    assert.same({ 0, text }, { run("cat", { input = text }) })
    assert.same({ 0, "0\n" }, { run("wc -c", { input = "" }) })
  end)

  it("has nothing to read", function() assert.same({ 0, "" }, { run("cat") }) end)

  it("is ended at its deadline", function()
    local before = api.clock_monotonic_ns()
    local status, output = run("echo begun; exec sleep 100", { seconds = 0.2 })
    assert.same({ -1, "begun\n" }, { status, output })
    assert.is_true(tonumber(api.clock_monotonic_ns() - before) < 5e9)
  end)

  it("may write more than we keep", function()
    local _, output = run("head -c 3000000 /dev/zero", { limit = 1000000 })
    assert.is_true(#output <= 1000000)
  end)

  it("that cannot be started says why", function()
    local handle, message = subprocess.run({ "/nonexistent/program" }, {}, function() end)
    assert.is_nil(handle)
    assert.equal("/nonexistent/program: No such file or directory", message)
  end)
end)
