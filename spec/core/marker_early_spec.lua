-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local daemon = require("spec.support.daemon")
local ffi = require("ffi")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local message = ffi.new("char[?]", 512)

-- Descriptors of BPF objects that this process has.
local function open_objects()
  local listing = process.must({ "ls", "-l", ("/proc/%d/fd"):format(tonumber(io.open("/proc/self/stat"):read("*l"):match("^%d+"))) })
  return select(2, listing:gsub("bpf%-", ""))
end

-- Pins of the daemon below a directory.
local function pinned_links(pins)
  local found = 0
  for name in process.run({ "ls", pins }).stdout:gmatch("[^\n]+") do
    if name:find("^link_") then found = found + 1 end
  end
  return found
end

describe("programs that are loaded early", function()
  local function usable()
    local handle = api.marker_open(100, message, 512)
    if handle == nil then return pending(ffi.string(message)) end
    api.marker_close(handle)
    return true
  end

  it("leave nothing when no marker is opened", function()
    if not usable() then return end
    local before = open_objects()
    api.marker_early_start()
    api.marker_early_end()
    assert.equal(before, open_objects())
  end)

  it("are those of a marker that fits them, and of no other", function()
    if not usable() then return end
    for _, marks in ipairs({ 1000000, 100 }) do
      api.marker_early_start()
      local handle = api.marker_open(marks, message, 512)
      assert.is_true(handle ~= nil, ffi.string(message))
      local room = api.marker_room(handle)
      api.marker_close(handle)
      handle = api.marker_open(marks, message, 512)
      assert.equal(room, api.marker_room(handle))
      api.marker_close(handle)
    end
    api.marker_early_end()
  end)

  it("leave no link when the daemon cannot start", function()
    if not usable() then return end
    local ns = netns.new()
    local conf = daemon.write_config(temp.dir(), { backends = { marker = { interfaces = { "lo" } } },
      pid_file = "/nowhere/at/all/pid" })
    local run = process.run({ daemon.binary(), "--conf", conf, "run", namespace = ns, seconds = 20 })
    assert.equal(1, run.code, run.stderr)
    assert.truthy(run.stderr:find("pid_file", 1, true), run.stderr)
    local net = process.run({ "bpftool", "net", namespace = ns, seconds = 20 }).stdout
    assert.falsy(net:find("label_", 1, true), net)
  end)

  it("are followed by the marking program in the place that they took", function()
    if not usable() then return end
    local ns = netns.new()
    local d = daemon.start({ namespace = ns, config = { backends = { marker = { interfaces = { "lo" } } } } })
    local pins = "/sys/fs/bpf/flowd-lua-" .. d.runtime_dir:gsub("^/+", ""):gsub("[^%w/]", function(c)
      return ("_%02x"):format(c:byte())
    end):gsub("/+", "-")
    assert.equal(1, pinned_links(pins))
    local names = {}
    for id in process.must({ "bpftool", "link", "show", seconds = 20 }):gmatch("prog (%d+)") do
      names[#names + 1] = process.run({ "bpftool", "prog", "show", "id", id }).stdout:match("name (%S+)")
    end
    for _, name in ipairs(names) do assert.are_not.equal("label_pass", name) end
    d:stop()
  end)
end)
