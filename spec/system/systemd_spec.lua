-- SPDX-License-Identifier: Apache-2.0
-- The service's unit: systemd understands it, and the daemon can do with what it leaves.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local service_manager = require("spec.support.service_manager")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

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

describe("the store of descriptors", function()
  after_each(cleanup.all)

  it("keeps what waits in a pipe while the daemon is killed, and what is written until the next one comes", function()
    if not netns.available() then return pending("needs root") end
    local RESTARTS, EACH = 5, 500
    local a, b = netns.pair()
    local dir = temp.dir()
    local sink = udp.open(b, b.address, 10514)
    local manager = service_manager.new(dir)
    local d = daemon.start({ namespace = a, dir = dir, prefix = manager.prefix, log_level = "info", config = { backends = {
      firefly = { to_destination = false, collectors = { ("[%s]:10514"):format(b.address) } } } } })
    local written = 0
    local function write(state)
      d:write(flow_lines.lines(state, a.address, b.address, "atlas 1", written, written + EACH - 1))
      written = written + EACH
    end
    for i = 1, RESTARTS do
      local pid = tostring(manager:pid())
      -- It reads no more; these stay in the kernel.
      process.must({ "kill", "-STOP", pid })
      write("start")
      process.must({ "kill", "-KILL", pid })
      process.wait_for(function() return "its end: " .. d.child:stdout() .. d:log() end, 10, function()
        return select(2, d.child:stdout():gsub("ended %-9 with 1 descriptors", "")) == i
      end)
      -- Nobody runs: writers do not notice.
      write("start")
      manager:again()
      process.wait_for("the next one", 20, function() return select(2, d:log():gsub("is ready", "")) == i + 1 end)
      d:wait_for_counter("flowd_flows_open", written)
    end
    assert.equal(written, select(2, firefly.by_flow(sink:collect(written, 10), "start")))
    assert.equal(2 * RESTARTS * EACH, written)
    assert.same({ code = 0 }, d:stop())
    -- A stop takes the pipe out of the store.
    assert.is_truthy(d.child:stdout():find("ended 0 with 0 descriptors", 1, true), d.child:stdout())
    assert.is_false(temp.exists(d.pipe))
  end)
end)
