-- SPDX-License-Identifier: Apache-2.0
-- The daemon as an ordinary user: what it keeps, what it can still do, what it says when it cannot.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local pins = require("flowd.pins")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local unbroken = require("spec.support.unbroken")

local available, reason = netns.available()
if not available then
  describe("the daemon as an ordinary user", function()
    it("keeps three capabilities", function() pending(reason) end)
  end)
  return
end

local UID = "54321" -- nobody's
local GROUP = "54322"
local ATLAS = 0x10008 -- experiment 2, activity 2
local CAPABILITIES = { "net_admin", "bpf", "perfmon" }
local RESTARTS = 5

-- A directory that the user can go through, but not write to.
local function open_dir()
  local dir = temp.dir()
  process.must({ "chmod", "0755", dir })
  return dir
end

local function pair()
  local a, b = netns.pair()
  a:sysctl("net.ipv6.auto_flowlabels", 0)
  b:sysctl("net.ipv6.auto_flowlabels", 0)
  return a, b
end

local function start(a, options)
  options = options or {}
  options.namespace, options.dir = a, options.dir or open_dir()
  options.binary = daemon.public_binary()
  local config = { user = UID, group = UID, backends = { marker = { interfaces = { "eth0" } } } }
  for key, value in pairs(options.config or {}) do config[key] = value end
  options.config = config
  return daemon.start(options)
end

-- A field of /proc/PID/status.
local function status(d, field)
  return (temp.read(("/proc/%d/status"):format(d.pid)):match("\n" .. field .. ":[ \t]*([^\n]*)"))
end

-- CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39: as /proc shows them.
local THREE = "000000c000001000"

local function assert_ordinary(d)
  assert.equal(("%s\t%s\t%s\t%s"):format(UID, UID, UID, UID), status(d, "Uid"))
  assert.equal(("%s\t%s\t%s\t%s"):format(UID, UID, UID, UID), status(d, "Gid"))
  assert.equal("", (status(d, "Groups"):gsub("%s", "")))
  for _, set in ipairs({ "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb" }) do assert.equal(THREE, status(d, set), set) end
  assert.equal("1", status(d, "NoNewPrivs"))
end

local function wait_for_image(d, number)
  process.wait_for("the new image", 20, function()
    local _, count = d:log():gsub("is ready", "")
    return count == number
  end)
end

-- A mount namespace of its own, as words before a command: its BPF file system may be looked into by root only, as
-- systemd mounts it ("0700"), or be used by everybody, as it is by itself ("1777").
local function bpffs(mode)
  local holder = process.start({ "unshare", "--mount", "sh", "-c",
    ("umount /sys/fs/bpf 2>/dev/null; mount -t bpf -o mode=%s bpf /sys/fs/bpf && echo mounted && exec sleep 1000"):format(mode) })
  holder:expect("mounted", 10)
  return { "nsenter", ("--mount=/proc/%d/ns/mnt"):format(holder.pid), "--" }
end

