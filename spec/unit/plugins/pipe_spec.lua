-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local loop = require("flowd.loop")
local schema = require("flowd.schema")
local pipe = require("plugins.pipe")
local cleanup = require("spec.support.cleanup")
local piping = require("spec.support.piping")
local process = require("spec.support.process")
local stopwatch = require("spec.support.stopwatch")
local temp = require("spec.support.temp")

ffi.cdef([[
int symlink(const char *target, const char *path);
]])
local C = ffi.C

local O_NONBLOCK = 0x800
local F_SETFL = 4
local line, lines, numbers = piping.line, piping.lines, piping.numbers
local open_writer, write_once = piping.open_writer, piping.write_once

describe("the pipe plugin", function()
  local p
  before_each(function() p = piping.new() end)
  after_each(cleanup.all)

  it("makes its pipe at the start and removes it at the end", function()
    p:start({ mode = "0622" })
    assert.equal("fifo 622\n", process.must({ "stat", "-c", "%F %a", p.path }))
    p:stop()
    assert.is_false(temp.exists(p.path))
    assert.equal("state\n", process.must({ "ls", "-A", p.dir }))
  end)

  it("turns lines into events of its own", function()
    p:start()
    local before = p:value("flowd_lines_total", { plugin = "pipe" })
    write_once(p.path, lines(1, 5))
    p:expect(numbers(1, 5))
    assert.same({ [9] = true }, p.sources)
    assert.equal(before + 5, p:value("flowd_lines_total", { plugin = "pipe" }))
  end)

  it("serves writers that come and go", function()
    p:start()
    for port = 1, 200 do
      write_once(p.path, line(port))
      if port % 3 ~= 0 then loop.turn() end
      if port % 5 == 0 then p:expect(numbers(1, port)) end
    end
    p:expect(numbers(1, 200))
  end)

  it("takes a last line without newline when its writer closes, however the timing", function()
    p:start()
    local expected = {}
    for port = 1, 120 do
      local writer = open_writer(p.path)
      writer.put(line(port, ""))
      for _ = 1, port % 4 do loop.turn() end
      assert.same(expected, p.ports)
      writer.close()
      expected[port] = port
      p:expect(expected)
    end
  end)

  it("takes the last line of a writer that came and went unseen between two of our looks", function()
    p:start()
    write_once(p.path, line(1))
    write_once(p.path, line(2, ""))
    p:expect({ 1, 2 })
    -- The descriptor is new and has never seen a writer.
    write_once(p.path, line(3, ""))
    p:expect({ 1, 2, 3 })
    write_once(p.path, line(4):rep(3000) .. line(5, ""))
    p:turn_until("the last line", function() return p.ports[#p.ports] == 5 end)
    assert.equal(3004, #p.ports)
  end)

  it("joins what one writer writes in pieces", function()
    p:start()
    local text = lines(1, 3)
    for at = 1, #text - 1, 5 do
      p.ports = {}
      local writer = open_writer(p.path)
      writer.put(text:sub(1, at))
      loop.turn()
      loop.turn()
      writer.put(text:sub(at + 1))
      p:expect({ 1, 2, 3 })
      writer.close()
    end
  end)

  it("is silent when nobody writes", function()
    p:start()
    write_once(p.path, line(1))
    p:expect({ 1 })
    loop.turn()
    -- Nothing but a timer: the loop sleeps until it fires.
    local before = os.clock()
    loop.after(0.3, function() loop.stop() end)
    loop.run()
    local busy = os.clock() - before
    assert.is_true(busy < 0.05, busy)
  end)

  it("makes the writer wait while the pipeline is busy, and loses nothing", function()
    p:start()
    local writer = open_writer(p.path)
    local text, sent = lines(1, 60), 0
    -- Without a turn of the loop the kernel's buffer is all there is.
    while tonumber(C.write(writer.fd, text, #text)) == #text do sent = sent + 1 end
    assert.is_true(sent * #text > 400000 and sent * #text <= 1048576)
    p:turn_until("all lines", function() return #p.ports >= sent * 60 end)
    for i, port in ipairs(p.ports) do assert.equal((i - 1) % 60 + 1, port) end
    C.fcntl(writer.fd, F_SETFL, ffi.cast("int", O_NONBLOCK))
    writer.close()
  end)

  it("gives several pipes their turns", function()
    local second = p.dir .. "/second"
    p:start({ paths = { p.path, second } })
    local writer = open_writer(p.path)
    writer.put(line(1):rep(10000))
    write_once(second, line(2))
    p:turn_until("all lines", function() return #p.ports == 10001 end)
    -- The other one's line did not have to wait for all of the first.
    local at
    for i, port in ipairs(p.ports) do at = port == 2 and i or at end
    assert.is_true(at < 8000, at)
    writer.close()
  end)

  it("survives a pipeline that raises", function()
    p:start()
    local good = p.run_batch
    p.run_batch = function() error("broken") end
    write_once(p.path, lines(1, 3))
    p:turn_until("the error", function() return p:value("flowd_input_errors_total", { plugin = "pipe" }) > 0 end)
    p.run_batch = good
    write_once(p.path, line(4))
    p:expect({ 4 })
  end)

  it("counts refused lines by reason", function()
    p:start()
    local before = p:refused("port")
    local too_long = p:refused("too_long")
    write_once(p.path, line(0) .. line(1) .. ("x"):rep(5000) .. "\n" .. line(2))
    p:expect({ 1, 2 })
    assert.equal(before + 1, p:refused("port"))
    assert.equal(too_long + 1, p:refused("too_long"))
  end)

  it("uses a pipe that was there and leaves it there", function()
    C.mkfifo(p.path, 384)
    p:start()
    write_once(p.path, line(1))
    p:expect({ 1 })
    p:stop()
    assert.is_true(temp.exists(p.path))
    assert.equal("600\n", process.must({ "stat", "-c", "%a", p.path }))
  end)

  it("takes what was written before a pipe that was there had a reader", function()
    C.mkfifo(p.path, 384)
    local writer = process.start({ "sh", "-c", "echo '" .. line(1, "") .. "' > " .. p.path })
    p:start()
    p:expect({ 1 })
    assert.equal(0, writer:wait(5).code)
  end)

  it("reads all that was written before it stops", function()
    p:start()
    local writer = open_writer(p.path)
    writer.put(lines(1, 9000))
    p:stop()
    assert.same(numbers(1, 9000), p.ports)
    -- The next write finds no reader.
    assert.equal(-1, tonumber(C.write(writer.fd, "x", 1)))
    writer.close()
  end)

  it("does not guess the end of a line whose writer it cannot wait for", function()
    p:start()
    local before = p:refused("unfinished")
    local writer = open_writer(p.path)
    writer.put(line(1) .. "start tcp 192.0.2.1 2 198.51.100.7 443 2 1")
    p:stop()
    assert.same({ 1 }, p.ports)
    assert.equal(before + 1, p:refused("unfinished"))
    -- A writer that closed has finished its line.
    p:start()
    write_once(p.path, line(7, ""))
    p:stop()
    assert.same({ 1, 7 }, p.ports)
  end)

  it("stops even when a writer never does", function()
    p:start()
    local flood = process.start({ "sh", "-c", "exec yes '" .. line(1, "") .. "' > " .. p.path, stderr = "null" })
    p:turn_until("the flood", function() return #p.ports > 0 end)
    local watch = stopwatch.start()
    p:stop()
    assert.is_true(watch:seconds() < 2)
    assert.same({ signal = "PIPE" }, flood:wait(5))
  end)

  it("does not start where it cannot, names every problem and leaves nothing", function()
    temp.write(p.dir .. "/file", "")
    C.symlink("np", p.dir .. "/link")
    local result, message = p:start({ paths = { p.path, p.dir .. "/file", p.dir .. "/link", p.dir .. "/no/np" } })
    assert.is_nil(result)
    assert.matches(p.dir .. "/file: expected a FIFO or nothing, found a regular file", message, 1, true)
    assert.matches(p.dir .. "/link: expected a FIFO or nothing, found a symbolic link", message, 1, true)
    assert.matches("the directory " .. p.dir .. "/no does not exist", message, 1, true)
    assert.is_nil(message:find("traceback"))
    assert.is_false(temp.exists(p.path))
  end)

  it("says which user or group is unknown", function()
    local result, message = p:start({ owner = "nobody-knows" })
    assert.is_nil(result)
    assert.equal('there is no user "nobody-knows"', message)
    result, message = p:start({ group = "nobody-knows" })
    assert.is_nil(result)
    assert.equal('there is no group "nobody-knows"', message)
  end)

  it("refuses a path that is listed twice", function()
    local _, errors = schema.validate(pipe.schema, { paths = { "/run/a", "/run/b", "/run/a" } })
    assert.equal("paths", errors[1].path)
    assert.matches('"/run/a" is listed twice', errors[1].message, 1, true)
  end)


  it("hands lines to a plugin of another format", function()
    p:start({ paths = { p.dir .. "/unused" } })
    local seen = {}
    local handle = p.ctx:fifo({ path = p.path, on_line = function(text)
      if text == "bad" then error("cannot read that") end
      seen[#seen + 1] = text
    end })
    write_once(p.path, "one\nbad\n\0two\nlast")
    p:turn_until("the lines", function() return #seen == 3 end)
    assert.same({ "one", "\0two", "last" }, seen)
    p.ctx:release(handle)
    assert.is_false(temp.exists(p.path))
    assert.same({}, p.ports)
  end)
end)
