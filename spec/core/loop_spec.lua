-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local loop = require("flowd.loop")

ffi.cdef([[
int pipe(int fds[2]);
int close(int fd);
long write(int fd, const void *data, size_t size);
long read(int fd, void *data, size_t size);
int kill(int pid, int signal);
int getpid(void);
]])

describe("the loop", function()
  local handles

  before_each(function() handles = {} end)
  after_each(function()
    for _, handle in ipairs(handles) do handle:close() end
  end)

  local function keep(handle)
    handles[#handles + 1] = handle
    return handle
  end

  it("calls back once after a time", function()
    local calls = 0
    local handle = keep(loop.after(0.001, function()
      calls = calls + 1
      loop.stop()
    end))
    loop.run()
    assert.equal(1, calls)
    assert.is_false(handle:active())
  end)

  it("calls back again and again until closed", function()
    local calls, handle = 0, nil
    handle = keep(loop.every(0.001, function()
      calls = calls + 1
      if calls == 3 then
        handle:close()
        keep(loop.after(0.01, loop.stop))
      end
    end))
    loop.run()
    assert.equal(3, calls)
  end)

  it("never calls a closed handle, even when its event is due already", function()
    local called = false
    local second
    keep(loop.after(0, function() second:close() end))
    second = keep(loop.after(0, function() called = true end))
    keep(loop.after(0.005, loop.stop))
    loop.run()
    assert.is_false(called)
  end)

  it("watches descriptors", function()
    local fds = ffi.new("int[2]")
    assert.equal(0, ffi.C.pipe(fds))
    local got
    keep(loop.fd(fds[0], "r", function(readable, writable)
      local buffer = ffi.new("char[16]")
      got = { readable, writable, ffi.string(buffer, ffi.C.read(fds[0], buffer, 16)) }
      loop.stop()
    end))
    ffi.C.write(fds[1], "abc", 3)
    loop.run()
    assert.same({ true, false, "abc" }, got)
    ffi.C.close(fds[0])
    ffi.C.close(fds[1])
  end)

  it("watches signals", function()
    local got = false
    keep(loop.signal(10, function()
      got = true
      loop.stop()
    end))
    ffi.C.kill(ffi.C.getpid(), 10)
    loop.run()
    assert.is_true(got)
  end)

  it("goes on when a callback raises", function()
    local after = false
    keep(loop.after(0, function() error("deliberate: shown in the log of this spec") end))
    keep(loop.after(0.002, function()
      after = true
      loop.stop()
    end))
    loop.run()
    assert.is_true(after)
  end)

  it("keeps an active handle alive without a reference", function()
    local called = false
    loop.after(0.002, function()
      called = true
      loop.stop()
    end)
    collectgarbage()
    collectgarbage()
    loop.run()
    assert.is_true(called)
  end)

  it("refuses nonsense with the argument named", function()
    assert.has_error(function() loop.after(-1, print) end)
    assert.has_error(function() loop.fd(0, "x", print) end)
    assert.has_error(function() loop.every(1, nil) end)
  end)
end)