-- Words, and others behind them.
local function append(words, ...)
  local list = { unpack(words) }
  for _, word in ipairs({ ... }) do list[#list + 1] = word end
  return list
end

-- setpriv, for a start as an ordinary user with these capabilities, behind other words.
local function with_capabilities(list, prefix)
  local set = "-all"
  for _, name in ipairs(list) do set = set .. ",+" .. name end
  return append(prefix or {}, "setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", "--inh-caps", set,
    "--ambient-caps", set)
end

-- The same, and the daemon's own directories in it are the user's.
local function own_dir()
  local dir = open_dir()
  process.must({ "install", "-d", "-o", UID, "-g", UID, dir .. "/run", dir .. "/lib", dir .. "/cache" })
  return dir
end

-- A pattern for that very text.
local function literal(text) return (text:gsub("%p", "%%%0")) end

describe("the daemon as an ordinary user", function()
  after_each(cleanup.all)
  local marked = marked_it(it)

  marked("keeps three capabilities and nothing else, its next image too", function()
    local a = pair()
    local d = start(a)
    assert_ordinary(d)
    d:signal("USR2")
    wait_for_image(d, 2)
    assert_ordinary(d)
    assert.equal(0, d:stop().code)
  end)

  marked("labels every packet through kill -9, start and SIGUSR2, with pins that only root can reach by path", function()
    local a, b = pair()
    local prefix = bpffs("0700")
    local d = start(a, { prefix = prefix })
    d:write(unbroken.line("start", a, b))
    d:wait_for_counter("flowd_marker_flows", 1)
    local stream = unbroken.start(a, b)
    stream:pass(100)
    for _ = 1, RESTARTS do
      d:signal("KILL")
      d:wait(10)
      stream:pass(100)
      d = start(a, { prefix = prefix, dir = d.dir })
      d:expect("took over 1 marks", 5)
      stream:pass(100)
    end
    for i = 1, 3 do
      d:signal("USR2")
      wait_for_image(d, i + 1)
      stream:pass(100)
    end
    assert_ordinary(d)
    stream:check(ATLAS)
    d:write(unbroken.line("end", a, b))
    d:wait_for_counter("flowd_marker_removed_total", 1)
    assert.equal(0, d:stop().code)
    assert.equal("", process.must(append(prefix, "ls", "-A", pins.directory(d.runtime_dir))))
  end)

  marked("takes over what a killed daemon of root's left", function()
    local a, b = pair()
    local prefix = bpffs("1777")
    local d = start(a, { prefix = prefix, config = { user = "", group = "" } })
    d:write(unbroken.line("start", a, b))
    d:wait_for_counter("flowd_marker_flows", 1)
    local stream = unbroken.start(a, b)
    stream:pass(100)
    d:signal("KILL")
    d:wait(10)
    d = start(a, { prefix = prefix, dir = d.dir })
    d:expect("took over 1 marks", 5)
    assert_ordinary(d)
    stream:pass(100)
    stream:check(ATLAS)
    assert.equal(0, d:stop().code)
    assert.is_false(temp.exists(d.runtime_dir .. "/state"))
    assert.is_nil(process.must(append(prefix, "ls", pins.mount)):find(pins.directory(d.runtime_dir):match("[^/]+$"), 1, true))
  end)

  marked("may be started as one, with ambient capabilities", function()
    local a, b = pair()
    local d = start(a, { dir = own_dir(), prefix = with_capabilities(CAPABILITIES, bpffs("1777")) })
    d:write(unbroken.line("start", a, b))
    d:wait_for_counter("flowd_marker_flows", 1)
    local stream = unbroken.start(a, b)
    stream:pass(100)
    d:signal("USR2")
    wait_for_image(d, 2)
    stream:pass(100)
    stream:check(ATLAS)
    assert.equal(THREE, status(d, "CapAmb"))
    assert.equal(0, d:stop().code)
  end)

  local major, minor = temp.read("/proc/sys/kernel/osrelease"):match("^(%d+)%.(%d+)")
  local without_perfmon = tonumber(major) * 1000 + tonumber(minor) >= 6012

  local marked_slowly = without_perfmon and marked or function(name) it(name, function() pending("needs Linux 6.12") end) end
  marked_slowly("marks without CAP_PERFMON too, its next image as well, and says what is lost", function()
    local a, b = pair()
    local d = start(a, { dir = own_dir(), prefix = with_capabilities({ "net_admin", "bpf" }, bpffs("1777")) })
    d:expect("without CAP_PERFMON the kernel takes only a slower program: [^\n]* costs two to three times as much", 5)
    d:write(unbroken.line("start", a, b))
    d:wait_for_counter("flowd_marker_flows", 1)
    local stream = unbroken.start(a, b)
    stream:pass(100)
    d:signal("USR2")
    wait_for_image(d, 2)
    stream:pass(100)
    stream:check(ATLAS)
    -- CAP_NET_ADMIN 12, CAP_BPF 39.
    assert.equal("0000008000001000", status(d, "CapEff"))
    d:wait_for_counter('flowd_marker_packets_total{result="marked"}', 200)
    assert.equal(0, d:stop().code)
  end)

  for missing, name in pairs({ net_admin = "CAP_NET_ADMIN (to attach a program to interfaces)",
    bpf = "CAP_BPF (to load the program and its tables)",
    perfmon = not without_perfmon and "CAP_PERFMON (for the kernel to accept the program's use of pointers)" or nil }) do
    marked("says that " .. missing .. " is missing, for what, and goes on with the rest", function()
      local kept = {}
      for _, capability in ipairs(CAPABILITIES) do
        if capability ~= missing then kept[#kept + 1] = capability end
      end
      local d = start(netns.new(), { dir = own_dir(), prefix = with_capabilities(kept),
        config = { backends = { marker = { interfaces = { "lo" } }, firefly = {} } } })
      local line = d:log():match("[^\n]*'marker' did not start[^\n]*")
      assert.truthy(line:find(": needs " .. name .. ", which user " .. UID .. " does not have here", 1, true), line)
      assert.truthy(line:find("on lo: ", 1, true), line)
      assert.truthy(d:log():find("backends firefly;", 1, true))
      assert.equal(0, d:stop().code)
    end)
  end

  it("reads pipes that root made for others in directories that it cannot write to", function()
    local dir = open_dir()
    local path = dir .. "/np"
    local d = start(netns.new(), { dir = dir, config = { backends = { firefly = {} },
      plugins = { pipe = { paths = { path }, group = GROUP, mode = "0620" } } } })
    assert.equal(("%s:%s 620\n"):format(UID, GROUP), process.must({ "stat", "-c", "%u:%g %a", path }))
    d:write("start tcp 2001:db8::1 1 2001:db8::2 2 2 2\n", path)
    d:wait_for_counter("flowd_flows_open", 1)
    -- Another writer, after the end of the first one's.
    d:write("start tcp 2001:db8::1 3 2001:db8::2 2 2 2\n", path)
    d:wait_for_counter("flowd_flows_open", 2)
    d:signal("USR2")
    wait_for_image(d, 2)
    d:write("start tcp 2001:db8::1 4 2001:db8::2 2 2 2\n", path)
    d:wait_for_counter("flowd_flows_open", 3)
    assert.equal(0, d:stop().code)
    assert.truthy(d:log():find(path .. ": stays: only root can remove it from there", 1, true))
    -- The next one uses it.
    d = start(netns.new(), { dir = dir, config = { backends = { firefly = {} },
      plugins = { pipe = { paths = { path }, group = GROUP, mode = "0620" } } } })
    d:write("start tcp 2001:db8::1 1 2001:db8::2 2 2 2\n", path)
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal(0, d:stop().code)
  end)

  it("refuses a pipe that it could not read", function()
    local dir = open_dir()
    local d = start(netns.new(), { dir = dir, config = { backends = { firefly = {} },
      plugins = { pipe = { paths = { dir .. "/np" }, owner = "12345", group = "12345" } } } })
    assert.truthy(d:log():find(("plugin 'pipe' did not start: %s/np: user %s, who runs flowd-lua, could not read from it")
      :format(dir, UID), 1, true), d:log())
    assert.is_false(temp.exists(dir .. "/np"))
    assert.equal(0, d:stop().code)
  end)

  it("refuses to reload what would need root, and goes on as before", function()
    local dir = open_dir()
    local d = start(netns.new(), { dir = dir, config = { backends = { firefly = {} } } })
    local function write_config(pipe)
      daemon.write_config(dir, { user = UID, group = UID, backends = { firefly = {} }, plugins = { pipe = pipe } })
      d:signal("HUP")
    end
    write_config({ paths = { d.pipe, dir .. "/other" } })
    d:expect(literal("plugins.pipe: " .. dir .. "/other: user " .. UID .. ", who runs flowd-lua, cannot make a pipe there"), 5)
    write_config({ paths = { d.pipe, dir .. "/run/given" }, group = GROUP })
    d:expect(literal("plugins.pipe: " .. dir .. "/run/given: user " .. UID .. ", who runs flowd-lua, cannot give a pipe to"), 5)
    d:write("start tcp 2001:db8::1 1 2001:db8::2 2 2 2\n")
    d:wait_for_counter("flowd_flows_open", 1)
    -- What needs no root is taken.
    write_config({ paths = { d.pipe, dir .. "/run/other" } })
    d:expect("is in use: plugins pipe", 5)
    d:write("start tcp 2001:db8::1 2 2001:db8::2 2 2 2\n", dir .. "/run/other")
    d:wait_for_counter("flowd_flows_open", 2)
    assert.equal(0, d:stop().code)
    assert.is_false(temp.exists(dir .. "/run/other"))
  end)

  it("writes its pid file where only root may, and leaves it empty at the end", function()
    local dir = open_dir()
    local d = start(netns.new(), { dir = dir, config = { backends = { firefly = {} }, pid_file = dir .. "/pid" } })
    assert.equal(d.pid .. "\n", temp.read(dir .. "/pid"))
    assert.equal(0, d:stop().code)
    assert.equal("", temp.read(dir .. "/pid"))
  end)

  it("owns its directories, and is not given root's when other things are in them", function()
    local dir = open_dir()
    local d = start(netns.new(), { dir = dir, config = { backends = { firefly = {} } } })
    assert.equal(UID .. "\n", process.must({ "stat", "-c", "%u", dir .. "/run" }))
    assert.equal(UID .. "\n", process.must({ "stat", "-c", "%u", dir .. "/lib" }))
    assert.equal(0, d:stop().code)
    dir = open_dir()
    process.must({ "mkdir", dir .. "/run" })
    temp.write(dir .. "/run/something", "")
    d = start(netns.new(), { dir = dir, ready = false, config = { backends = { firefly = {} } } })
    assert.equal(1, d:wait(10).code)
    assert.truthy(d:log():find(("runtime_dir: %s/run: belongs to root and other things are in it: user %s needs one of its own")
      :format(dir, UID), 1, true), d:log())
  end)

  it("does not touch the files of a daemon that runs", function()
    local dir = open_dir()
    local d = start(netns.new(), { dir = dir, config = { user = "", group = "", backends = { firefly = {} } } })
    local second = start(netns.new(), { dir = dir, ready = false, config = { backends = { firefly = {} } } })
    assert.equal(1, second:wait(10).code)
    assert.truthy(second:log():find(("another flowd-lua is running with pid %d"):format(d.pid), 1, true), second:log())
    assert.equal("0\n", process.must({ "stat", "-c", "%u", dir .. "/run/state" }))
    assert.equal(0, d:stop().code)
  end)

  for what, case in pairs({
    ["a user that is not there"] = { { user = "no-such-user" }, 'user: there is no user "no-such-user"' },
    ["a group that is not there"] = { { group = "no-such-group" }, 'group: there is no group "no-such-group"' },
    ["a number without account or group"] = { { group = "" }, "user: number 54321 has no account" },
    ["a group without user"] = { { user = "" }, "group: goes with the option user, which is not set" },
  }) do
    it("does not start with " .. what, function()
      local config = { backends = { firefly = {} } }
      for key, value in pairs(case[1]) do config[key] = value end
      local d = start(netns.new(), { ready = false, config = config })
      assert.equal(1, d:wait(10).code)
      assert.truthy(d:log():find(case[2], 1, true), d:log())
    end)
  end

  it("does not start as somebody else than it was started as", function()
    local d = start(netns.new(), { dir = own_dir(), ready = false, prefix = with_capabilities({}),
      config = { user = "12345", group = "12345", backends = { firefly = {} } } })
    assert.equal(1, d:wait(10).code)
    assert.truthy(d:log():find(("user: this process runs as user %s: only root can become \"12345\" (12345)"):format(UID), 1, true),
      d:log())
  end)

  it("gives programs that it starts no capability", function()
    -- SIGUSR2 starts one: the check by the new binary. This one tells what it has instead.
    local dir = open_dir()
    local binary = dir .. "/flowd-lua"
    process.must({ "cp", daemon.binary(), binary })
    local conf = daemon.write_config(dir, { user = UID, group = UID, backends = { firefly = {} } })
    local child = process.start({ binary, "--conf", conf, "run" })
    child:expect("is ready", 10)
    process.must({ "mv", binary, binary .. ".old" })
    temp.write(binary, "#!/bin/sh\ngrep CapEff /proc/self/status\ngrep CapEff /proc/$$/status >&2\nexit 1\n")
    process.must({ "chmod", "0755", binary })
    child:signal("USR2")
    child:expect(literal("CapEff:\\x090000000000000000"), 10)
    child:signal("TERM")
    assert.equal(0, child:wait(10).code)
  end)
end)
