-- SPDX-License-Identifier: Apache-2.0
-- marker clean --all: what daemons left that nobody starts again. In a BPF file system of its own, because it means
-- all daemons of a machine.
local bpf = require("spec.support.bpf")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local pins = require("flowd.pins")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

describe("marker clean --all", function()
  after_each(cleanup.all)
  local marked = netns.available() and marked_it(it) or pending
  local ns, inside

  -- A namespace with eth0, eth1 and eth2, and words before a command: it sees a BPF file system that is empty.
  local function prepare()
    local far
    ns, far = netns.pair()
    for _, device in ipairs({ "eth1", "eth2" }) do netns.veth(ns, device, far, device) end
    local holder = process.start({ "unshare", "--mount", "sh", "-c",
      "mount -t bpf bpf /sys/fs/bpf && echo mounted && exec sleep 600" })
    holder:expect("mounted", 10)
    inside = { "nsenter", ("--mount=/proc/%d/ns/mnt"):format(holder.pid) }
  end

  local function run(...)
    local command = { inside[1], inside[2], ... }
    command.namespace = ns
    return process.run(command)
  end

  local function must(...)
    local result = run(...)
    assert(result.code == 0, result.stdout .. result.stderr)
    return result.stdout
  end

  -- What is pinned; the kernel itself has a file or two there.
  local function pinned() return must("ls", "-I", "*.debug", "/sys/fs/bpf") end

  local function start(device, method)
    local d = daemon.start({ namespace = ns, prefix = inside,
      config = { backends = { marker = { interfaces = { device }, method = method } } } })
    d.pins = pins.directory(d.runtime_dir)
    return d
  end

  local function kill(d)
    d:signal("KILL")
    d:wait(10)
  end

  local function clean(...)
    return run(daemon.binary(), "--conf", daemon.write_config(temp.dir()), "marker", "clean", ...)
  end

  -- What tc and bpf(2) show.
  local function shown()
    local all = {}
    for i, device in ipairs({ "eth0", "eth1", "eth2" }) do
      all[i] = ns:tc("qdisc show dev " .. device) .. ns:tc("filter show dev " .. device .. " egress")
      if bpf.has_tcx() then
        for _, program in ipairs(ns:enter(bpf.egress_programs, device)) do all[i] = all[i] .. program.id .. " " end
      end
    end
    return table.concat(all, "\n")
  end

  marked("removes what daemons with other directories left, a filter that no pin tells of, and nothing of others", function()
    prepare()
    -- Others have a filter on an interface, and directories with names that are not quite ours.
    ns:tc("qdisc add dev eth1 clsact")
    ns:tc("filter add dev eth1 egress prio 10 u32 match u32 0 0 classid 1:2")
    ns:tc("qdisc add dev eth2 clsact")
    local others = { "/sys/fs/bpf/flowd-luas", "/sys/fs/bpf/others" }
    for _, path in ipairs(others) do must("mkdir", path) end
    must("ln", "-s", "5", others[1] .. "/layout")
    local before = shown()

    local left = { start("eth0", "auto"), start("eth1", "clsact"), start("eth2", "clsact") }
    for _, d in ipairs(left) do kill(d) end
    must("rm", "-r", left[3].pins)
    local with_all = shown()
    assert.are_not.equal(before, with_all)

    -- Without --all, what other directories have is not its own.
    assert.equal(0, clean().code)
    assert.equal(with_all, shown())

    local result = clean("--all")
    assert.equal(0, result.code, result.stderr)
    for i = 1, 2 do assert.truthy(result.stdout:find(("removed %s\n"):format(left[i].pins), 1, true), result.stdout) end
    assert.truthy(result.stdout:find("removed 1 clsact filters", 1, true), result.stdout)
    assert.equal(before, shown())
    assert.equal("flowd-luas\nothers\n", pinned())
    assert.equal("layout\n", must("ls", others[1]))
    assert.same({ code = 0, stdout = "", stderr = "" }, clean("--all"))
  end)

  marked("is refused while one of them runs, and then nothing is removed, unless it is forced", function()
    prepare()
    local before = shown()
    local dead, running = start("eth0", "auto"), start("eth1", "auto")
    kill(dead)
    local with_both = shown()
    local result = clean("--all")
    assert.equal(1, result.code)
    assert.truthy(result.stderr:find(("the daemon of %s runs (pid %d)"):format(running.runtime_dir, running.pid), 1, true), result.stderr)
    assert.equal(with_both, shown())

    result = clean("--all", "--force")
    assert.equal(0, result.code, result.stderr)
    assert.equal("", pinned())
    -- The one that runs notices, and marks again.
    running:expect("interface eth1: it has vanished, or our filter was taken from it.*interface eth1: marking what leaves it", 10)
    assert.equal(0, running:stop().code)
    assert.equal(before, shown())
    assert.equal("", pinned())
  end)
end)
