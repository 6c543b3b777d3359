-- SPDX-License-Identifier: Apache-2.0
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

-- What a process with the daemon's modules says that runs `source`.
local function run(source, env)
  local file = temp.write(temp.dir() .. "/script.lua", source)
  return process.run({ daemon.binary(), "lua", file, env = env, seconds = 20 })
end

local TLS = [[
local api, ffi = require("flowd.api"), require("ffi")
local message = ffi.new("char[?]", 512)
local context = api.tls_client_new("", "", "", message, 512)
if context == nil then print("refused: " .. ffi.string(message)) end
]]
local MAPS = [[
for line in io.lines("/proc/self/maps") do print(line) end
]]

describe("libraries that few need", function()
  it("are not loaded before they are", function()
    local maps = run(MAPS).stdout
    assert.truthy(maps:find("r-xp", 1, true))
    for _, name in ipairs({ "libssl", "libcrypto", "libevent_openssl", "libedit" }) do
      assert.falsy(maps:find("/" .. name, 1, true), name)
    end
  end)

  it("are loaded for the first who does", function()
    local out = run(TLS .. MAPS).stdout
    assert.falsy(out:find("refused", 1, true))
    -- A static binary has them inside.
    if out:find("/libc.so", 1, true) then assert.truthy(out:find("/libssl.so", 1, true)) end
  end)

  it("are named when they are not there", function()
    local dir = temp.dir()
    temp.write(dir .. "/libevent_openssl-2.1.so.7", "no library")
    local out = run(TLS, { LD_LIBRARY_PATH = dir })
    if out.stdout == "" then return pending("a static binary") end
    assert.equal(0, out.code)
    assert.truthy(out.stdout:find("refused: cannot load a library: .*libevent_openssl%-2.1.so.7"), out.stdout)
  end)
end)
