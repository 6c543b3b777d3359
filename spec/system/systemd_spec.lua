-- SPDX-License-Identifier: Apache-2.0
-- The service's unit: systemd understands it, and the daemon can do with what it leaves.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local UNIT = "packaging/systemd/flowd-lua.service"
local UID = "54321"

local function has(program) return process.run({ "sh", "-c", "command -v " .. program }).code == 0 end

-- All values of a setting, in one list.
local function setting(name)
  local words = {}
  for line in temp.read(UNIT):gmatch("[^\n]+") do
    for word in (line:match("^" .. name .. "=(.*)") or ""):gmatch("%S+") do words[#words + 1] = word end
  end
  return words
end

local function config(dir)
  return daemon.write_config(dir, { user = UID, group = UID, backends = { marker = { interfaces = { "lo" } } } })
end

local function open_dir()
  local dir = temp.dir()
  process.must({ "chmod", "0755", dir })
  return dir
end

describe("the systemd unit", function()
  after_each(cleanup.all)
  local marked = netns.available() and marked_it(it) or pending

  it("has nothing that systemd objects to", function()
    if not has("systemd-analyze") then return pending("systemd-analyze is not here") end
    local dir = temp.dir()
    local text = temp.read(UNIT):gsub("/usr/sbin/flowd%-lua", daemon.binary())
    local path = temp.write(dir .. "/flowd-lua.service", text)
    local result = process.run({ "systemd-analyze", "--man=no", "verify", path })
    assert.same({ 0, "" }, { result.code, result.stdout .. result.stderr })
  end)

  marked("leaves the capabilities that a start as root, and marking, take", function()
    local prefix = { "setpriv", "--no-new-privs", "--bounding-set", "-all" }
    for _, name in ipairs(setting("CapabilityBoundingSet")) do
      prefix[4] = prefix[4] .. ",+" .. name:gsub("^CAP_", ""):lower()
    end
    local dir = open_dir()
    local options = { namespace = netns.new(), dir = dir, conf = config(dir), prefix = prefix }
    local d = daemon.start(options)
    assert.truthy(d:log():find("interface lo: marking what leaves it", 1, true), d:log())
    -- What a killed one left is another's than root's.
    d:signal("KILL")
    d:wait(10)
    d = daemon.start(options)
    assert.truthy(d:log():find("took over 0 marks", 1, true), d:log())
    assert.equal(0, d:stop().code)
  end)

  marked("keeps as ambient what the daemon keeps", function()
    local dir = open_dir()
    local d = daemon.start({ namespace = netns.new(), dir = dir, conf = config(dir) })
    local mask = temp.read(("/proc/%d/status"):format(d.pid)):match("CapAmb:%s*(%x+)")
    local names = process.must({ "capsh", "--decode=" .. mask }):match("=(%S*)")
    local ours = {}
    for name in names:gmatch("[^,]+") do ours[#ours + 1] = name:upper() end
    local units = setting("AmbientCapabilities")
    table.sort(ours)
    table.sort(units)
    assert.same(units, ours)
    assert.equal(0, d:stop().code)
  end)

  it("has a daemon that tells of its start, and feeds the watchdog", function()
    local dir = open_dir()
    local manager = process.start({ "socat", "-u", "UNIX-RECV:" .. dir .. "/notify", "STDOUT" })
    process.wait_for("the socket", 10, function() return temp.exists(dir .. "/notify") end)
    local d = daemon.start({ dir = dir, config = { backends = { firefly = {} } },
      env = { NOTIFY_SOCKET = dir .. "/notify", WATCHDOG_USEC = "100000" } })
    process.wait_for("three messages to the watchdog", 10, function()
      local _, count = manager:stdout():gsub("WATCHDOG=1", "")
      return count >= 3
    end)
    assert.truthy(manager:stdout():find("READY=1", 1, true))
    assert.equal(0, d:stop().code)
    process.wait_for("its end", 10, function() return manager:stdout():find("STOPPING=1", 1, true) end)
  end)
end)
