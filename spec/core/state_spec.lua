-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local counters = require("flowd.counters")
local daemon = require("spec.support.daemon")
local flows = require("spec.support.flows")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local C = ffi.C
ffi.cdef([[
int symlink(const char *, const char *);
int link(const char *, const char *);
int mkfifo(const char *, unsigned int);
int chmod(const char *, unsigned int);
int truncate(const char *, int64_t);
]])

describe("state file", function()
  before_each(flows.quiet)
  after_each(cleanup.all)

  local function mode_of(path)
    local pipe = io.popen("stat -c '%a %h' " .. path)
    local mode = pipe:read("*l")
    pipe:close()
    return mode
  end

  --- A child that has the file open until it is told to end.
  local function owner(path)
    local script = temp.write(temp.dir() .. "/own.lua", [[
      package.path = "./?.lua;" .. package.path
      require("spec.support.process")
      local flows = require("spec.support.flows")
      local s, t = flows.open_table(100, arg[1])
      local api, ffi = require("flowd.api"), require("ffi")
      local b = flows.batch({ { "start", 1, time = 1000, application = "one" }, { "start", 2, time = 2000, route = 3 },
        { "start", 3, time = 3000 } })
      api.flow_table_resolve(t, b)
      for i = 0, 2 do b.event[i].experiment, b.event[i].activity = 2, 20 + i end
      api.flow_table_commit(t, b, 0xff)
      api.flow_table_release(t, b)
      local input = api.state_input_open(s, "pipe:/x", 4096)
      ffi.copy(api.state_input_data(input), "start tcp half a line")
      api.state_input_set(input, 21, 6)
      api.state_name_id(s, "first")
      api.state_name_id(s, "second")
      api.state_backend_bit(s, "firefly")
      require("flowd.counters").get("flowd_flows_ended_total").value = 42
      require("flowd.counters").get("flowd_modules_failed").value = 42
      io.write("ready ", b.event[0].label, "\n")
      io.flush()
      io.read("*l")
    ]])
    local child = process.start({ daemon.binary(), "lua", script, path, stdin = "pipe" })
    child:expect("ready %d+\n", 10)
    return child, tonumber(child:stdout():match("ready (%d+)"))
  end

  it("is made 0600 whatever the umask, and is gone when closed for good", function()
    local path = temp.dir() .. "/state"
    local s = assert(flows.state(path))
    assert.equal("600 1", mode_of(path))
    api.state_close(s, true)
    assert.is_false(temp.exists(path))
    s = assert(flows.state(path))
    api.state_close(s, false)
    C.chmod(path, 438) -- 0666
    s = assert(flows.state(path))
    assert.equal("600 1", mode_of(path))
    api.state_close(s, true)
  end)

  it("is refused to a second daemon, which names the first's pid", function()
    local path = temp.dir() .. "/state"
    local child = owner(path)
    local s, message = flows.state(path)
    assert.is_nil(s)
    assert.equal(("another flowd-lua is running with pid %d (it owns %s)"):format(child.pid, path), message)
    -- Looking does not disturb.
    assert.is_truthy(require("flowd.stats").render(path, "text"))
    child:signal("KILL")
    child:wait(5)
    s = assert(flows.state(path))
    api.state_close(s, true)
  end)

  it("brings flows, input, names and counters of a killed daemon back", function()
    local path = temp.dir() .. "/state"
    local child, label = owner(path)
    child:signal("KILL")
    child:wait(5)
    local ended = counters.get("flowd_flows_ended_total")
    local before = ended.value
    local s, t = flows.open_table(100, path)
    assert.equal(3, api.flow_table_count(t))
    local f = api.flow_table_slot(t, api.flow_table_find(t, flows.key(1)))
    assert.equal(label, f.label)
    assert.equal(1000ULL, f.start_us)
    assert.equal(2, f.experiment)
    assert.equal(20, f.activity)
    assert.equal("one", ffi.string(f.application))
    assert.equal(3, api.flow_table_slot(t, api.flow_table_find(t, flows.key(2))).route)
    local input = api.state_input_open(s, "pipe:/x", 4096)
    assert.equal(21, input.length)
    assert.equal(6, input.consumed)
    assert.equal("start tcp half a line", ffi.string(api.state_input_data(input), 21))
    assert.equal(2, api.state_name_id(s, "second"))
    assert.equal("first", ffi.string(api.state_name(s, 1)))
    assert.equal(1, api.state_backend_bit(s, "marker"))
    assert.equal(0, api.state_backend_bit(s, "firefly"))
    -- A total goes on; a gauge begins anew; a handle from before keeps its place.
    assert.equal(before + 42, ended.value)
    assert.not_equal(42ULL, counters.get("flowd_modules_failed").value)
    assert.equal(1, api.state_header(s).adoptions)
  end)

  it("is not taken from what is no file of ours", function()
    local dir = temp.dir()
    local function refusal(path)
      local s, message = flows.state(path)
      assert.is_nil(s)
      return message
    end
    temp.write(dir .. "/real", "")
    C.symlink(dir .. "/real", dir .. "/symlink")
    assert.equal(("state file %s/symlink: is a symbolic link: remove it"):format(dir), refusal(dir .. "/symlink"))
    C.mkfifo(dir .. "/fifo", 384)
    assert.equal(("state file %s/fifo: not a regular file: remove it or choose another runtime_dir"):format(dir),
      refusal(dir .. "/fifo"))
    C.link(dir .. "/real", dir .. "/hard")
    assert.equal(("state file %s/hard: has other hard links: remove it or choose another runtime_dir"):format(dir),
      refusal(dir .. "/hard"))
    assert.equal(("state file %s/no/state: No such file or directory"):format(dir), refusal(dir .. "/no/state"))
    if ffi.C.getpid and os.execute("test $(id -u) = 0") == 0 then
      os.execute("chown 12345 " .. temp.write(dir .. "/other", ""))
      assert.is_truthy(refusal(dir .. "/other"):find("belongs to another user", 1, true))
    end
    for _, n in ipairs({ 0, 16777217 }) do
      local s, message = flows.state(dir .. "/new", n)
      assert.is_nil(s)
      assert.equal(("max_flows is %d, expected 1 to 16777216"):format(n), message)
    end
  end)

  it("keeps numbers of names and bits of backends apart, and says when there is no room", function()
    local s = flows.open_table(10)
    assert.equal(1, api.state_name_id(s, "a"))
    assert.equal(2, api.state_name_id(s, "b"))
    assert.equal(1, api.state_name_id(s, "a"))
    assert.equal(-22, api.state_name_id(s, ""))
    assert.equal(-22, api.state_name_id(s, ("x"):rep(64)))
    assert.equal(3, api.state_name_id(s, ("x"):rep(63)))
    assert.equal("", ffi.string(api.state_name(s, 99)))
    assert.equal("", ffi.string(api.state_name(s, 99999)))
    for bit = 0, 30 do assert.equal(bit, api.state_backend_bit(s, "backend" .. bit)) end
    assert.equal(-28, api.state_backend_bit(s, "one too many"))
    for i = 1, 2000 do
      local id = api.state_name_id(s, "n" .. i)
      if id < 0 then
        assert.equal(-28, id)
        assert.is_true(i > 900)
        return
      end
    end
    error("2000 names fit into 1023 numbers")
  end)

  describe("input buffers", function()
    it("are zero when new, and stay with what they hold until it is consumed", function()
      local s = flows.open_table(10)
      local a = api.state_input_open(s, "a", 5000)
      assert.equal(8192, a.capacity)
      local data = api.state_input_data(a)
      for i = 0, 8191 do assert.equal(0, data[i]) end
      ffi.fill(data, 8192, 65)
      api.state_input_set(a, 10, 4)
      api.state_input_close(s, a)
      a = api.state_input_open(s, "a", 100)
      assert.equal(10, a.length)
      assert.equal(4, a.consumed)
      assert.equal(8192, a.capacity)
      assert.equal(65, api.state_input_data(a)[9])
      api.state_input_set(a, 10, 10)
      api.state_input_close(s, a)
      -- Another owner of the same place sees nothing of it.
      local b = api.state_input_open(s, "b", 100)
      assert.equal(a.number, b.number)
      assert.equal(0, b.length)
      assert.equal(4096, b.capacity)
      for i = 0, 4095 do assert.equal(0, api.state_input_data(b)[i]) end
    end)

    it("are apart from each other, and refused when none is left, the name is in use or the size wrong", function()
      local s = flows.open_table(10)
      local refused = counters.get("flowd_inputs_refused_total")
      local before = refused.value
      local seen = {}
      for i = 1, 64 do
        local input = api.state_input_open(s, "input " .. i, 1)
        local data = api.state_input_data(input)
        data[0], data[4095] = i, i
        seen[i] = data
      end
      for i = 1, 64 do assert.equal(i, seen[i][0]) end
      assert.is_true(api.state_input_open(s, "input 65", 1) == nil)
      assert.is_true(api.state_input_open(s, "input 1", 1) == nil)
      assert.is_true(api.state_input_open(s, "", 1) == nil)
      assert.is_true(api.state_input_open(s, "x", 0) == nil)
      assert.is_true(api.state_input_open(s, "x", 1048577) == nil)
      assert.equal(before + 5, refused.value)
    end)
  end)

  describe("that is full", function()
    --- A file system of so many KiB.
    local function tiny(size)
      local dir = temp.dir()
      if os.execute(("mount -t tmpfs -o size=%dk none %s 2>/dev/null"):format(size, dir)) ~= 0 then
        pending("needs the right to mount a tmpfs")
      end
      cleanup.add(function() os.execute("umount -l " .. dir) end)
      return dir
    end

    it("refuses to start when not even the header fits, and leaves nothing", function()
      local dir = tiny(256)
      local s, message = flows.state(dir .. "/state")
      assert.is_nil(s)
      assert.equal(("state file %s/state: No space left on device"):format(dir), message)
      assert.is_false(temp.exists(dir .. "/state"))
    end)

    it("refuses and counts flows and buffers, keeps the others, and goes on when there is room", function()
      local dir = tiny(4096)
      local s, t = flows.open_table(100000, dir .. "/state")
      local refused = counters.get("flowd_flows_refused_total", { reason = "no_space" })
      local before = refused.value
      local opened, seen = 0, 0
      local function start_block(block)
        local events = {}
        for i = 1, 1000 do events[i] = { "start", block * 1000 + i } end
        local b = flows.batch(events)
        api.flow_table_resolve(t, b)
        for i = 0, 999 do b.event[i].experiment = 2 end
        api.flow_table_commit(t, b, 1)
        for i = 0, 999 do
          if flows.has(b.event[i], C.EVENT_DELIVER) then opened = opened + 1 end
        end
        api.flow_table_release(t, b)
      end
      for block = 0, 29 do start_block(block) end
      assert.is_true(opened > 4000 and opened < 20000, opened)
      assert.equal(30000 - opened, tonumber(refused.value - before))
      assert.equal(opened, api.flow_table_count(t))
      for i = 1, 30000 do
        if api.flow_table_find(t, flows.key(i)) >= 0 then seen = seen + 1 end
      end
      assert.equal(opened, seen)
      assert.is_true(api.state_input_open(s, "no room", 1048576) == nil)

      assert.equal(0, os.execute("mount -o remount,size=32768k " .. dir))
      local block = 30
      process.wait_for("a flow after the file system has grown", 5, function()
        local last = opened
        start_block(block)
        block = block + 1
        return opened == last + 1000
      end)
    end)
  end)
end)
