-- SPDX-License-Identifier: Apache-2.0
--- A line reader (line_reader.h) with its state file, on a pipe(2) of the test's own.
---
---     local r = reading.new()
---     r:put(reading.line(1) .. reading.line(2))
---     assert.same({ 1, 2 }, r:take_all())
local api = require("flowd.api")
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
require("spec.support.process") -- declares system calls
local temp = require("spec.support.temp")

local C = ffi.C
local O_NONBLOCK, O_CLOEXEC = 0x800, 0x80000
local ENOSPC = 28
local F_SETPIPE_SZ = 1031
local SOURCE = 77

local reading = {}
local Reading = {}
Reading.__index = Reading

--- A line of a flow whose source port is `port`.
---@param port integer
---@param ending? string default a newline
function reading.line(port, ending)
  return ("start tcp 192.0.2.1 %d 198.51.100.7 443 2 16%s"):format(port, ending or "\n")
end

function Reading:open_reader()
  self.reader = api.line_reader_open(self.input, "test")
  assert(self.reader ~= nil)
  for reason = 0, C.FLOW_LINE_REASONS - 1 do
    self.counts[reason] = self.counts[reason] or ffi.new("struct counter")
    api.line_reader_count(self.reader, reason, self.counts[reason])
  end
end

--- What the next process finds after a kill.
function Reading:reopen()
  api.line_reader_close(self.reader)
  self:open_reader()
end

function Reading:close_writer()
  if self.write_fd then C.close(self.write_fd) end
  self.write_fd = nil
end

--- Until cleanup.all().
---@return table reading state, input (struct state_input *), reader (struct line_reader *), batch
function reading.new()
  local self = setmetatable({ counts = {}, batch = ffi.new("struct flow_batch") }, Reading)
  local message = ffi.new("char[512]")
  local level = api.log_get_level()
  api.log_setup(5, false)
  self.state = api.state_open(temp.dir() .. "/state", 1000, message, 512)
  assert(self.state ~= nil, ffi.string(message))
  self.input = api.state_input_open(self.state, "test", 16384)
  self:open_reader()
  local ends = ffi.new("int[2]")
  assert(C.pipe2(ends, bit.bor(O_NONBLOCK, O_CLOEXEC)) == 0)
  self.read_fd, self.write_fd = ends[0], ends[1]
  C.fcntl(self.write_fd, F_SETPIPE_SZ, ffi.cast("int", 1048576))
  cleanup.add(function()
    api.log_setup(level, false)
    self:close_writer()
    C.close(self.read_fd)
    api.line_reader_close(self.reader)
    api.state_close(self.state, true)
  end)
  return self
end

--- Write into the pipe.
function Reading:put(text) assert(tonumber(C.write(self.write_fd, text, #text)) == #text) end

function Reading:fill() return api.line_reader_fill(self.reader, self.read_fd) end

--- Lines of one outcome so far.
---@param reason string of FLOW_LINE_…
function Reading:count(reason) return tonumber(self.counts[C["FLOW_LINE_" .. reason]].value) end

--- Source ports of the events of one parse (or finish), not committed.
function Reading:parse(at_end)
  local batch = self.batch
  batch.count = 0
  local n = (at_end and api.line_reader_finish or api.line_reader_parse)(self.reader, batch, SOURCE)
  assert(n == batch.count)
  local ports = {}
  for i = 0, n - 1 do
    assert(batch.event[i].source == SOURCE)
    ports[#ports + 1] = batch.event[i].key.src_port
  end
  return ports
end

--- The same, committed.
function Reading:take(at_end)
  local ports = self:parse(at_end)
  api.line_reader_commit(self.reader)
  return ports
end

function reading.append(all, more)
  for _, port in ipairs(more) do all[#all + 1] = port end
end

--- Everything that is in the pipe.
function Reading:take_all(at_end)
  local all = {}
  while true do
    local n = self:fill()
    if n <= 0 and n ~= -ENOSPC then break end
    repeat
      reading.append(all, self:take())
    until self.batch.count < C.FLOW_BATCH_MAX
  end
  if at_end then reading.append(all, self:take(true)) end
  return all
end

return reading
