-- SPDX-License-Identifier: Apache-2.0
-- What a daemon of another version left behind: a state file whose layout is not ours is made anew, and the log says so.
local bit = require("bit")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local ffi = require("ffi")
local marked_it = require("spec.support.marked")
local netns = require("spec.support.netns")
local udp = require("spec.support.udp")

local SEMANTIC, ATLAS = 0x3FEFC, 0x10008 -- experiment 2, activity 2

describe("a state file of another version", function()
  after_each(cleanup.all)
  local marked = netns.available() and marked_it(it) or pending

  marked("is made anew with a line in the log; the marks of the flows that it held go, and new ones come", function()
    local a, b = netns.pair()
    a:sysctl("net.ipv6.auto_flowlabels", 0)
    local seen = capture.start(b, "eth0")
    local function start(options)
      return daemon.start({ namespace = a, dir = options and options.dir, again = options ~= nil, log_level = "info",
        config = { backends = { marker = { interfaces = { "eth0" } } } } })
    end
    local function label(port)
      seen:clear()
      local socket = udp.open(a, a.address, port)
      socket:send("x", b.address, 6000 + port)
      socket:close()
      return bit.band(seen:wait_for({ protocol = "udp", src_port = port }, 10)[1].flow_label, SEMANTIC)
    end
    local d = start()
    d:write(("start udp %s 5000 %s 11000 2 2\n"):format(a.address, b.address))
    d:wait_for_counter("flowd_marker_flows", 1)
    assert.equal(ATLAS, label(5000))
    d:signal("KILL")
    d:wait(10)

    local path = d.runtime_dir .. "/state"
    local file = assert(io.open(path, "r+b"))
    file:seek("set", ffi.offsetof("struct state_header", "version"))
    file:write("\250")
    file:close()
    -- Commands say so, too.
    local stats = d:command("stats")
    assert.equal(1, stats.code)
    assert.truthy(stats.stderr:find(path .. ": it has the layout of another version of flowd-lua", 1, true), stats.stderr)

    d = start(d)
    local line = ("warn  state file %s: made anew, what it held is lost: it has the layout of another version\n"):format(path)
    assert.truthy(d:log():find(line, 1, true), d:log())
    d:expect("took over 0 marks", 5)
    assert.equal(0, d:counter("flowd_flows_open"))
    assert.equal(0, label(5000))
    d:write(("start udp %s 5001 %s 11001 2 2\n"):format(a.address, b.address))
    d:wait_for_counter("flowd_marker_flows", 1)
    assert.equal(ATLAS, label(5001))
    assert.same({ code = 0 }, d:stop())
  end)
end)
