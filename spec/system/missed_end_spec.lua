-- SPDX-License-Identifier: Apache-2.0
-- Ends that nobody told: flows whose TCP socket went away while no daemon ran.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local tcp = require("spec.support.tcp")
local udp = require("spec.support.udp")

describe("a flow whose end was missed", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b, sink, listener
  before_each(function()
    a, b = netns.pair()
    sink = udp.open(b, b.address, 10514)
    listener = tcp.listen(b, b.address, 5000)
  end)
  after_each(cleanup.all)

  local function start(dir)
    return daemon.start({ namespace = a, dir = dir, log_level = "info", config = { backends = { firefly = { port = 10514 } } } })
  end

  -- A connection from a's port to b.
  local function connect(port)
    local near, far = tcp.connect(a, listener, a.address, port, b.address, 5000)
    return { close = function()
      near:close()
      far:close()
    end }
  end

  local function line(state, port, src)
    return ("%s tcp %s %d %s 5000 atlas 1\n"):format(state, src or a.address, port, b.address)
  end

  local function kill(d)
    d:signal("KILL")
    d:wait(5)
  end

  local function ends() return firefly.by_flow(sink:datagrams(), "end") end
  local function flow(port, src) return ("%s %d %s 5000 tcp"):format(src or a.address, port, b.address) end

  it("while the daemon was down ends after the restart, with its true start; others stay open", function()
    local d = start()
    local gone, there, told = connect(4000), connect(4001), connect(4002)
    -- One without a socket here, such as a forwarded flow.
    d:write(line("start", 4000) .. line("start", 4001) .. line("start", 4002) .. line("start", 4003, "2001:db8:7::1"))
    local starts = firefly.by_flow(sink:collect(4, 10), "start")
    d:wait_for_counter("flowd_flows_sockets_total", 3)
    kill(d)
    gone.close()
    told.close()
    d = start(d.dir)
    -- The server of this one waited with its line until there was a daemon.
    d:write(line("end", 4002))
    d:wait_for_counter('flowd_flows_missed_ends_total{reason="restart"}', 1)
    d:expect("1 flows have ended while no daemon ran")
    sink:collect(6, 10)
    local found, count = ends()
    assert.equal(2, count)
    assert.equal(firefly.member(starts[flow(4000)], "start-time"), firefly.member(found[flow(4000)], "start-time"))
    assert.is_truthy(found[flow(4002)])
    assert.equal(2, d:counter("flowd_flows_open"))
    assert.equal(0, d:counter("flowd_flows_end_without_start_total"))
    there.close()
    assert.same({ code = 0 }, d:stop())
    assert.equal(4, select(2, ends()))
  end)

  it("while a daemon was down that was killed when the flow had just begun ends after the restart, too", function()
    local d = start()
    local FLOWS = 20
    local connections = {}
    for i = 1, FLOWS do connections[i] = connect(4000 + i) end
    for i = 1, FLOWS do d:write(line("start", 4000 + i)) end
    sink:collect(FLOWS, 10)
    -- When something of the next batch comes, those are through.
    d:write(line("start", 4100, "2001:db8:7::1"))
    local starts = firefly.by_flow(sink:collect(FLOWS + 1, 10), "start")
    kill(d)
    for i = 1, FLOWS do connections[i].close() end
    d = start(d.dir)
    d:wait_for_counter('flowd_flows_missed_ends_total{reason="restart"}', FLOWS)
    d:expect(FLOWS .. " flows have ended while no daemon ran")
    sink:collect(2 * FLOWS + 1, 10)
    local found, count = ends()
    assert.equal(FLOWS, count)
    for i = 1, FLOWS do
      assert.equal(firefly.member(starts[flow(4000 + i)], "start-time"), firefly.member(found[flow(4000 + i)], "start-time"))
    end
    assert.equal(1, d:counter("flowd_flows_open"))
    assert.same({ code = 0 }, d:stop())
  end)

  it("ends before another one with the same addresses and ports starts", function()
    local d = start()
    local first = connect(4000)
    d:write(line("start", 4000))
    d:wait_for_counter("flowd_flows_sockets_total", 1)
    local starts = firefly.by_flow(sink:collect(1, 10), "start")
    -- Told again, it is the same flow.
    d:write(line("start", 4000))
    sink:collect(2, 10)
    assert.equal(0, d:counter("flowd_flows_missed_ends_total"))
    sink:clear()
    first.close()
    local second
    process.wait_for("the port to be free again", 10, function()
      local ok, connection = pcall(connect, 4000)
      second = ok and connection
      return ok
    end)
    d:write(line("start", 4000))
    sink:collect(2, 10)
    assert.equal("end", firefly.member(sink:datagrams()[1].text, "state"))
    local again = firefly.by_flow(sink:datagrams(), "start")
    local old = firefly.member(starts[flow(4000)], "start-time")
    assert.equal(old, firefly.member(ends()[flow(4000)], "start-time"))
    assert.is_true(firefly.member(again[flow(4000)], "start-time") > old)
    assert.equal(1, d:counter('flowd_flows_missed_ends_total{reason="succeeded"}'))
    assert.equal(1, d:counter("flowd_flows_open"))
    d:expect("started again and their sockets from before are gone")
    second.close()
    assert.same({ code = 0 }, d:stop())
  end)
end)
