-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")
local loop = require("flowd.loop")
local cleanup = require("spec.support.cleanup")
local piping = require("spec.support.piping")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local C = ffi.C

local line, lines, numbers = piping.line, piping.lines, piping.numbers
local open_writer, write_once = piping.open_writer, piping.write_once

describe("the pipe plugin", function()
  local p
  before_each(function() p = piping.new() end)
  after_each(cleanup.all)

  describe("when its pipe is removed", function()
    it("makes it again", function()
      p:start()
      os.remove(p.path)
      p:turn_until("a new pipe", function() return temp.exists(p.path) end)
      write_once(p.path, line(1))
      p:expect({ 1 })
      p:stop()
      assert.is_false(temp.exists(p.path))
    end)

    it("first reads what was written to the old one", function()
      p:start()
      write_once(p.path, lines(1, 100) .. line(101, ""))
      os.remove(p.path)
      C.mkfifo(p.path, 384)
      local writer = piping.open(p.path)
      assert.equal(-1, writer) -- nobody reads it yet
      p:turn_until("a reader of the new one", function()
        writer = piping.open(p.path)
        return writer >= 0
      end)
      C.close(writer)
      assert.same(numbers(1, 101), p.ports)
      write_once(p.path, line(102))
      p:expect(numbers(1, 102))
      -- That one is not ours.
      p:stop()
      assert.is_true(temp.exists(p.path))
    end)

    it("still hears writers that have the old one open", function()
      p:start()
      local old = open_writer(p.path)
      old.put(line(1, ""))
      p:expect({})
      os.remove(p.path)
      p:turn_until("a new pipe", function() return temp.exists(p.path) end)
      write_once(p.path, line(2))
      p:expect({ 2 })
      old.put("\n" .. line(3))
      p:expect({ 2, 1, 3 })
      write_once(p.path, line(4))
      old.put(line(5, ""))
      p:turn_until("both", function() return #p.ports == 4 end)
      old.close()
      p:turn_until("the last line of the old one", function() return #p.ports == 5 end)
      assert.equal(5, p.ports[5])
    end)

    it("gives up the old one's buffer with its last writer", function()
      p:start()
      local function inputs()
        local n = 0
        for i = 0, C.STATE_INPUTS_MAX - 1 do
          if api.state_input_at(p.state, i) ~= nil then n = n + 1 end
        end
        return n
      end
      local before = p:value("flowd_fifo_replaced_total", { plugin = "pipe" })
      for round = 1, 4 do
        local old = open_writer(p.path)
        old.put(line(round))
        os.remove(p.path)
        p:turn_until("a new pipe", function() return temp.exists(p.path) end)
        assert.equal(2, inputs())
        old.close()
        p:turn_until("the end of the old one", function() return inputs() == 1 end)
      end
      p:expect(numbers(1, 4))
      assert.equal(before + 4, p:value("flowd_fifo_replaced_total", { plugin = "pipe" }))
    end)

    it("leaves the path for a moment to whoever removed it", function()
      p:start()
      os.remove(p.path)
      local deadline = process.now() + 0.05
      repeat loop.turn() until process.now() > deadline
      assert.equal(0, C.mkfifo(p.path, 384))
      p:turn_until("a reader", function()
        local fd = piping.open(p.path)
        if fd >= 0 then C.close(fd) end
        return fd >= 0
      end)
    end)

    it("does not touch what took its place, and takes it up when that is gone", function()
      p:start()
      local before = p:value("flowd_fifo_failures_total", { plugin = "pipe" })
      os.remove(p.path)
      temp.write(p.path, "lost\n")
      p:turn_until("the failure", function()
        return p:value("flowd_fifo_failures_total", { plugin = "pipe" }) == before + 1
      end)
      assert.equal("lost\n", temp.read(p.path))
      os.remove(p.path)
      p:turn_until("a new pipe", function() return temp.exists(p.path) end)
      write_once(p.path, line(1))
      p:expect({ 1 })
    end)

    it("renames a regular file in its place when it may", function()
      p:start({ replace_regular_file = true })
      os.remove(p.path)
      temp.write(p.path, "lost\n")
      p:turn_until("a reader", function()
        local fd = piping.open(p.path)
        local is_fifo = fd >= 0 and process.must({ "stat", "-c", "%F", p.path }) == "fifo\n"
        if fd >= 0 then C.close(fd) end
        return is_fifo
      end)
      assert.matches("np%.replaced%-%d+T%d+Z", process.must({ "ls", p.dir }))
    end)
  end)

  it("survives that its directory is removed and made again", function()
    local below = p.dir .. "/below"
    process.must({ "mkdir", below })
    p:start({ paths = { below .. "/np" } })
    process.must({ "rm", "-r", below })
    for _ = 1, 5 do loop.turn() end
    process.must({ "mkdir", below })
    process.wait_for("a new pipe", 8, function()
      loop.turn()
      return temp.exists(below .. "/np")
    end)
    write_once(below .. "/np", line(1))
    p:expect({ 1 })
  end)
end)
