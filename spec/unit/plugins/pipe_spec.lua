-- SPDX-License-Identifier: Apache-2.0
-- The pipe plugin with its context, loop and state file; only the pipeline is the test's own.
local api = require("flowd.api")
local ffi = require("ffi")
local bit = require("bit")
local context = require("flowd.context")
local loop = require("flowd.loop")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")
local pipe = require("plugins.pipe")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
int mkfifo(const char *path, unsigned int mode);
int symlink(const char *target, const char *path);
int geteuid(void);
]])
local C = ffi.C

local O_WRONLY, O_NONBLOCK, O_CLOEXEC = 1, 0x800, 0x80000
local F_SETFL = 4

local function line(port, ending)
  return ("start tcp 192.0.2.1 %d 198.51.100.7 443 2 16%s"):format(port, ending or "\n")
end

local function lines(first, last)
  local all = {}
  for port = first, last do all[#all + 1] = line(port) end
  return table.concat(all)
end

local function numbers(first, last)
  local all = {}
  for n = first, last do all[#all + 1] = n end
  return all
end

-- A writer's descriptor, as text(), and close().
local function open_writer(path)
  local fd = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
  assert(fd >= 0, path .. ": " .. process.errno_text())
  local writer = { fd = fd }
  local token = cleanup.add(function() C.close(fd) end)
  function writer.put(text) assert.equal(#text, tonumber(C.write(fd, text, #text))) end
  function writer.close()
    cleanup.forget(token)
    C.close(fd)
  end
  return writer
end

local function write_once(path, text)
  local writer = open_writer(path)
  writer.put(text)
  writer.close()
end

describe("the pipe plugin", function()
  local dir, path, state, ctx, instance, ports, sources, run_batch, level

  local function start(options)
    options = options or {}
    options.paths = options.paths or { path }
    local completed, errors = schema.validate(pipe.schema, options)
    assert.same({}, errors)
    local batch = ffi.new("struct flow_batch")
    ctx = context.new({
      name = "pipe", kind = "plugin", options = completed, batch = batch, state = state, source_id = 9,
      run_batch = function(b) return run_batch(b) end,
    })
    local message
    instance, message = plugins.start(pipe, ctx)
    return instance, message
  end

  local function stop()
    if instance then plugins.stop(instance) end
    instance = nil
  end

  local function value(name, labels) return tonumber(ctx:counter(name, labels).value) end

  local function refused(reason) return value("flowd_lines_refused_total", { plugin = "pipe", reason = reason }) end

  -- Turn the loop until the events of these ports have come, in this order.
  local function expect(expected, seconds)
    local ok, message = pcall(process.wait_for, "events", seconds or 5, function()
      loop.turn()
      return #ports >= #expected
    end)
    if not ok and #ports == 0 then error(message) end
    assert.same(expected, ports)
  end

  local function turn_until(what, condition)
    process.wait_for(what, 5, function()
      loop.turn()
      return condition()
    end)
  end

  before_each(function()
    level = api.log_get_level()
    api.log_setup(5, false)
    dir = temp.dir()
    path = dir .. "/np"
    local message = ffi.new("char[512]")
    state = api.state_open(dir .. "/state", 1000, message, 512)
    assert.is_true(state ~= nil, ffi.string(message))
    ports, sources = {}, {}
    run_batch = function(b)
      for i = 0, b.count - 1 do
        ports[#ports + 1] = b.event[i].key.src_port
        sources[b.event[i].source] = true
      end
    end
    cleanup.add(function()
      stop()
      api.state_close(state, true)
      api.log_setup(level, false)
    end)
  end)
  after_each(cleanup.all)

  it("makes its pipe at the start and removes it at the end", function()
    start({ mode = "0622" })
    assert.equal("fifo 622\n", process.must({ "stat", "-c", "%F %a", path }))
    stop()
    assert.is_false(temp.exists(path))
    assert.equal("state\n", process.must({ "ls", "-A", dir }))
  end)

  it("turns lines into events of its own", function()
    start()
    local before = value("flowd_lines_total", { plugin = "pipe" })
    write_once(path, lines(1, 5))
    expect(numbers(1, 5))
    assert.same({ [9] = true }, sources)
    assert.equal(before + 5, value("flowd_lines_total", { plugin = "pipe" }))
  end)

  it("serves writers that come and go", function()
    start()
    for port = 1, 200 do
      write_once(path, line(port))
      if port % 3 ~= 0 then loop.turn() end
      if port % 5 == 0 then expect(numbers(1, port)) end
    end
    expect(numbers(1, 200))
  end)

  it("takes a last line without newline when its writer closes, however the timing", function()
    start()
    local expected = {}
    for port = 1, 120 do
      local writer = open_writer(path)
      writer.put(line(port, ""))
      for _ = 1, port % 4 do loop.turn() end
      assert.same(expected, ports)
      writer.close()
      expected[port] = port
      expect(expected)
    end
  end)

  it("takes the last line of a writer that came and went unseen between two of our looks", function()
    start()
    write_once(path, line(1))
    write_once(path, line(2, ""))
    expect({ 1, 2 })
    -- The descriptor is new and has never seen a writer.
    write_once(path, line(3, ""))
    expect({ 1, 2, 3 })
    write_once(path, line(4):rep(3000) .. line(5, ""))
    turn_until("the last line", function() return ports[#ports] == 5 end)
    assert.equal(3004, #ports)
  end)

  it("joins what one writer writes in pieces", function()
    start()
    local text = lines(1, 3)
    for at = 1, #text - 1, 5 do
      ports = {}
      local writer = open_writer(path)
      writer.put(text:sub(1, at))
      loop.turn()
      loop.turn()
      writer.put(text:sub(at + 1))
      expect({ 1, 2, 3 })
      writer.close()
    end
  end)

  it("is silent when nobody writes", function()
    start()
    write_once(path, line(1))
    expect({ 1 })
    loop.turn()
    -- Nothing but a timer: the loop sleeps until it fires.
    local before = os.clock()
    loop.after(0.3, function() loop.stop() end)
    loop.run()
    local busy = os.clock() - before
    assert.is_true(busy < 0.05, busy)
  end)

  it("makes the writer wait while the pipeline is busy, and loses nothing", function()
    start()
    local writer = open_writer(path)
    local text, sent = lines(1, 60), 0
    -- Without a turn of the loop the kernel's buffer is all there is.
    while tonumber(C.write(writer.fd, text, #text)) == #text do sent = sent + 1 end
    assert.is_true(sent * #text > 400000 and sent * #text <= 1048576)
    turn_until("all lines", function() return #ports >= sent * 60 end)
    for i, port in ipairs(ports) do assert.equal((i - 1) % 60 + 1, port) end
    C.fcntl(writer.fd, F_SETFL, ffi.cast("int", O_NONBLOCK))
    writer.close()
  end)

  it("gives several pipes their turns", function()
    local second = dir .. "/second"
    start({ paths = { path, second } })
    local writer = open_writer(path)
    writer.put(line(1):rep(10000))
    write_once(second, line(2))
    turn_until("all lines", function() return #ports == 10001 end)
    -- The other one's line did not have to wait for all of the first.
    local at
    for i, port in ipairs(ports) do at = port == 2 and i or at end
    assert.is_true(at < 8000, at)
    writer.close()
  end)

  it("survives a pipeline that raises", function()
    start()
    local good = run_batch
    run_batch = function() error("broken") end
    write_once(path, lines(1, 3))
    turn_until("the error", function() return value("flowd_input_errors_total", { plugin = "pipe" }) > 0 end)
    run_batch = good
    write_once(path, line(4))
    expect({ 4 })
  end)

  it("counts refused lines by reason", function()
    start()
    local before = refused("port")
    local too_long = refused("too_long")
    write_once(path, line(0) .. line(1) .. ("x"):rep(5000) .. "\n" .. line(2))
    expect({ 1, 2 })
    assert.equal(before + 1, refused("port"))
    assert.equal(too_long + 1, refused("too_long"))
  end)

  describe("when its pipe is removed", function()
    it("makes it again", function()
      start()
      os.remove(path)
      turn_until("a new pipe", function() return temp.exists(path) end)
      write_once(path, line(1))
      expect({ 1 })
      stop()
      assert.is_false(temp.exists(path))
    end)

    it("first reads what was written to the old one", function()
      start()
      write_once(path, lines(1, 100) .. line(101, ""))
      os.remove(path)
      C.mkfifo(path, 384)
      local writer = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
      assert.equal(-1, writer) -- nobody reads it yet
      turn_until("a reader of the new one", function()
        writer = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
        return writer >= 0
      end)
      C.close(writer)
      assert.same(numbers(1, 101), ports)
      write_once(path, line(102))
      expect(numbers(1, 102))
      -- That one is not ours.
      stop()
      assert.is_true(temp.exists(path))
    end)

    it("still hears writers that have the old one open", function()
      start()
      local old = open_writer(path)
      old.put(line(1, ""))
      expect({})
      os.remove(path)
      turn_until("a new pipe", function() return temp.exists(path) end)
      write_once(path, line(2))
      expect({ 2 })
      old.put("\n" .. line(3))
      expect({ 2, 1, 3 })
      write_once(path, line(4))
      old.put(line(5, ""))
      turn_until("both", function() return #ports == 4 end)
      old.close()
      turn_until("the last line of the old one", function() return #ports == 5 end)
      assert.equal(5, ports[5])
    end)

    it("gives up the old one's buffer with its last writer", function()
      start()
      local function inputs()
        local n = 0
        for i = 0, C.STATE_INPUTS_MAX - 1 do
          if api.state_input_at(state, i) ~= nil then n = n + 1 end
        end
        return n
      end
      local before = value("flowd_fifo_replaced_total", { plugin = "pipe" })
      for round = 1, 4 do
        local old = open_writer(path)
        old.put(line(round))
        os.remove(path)
        turn_until("a new pipe", function() return temp.exists(path) end)
        assert.equal(2, inputs())
        old.close()
        turn_until("the end of the old one", function() return inputs() == 1 end)
      end
      expect(numbers(1, 4))
      assert.equal(before + 4, value("flowd_fifo_replaced_total", { plugin = "pipe" }))
    end)

    it("leaves the path for a moment to whoever removed it", function()
      start()
      os.remove(path)
      local deadline = process.now() + 0.05
      repeat loop.turn() until process.now() > deadline
      assert.equal(0, C.mkfifo(path, 384))
      turn_until("a reader", function()
        local fd = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
        if fd >= 0 then C.close(fd) end
        return fd >= 0
      end)
    end)

    it("does not touch what took its place, and takes it up when that is gone", function()
      start()
      local before = value("flowd_fifo_failures_total", { plugin = "pipe" })
      os.remove(path)
      temp.write(path, "lost\n")
      turn_until("the failure", function()
        return value("flowd_fifo_failures_total", { plugin = "pipe" }) == before + 1
      end)
      assert.equal("lost\n", temp.read(path))
      os.remove(path)
      turn_until("a new pipe", function() return temp.exists(path) end)
      write_once(path, line(1))
      expect({ 1 })
    end)

    it("renames a regular file in its place when it may", function()
      start({ replace_regular_file = true })
      os.remove(path)
      temp.write(path, "lost\n")
      turn_until("a reader", function()
        local fd = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
        local is_fifo = fd >= 0 and process.must({ "stat", "-c", "%F", path }) == "fifo\n"
        if fd >= 0 then C.close(fd) end
        return is_fifo
      end)
      assert.matches("np%.replaced%-%d+T%d+Z", process.must({ "ls", dir }))
    end)
  end)

  it("survives that its directory is removed and made again", function()
    local below = dir .. "/below"
    process.must({ "mkdir", below })
    start({ paths = { below .. "/np" } })
    process.must({ "rm", "-r", below })
    for _ = 1, 5 do loop.turn() end
    process.must({ "mkdir", below })
    process.wait_for("a new pipe", 8, function()
      loop.turn()
      return temp.exists(below .. "/np")
    end)
    write_once(below .. "/np", line(1))
    expect({ 1 })
  end)

  it("uses a pipe that was there and leaves it there", function()
    C.mkfifo(path, 384)
    start()
    write_once(path, line(1))
    expect({ 1 })
    stop()
    assert.is_true(temp.exists(path))
    assert.equal("600\n", process.must({ "stat", "-c", "%a", path }))
  end)

  it("takes what was written before a pipe that was there had a reader", function()
    C.mkfifo(path, 384)
    local writer = process.start({ "sh", "-c", "echo '" .. line(1, "") .. "' > " .. path })
    start()
    expect({ 1 })
    assert.equal(0, writer:wait(5).code)
  end)

  it("reads all that was written before it stops", function()
    start()
    local writer = open_writer(path)
    writer.put(lines(1, 9000))
    stop()
    assert.same(numbers(1, 9000), ports)
    -- The next write finds no reader.
    assert.equal(-1, tonumber(C.write(writer.fd, "x", 1)))
    writer.close()
  end)

  it("does not guess the end of a line whose writer it cannot wait for", function()
    start()
    local before = refused("unfinished")
    local writer = open_writer(path)
    writer.put(line(1) .. "start tcp 192.0.2.1 2 198.51.100.7 443 2 1")
    stop()
    assert.same({ 1 }, ports)
    assert.equal(before + 1, refused("unfinished"))
    -- A writer that closed has finished its line.
    start()
    write_once(path, line(7, ""))
    stop()
    assert.same({ 1, 7 }, ports)
  end)

  it("stops even when a writer never does", function()
    start()
    local flood = process.start({ "sh", "-c", "exec yes '" .. line(1, "") .. "' > " .. path, stderr = "null" })
    turn_until("the flood", function() return #ports > 0 end)
    local before = process.now()
    stop()
    assert.is_true(process.now() - before < 2)
    assert.same({ signal = "PIPE" }, flood:wait(5))
  end)

  it("does not start where it cannot, names every problem and leaves nothing", function()
    temp.write(dir .. "/file", "")
    C.symlink("np", dir .. "/link")
    local result, message = start({ paths = { path, dir .. "/file", dir .. "/link", dir .. "/no/np" } })
    assert.is_nil(result)
    assert.matches(dir .. "/file: expected a FIFO or nothing, found a regular file", message, 1, true)
    assert.matches(dir .. "/link: expected a FIFO or nothing, found a symbolic link", message, 1, true)
    assert.matches("the directory " .. dir .. "/no does not exist", message, 1, true)
    assert.is_nil(message:find("traceback"))
    assert.is_false(temp.exists(path))
  end)

  it("says which user or group is unknown", function()
    local result, message = start({ owner = "nobody-knows" })
    assert.is_nil(result)
    assert.equal('there is no user "nobody-knows"', message)
    result, message = start({ group = "nobody-knows" })
    assert.is_nil(result)
    assert.equal('there is no group "nobody-knows"', message)
  end)

  it("refuses a path that is listed twice", function()
    local _, errors = schema.validate(pipe.schema, { paths = { "/run/a", "/run/b", "/run/a" } })
    assert.equal("paths", errors[1].path)
    assert.matches('"/run/a" is listed twice', errors[1].message, 1, true)
  end)

  -- The source of a process that runs the plugin in the directory arg[1]; `script` runs for each batch.
  local function daemon_source(script)
    return [[
      local api, ffi, loop = require("flowd.api"), require("ffi"), require("flowd.loop")
      local context, plugins = require("flowd.context"), require("flowd.plugins")
      local schema, pipe = require("flowd.schema"), require("plugins.pipe")
      local state = api.state_open(arg[1] .. "/state", 1000, ffi.new("char[512]"), 512)
      local ctx = context.new({ name = "pipe", kind = "plugin", batch = ffi.new("struct flow_batch"), state = state,
        options = schema.validate(pipe.schema, { paths = { arg[1] .. "/np" } }), source_id = 9,
        run_batch = function(batch) ]] .. script .. [[ end })
      assert(plugins.start(pipe, ctx))
      io.stdout:write("ready\n")
      io.stdout:flush()
      loop.run()
    ]]
  end

  it("goes on when it cannot open its pipe a second time", function()
    if C.geteuid() ~= 0 then return pending("needs root, to become somebody else") end
    process.must({ "chmod", "711", dir })
    local theirs = dir .. "/theirs"
    process.must({ "install", "-d", "-o", "nobody", theirs })
    local file = temp.write(dir .. "/theirs.lua", daemon_source(
      "for i = 0, batch.count - 1 do print(batch.event[i].key.src_port) end io.stdout:flush()"))
    process.must({ "chmod", "644", file })
    local child = process.start({ "setpriv", "--reuid=65534", "--clear-groups", daemon.public_binary(), "lua", file, theirs })
    child:expect("ready")
    process.must({ "chmod", "0", theirs .. "/np" })
    write_once(theirs .. "/np", line(1))
    child:expect("1\n")
    child:expect("cannot be opened again: Permission denied")
    write_once(theirs .. "/np", line(2, ""))
    child:expect("2\n")
    local writer = open_writer(theirs .. "/np")
    writer.put(line(3))
    child:expect("3\n")
    process.must({ "chmod", "600", theirs .. "/np" })
    writer.close()
    write_once(theirs .. "/np", line(4))
    child:expect("4\n")
    assert.equal("ready\n1\n2\n3\n4\n", child:stdout())
    local _, said = child:stderr():gsub("cannot be opened again", "")
    assert.equal(1, said)
    child:stop()
  end)

  describe("after a kill", function()
    -- What a killed daemon leaves: a state file and a FIFO, nothing removed.
    local function leave(script)
      local file = temp.write(dir .. "/killed.lua", daemon_source(script))
      api.state_close(state, true)
      local child = process.start({ daemon.binary(), "lua", file, dir })
      child:expect("ready")
      return child
    end

    local function take_over()
      local message = ffi.new("char[512]")
      state = api.state_open(dir .. "/state", 1000, message, 512)
      assert.is_true(state ~= nil, ffi.string(message))
      start()
    end

    it("goes on with the lines that were read and not done", function()
      local child = leave("io.stdout:write('batch\\n') io.stdout:flush() while true do end")
      local writer = open_writer(path)
      writer.put(lines(1, 3) .. line(4, ""))
      child:expect("batch")
      child:stop()
      take_over()
      expect({ 1, 2, 3 })
      writer.put("\n" .. line(5))
      expect({ 1, 2, 3, 4, 5 })
    end)

    it("knows the pipe that it made itself, and removes it", function()
      leave(""):stop()
      assert.is_true(temp.exists(path))
      take_over()
      write_once(path, line(1))
      expect({ 1 })
      stop()
      assert.is_false(temp.exists(path))
    end)
  end)

  it("hands lines to a plugin of another format", function()
    start({ paths = { dir .. "/unused" } })
    local seen = {}
    local handle = ctx:fifo({ path = path, on_line = function(text)
      if text == "bad" then error("cannot read that") end
      seen[#seen + 1] = text
    end })
    write_once(path, "one\nbad\n\0two\nlast")
    turn_until("the lines", function() return #seen == 3 end)
    assert.same({ "one", "\0two", "last" }, seen)
    ctx:release(handle)
    assert.is_false(temp.exists(path))
    assert.same({}, ports)
  end)
end)
