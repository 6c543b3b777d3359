-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local netns = require("spec.support.netns")
local process = require("spec.support.process")

local function current()
  local buffer = ffi.new("char[64]")
  ffi.cdef("long readlink(const char *, char *, size_t);")
  return ffi.string(buffer, tonumber(ffi.C.readlink("/proc/self/ns/net", buffer, 64)))
end

describe("a pair of network namespaces", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)

  it("carries TCP between its ends, over IPv6 and IPv4", function()
    local a, b = netns.pair()
    for family, address in pairs({ TCP6 = b.address, TCP4 = b.address4 }) do
      local server = b:start({ "socat", "-d", "-d", "-u", family .. "-LISTEN:5000,reuseaddr", "STDOUT" })
      server:expect("listening on")
      local host = family == "TCP6" and "[" .. address .. "]" or address
      a:must({ "socat", "-u", "STDIN", family .. ":" .. host .. ":5000", input = "hello" })
      assert.equal(0, server:wait().code)
      assert.equal("hello", server:stdout())
    end
  end)

  it("leaves this process where it was, errors included", function()
    local a = netns.new()
    local home = current()
    local inside = a:enter(current)
    assert.not_equal(home, inside)
    assert.equal(home, current())
    assert.has_error(function() a:enter(error, "raised inside") end, "raised inside")
    assert.equal(home, current())
  end)

  it("can be entered by its path", function()
    local a = netns.pair()
    local out = process.must({ "nsenter", "--net=" .. a.path, "ip", "-o", "addr", "show", "dev", "eth0" })
    assert.matches("2001:db8:1::1/64", out, nil, true)
  end)

  it("is gone when the process that made it was killed", function()
    local script = [[
      package.path = "./?.lua"
      local netns = require("spec.support.netns")
      local process = require("spec.support.process")
      local ns = netns.new()
      ns:start({ "sleep", "1000" })
      io.write(ns:must({ "readlink", "/proc/self/ns/net" }))
      io.flush()
      process.wait_for("the end", 1000, function() end)
    ]]
    local path = require("spec.support.temp").dir() .. "/script.lua"
    require("spec.support.temp").write(path, script)
    local child = process.start({ os.getenv("FLOWD_BIN") or "bin/flowd-lua", "lua", path })
    local inode = child:expect("net:%[(%d+)%]\n")
    child:signal("KILL")
    child:wait()
    process.wait_for("end of the namespace", 10, function()
      return not process.must({ "lsns", "-n", "-t", "net", "-o", "NS" }):find(inode, 1, true)
    end)
  end)
end)
