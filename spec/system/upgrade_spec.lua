-- SPDX-License-Identifier: Apache-2.0
-- SIGUSR2: another binary takes over, or says that it cannot, and then everything goes on.
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local unbroken = require("spec.support.unbroken")

local ATLAS = 0x10008 -- experiment 2, activity 2

describe("the binary that is to take over", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  after_each(cleanup.all)
  local marked = marked_it(it)
  local a, b, d, dir, binary, stream

  -- A daemon whose binary may be exchanged, a flow, and packets of it.
  local function start()
    a, b = netns.pair()
    a:sysctl("net.ipv6.auto_flowlabels", 0)
    dir = temp.dir()
    binary = dir .. "/flowd-lua"
    process.must({ "cp", daemon.binary(), binary })
    d = daemon.start({ namespace = a, dir = dir, log_level = "info", prefix = { "sh", "-c", 'shift; exec "$0" "$@"', binary },
      config = { backends = { marker = { interfaces = { "eth0" } } } } })
    d:write(unbroken.line("start", a, b))
    d:wait_for_counter("flowd_marker_flows", 1)
    stream = unbroken.start(a, b)
    stream:pass(50)
  end

  -- Another file in the binary's place, as an upgrade puts it there.
  local function exchange(make)
    local path = binary .. ".new"
    make(path)
    process.must({ "chmod", "0755", path })
    process.must({ "mv", path, binary })
  end

  -- The same process in the same image goes on: with events, and without a packet unmarked.
  local function expect_refused(pattern, afterwards)
    local image = process.must({ "stat", "-L", "-c", "%i", ("/proc/%d/exe"):format(d.pid) })
    local before = #d:log() + 1
    d:signal("USR2")
    process.wait_for("its refusal", 20, function()
      return d:log():find("SIGUSR2: this process goes on: " .. (binary:gsub("%p", "%%%0")) .. pattern, before)
    end)
    if afterwards then afterwards() end
    stream:pass(50)
    d:write(("start udp %s 7 %s 7 2 2\n"):format(a.address, b.address))
    d:wait_for_counter("flowd_flows_open", 2)
    d:write(("end udp %s 7 %s 7 2 2\n"):format(a.address, b.address))
    d:wait_for_counter("flowd_flows_ended_total", d:counter("flowd_flows_started_total") - 1)
    assert.equal(image, process.must({ "stat", "-L", "-c", "%i", ("/proc/%d/exe"):format(d.pid) }))
    assert.equal(1, select(2, d:log():gsub("is ready", "")))
  end

  local function finish()
    stream:check(ATLAS)
    assert.same({ code = 0 }, d:stop())
  end

  marked("is the one that stands at the path now; the process stays the same", function()
    start()
    for i = 1, 3 do
      exchange(function(path) process.must({ "cp", daemon.binary(), path }) end)
      local new = process.must({ "stat", "-c", "%i", binary })
      d:signal("USR2")
      process.wait_for("the new image", 20, function() return select(2, d:log():gsub("is ready", "")) == i + 1 end)
      assert.equal(new, process.must({ "stat", "-L", "-c", "%i", ("/proc/%d/exe"):format(d.pid) }))
      stream:pass(50)
    end
    d:expect("SIGUSR2: handing over to " .. (binary:gsub("%p", "%%%0")), 1)
    finish()
  end)

  marked("may say no: the old one goes on, and logs why", function()
    start()
    exchange(function(path) temp.write(path, '#!/bin/sh\necho "$*" >"$0.asked"\necho "it is not my day" >&2\nexit 1\n') end)
    expect_refused(" refuses:\n[^\n]*it is not my day")
    assert.equal(("check --conf %s takeover\n"):format(d.conf), temp.read(binary .. ".asked"))
    finish()
  end)

  marked("may be killed while it is asked, or be no program, or be gone: the old one goes on", function()
    start()
    exchange(function(path) temp.write(path, "#!/bin/sh\nkill -SEGV $$\n") end)
    expect_refused(" refuses:")
    exchange(function(path) temp.write(path, "this is no program") end)
    expect_refused("")
    os.remove(binary)
    expect_refused("")
    finish()
  end)

  marked("does not take over a configuration with errors", function()
    start()
    local conf = temp.read(d.conf)
    temp.write(d.conf, (conf:gsub("interfaces", "interfacse")))
    expect_refused(" refuses:\n[^\n]*backends%.marker%.interfacse[^\n]*did you mean \"interfaces\"%?",
      function() temp.write(d.conf, conf) end)
    d:signal("USR2")
    process.wait_for("the new image", 20, function() return select(2, d:log():gsub("is ready", "")) == 2 end)
    stream:pass(50)
    finish()
  end)

  marked("does not take over a state file of a layout that it does not know", function()
    start()
    local path, at = d.runtime_dir .. "/state", ffi.offsetof("struct state_header", "version")
    local function set_version(octet)
      local file = assert(io.open(path, "r+b"))
      file:seek("set", at)
      local before = file:read(1)
      file:seek("set", at)
      file:write(octet)
      file:close()
      return before
    end
    -- As if a binary of another version had been installed.
    local ours = set_version("\250")
    expect_refused(" refuses:\n[^\n]*layout", function() set_version(ours) end)
    finish()
  end)
end)
