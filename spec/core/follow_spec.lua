-- SPDX-License-Identifier: Apache-2.0
local cleanup = require("spec.support.cleanup")
local loop = require("flowd.loop")
local process = require("spec.support.process")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

describe("a log file that a plugin follows", function()
  local ctx, dir, path, lines
  before_each(function()
    dir = temp.dir()
    path = dir .. "/t.log"
    lines = {}
    process.must({ "mkdir", dir .. "/state" })
    ctx = services.context({ state_dir = dir .. "/state" })
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function follow(options, owner)
    local all = { path = path, from = "start", linger = 0.2, on_line = function(line) lines[#lines + 1] = line end }
    for key, value in pairs(options or {}) do all[key] = value end
    return (owner or ctx):follow(all)
  end

  local function append(text, to)
    local file = assert(io.open(to or path, "ab"))
    file:write(text)
    file:close()
  end

  local function expect(...)
    local wanted = { ... }
    services.turn_until(("%d lines"):format(#wanted), function() return #lines >= #wanted end, 10)
    for _ = 1, 5 do loop.turn() end
    assert.same(wanted, lines)
  end

  local function rotations(found)
    return tonumber(ctx:counter("flowd_log_rotations_total", { plugin = ctx.name, found = found }).value)
  end

  -- As when the daemon is stopped and started again.
  local function restart()
    local name = ctx.name
    ctx:close()
    ctx = services.context({ state_dir = dir .. "/state", name = name })
  end

  it("gives its lines as they are written, whole ones only", function()
    append("old\n")
    follow()
    expect("old")
    append("one\ntw")
    expect("old", "one")
    append("o\nthree\n\n")
    expect("old", "one", "two", "three", "")
  end)

  it("is not looked at now and then only: the system tells when something is written", function()
    append("")
    follow()
    for _ = 1, 5 do loop.turn() end
    -- Looks are two seconds apart; on a machine that has no time for us, one of several is soon enough.
    local least = math.huge
    for i = 1, 5 do
      local before = process.now()
      append("line\n")
      services.turn_until("the line", function() return #lines == i end)
      least = math.min(least, process.now() - before)
    end
    assert.is_true(least < 0.5, least)
  end)

  it("is followed from its end unless that is asked for otherwise", function()
    append("old\n")
    follow({ from = "end" })
    for _ = 1, 5 do loop.turn() end
    append("new\n")
    expect("new")
  end)

  it("is waited for, and then read from its start", function()
    follow({ from = "end" })
    for _ = 1, 5 do loop.turn() end
    append("first\n")
    expect("first")
  end)

  it("is followed when it is renamed and made anew; also what its writer still writes to the old one", function()
    append("one\n")
    follow()
    expect("one")
    local old = assert(io.open(path, "ab"))
    append("two\nthr")
    os.rename(path, path .. ".1")
    append("four\n")
    expect("one", "two", "four")
    old:write("ee\nlate\nunfinished")
    old:close()
    services.turn_until("the late line", function() return #lines == 6 end)
    assert.same({ "one", "two", "four", "three", "late", "unfinished" }, lines)
    append("five\n")
    services.turn_until("the last line", function() return #lines == 7 end)
    assert.equal(1, rotations("renamed"))
  end)

  it("loses nothing when it is renamed several times between two looks", function()
    append("one\n")
    follow()
    expect("one")
    append("two\n")
    os.rename(path, path .. ".3")
    append("three\n")
    os.rename(path, path .. ".2")
    process.must({ "touch", "-d", "+1 seconds", path .. ".2" })
    append("four\n")
    expect("one", "two", "three", "four")
  end)

  it("is not read twice because somebody copied it", function()
    append("one\n")
    follow()
    expect("one")
    process.must({ "cp", path, path .. ".bak" })
    append("two\n")
    os.rename(path, path .. ".1")
    append("three\n")
    expect("one", "two", "three")
  end)

  it("is followed when it is copied and truncated; what we had not read yet comes from the copy", function()
    append("one\nsta")
    follow()
    expect("one")
    for _ = 1, 5 do loop.turn() end
    append("rt\ntwo\n")
    process.must({ "cp", path, path .. ".1" })
    process.must({ "truncate", "-s", "0", path })
    append("three\n")
    expect("one", "start", "two", "three")
    assert.equal(1, rotations("truncated"))
    assert.equal(0, rotations("lost"))
  end)

  it("is read from its start when it was truncated and is longer already; that lines may be missed is said", function()
    append("one\n")
    follow()
    expect("one")
    for _ = 1, 5 do loop.turn() end
    temp.write(path, "other line\nand another\n") -- the same file, cut and written
    expect("one", "other line", "and another")
    assert.equal(1, rotations("lost"))
  end)

  it("may have a hole where it was truncated under a writer that does not append", function()
    local writer = assert(io.open(path, "wb"))
    writer:setvbuf("no")
    writer:write(("x"):rep(100000) .. "\n")
    follow({ line_max = 200000 })
    services.turn_until("the long line", function() return #lines == 1 end)
    for _ = 1, 5 do loop.turn() end
    process.must({ "truncate", "-s", "0", path })
    for _ = 1, 5 do loop.turn() end
    writer:write("next\n")
    writer:close()
    services.turn_until("the next line", function() return #lines == 2 end)
    assert.equal("next", lines[2])
  end)

  it("may have lines that are too long: they are refused and counted", function()
    follow({ line_max = 5 })
    append("12345\n123456\n" .. ("x"):rep(200000) .. "\nend\n")
    expect("12345", "end")
    assert.equal(2, tonumber(ctx:counter("flowd_log_lines_refused_total", { plugin = ctx.name }).value))
  end)

  it("goes on where it was before a restart", function()
    append("one\ntw")
    follow()
    expect("one")
    restart()
    append("o\nthree\n")
    follow()
    expect("one", "two", "three")
  end)

  it("goes on in the file that it was, when it was renamed meanwhile, perhaps twice", function()
    append("one\n")
    follow()
    expect("one")
    restart()
    append("two\n")
    os.rename(path, path .. ".2")
    process.must({ "touch", "-d", "-20 seconds", path .. ".2" })
    append("three\n")
    os.rename(path, path .. ".1")
    process.must({ "touch", "-d", "-10 seconds", path .. ".1" })
    append("four\n")
    follow()
    expect("one", "two", "three", "four")
  end)

  it("says that lines may be missed when the file of before is gone", function()
    append("one\n")
    follow()
    expect("one")
    restart()
    os.remove(path)
    append("another file\n")
    follow()
    expect("one", "another file")
    assert.equal(1, rotations("lost"))
  end)

  it("does not stop the loop while much of it is read", function()
    local text = ("0123456789abcdef0123456789abcdef\n"):rep(200000)
    append(text)
    local turns = 0
    ctx:every(0.001, function() turns = turns + 1 end)
    follow()
    services.turn_until("all of it", function() return #lines == 200000 end, 30)
    assert.is_true(turns > 3, turns)
  end)

  it("whose lines make the plugin raise is followed all the same", function()
    append("bad\ngood\n")
    follow({ on_line = function(line)
      if line == "bad" then error("oh") end
      lines[#lines + 1] = line
    end })
    expect("good")
    assert.equal(1, services.counter(ctx, "flowd_callback_errors_total"))
  end)

  it("that cannot be read is said and counted, and tried again", function()
    process.must({ "mkdir", path })
    follow()
    services.turn_until("the count", function()
      return tonumber(ctx:counter("flowd_log_errors_total", { plugin = ctx.name }).value) > 0
    end)
    process.must({ "rmdir", path })
    append("one\n")
    expect("one")
  end)

  it("reaches nobody after the plugin has stopped", function()
    append("one\n")
    follow()
    expect("one")
    append("two\n")
    ctx:close()
    for _ = 1, 20 do loop.turn() end
    assert.same({ "one" }, lines)
    assert.same({}, ctx.handles)
  end)

  it("must have a path and a function", function()
    assert.has_error(function() ctx:follow({ path = path }) end, "follow: expected on_line to be a function")
    assert.has_error(function() ctx:follow({ on_line = print }) end, "follow: expected path, the name of a file")
  end)
end)
