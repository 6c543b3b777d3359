-- SPDX-License-Identifier: Apache-2.0
-- The pipe plugin in a process of its own: of another user, killed.
local api = require("flowd.api")
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local piping = require("spec.support.piping")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
int geteuid(void);
]])
local C = ffi.C

local line, lines = piping.line, piping.lines
local open_writer, write_once = piping.open_writer, piping.write_once

describe("the pipe plugin", function()
  local p
  before_each(function() p = piping.new() end)
  after_each(cleanup.all)

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
    process.must({ "chmod", "711", p.dir })
    local theirs = p.dir .. "/theirs"
    process.must({ "install", "-d", "-o", "nobody", theirs })
    local file = temp.write(p.dir .. "/theirs.lua", daemon_source(
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
      local file = temp.write(p.dir .. "/killed.lua", daemon_source(script))
      api.state_close(p.state, true)
      local child = process.start({ daemon.binary(), "lua", file, p.dir })
      child:expect("ready")
      return child
    end

    it("goes on with the lines that were read and not done", function()
      local child = leave("io.stdout:write('batch\\n') io.stdout:flush() while true do end")
      local writer = open_writer(p.path)
      writer.put(lines(1, 3) .. line(4, ""))
      child:expect("batch")
      child:stop()
      p:take_over()
      p:expect({ 1, 2, 3 })
      writer.put("\n" .. line(5))
      p:expect({ 1, 2, 3, 4, 5 })
    end)

    it("knows the pipe that it made itself, and removes it", function()
      leave(""):stop()
      assert.is_true(temp.exists(p.path))
      p:take_over()
      write_once(p.path, line(1))
      p:expect({ 1 })
      p:stop()
      assert.is_false(temp.exists(p.path))
    end)
  end)
end)
