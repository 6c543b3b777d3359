-- SPDX-License-Identifier: Apache-2.0
-- The plugin and the backend of conf/cookbook, in the real daemon.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local json = require("flowd.json_parser")
local process = require("spec.support.process")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

describe("the cookbook's modules", function()
  local dir, ctx, got
  before_each(function()
    dir, ctx, got = temp.dir(), services.context(), {}
    -- Where nobody but us can write, whatever the checkout's own modes are.
    process.must({ "cp", "-r", "conf/cookbook/plugins", "conf/cookbook/backends", dir })
    process.must({ "chmod", "-R", "go-w", dir .. "/plugins", dir .. "/backends" })
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function start(config)
    local all = { plugin_dirs = { dir .. "/plugins" }, backend_dirs = { dir .. "/backends" }, plugins = {}, backends = {} }
    for key, value in pairs(config) do all[key] = value end
    return daemon.start({ dir = dir, config = all })
  end

  local function append(text)
    local file = assert(io.open(dir .. "/t.log", "ab"))
    file:write(text)
    file:close()
  end

  local function line(state, port, more)
    return ("2026-01-01T12:00:00.25Z %s 2001:db8::1 1094 2001:db8::2 %d vo=atlas %s\n"):format(state, port, more or "")
  end

  local function listen()
    return ctx:listen({ path = dir .. "/events", on_connection = function() end,
      on_line = function(_, text) got[#got + 1] = text end })
  end

  local function expect(count, d)
    local ok = pcall(services.turn_until, "events", function() return #got >= count end, 20)
    assert.is_true(ok, ("%d of %d events came; the log:\n%s"):format(#got, count, d:log()))
  end

  it("bring events from a transfer log to a socket, through renaming and a killed daemon", function()
    listen()
    append("")
    local d = start({
      plugins = { transfer_log = { path = dir .. "/t.log", required = true } },
      backends = { json_socket = { path = dir .. "/events", retry = 0.1 } },
    })
    d:expect("events: connected")
    append(line("start", 1, "activity=Data_Challenge") .. "nonsense\n" .. line("start", 2) .. line("begin", 3)
      .. line("start", 70000))
    expect(2, d)
    local first = json.decode(got[1])
    assert.equal("start", first.state)
    assert.equal(1767268800.25, first.time)
    assert.equal("2001:db8::1", first.src)
    assert.equal(1094, first.src_port)
    assert.equal("2001:db8::2", first.dst)
    assert.equal(1, first.dst_port)
    assert.equal("atlas", first.experiment_name)
    assert.equal("Data Challenge", first.activity_name)
    d:wait_for_counter('flowd_lines_refused_total{plugin="transfer_log",reason="transfer_log"}', 3)
    -- Renamed, and the daemon killed: nothing is missed, and what was done is not done again.
    d:signal("KILL")
    d:wait()
    os.rename(dir .. "/t.log", dir .. "/t.log.1")
    local old = assert(io.open(dir .. "/t.log.1", "ab"))
    old:write(line("end", 1, "sent=123456 received=789"))
    old:close()
    append(line("end", 2))
    got = {}
    d = daemon.start({ dir = dir, conf = d.conf })
    expect(2, d)
    local last = json.decode(got[1])
    assert.equal("end", last.state)
    assert.equal(123456, last.bytes_sent)
    assert.equal(789, last.bytes_received)
    assert.equal(2, json.decode(got[2]).dst_port)
    assert.equal(0, d:counter("flowd_flows_open"))
    assert.same({ code = 0 }, d:stop())
    assert.equal(2, #got)
  end)

  it("keep lines for a reader that is away, as many as they may, and count the others", function()
    local config = {
      plugins = { transfer_log = { path = dir .. "/t.log" } },
      backends = { json_socket = { path = dir .. "/events", retry = 0.1, queue_length = 10 } },
    }
    append("")
    local d = start(config)
    d:expect("events: No such file or directory %(tried again every 0.1 s%)")
    for port = 1, 30 do append(line("start", port)) end
    d:wait_for_counter("flowd_site_events_dropped_total", 20)
    listen()
    expect(10, d)
    for i = 1, 10 do assert.equal(20 + i, json.decode(got[i]).dst_port) end
    d:wait_for_counter("flowd_site_events_total", 10)
    -- It goes and comes back.
    ctx:close()
    services.turn_until("the end of it", function() return d:log():find("the reader has gone") end)
    append(line("start", 31))
    ctx = services.context()
    got = {}
    listen()
    expect(1, d)
    assert.equal(31, json.decode(got[1]).dst_port)
    assert.equal(20, d:counter("flowd_site_events_dropped_total"))
    d:signal("TERM")
    services.turn_until("the end", function() return not d:running() end)
    assert.same({ code = 0 }, d:wait())
    -- All flows end at once: more than the queue holds.
    services.turn_until("the last ends of flows", function() return #got == 11 end)
    assert.equal("end", json.decode(got[11]).state)
  end)

  it("that fail to start are listed with the reason, and the others run", function()
    process.must({ "sed", "-i", "s/function transfer_log:start(ctx)/&  error('no way', 0)/", dir .. "/plugins/transfer_log.lua" })
    local d = start({ plugins = { transfer_log = { path = dir .. "/t.log" }, pipe = { paths = { dir .. "/run/np" } } } })
    assert.matches("plugin 'transfer_log' did not start: no way", d:log())
    assert.equal(1, d:counter('flowd_modules_failed{kind="plugin",name="transfer_log"}'))
    assert.matches("plugin transfer_log did not start: no way", d:command("stats").stdout)
    d:write("start tcp ::1 1 ::1 2 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 1)
    assert.same({ code = 0 }, d:stop())
    -- One that is required ends the start.
    daemon.write_config(dir, { plugin_dirs = { dir .. "/plugins" }, plugins = { transfer_log = { path = "x", required = true } } })
    local child = process.run({ daemon.binary(), "--conf", dir .. "/conf.lua", "run" })
    assert.equal(1, child.code)
    assert.matches("plugin 'transfer_log' is required and did not start: no way", child.stderr)
  end)
end)
