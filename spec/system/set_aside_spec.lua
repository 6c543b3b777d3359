-- SPDX-License-Identifier: Apache-2.0
-- Input of which the daemon dies: not for ever.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local firefly = require("spec.support.firefly")
local flow_lines = require("spec.support.flow_lines")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local udp = require("spec.support.udp")

-- Dies like one that the kernel ends for want of memory, in the middle of a batch.
local deadly = [[
  local ffi = require("ffi")
  ffi.cdef("int getpid(void); int kill(int, int);")
  local deadly = { name = "deadly", doc = "Ends the process when a flow to port 6666 starts.", schema = {} }
  function deadly:start() end
  function deadly:on_events(events, n)
    for i = 0, n - 1 do
      if events[i].state == 1 and events[i].key.dst_port == 6666 then ffi.C.kill(ffi.C.getpid(), 9) end
    end
  end
  return deadly]]

describe("input that the daemon dies of", function()
  local available, reason = netns.available()
  if not available then
    pending(reason)
    return
  end
  local a, b, sink, dir
  before_each(function()
    a, b = netns.pair()
    sink = udp.open(b, b.address, 10514)
    dir = temp.dir()
    temp.write(dir .. "/deadly.lua", deadly)
  end)
  after_each(cleanup.all)

  local function start(options)
    options = options or {}
    return daemon.start({ namespace = a, dir = dir, log_level = "info", ready = options.ready, config = {
      backend_dirs = { dir }, backends = { firefly = { port = 10514 }, deadly = {} } } })
  end

  local function lines(from, to, state)
    return flow_lines.lines(state or "start", a.address, b.address, "atlas 1", from, to)
  end

  local function poison(port) return ("start tcp %s %d %s 6666 atlas 1\n"):format(a.address, port, b.address) end

  local function set_aside_files()
    return process.must({ "find", dir .. "/lib", "-type", "f", "-printf", "%f %m %s\n" })
  end

  -- Flows of which a firefly came, however often.
  local function reported(state)
    local flows, count = {}, 0
    for _, datagram in ipairs(sink:datagrams()) do
      local flow = firefly.flow(datagram.text)
      if firefly.member(datagram.text, "state") == state and not flows[flow] then
        flows[flow], count = datagram.text, count + 1
      end
    end
    return flows, count
  end

  it("twice in a row is set aside in a file, alone, and everything around it is processed", function()
    local d = start()
    d:write(lines(0, 9))
    sink:collect(10, 10)
    -- Ends of flows that were open stand before and behind it.
    d:write(lines(10, 99) .. lines(0, 4, "end") .. poison(4000) .. lines(5, 9, "end") .. lines(100, 199))
    assert.same({ signal = "KILL" }, d:wait(10))
    local second = start({ ready = false })
    second:expect("octets were in hand when the process before ended: they go line by line", 10)
    assert.same({ signal = "KILL" }, second:wait(10))
    assert.equal("", set_aside_files())

    local third = start()
    local size = #poison(4000)
    third:expect(("pipe: %s: %d octets were in hand at two crashes in a row: set aside in "):format(
      third.pipe:gsub("%p", "%%%0"), size))
    local name = third:log():match("set aside in (%S+), and not processed")
    assert.matches("^" .. dir:gsub("%p", "%%%0") .. "/lib/set%-aside%-%d%d%d%d%d%d%d%dT%d%d%d%d%d%d%.%d+Z%-pipe$", name)
    assert.equal(("%s 600 %d\n"):format(name:match("[^/]+$"), size), set_aside_files())
    assert.equal(poison(4000), temp.read(name))
    assert.equal(1, third:counter('flowd_input_set_aside_total{plugin="pipe"}'))
    third:wait_for_counter("flowd_flows_open", 191)
    process.wait_for("fireflies of every flow", 10, function()
      return select(2, reported("start")) >= 200 and select(2, reported("end")) >= 10
    end)
    local starts, ends = reported("start"), reported("end")
    for flow, text in pairs(ends) do
      assert.equal(firefly.member(starts[flow], "start-time"), firefly.member(text, "start-time"))
    end

    -- What comes later is as ever: a single crash sets nothing aside.
    third:write(lines(200, 209))
    third:wait_for_counter("flowd_flows_open", 201)
    third:signal("KILL")
    third:wait(5)
    local fourth = start()
    assert.equal(201, fourth:counter("flowd_flows_open"))
    assert.not_matches("line by line", fourth:log())
    assert.equal(1, fourth:counter("flowd_input_set_aside_total"))
    assert.same({ code = 0 }, fourth:stop())
  end)

  it("in two places is set aside in two files", function()
    local d = start()
    d:write(lines(0, 9) .. poison(4000) .. lines(10, 19) .. poison(4001) .. lines(20, 29))
    d:wait(10)
    local deaths = 1
    repeat
      d = start({ ready = false })
      local ready
      process.wait_for("the daemon or its end", 10, function()
        ready = d:log():find("is ready")
        return ready or not d:running()
      end)
      deaths = deaths + (ready and 0 or 1)
    until ready
    -- In the batch, the first one alone, then the second one alone.
    assert.equal(3, deaths)
    d:wait_for_counter("flowd_flows_open", 32)
    assert.equal(2, d:counter("flowd_input_set_aside_total"))
    local _, files = set_aside_files():gsub("set%-aside", "")
    assert.equal(2, files)
    assert.same({ code = 0 }, d:stop())
  end)

  it("is logged whole when no file can be written", function()
    local d = start()
    d:write(poison(4000) .. lines(0, 9))
    d:wait(10)
    start({ ready = false }):wait(10)
    process.must({ "rm", "-r", dir .. "/lib" })
    temp.write(dir .. "/lib", "no directory")
    -- The directory is asked for at the start: lost since then is what is tried here.
    os.remove(dir .. "/lib")
    process.must({ "mkdir", dir .. "/lib" })
    process.must({ "mount", "-t", "tmpfs", "-o", "ro", "none", dir .. "/lib" })
    cleanup.add(function() process.run({ "umount", dir .. "/lib" }) end)
    local third = start()
    third:expect("cannot be set aside in .-: Read%-only file system: start tcp %S+ 4000 %S+ 6666 atlas 1")
    assert.equal(#poison(4000), third:counter("flowd_input_octets_lost_total"))
    third:wait_for_counter("flowd_flows_open", 10)
    assert.same({ code = 0 }, third:stop())
  end)
end)
