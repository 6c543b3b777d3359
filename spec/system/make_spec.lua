-- SPDX-License-Identifier: Apache-2.0
-- What the Makefile offers, as somebody uses it who has built it.
local cleanup = require("spec.support.cleanup")
local make = require("spec.support.make")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

describe("make", function()
  after_each(cleanup.all)

  it("alone lists every target, a line each", function()
    local text = make()
    assert.equal(text, make("help"))
    local listed = {}
    for line in text:gmatch("[^\n]+") do
      local target, what = line:match("^  make ([%a-]+) +(%S.*)$")
      assert.truthy(target, line)
      assert.is_true(#what > 10, line)
      listed[target] = true
    end
    for target in temp.read("Makefile"):match("\n%.PHONY: ([^\n]*)"):gmatch("%S+") do
      assert.is_true(listed[target], target)
    end
    for _, target in ipairs({ "deps", "build", "run", "demo", "test", "lint", "asan", "bench", "man", "static", "install", "clean" }) do
      assert.is_true(listed[target], target)
    end
  end)

  it("compiles again what includes a header that changed, if by another one, and nothing else", function()
    make("build")
    local compiled = make("-n", "-o", "build/flags", "-W", "src/udp_queue.h", "bin/flowd-lua")
    for _, file in ipairs({ "udp_queue", "udp_out", "udp_send" }) do assert.matches("CC      src/" .. file .. ".c", compiled, 1, true) end
    for _, file in ipairs({ "label", "log", "flow_table" }) do
      assert.is_nil(compiled:find("CC      src/" .. file .. ".c", 1, true), file)
    end
  end)

  it("does not go on where C and LuaJIT would see structs differently", function()
    make("build")
    local function compile(...)
      return process.run({ "cc", "-D_GNU_SOURCE", "-Isrc", "-Ibuild/gen", "-fsyntax-only", "build/gen/flowd_api.c", ... })
    end
    assert.same({ 0, "" }, { compile().code, compile().stderr })
    local refused = compile("-fpack-struct")
    assert.is_true(refused.code ~= 0)
    assert.matches('static assertion failed: "[%w_.]+[%w_ .]* differs between C and LuaJIT"', refused.stderr)
  end)

  it("install puts what is needed below DESTDIR and PREFIX, and leaves a configuration that is there", function()
    local dir = temp.dir()
    make("install", "DESTDIR=" .. dir, "PREFIX=/opt/flowd")
    local binary = dir .. "/opt/flowd/sbin/flowd-lua"
    assert.matches("^flowd%-lua %d", process.must({ binary, "version" }))
    local conf = dir .. "/etc/flowd-lua/conf.lua"
    assert.equal(conf .. ": configuration is valid\n", process.must({ binary, "check", "--conf", conf }))
    for _, page in ipairs({ "man8/flowd-lua.8", "man5/flowd-lua.conf.5", "man7/flowd-lua-rules.7", "man7/flowd-lua-plugins.7",
      "man7/flowd-lua-console.7" }) do
      assert.matches("^%.Dd ", temp.read(dir .. "/opt/flowd/share/man/" .. page) or page)
    end
    assert.matches("\nExecStart=!?/opt/flowd/sbin/flowd%-lua ", temp.read(dir .. "/lib/systemd/system/flowd-lua.service"))
    assert.truthy(temp.read(dir .. "/usr/lib/sysusers.d/flowd-lua.conf"))
    assert.truthy(temp.read(dir .. "/opt/flowd/share/flowd-lua/cookbook/by_port.lua"))

    temp.write(conf, "return {}\n")
    make("install", "DESTDIR=" .. dir, "PREFIX=/opt/flowd")
    assert.equal("return {}\n", temp.read(conf))
  end)
end)
