-- SPDX-License-Identifier: Apache-2.0
--- A state file damaged in every field: whatever stands in it, the daemon starts, what it takes
-- over is plausible, and the rest is given up and counted.
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local counters = require("flowd.counters")
local flows = require("spec.support.flows")
local process = require("spec.support.process")
local stats = require("flowd.stats")
local temp = require("spec.support.temp")

ffi.cdef([[
long pwrite(int, const void *, size_t, int64_t);
int truncate(const char *, int64_t);
int ftruncate(int, int64_t);
]])
local C = ffi.C
local O_WRONLY, O_CREAT = 1, 64
local MAX = 50
local FLOWS = 5

-- Where things stand in layout version 1: written down once more, so that a change of the
-- layout without a change of its version shows.
local NAMES, INPUTS, COUNTERS, INPUT_DATA = 4096, 69632, 131072, 1179648
local SLOTS = INPUT_DATA + 64 * 1048576

describe("a damaged state file", function()
  local original, dir

  before_each(flows.quiet)
  after_each(cleanup.all)

  local function read_at(path, offset, size)
    local file = assert(io.open(path, "rb"))
    file:seek("set", offset)
    local octets = file:read(size)
    file:close()
    return { offset = offset, octets = octets }
  end

  local damaged = counters.get("flowd_flows_not_adopted_total", { reason = "damaged" })
  local damaged_name = counters.get("flowd_state_damaged_total", { part = "name" })
  local damaged_input = counters.get("flowd_state_damaged_total", { part = "input" })

  --- The file of a killed daemon with FLOWS open flows. Its counters of damage are 0: what it counted
  --- goes on when it is taken over.
  local function make()
    damaged.value, damaged_name.value, damaged_input.value = 0, 0, 0
    dir = temp.dir()
    local s, t = flows.open_table(MAX, dir .. "/made")
    local events = {}
    for i = 1, FLOWS do events[i] = { "start", i, time = 1000 + i, application = "app" .. i } end
    local b = flows.batch(events)
    api.flow_table_resolve(t, b)
    for i = 0, FLOWS - 1 do b.event[i].experiment, b.event[i].activity = 2 + i, 7 end
    api.flow_table_commit(t, b, 0xff)
    api.flow_table_release(t, b)
    api.state_name_id(s, "pipe")
    local input = api.state_input_open(s, "pipe:/x", 4096)
    api.state_input_set(input, 90, 30)
    local path = flows.snapshot()
    flows.close()
    original = { read_at(path, 0, COUNTERS + 64 * 128), read_at(path, INPUT_DATA, 4096), read_at(path, SLOTS, 4096) }
  end

  local function write_at(path, offset, octets)
    local fd = C.open(path, O_WRONLY)
    assert(fd >= 0)
    assert(tonumber(C.pwrite(fd, octets, #octets, offset)) == #octets)
    C.close(fd)
  end

  --- A copy of the parts that are not zero; the holes are filled when it is taken over.
  local function copy()
    local path = dir .. "/state"
    local fd = C.open(path, O_WRONLY + O_CREAT, ffi.cast("int", 384))
    assert(fd >= 0)
    for _, part in ipairs(original) do assert(tonumber(C.pwrite(fd, part.octets, #part.octets, part.offset)) > 0) end
    assert(C.ftruncate(fd, SLOTS + 4096 * 192) == 0)
    C.close(fd)
    return path
  end

  --- Open it as a daemon does, look at every flow, and work with it.
  local function open_and_use(path, what)
    local s, t = flows.open_table(MAX, path)
    local n, slot = 0, api.flow_table_next(t, 0)
    while slot >= 0 do
      local f = api.flow_table_slot(t, slot)
      local plausible = f.experiment >= 1 and f.experiment <= 511 and f.activity >= 1 and f.activity <= 63
        and api.label_experiment(f.label) == f.experiment and api.label_activity(f.label) == f.activity
        and f.label <= 0xfffff and f.route >= 0 and f.start_us > 0 and #ffi.string(f.application) < 48
        and api.flow_table_find(t, f.key) == slot
      if not plausible then error(what .. ": flow in slot " .. slot .. " was taken over as it is") end
      n = n + 1
      slot = api.flow_table_next(t, slot + 1)
    end
    if n ~= api.flow_table_count(t) or n > FLOWS then error(what .. ": " .. n .. " flows") end
    for i = 0, 63 do
      local input = api.state_input_at(s, i)
      if input ~= nil and not (input.consumed <= input.length and input.length <= input.capacity) then
        error(what .. ": input " .. i)
      end
    end
    api.state_input_open(s, "pipe:/x", 4096)
    assert(api.state_name_id(s, "another") > 0, what)
    local b = flows.batch({ { "start", 30, time = 5000 }, { "end", 1, time = 6000 }, { "start", 1, time = 7000 } })
    api.flow_table_resolve(t, b)
    for i = 0, 2 do b.event[i].experiment = 2 end
    api.flow_table_commit(t, b, 1)
    for i = 0, 2 do
      if not flows.has(b.event[i], C.EVENT_DELIVER) then error(what .. ": event " .. i .. " is not delivered") end
    end
    api.flow_table_release(t, b)
    api.flow_table_settle(t)
    assert(api.flow_table_drain(t, b) >= 2, what)
    api.flow_table_release(t, b)
    flows.close()
    return n
  end

  local values = { "\0\0\0\0", "\255\255\255\255", "\255\255\255\127", "\1\0\0\0", "garb" }

  --- Each word of `size` octets at `offset`, one at a time, with each of the first `most` values.
  local function damage(what, offset, size, most)
    local lost = 0
    for at = 0, size - 4, 4 do
      for i = 1, most or #values do
        local value = values[i]
        local path = copy()
        write_at(path, offset + at, value)
        local where = ("%s + %d, value %d"):format(what, at, i)
        assert.is_string(stats.render(path, "json") or select(2, stats.render(path, "json")), where)
        local before = damaged.value
        local n = open_and_use(path, where)
        -- What is given up is one flow and counted, or the whole file. A slot that says it is free is free.
        if n < FLOWS and n > 0 and damaged.value - before ~= FLOWS - n and value ~= values[1] then
          error(where .. ": not counted")
        end
        if n < FLOWS then lost = lost + 1 end
      end
    end
    return lost
  end

  it("starts from what is intact: the unharmed file gives all flows back", function()
    make()
    assert.equal(FLOWS, open_and_use(copy(), "unharmed"))
  end)

  it("is taken over or made anew whatever its header says", function()
    make()
    local used = ffi.offsetof("struct state_header", "undo")
    assert.is_true(damage("header", 0, used) > 20)
    damage("running", ffi.offsetof("struct state_header", "running"), ffi.sizeof("struct state_running"), 2)
  end)

  it("loses only the flow whose slot is damaged", function()
    make()
    local lost = damage("slot", SLOTS, ffi.sizeof("struct flow_slot"))
    assert.is_true(lost > 30, lost)
    assert.is_true(lost < 48 * #values, "a counter that differs is no damage")
  end)

  it("is not brought down by damaged names, inputs and counters", function()
    make()
    damage("name 1", NAMES + 64, 64, 2)
    damage("input 0", INPUTS, 256, 2)
    damage("counter 3", COUNTERS + 3 * 128, 128, 2)
  end)

  it("keeps each damaged name, input and counter out", function()
    make()
    local path = copy()
    write_at(path, NAMES + 64, ("\1"):rep(64))
    write_at(path, INPUTS + ffi.offsetof("struct state_input", "length"), "\0\0\0\1")
    write_at(path, COUNTERS + 3 * 128 + ffi.offsetof("struct counter", "name"), ("x"):rep(112))
    local s = flows.open_table(MAX, path)
    assert.equal(1ULL, damaged_name.value)
    assert.equal(1ULL, damaged_input.value)
    assert.equal("", ffi.string(api.state_name(s, 1)))
    assert.is_true(api.state_input_at(s, 0) == nil)
    for series in counters.each() do assert.is_nil(series:find("^xxxx")) end
  end)

  it("is made anew when it is cut short anywhere, or another layout, boot or program wrote it", function()
    make()
    local size = SLOTS + 4096 * 192
    for _, length in ipairs({ 1, 100, 4095, 4096, 70000, COUNTERS, INPUT_DATA - 1, INPUT_DATA, SLOTS, SLOTS + 100, size - 1 }) do
      local path = copy()
      C.truncate(path, length)
      assert.equal(0, open_and_use(path, "cut at " .. length))
    end
    for field, value in pairs({ magic = "ELF", version = "\2", slot_size = "\193", boot_id = "x" }) do
      local path = copy()
      write_at(path, ffi.offsetof("struct state_header", field), value)
      assert.equal(0, open_and_use(path, field))
    end
  end)

  it("is made anew when it is noise", function()
    dir = temp.dir()
    math.randomseed(5)
    for i = 1, 5 do
      os.execute(("head -c %d /dev/urandom > %s/state"):format(math.random(3000000), dir))
      assert.equal(0, open_and_use(dir .. "/state", "noise " .. i))
    end
  end)

  it("has no hole that a full file system could make fatal: what is missing is reserved first", function()
    make()
    local mounted = temp.dir()
    if process.run({ "mount", "-t", "tmpfs", "-o", "size=1600k", "none", mounted }).code ~= 0 then
      pending("needs the right to mount a tmpfs")
    end
    cleanup.add(function() os.execute("umount -l " .. mounted) end)
    -- A sparse copy: its header says that a chunk of slots is there, its file system has no room for it.
    assert.equal(0, os.execute(("cp --sparse=always %s %s/state"):format(copy(), mounted)))
    local s, message = flows.state(mounted .. "/state", MAX)
    assert.is_nil(s)
    assert.equal(("state file %s/state: No space left on device"):format(mounted), message)
    assert.is_true(temp.exists(mounted .. "/state"), "what it holds is not thrown away")
  end)
end)
