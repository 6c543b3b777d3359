-- SPDX-License-Identifier: Apache-2.0
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")
local pins = require("flowd.pins")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local marked_it = require("spec.support.marked")(it)

describe("make demo", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)

  local function start(dir)
    return process.start({ daemon.binary(), "lua", "scripts/demo/main.lua", env = { TMPDIR = dir }, stderr = "stdout" })
  end

  -- Programs of the demo that still run: those with its directory or its ports on the command line.
  local function left_running(dir)
    return process.run({ "pgrep", "-f", "^[^ ]*flowd-lua --conf " .. dir }).stdout
  end

  marked_it("marks a real transfer and shows what happened", function()
    local dir = temp.dir()
    local demo = start(dir)
    local status = demo:wait(60)
    local text = demo:stdout()
    assert.same({ code = 0 }, status, text)
    assert.matches("experiment +2 = atlas", text)
    assert.matches("activity +26 = Data Challenge", text)
    assert.matches('"state": "start"', text)
    assert.matches('"state": "end"', text)
    local marked, after, label = text:match("(%d+) of the (%d+) after it carry (0x%x+)")
    assert.equal(after, marked)
    assert.is_true(tonumber(after) > 100)
    assert.equal(bit.band(0x10068, 0x3fefc), bit.band(tonumber(label), 0x3fefc))
    assert.matches("packets, none carry it", text)
    assert.matches("left behind +nothing", text)
    assert.equal("", process.must({ "ls", dir }))
  end)

  marked_it("takes everything down on Ctrl-C", function()
    local dir = temp.dir()
    local demo = start(dir)
    demo:expect("start firefly", 30)
    assert.not_equal("", left_running(dir))
    demo:signal("INT")
    assert.same({ code = 130 }, demo:wait(10))
    assert.equal("", process.must({ "ls", dir }))
    assert.equal("", left_running(dir))
    assert.is_nil(process.must({ "ls", pins.mount }):find(pins.directory(dir):match("[^/]+$"), 1, true))
  end)

  it("takes everything down when something fails, and says what", function()
    local dir = temp.dir()
    local demo = process.start({ daemon.binary(), "lua", "scripts/demo/main.lua", stderr = "stdout",
      env = { TMPDIR = dir, PATH = temp.dir() } })
    assert.same({ code = 1 }, demo:wait(10))
    assert.matches("make demo: .*No such file or directory", demo:stdout())
    assert.equal("", left_running(dir))
  end)
end)
