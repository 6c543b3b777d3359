-- SPDX-License-Identifier: Apache-2.0
local bit = require("bit")
local api = require("flowd.api")
local capture = require("spec.support.capture")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local decoder = require("spec.support.firefly_decoder")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

local marked_it = require("spec.support.marked")(it)

local SLOWER = os.getenv("ASAN_OPTIONS") and 5 or 1
local ATLAS, DATA_CHALLENGE = 2, 26

local function tag(packet)
  return api.label_experiment(packet.flow_label), api.label_activity(packet.flow_label)
end

describe("a line in the pipe", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b
  before_each(function() a, b = netns.pair() end)
  after_each(cleanup.all)

  for _, method in ipairs({ "tcx", "clsact" }) do
    marked_it("labels every packet of its flow and none of another, by " .. method, function()
      local d = daemon.start({ namespace = a, config = {
        backends = { marker = { interfaces = { "eth0" }, method = method } } } })
      -- The flow is known before its first packet.
      d:write(("start tcp %s 45000 %s 5201 atlas Data_Challenge\n"):format(a.address, b.address))
      d:wait_for_counter("flowd_flows_open", 1)
      local seen = capture.start(b, "eth0")
      local servers = {}
      for _, port in ipairs({ 5201, 5202 }) do
        servers[port] = b:start({ "iperf3", "-s", "-1", "--forceflush", "-p", port })
        servers[port]:expect("Server listening")
      end
      local clients = {}
      for source, port in pairs({ [45000] = 5201, [45001] = 5202 }) do
        clients[port] = a:start({ "iperf3", "-c", b.address, "-p", port, "--cport", source, "-n", "20M", "-b", "400M" })
      end
      for _, client in pairs(clients) do assert.same({ code = 0 }, client:wait(20 * SLOWER), client:output()) end

      local forth = seen:packets({ src = a.address, src_port = 45000, dst_port = 5201 })
      assert.is_true(#forth > 100)
      assert.is_true(forth[1].syn)
      for _, packet in ipairs(forth) do
        assert.same({ ATLAS, DATA_CHALLENGE }, { tag(packet) })
        assert.equal(forth[1].flow_label, packet.flow_label)
      end
      -- Another flow, iperf3's own control flows, and everything that comes back.
      local others = 0
      for _, packet in ipairs(seen:packets({ protocol = "tcp" })) do
        if packet.src_port ~= 45000 then
          others = others + 1
          if bit.band(packet.flow_label, 0x3fefc) == bit.band(forth[1].flow_label, 0x3fefc) then
            error(("port %d to %d carries the label"):format(packet.src_port, packet.dst_port))
          end
        end
      end
      assert.is_true(others > 100)
      assert.equal(0, seen:dropped())

      d:write(("end tcp %s 45000 %s 5201 atlas Data_Challenge\n"):format(a.address, b.address))
      d:wait_for_counter("flowd_flows_ended_total", 1)
      seen:clear()
      local plain = udp.open(a, a.address, 45000)
      plain:send("another protocol", b.address, 5201)
      b:start({ "socat", "-d", "-d", "-u", "TCP6-LISTEN:5201,reuseaddr", "OPEN:/dev/null" }):expect("listening on")
      a:must({ "socat", "-u", "STDIN", ("TCP6:[%s]:5201,bind=:45000,reuseaddr"):format(b.address), input = "later" })
      seen:wait_for({ src_port = 45000, fin = true }, 5)
      for _, packet in ipairs(seen:packets({ src_port = 45000 })) do
        assert.not_same({ ATLAS, DATA_CHALLENGE }, { tag(packet) })
      end
    end)
  end

  it("gives a start and an end firefly to the flow's destination and to collectors", function()
    local destination = udp.open(b, b.address, 10514)
    local collectors = { udp.open(b, b.address, 10600), udp.open(b, b.address4, 10600) }
    local d = daemon.start({ namespace = a, config = { backends = { firefly = { to_destination = true, collectors = {
      ("[%s]:10600"):format(b.address), { host = b.address4, port = 10600 } } } } } })
    local tuple = ("tcp %s 45000 %s 5201 atlas Data_Challenge\n"):format(a.address, b.address)
    d:write("start " .. tuple)
    destination:collect(1, 5)
    d:write("end " .. tuple)
    for _, sink in ipairs({ destination, collectors[1], collectors[2] }) do
      local all = sink:collect(2, 5)
      assert.equal(2, #all)
      for i, state in ipairs({ "start", "end" }) do
        local decoded, message = decoder.decode(all[i].text)
        assert.is_truthy(decoded, message)
        assert.equal(state, firefly.member(all[i].text, "state"))
        assert.equal("2", firefly.member(all[i].text, "experiment-id"))
        assert.equal("26", firefly.member(all[i].text, "activity-id"))
        assert.equal(("%s 45000 %s 5201 tcp"):format(a.address, b.address), firefly.flow(all[i].text))
      end
      assert.equal(firefly.member(all[1].text, "start-time"), firefly.member(all[2].text, "start-time"))
    end
  end)

  it("that ends a flow which never started is one firefly, with start-time = end-time", function()
    local destination = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, config = { backends = { firefly = {} } } })
    d:write(("end tcp %s 45000 %s 5201 atlas Data_Challenge\n"):format(a.address, b.address))
    local text = destination:receive(5).text
    assert.equal("end", firefly.member(text, "state"))
    assert.equal("2", firefly.member(text, "experiment-id"))
    assert.equal(firefly.member(text, "end-time"), firefly.member(text, "start-time"))
    d:wait_for_counter("flowd_flows_end_without_start_total", 1)
    assert.equal(0, d:counter("flowd_flows_open"))
  end)

  marked_it("that starts an open flow again changes its tag, and keeps its start and the label's entropy", function()
    local destination = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, config = { backends = { firefly = {}, marker = { interfaces = { "eth0" } } } } })
    local seen, sender = capture.start(b, "eth0"), udp.open(a, a.address, 45000)
    local ENTROPY = 0xC0103
    local entropy, started
    for i, words in ipairs({ "atlas 1", "cms 4" }) do
      d:write(("start udp %s 45000 %s 5201 %s\n"):format(a.address, b.address, words))
      local text = destination:receive(5).text
      started = started or firefly.member(text, "start-time")
      assert.equal(started, firefly.member(text, "start-time"))
      seen:clear()
      sender:send("x", b.address, 5201)
      local packet = seen:wait_for({ src_port = 45000 }, 5)[1]
      entropy = entropy or bit.band(packet.flow_label, ENTROPY)
      assert.equal(entropy, bit.band(packet.flow_label, ENTROPY))
      assert.same(({ { 2, 1 }, { 3, 4 } })[i], { tag(packet) })
    end
    assert.equal(1, d:counter("flowd_flows_open"))
    d:write(("end udp %s 45000 %s 5201 cms 4\n"):format(a.address, b.address))
    local text = destination:receive(5).text
    assert.equal("end", firefly.member(text, "state"))
    assert.equal(started, firefly.member(text, "start-time"))
  end)

  it("for which the table has no room is refused, counted and logged; the flows that are open stay", function()
    local destination = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, config = { max_flows = 2, backends = { firefly = {} } } })
    d:write(flow_lines.lines("start", a.address, b.address, "atlas 1", 0, 3))
    d:expect("error flow table: full with 2 flows %(max_flows = 2%): starts are refused\n")
    d:wait_for_counter('flowd_flows_refused_total{reason="table_full"}', 2)
    assert.equal(2, d:counter("flowd_flows_open"))
    -- Where one ends there is room for another.
    d:write(flow_lines.lines("end", a.address, b.address, "atlas 1", 0, 0) ..
      flow_lines.lines("start", a.address, b.address, "atlas 1", 9, 9))
    local all = destination:collect(4, 5)
    assert.same({ "start", "start", "end", "start" }, { firefly.member(all[1].text, "state"), firefly.member(all[2].text, "state"),
      firefly.member(all[3].text, "state"), firefly.member(all[4].text, "state") })
    assert.equal(2, d:counter("flowd_flows_open"))
  end)

  it("of IPv4 gives fireflies and no mark", function()
    local destination = udp.open(b, b.address4, 10514)
    local d = daemon.start({ namespace = a, config = { backends = { firefly = {}, marker = { interfaces = { "eth0" } } } } })
    d:write(("start udp %s 45000 %s 5201 cms 4\n"):format(a.address4, b.address4))
    local text = destination:receive(5).text
    assert.equal("ipv4", firefly.member(text, "afi"))
    assert.equal(("%s 45000 %s 5201 udp"):format(a.address4, b.address4), firefly.flow(text))
  end)

  marked_it("goes through the rules: changed, dropped, routed", function()
    local destination = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, config = {
      backends = { firefly = {}, marker = { interfaces = { "eth0" } } } }, rules = [[
        rule "tests are nobody's business" (function(flow) if flow.dst_port == 5001 then return drop end end),
        rule "port of the cms service" (function(flow)
          if flow.dst_port == 5002 then flow.experiment, flow.activity = "cms", 4 end
        end),
        rule "reported, not marked" (function(flow) if flow.dst_port == 5003 then flow:route("firefly") end end),
      ]] })
    for port = 5001, 5003 do
      d:write(("start udp %s 45000 %s %d atlas 1\n"):format(a.address, b.address, port))
    end
    local all = destination:collect(2, 5)
    assert.same({ "5002", "3", "4" }, { firefly.member(all[1].text, "dst-port"), firefly.member(all[1].text, "experiment-id"),
      firefly.member(all[1].text, "activity-id") })
    assert.equal("5003", firefly.member(all[2].text, "dst-port"))
    d:wait_for_counter("flowd_flows_open", 2)
    local seen = capture.start(b, "eth0")
    local sender = udp.open(a, a.address, 45000)
    for port = 5001, 5003 do sender:send("x", b.address, port) end
    local labels = {}
    for _, packet in ipairs(seen:wait_for({ src_port = 45000 }, 5, 3)) do
      labels[packet.dst_port] = bit.band(packet.flow_label, 0x3fefc) == bit.band(api.label_encode(3, 4, 0), 0x3fefc)
    end
    assert.same({ [5001] = false, [5002] = true, [5003] = false }, labels)
    assert.equal(2, #destination:datagrams())
  end)

  it("a hundred thousand times in one burst is a hundred thousand start fireflies", function()
    local FLOWS = 100000
    local sink = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, log_level = "info", config = { backends = { firefly = {} } } })
    local path = temp.write(d.dir .. "/lines", flow_lines.lines("start", a.address, b.address, "atlas 1", 0, FLOWS - 1))
    process.start({ "dd", "if=" .. path, "of=" .. d.pipe, "bs=1M", "conv=notrunc,nocreat", "status=none" })
    local _, count = firefly.by_flow(sink:collect(FLOWS, 60 * SLOWER), "start")
    assert.equal(FLOWS, count)
    assert.equal(0, sink:dropped())
    d:wait_for_counter('flowd_lines_total{plugin="pipe"}', FLOWS)
    assert.equal(FLOWS, d:counter("flowd_flows_open"))
  end)

  it("of each of ten writers at once is an event", function()
    local WRITERS, EACH = 10, 5000
    local sink = udp.open(b, b.address, 10514)
    local d = daemon.start({ namespace = a, log_level = "info", config = { backends = { firefly = {} } } })
    for writer = 0, WRITERS - 1 do
      local path = temp.write(d.dir .. "/lines" .. writer,
        flow_lines.lines("start", a.address, b.address, "atlas 1", writer * EACH, (writer + 1) * EACH - 1))
      -- Whole lines per write, as the pipe's writers must: up to 4,096 octets they stay together.
      process.start({ "bash", "-c", 'exec 3>"$2"; while mapfile -t -n 40 lines && [ ${#lines[@]} -gt 0 ]; do '
        .. 'text=$(printf "%s\\n" "${lines[@]}"); printf "%s\\n" "$text" >&3; done < "$1"', "writer", path, d.pipe })
    end
    local _, count = firefly.by_flow(sink:collect(WRITERS * EACH, 60 * SLOWER), "start")
    assert.equal(WRITERS * EACH, count)
    assert.equal(0, d:counter("flowd_lines_refused_total"))
  end)
end)

describe("a second daemon", function()
  after_each(cleanup.all)

  it("in the same runtime directory is refused with the first one's pid, and disturbs nothing", function()
    local first = daemon.start({ config = {} })
    first:write("start tcp ::1 1000 ::1 2000 atlas 1\n")
    first:wait_for_counter("flowd_flows_open", 1)
    local second = daemon.start({ conf = first.conf, dir = first.dir, ready = false })
    local status = second:wait(5)
    assert.is_true(status.code ~= nil and status.code ~= 0)
    assert.matches("%f[%d]" .. first.pid .. "%f[%D]", second:log())
    -- One clear line, not a traceback.
    assert.not_matches("traceback", second:log())
    first:write("start tcp ::1 1001 ::1 2000 atlas 1\n")
    first:wait_for_counter("flowd_flows_open", 2)
    assert.same({ code = 0 }, first:stop())
  end)
end)
