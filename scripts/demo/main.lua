-- SPDX-License-Identifier: Apache-2.0
--- `make demo`: a real TCP transfer between two network namespaces is marked, and reported by
--- fireflies. The host's own network is not touched; everything is gone when the demo ends,
--- also on Ctrl-C and after an error.
package.path = "./?.lua"
local api = require("flowd.api")
local registry = require("flowd.registry")
local cleanup = require("spec.support.cleanup")
local capture = require("spec.support.capture")
local daemon = require("spec.support.daemon")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")
local paint = require("scripts.demo.paint")

local line, step, field = paint.line, paint.step, paint.field

local EXPERIMENT, ACTIVITY = "atlas", "Data_Challenge"
local SOURCE_PORT, PORT, FIREFLY_PORT = 45000, 5201, 10514
local TRANSFER_SECONDS = 5

local names = registry.load_embedded()

-- The flow label that the packets of a list carry, as a set and in words.
local function labels_of(packets)
  local seen, list = {}, {}
  for _, packet in ipairs(packets) do
    if not seen[packet.flow_label] then
      seen[packet.flow_label] = true
      list[#list + 1] = ("0x%05x"):format(packet.flow_label)
    end
  end
  return table.concat(list, ", ")
end

local function tag_of(label)
  return api.label_experiment(label), api.label_activity(label)
end

local function show_firefly(datagram)
  local header, json = datagram.text:match("^([^{]*)({.*})%s*$")
  field("from", "[%s]:%d, %d octets", datagram.src, datagram.src_port, #datagram.text)
  line("   %s", paint.dim(header))
  line(paint.json(json, "   "))
end

local function find_firefly(sink, state)
  return process.wait_for("the " .. state .. " firefly", 5, function()
    for _, datagram in ipairs(sink:datagrams()) do
      if datagram.text:find('"state"%s*:%s*"' .. state .. '"') then return datagram end
    end
  end)
end

-- Waits until a packet of the flow carries the tag; returns it.
local function first_marked(seen, flow, experiment, activity)
  return process.wait_for("a labelled packet", 5, function()
    for _, packet in ipairs(seen:packets(flow)) do
      local e, a = tag_of(packet.flow_label)
      if e == experiment and a == activity then return packet end
    end
  end)
end

-- What the receiver saw of one flow: packets with the label and without, before and after the first with it.
local function count_marks(packets, label)
  local before, marked, missed = 0, 0, 0
  for _, packet in ipairs(packets) do
    if packet.flow_label == label then
      marked = marked + 1
    elseif marked == 0 then
      before = before + 1
    else
      missed = missed + 1
    end
  end
  return before, marked, missed
end

local function main()
  local ok, reason = netns.available()
  if not ok then error("make demo: " .. reason, 0) end
  local experiment = names:experiment_id(EXPERIMENT)
  local activity = names:activity_id(experiment, ACTIVITY)

  line("%s", paint.bold("flowd-lua " .. _flowd.version .. ": a flow is marked and reported"))
  line(paint.dim("Two network namespaces, one real TCP transfer. The host's own network is not touched."))

  local sender, receiver = netns.pair()
  line("\n     %s                           %s", paint.blue("sender"), paint.blue("receiver"))
  line("     %s ── eth0 ════ eth0 ── %s", sender.address, receiver.address)
  local seen = capture.start(receiver, "eth0")
  local sink = udp.open(receiver, receiver.address, FIREFLY_PORT)

  step("The daemon starts in the sender's namespace")
  local d = daemon.start({ namespace = sender, config = { backends = {
    marker = { interfaces = { "eth0" }, required = true },
    firefly = { to_destination = true, port = FIREFLY_PORT },
  } } })
  field("marks", "what leaves by eth0 and belongs to a known flow")
  field("reports", "to each flow's destination, UDP port %d", FIREFLY_PORT)
  field("listens", "to its named pipe, %s", d.pipe)

  step("A TCP transfer starts (iperf3)")
  local server = receiver:start({ "iperf3", "-s", "-1", "--forceflush", "-p", PORT })
  server:expect("Server listening")
  local client = sender:start({ "iperf3", "-c", receiver.address, "-p", PORT, "--cport", SOURCE_PORT, "-t",
    TRANSFER_SECONDS, "-b", "200M", "-l", "16K", "-f", "m" })
  local flow = { src = sender.address, src_port = SOURCE_PORT, dst = receiver.address, dst_port = PORT, protocol = "tcp" }
  local before = seen:wait_for(flow, 5, 50)
  field("flow", "tcp [%s]:%d -> [%s]:%d", flow.src, flow.src_port, flow.dst, flow.dst_port)
  field("flow label on the wire", "%s %s", paint.bold(labels_of(before)), paint.dim("the kernel's own, means nothing"))

  step("The storage software writes one line into the pipe")
  local tuple = ("tcp %s %d %s %d %s %s"):format(flow.src, flow.src_port, flow.dst, flow.dst_port, EXPERIMENT, ACTIVITY)
  line("   %s", paint.yellow("start " .. tuple))
  local written_us = api.clock_realtime_us()
  d:write("start " .. tuple .. "\n")
  local marked = first_marked(seen, flow, experiment, activity)
  local label = marked.flow_label
  field("first labelled packet", "%.2f ms after the line", tonumber(marked.time_us - written_us) / 1000)
  field("flow label on the wire", "%s %s", paint.bold(("0x%05x"):format(label)), paint.label_bits(label).all)
  local e, a = tag_of(label)
  local bits = paint.label_bits(label)
  field("  experiment", "%s  %s from right to left", paint.green(("%d = %s"):format(e, names:experiment_name(e))), bits.experiment)
  field("  activity", "%s  %s", paint.yellow(("%d = %s"):format(a, names:activity_name(e, a))), bits.activity)
  field("  entropy", "%s  random, the same for the flow's life", bits.entropy)

  step("The receiver got the start firefly")
  show_firefly(find_firefly(sink, "start"))

  step("The transfer ends, its end line is written")
  if client:wait(TRANSFER_SECONDS + 10).code ~= 0 then error("iperf3: " .. client:output(), 0) end
  field("iperf3", "%s", client:stdout():match("%[ *%d+%] +([^\n]-) +receiver") or "done")
  line("   %s", paint.yellow("end   " .. tuple))
  d:write("end " .. tuple .. "\n")
  show_firefly(find_firefly(sink, "end"))

  step("What the receiver saw")
  local unmarked, with, missed = count_marks(seen:packets(flow), label)
  field("the transfer", "%d packets before the line took effect", unmarked)
  field("", "%s", (missed == 0 and paint.green or paint.red)(
    ("%d of the %d after it carry 0x%05x"):format(with, with + missed, label)))
  local others = {}
  for _, packet in ipairs(seen:packets({ src = sender.address, dst_port = PORT, protocol = "tcp" })) do
    if packet.src_port ~= SOURCE_PORT then others[#others + 1] = packet end
  end
  local wrong = select(2, count_marks(others, label))
  field("iperf3's control flow", "%s", (wrong == 0 and paint.green or paint.red)(
    ("%d packets, %s carry it"):format(#others, wrong == 0 and "none" or tostring(wrong))))
  if seen:dropped() > 0 then field("not captured", "%d packets", seen:dropped()) end

  step("The daemon is told to end (SIGTERM)")
  local stopping = process.now()
  local status = d:stop(10)
  field("exit status", "%s, after %.0f ms", tostring(status.code or status.signal), (process.now() - stopping) * 1000)
  local rest = temp.exists(d.pipe) or temp.exists(d.runtime_dir .. "/state")
  field("left behind", "%s", rest and paint.red("its pipe or its state file") or paint.green("nothing"))
  line("")
  return missed == 0 and wrong == 0 and status.code == 0 and not rest and 0 or 1
end

cleanup.catch_interrupts()
local ok, result = pcall(main)
cleanup.all()
if not ok then
  io.stderr:write("\nmake demo: ", tostring(result), "\n")
  return 1
end
return result
