-- SPDX-License-Identifier: Apache-2.0
--- The firefly backend with the real loop and real sockets on the loopback, without the daemon.
local ffi = require("ffi")
local api = require("flowd.api")
local backend = require("backends.firefly")
local cleanup = require("spec.support.cleanup")
local context = require("flowd.context")
local counters = require("flowd.counters")
local decoder = require("spec.support.firefly_decoder")
local dns = require("spec.support.dns")
local loop = require("flowd.loop")
local plugins = require("flowd.plugins")
local process = require("spec.support.process")
local resolver = require("flowd.resolver")
local schema = require("flowd.schema")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

local C = ffi.C
local ROUTE = 4

local function validate(options)
  local completed, errors = schema.validate(backend.schema, options)
  local messages = {}
  for i, e in ipairs(errors) do messages[i] = e.path .. ": " .. e.message end
  return completed, table.concat(messages, "\n")
end

local events = ffi.new("struct flow_event[64]")

-- Fill events[i]: state, dst and what else differs from an ordinary TCP start.
local function set_event(i, fields)
  local e = events[i]
  ffi.fill(e, ffi.sizeof(e))
  for side, text in pairs({ src = fields.src or "127.0.0.1", dst = fields.dst }) do
    e.key.family = api.address_parse(text, #text, e.key[side])
  end
  e.key.src_port, e.key.dst_port, e.key.protocol = fields.src_port or 5000, 1094, C.FLOW_TCP
  e.state, e.experiment, e.activity = fields.state or C.FLOW_START, 2, 26
  e.time_us, e.start_us = api.clock_realtime_us(), api.clock_realtime_us()
  e.flags, e.route = fields.flags or C.EVENT_DELIVER, fields.route or C.FLOW_ROUTE_ALL
end

describe("firefly backend", function()
  local instance, ctx, level

  before_each(function()
    level = api.log_get_level()
    api.log_setup(C.LOG_LEVEL_ERROR + 1, false)
  end)

  after_each(function()
    if instance then
      plugins.stop(instance)
      ctx:close()
    end
    instance = nil
    api.log_setup(level, false)
    cleanup.all()
  end)

  local function start(options)
    local completed, problem = validate(options)
    assert.equal("", problem)
    ctx = context.new({ name = "firefly", kind = "backend", options = completed, route_bit = ROUTE })
    instance = assert(plugins.start(backend, ctx))
    return instance
  end

  local function deliver(n)
    instance:on_events(events, n)
    instance:flush()
  end

  local function turn_until(what, condition, seconds)
    process.wait_for(what, seconds or 10, function()
      loop.turn()
      return condition()
    end)
  end

  local function count(name, to, reason) return tonumber(counters.get(name, { to = to, reason = reason }).value) end

  local function firefly(datagram)
    local decoded, message = decoder.decode(datagram.text)
    assert.is_nil(message)
    return decoded
  end

  it("sends to the flow's destination, at the option's port", function()
    local sinks = { udp.open(nil, "127.0.0.1", 0) }
    local port = sinks[1].port
    sinks[2] = udp.open(nil, "127.0.0.2", port)
    sinks[3] = udp.open(nil, "::1", port)
    start({ port = port })
    set_event(0, { dst = "127.0.0.1" })
    set_event(1, { dst = "127.0.0.2", state = C.FLOW_END })
    set_event(2, { dst = "::1", src = "::1" })
    deliver(3)
    for i, sink in ipairs(sinks) do
      local got = firefly(sink:receive(5))
      assert.equal(({ "start", "end", "start" })[i], got.message["flow-lifecycle"].state)
      assert.equal(({ "127.0.0.1", "127.0.0.2", "::1" })[i], got.message["flow-id"]["dst-ip"])
    end
  end)

  it("leaves out what is not to be delivered, or not on its route", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    start({ port = sink.port })
    set_event(0, { dst = "127.0.0.1", src_port = 1, flags = 0 })
    set_event(1, { dst = "127.0.0.1", src_port = 2, route = 3 })
    set_event(2, { dst = "127.0.0.1", src_port = 3, route = ROUTE })
    deliver(3)
    assert.equal(3, firefly(sink:receive(5)).message["flow-id"]["src-port"])
    assert.equal(1, #sink:datagrams())
  end)

  it("sends nothing to addresses that are no host's", function()
    start({})
    local before = count("flowd_fireflies_dropped_total", "destinations", "no_host")
    local sent = count("flowd_fireflies_sent_total", "destinations")
    local list = { "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1" }
    for i, address in ipairs(list) do set_event(i - 1, { dst = address }) end
    deliver(#list)
    assert.equal(before + #list, count("flowd_fireflies_dropped_total", "destinations", "no_host"))
    assert.equal(sent, count("flowd_fireflies_sent_total", "destinations"))
  end)

  it("sends the same to each collector, and nothing to the destination when that is off", function()
    local destination = udp.open(nil, "127.0.0.1", 0)
    local one, two = udp.open(nil, "127.0.0.1", 0), udp.open(nil, "::1", 0)
    start({ to_destination = false, port = destination.port,
      collectors = { "127.0.0.1:" .. one.port, { host = "::1", port = two.port } } })
    set_event(0, { dst = "127.0.0.1" })
    deliver(1)
    local a, b = one:receive(5), two:receive(5)
    assert.equal(a.text, b.text)
    assert.is_table(firefly(a))
    assert.equal(0, #destination:datagrams())
    assert.equal(1, count("flowd_fireflies_sent_total", "127.0.0.1:" .. one.port))
    assert.equal(1, count("flowd_fireflies_sent_total", "[::1]:" .. two.port))
  end)

  it("can leave out the syslog header, and take a host name", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    start({ port = sink.port, syslog_header = false })
    set_event(0, { dst = "127.0.0.1" })
    deliver(1)
    assert.is_table(assert(decoder.decode_json(sink:receive(5).text)))
    plugins.stop(instance)
    ctx:close()
    start({ port = sink.port, hostname = "dtn7.example.org" })
    deliver(1)
    assert.equal("dtn7.example.org", firefly(sink:receive(5)).header.hostname)
  end)

  it("sends a batch as one message to a collector, or datagram by datagram when told so", function()
    local sink = udp.open(nil, "127.0.0.1", 0)
    local name = "127.0.0.1:" .. sink.port
    for _, segmentation in ipairs({ true, false }) do
      start({ to_destination = false, collectors = { name }, segmentation = segmentation })
      for i = 0, 63 do set_event(i, { dst = "127.0.0.1", src_port = 1000 + i }) end
      deliver(64)
      for i, datagram in ipairs(sink:collect(64, 5)) do
        assert.equal(999 + i, firefly(datagram).message["flow-id"]["src-port"])
      end
      assert.equal(64, count("flowd_fireflies_segmented_total", name))
      sink:clear()
      plugins.stop(instance)
      ctx:close()
    end
    instance = nil
    assert.equal(2, count("flowd_fireflies_calls_total", name))
    assert.equal(128, count("flowd_fireflies_sent_total", name))
  end)

  it("goes on while a collector is down, and delivers what it kept when that is back", function()
    local dead = udp.open(nil, "127.0.0.1", 0)
    local port = dead.port
    dead:close()
    local alive = udp.open(nil, "127.0.0.1", 0)
    local name = "127.0.0.1:" .. port
    start({ to_destination = false, collectors = { name, "127.0.0.1:" .. alive.port } })
    for i = 1, 20 do
      set_event(0, { dst = "127.0.0.1", src_port = i })
      deliver(1)
      loop.turn()
    end
    assert.equal(20, #alive:collect(20, 5))
    turn_until("the refusal", function() return count("flowd_fireflies_refused_total", name) >= 1 end)
    assert.equal(0, instance:pending(), "nobody has to wait for a collector that is down")
    dead = udp.open(nil, "127.0.0.1", port)
    -- Without another event: the backend tries by itself.
    turn_until("what was kept", function() return #dead:datagrams() >= 19 end)
    for i, datagram in ipairs(dead:datagrams()) do
      assert.equal(i + 1, firefly(datagram).message["flow-id"]["src-port"])
    end
    assert.equal(0, count("flowd_fireflies_dropped_total", name, "queue_full"))
  end)

  it("keeps a bounded number for a collector that stays down, and counts the rest", function()
    local dead = udp.open(nil, "127.0.0.1", 0)
    local name = "127.0.0.1:" .. dead.port
    dead:close()
    start({ to_destination = false, collectors = { name }, queue_length = 100 })
    for i = 0, 63 do set_event(i, { dst = "127.0.0.1" }) end
    for _ = 1, 50 do
      deliver(64)
      loop.turn()
    end
    local lost = count("flowd_fireflies_dropped_total", name, "queue_full")
    assert.equal(100, count("flowd_fireflies_queued", name))
    assert.is_true(lost > 2500, "dropped: " .. lost)
    plugins.stop(instance)
    ctx:close()
    instance = nil
    assert.equal(3200, count("flowd_fireflies_sent_total", name) + lost
      + count("flowd_fireflies_dropped_total", name, "stopped"))
  end)

  describe("with names", function()
    local server, directory, saved

    before_each(function()
      saved = { resolver.resolv_conf, resolver.hosts }
      directory, server = temp.dir(), dns.open()
      resolver.resolv_conf, resolver.hosts = server:resolv_conf(directory), directory .. "/hosts"
    end)

    after_each(function() resolver.resolv_conf, resolver.hosts = saved[1], saved[2] end)

    local function until_there(what, condition)
      turn_until(what, function()
        server:answer()
        return condition()
      end)
    end

    it("keeps fireflies until the name is resolved", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      server.names["collector.example.org"] = "silent"
      start({ to_destination = false, collectors = { "collector.example.org:" .. sink.port } })
      for i = 0, 9 do set_event(i, { dst = "127.0.0.1", src_port = 1 + i }) end
      deliver(10)
      server.names["collector.example.org"] = { "127.0.0.1" }
      until_there("the fireflies", function() return #sink:datagrams() >= 10 end)
      assert.equal(10, #sink:datagrams())
      assert.equal(1, firefly(sink:datagrams()[1]).message["flow-id"]["src-port"])
    end)

    it("works on when a name does not resolve, and counts it", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      server.names["late.example.org"] = false
      local failures = counters.get("flowd_resolver_failures_total", { name = "late.example.org" })
      start({ to_destination = false, queue_length = 5,
        collectors = { "late.example.org:" .. sink.port, "127.0.0.1:" .. sink.port } })
      for i = 0, 9 do set_event(i, { dst = "127.0.0.1", src_port = 1 + i }) end
      deliver(10)
      assert.equal(10, #sink:collect(10, 5))
      until_there("two failures", function() return failures.value >= 2 end)
      assert.equal(5, count("flowd_fireflies_dropped_total", "late.example.org:" .. sink.port, "queue_full"))
      server.names["late.example.org"] = { "127.0.0.1" }
      until_there("the last five", function() return #sink:datagrams() >= 15 end)
      assert.equal(6, firefly(sink:datagrams()[11]).message["flow-id"]["src-port"])
    end)

    it("leaves an address that refuses for the name's next one", function()
      local sink = udp.open(nil, "127.0.0.1", 0)
      temp.write(directory .. "/hosts", "::1 local.example.org\n127.0.0.1 local.example.org\n")
      start({ to_destination = false, collectors = { "local.example.org:" .. sink.port } })
      until_there("the address", function() return instance.receivers[1].address end)
      for i = 0, 9 do set_event(i, { dst = "127.0.0.1", src_port = 1 + i }) end
      deliver(10)
      until_there("all of them", function() return #sink:datagrams() >= 10 end)
      for i, datagram in ipairs(sink:datagrams()) do
        assert.equal(i, firefly(datagram).message["flow-id"]["src-port"])
      end
    end)

    it("follows a name to its new address", function()
      local old = udp.open(nil, "127.0.0.2", 0)
      local new = udp.open(nil, "127.0.0.3", old.port)
      server.names["moving.example.org"] = { "127.0.0.2" }
      start({ to_destination = false, resolve_interval = 1, collectors = { "moving.example.org:" .. old.port } })
      until_there("the address", function() return instance.receivers[1].address end)
      set_event(0, { dst = "127.0.0.1" })
      deliver(1)
      assert.equal(1, #old:collect(1, 5))
      server.names["moving.example.org"] = { "127.0.0.3" }
      until_there("the new address", function() return instance.receivers[1].address == "127.0.0.3" end)
      deliver(1)
      assert.equal(1, #new:collect(1, 5))
      assert.equal(1, #old:datagrams())
    end)
  end)

  it("counts what is still queued when it stops", function()
    start({ to_destination = false, collectors = { "nowhere.invalid:9" } })
    local name = "nowhere.invalid:9"
    for i = 0, 6 do set_event(i, { dst = "127.0.0.1" }) end
    deliver(7)
    assert.equal(0, instance:pending())
    plugins.stop(instance)
    ctx:close()
    instance = nil
    assert.equal(7, count("flowd_fireflies_dropped_total", name, "stopped"))
  end)

  it("needs no garbage to be collected before it is gone", function()
    for _ = 1, 20 do
      start({ collectors = { "127.0.0.1:9", "nowhere.invalid", "::1" } })
      loop.turn()
      plugins.stop(instance)
      ctx:close()
      instance = nil
    end
    collectgarbage()
    collectgarbage()
    loop.turn()
  end)

  describe("options", function()
    it("have defaults that send to the destination only", function()
      local completed, problem = validate({})
      assert.equal("", problem)
      assert.is_true(completed.to_destination)
      assert.equal(10514, completed.port)
      assert.same({}, completed.collectors)
      assert.is_true(completed.syslog_header)
      assert.equal(10000, completed.queue_length)
      assert.equal(300, completed.resolve_interval)
    end)

    it("take a collector in every usual form", function()
      for text, expected in pairs({
        ["host"] = { "host", 10514 }, ["a-b.example.org:123"] = { "a-b.example.org", 123 },
        ["192.0.2.1"] = { "192.0.2.1", 10514 }, ["192.0.2.1:65535"] = { "192.0.2.1", 65535 },
        ["2001:db8::1"] = { "2001:db8::1", 10514 }, ["[2001:db8::1]"] = { "2001:db8::1", 10514 },
        ["[2001:db8::1]:99"] = { "2001:db8::1", 99 }, ["::1"] = { "::1", 10514 }, ["host.:1"] = { "host.", 1 },
      }) do
        assert.same(expected, { backend.split_endpoint(text, 10514) }, text)
        assert.equal("", (select(2, validate({ collectors = { text } }))), text)
      end
      assert.equal("", (select(2, validate({ collectors = { { host = "a.example.org" }, { host = "::1", port = 1 } } }))))
    end)

    it("refuse what is none, and say where", function()
      for text, message in pairs({
        [""] = "expected", [":10514"] = "expected", ["host:"] = "expected", ["host:0"] = "port from 1 to 65535; got 0",
        ["host:65536"] = "got 65536", ["host:1:2"] = "expected", ["[::1"] = "expected", ["::1]:5"] = "expected",
        ["[host]:5"] = "IPv6 address between", ["192.0.2.256"] = "host name or an address", ["a b"] = "host name",
        ["udp://host"] = "expected", ["[192.0.2.1]:5"] = "IPv6 address between",
      }) do
        local _, problem = validate({ collectors = { "ok", text } })
        assert.matches("^collectors%[2%]: ", problem, nil, text)
        assert.is_truthy(problem:find(message, 1, true), text .. ": " .. problem)
        assert.matches("; got ", problem, 1, true)
      end
      assert.matches("collectors%[1%]%.prot", (select(2, validate({ collectors = { { host = "a", prot = 1 } } }))))
      assert.matches("hostname", (select(2, validate({ hostname = "two words" }))))
      assert.matches("queue_length", (select(2, validate({ queue_length = 0 }))))
    end)
  end)
end)
