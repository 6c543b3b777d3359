-- SPDX-License-Identifier: Apache-2.0
--- One open FIFO and its input buffer: octets in, batches of events (or lines) out.
-- flowd.fifo keeps one for each path, and others for FIFOs that were removed while a
-- writer still has them open.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")

local Stream = {}
Stream.__index = Stream

local stream = {}

local BATCH_MAX = ffi.C.FLOW_BATCH_MAX
local EAGAIN, EEXIST = 11, 17
local CAPACITY = 131072 -- octets of an input buffer: some 1,800 lines
local FILLS_PER_TURN = 2 -- of the loop; then others have their turn
local RETRY_SECONDS = 1
local CREATED = 0x10000 -- in state_input.flags: we made the FIFO of that device and inode

-- Paths may be longer than the name of an input buffer: a fingerprint keeps those apart.
local function input_name(path)
  if #path < 120 then return "fifo:" .. path end
  local h = 5381
  for i = 1, #path do h = bit.tobit(h * 33 + path:byte(i)) end
  return ("fifo:%s~%s"):format(path:sub(-100), bit.tohex(h))
end

-- A FIFO that a killed daemon made is still ours, and goes when we stop.
local function remember_maker(self)
  local input, fifo = self.input, self.fifo
  if bit.band(input.flags, CREATED) ~= 0 and input.device == fifo.device and input.inode == fifo.inode then
    fifo.created = true
  end
  input.device, input.inode = fifo.device, fifo.inode
  input.flags = fifo.created and bit.bor(input.flags, CREATED) or bit.band(input.flags, bit.bnot(CREATED))
end

-- The pipe outlives us: a descriptor of its own goes to the next image of the binary and, under
-- systemd, into its store, so that even what a writer left in the kernel is there for the next process.
local function offer(self)
  local name = "fifo=" .. self.owner.path
  local spare = api.handover_take(name)
  if spare >= 0 and not api.fifo_is_same(self.fifo, spare) then
    api.descriptor_close(spare)
    spare = -1
  end
  if spare < 0 then spare = api.fifo_spare(self.fifo) end
  local status = spare < 0 and spare or api.handover_offer(name, spare)
  if status < 0 then
    self.ctx:log("warn", "%s: cannot be handed to the next process: %s: what is in the pipe when this one is killed is lost",
      self.owner.path, ffi.string(api.error_text(status)))
    if spare >= 0 then api.descriptor_close(spare) end
    return
  end
  self.spare, self.spare_name = spare, name
  -- A path with a colon has no name in the store; without a store this does nothing.
  api.notify_store(name, spare)
end

--- Hand it to nobody any more.
function Stream:withdraw()
  if not self.spare then return end
  api.handover_withdraw(self.spare_name)
  api.notify_unstore(self.spare_name)
  api.descriptor_close(self.spare)
  self.spare = nil
end

-- The process died twice in a row with these octets in hand: a third time would be one too many. They
-- are kept in a file, for somebody to look at, and perhaps to write into the pipe again.
local function set_aside(ctx, reader, label)
  local length = ffi.new("size_t[1]")
  local octets = api.line_reader_suspect(reader, length)
  if octets == nil then return end
  local size = tonumber(length[0])
  local counter = ctx:counter("flowd_input_set_aside_total", { plugin = ctx.name })
  counter.value = counter.value + 1
  local path, status
  repeat
    path = ("%s/set-aside-%s.%06dZ-%s"):format(ctx.state_dir, os.date("!%Y%m%dT%H%M%S"),
      tonumber(api.clock_realtime_us() % 1000000), ctx.name)
    status = api.save_file(path, octets, size)
  until status ~= -EEXIST
  if status == 0 then
    ctx:log("error", "%s: %d octets were in hand at two crashes in a row: set aside in %s, and not processed", label, size,
      path)
  else
    local lost = ctx:counter("flowd_input_octets_lost_total", { plugin = ctx.name })
    lost.value = lost.value + size
    ctx:log("error", "%s: %d octets were in hand at two crashes in a row, are not processed, and cannot be set aside in %s: %s: %s",
      label, size, path, ffi.string(api.error_text(status)), ffi.string(octets, size))
  end
  api.line_reader_drop_suspect(reader)
end

local function open_input(ctx, name, label)
  local input = api.state_input_open(ctx.state, name, CAPACITY)
  if input == nil then return nil, ("%s: no input buffer is free in the state file"):format(label) end
  local reader = api.line_reader_open(input, ("%s %s: %s"):format(ctx.kind, ctx.name, label))
  if reader == nil then
    api.state_input_close(ctx.state, input)
    return nil, ("%s: not enough memory"):format(label)
  end
  api.line_reader_count(reader, ffi.C.FLOW_LINE_OK, ctx:counter("flowd_lines_total", { plugin = ctx.name }))
  for reason = ffi.C.FLOW_LINE_OK + 1, ffi.C.FLOW_LINE_REASONS - 1 do
    api.line_reader_count(reader, reason, ctx:counter("flowd_lines_refused_total",
      { plugin = ctx.name, reason = ffi.string(api.flow_line_reason_name(reason)) }))
  end
  set_aside(ctx, reader, label)
  return input, reader
end

-- FIFOs that root made or opened for the user that we are now, by path.
local prepared = {}

--- As root, before the daemon becomes `user`: open the FIFO at a path, or make it.
---@param path string
---@param settings ffi.cdata* struct fifo_options
---@param user ffi.cdata* struct privileges_user
function stream.prepare(path, settings, user)
  local fifo, message = ffi.new("struct fifo"), ffi.new("char[?]", ffi.C.FIFO_MESSAGE_SIZE)
  local status = api.fifo_open(fifo, path, settings, message)
  if status == 0 and not api.privileges_readable(fifo.fd, user) then
    api.fifo_remove(fifo, path)
    api.fifo_close(fifo)
    prepared[path] = { problem = ("%s: user %d, who runs flowd-lua, could not read from it: with owner = \"\" it is "
      .. "that user's; or give it a group that the user is in, and mode 0660"):format(path, user.uid) }
    return
  end
  prepared[path] = status == 0 and { fifo = fifo, remark = ffi.string(message) } or { problem = ffi.string(message) }
end

--- Those that no plugin took.
function stream.discard_prepared()
  for path, entry in pairs(prepared) do
    if entry.fifo then
      api.fifo_remove(entry.fifo, path)
      api.fifo_close(entry.fifo)
    end
  end
  prepared = {}
end

-- The FIFO and a remark; or nil and why not.
local function open_fifo(path, settings)
  local ready = prepared[path]
  prepared[path] = nil
  if ready then return ready.fifo, ready.remark or ready.problem end
  local fifo, message = ffi.new("struct fifo"), ffi.new("char[?]", ffi.C.FIFO_MESSAGE_SIZE)
  local ok = api.fifo_open(fifo, path, settings, message) == 0
  return ok and fifo or nil, ffi.string(message)
end

--- Open the FIFO at owner.path, or make it.
---@param owner table flowd.fifo's: ctx, path, settings, on_line, ended(stream)
---@return table|nil stream
---@return string message a remark, or why not
function stream.open(owner)
  local name, n = input_name(owner.path), 1
  while owner.input_names[name] do
    n = n + 1
    name = ("%s#%d"):format(input_name(owner.path), n)
  end
  -- All else first: once the FIFO can be seen, somebody writes to it.
  local input, reader = open_input(owner.ctx, name, owner.path)
  if not input then return nil, reader end
  local fifo, message = open_fifo(owner.path, owner.settings)
  if not fifo then
    api.line_reader_close(reader)
    api.state_input_close(owner.ctx.state, input)
    return nil, message
  end
  owner.input_names[name] = true
  local self = setmetatable({
    owner = owner, ctx = owner.ctx, fifo = fifo, input = input, reader = reader, name = name,
  }, Stream)
  remember_maker(self)
  offer(self)
  self:watch()
  -- Lines that a killed daemon left in the buffer come before any new ones.
  self:run(false)
  if api.line_reader_within_line(reader) then self:again(0) end
  return self, message
end

--- What a killed daemon had read from FIFOs that were removed from the path: nobody writes to
--- them any more.
---@param owner table
function stream.recover(owner)
  local prefix = input_name(owner.path) .. "#"
  for n = 0, ffi.C.STATE_INPUTS_MAX - 1 do
    local entry = api.state_input_at(owner.ctx.state, n)
    local name = entry ~= nil and ffi.string(entry.name) or ""
    if name:sub(1, #prefix) == prefix then
      local input, reader = open_input(owner.ctx, name, owner.path)
      if input then
        local self = setmetatable({ owner = owner, ctx = owner.ctx, input = input, reader = reader }, Stream)
        self:run(true)
        self:close()
      end
    end
  end
end

function Stream:watch()
  self:unwatch()
  self.handle = self.ctx:fd(self.fifo.fd, "r", function() self:turn(FILLS_PER_TURN) end)
end

function Stream:unwatch()
  if self.handle then self.ctx:release(self.handle) end
  self.handle = nil
end

--- Read on after `seconds`, whether or not the descriptor says that there is something.
function Stream:again(seconds)
  if self.timer or self.closing then return end
  self.timer = self.ctx:after(seconds, function()
    self.timer = nil
    self:turn(FILLS_PER_TURN)
  end)
end

-- A batch that raises is a defect of the pipeline: its lines are gone, ours go on.
local function protected(self, fn, ...)
  local ok, message = pcall(fn, ...)
  if ok then return end
  local counter = self.ctx:counter("flowd_input_errors_total", { plugin = self.ctx.name })
  counter.value = counter.value + 1
  self.ctx:log("error", "%s: %s", self.owner.path, tostring(message))
end

function Stream:run_lines(at_end)
  local length = ffi.new("size_t[1]")
  while true do
    local line = api.line_reader_next(self.reader, at_end, length)
    if line == nil then break end
    api.watchdog_progress()
    local careful = api.line_reader_careful(self.reader)
    protected(self, self.owner.on_line, ffi.string(line, length[0]))
    if careful then api.line_reader_commit(self.reader) end
  end
  api.line_reader_commit(self.reader)
end

--- Everything that was read, through the pipeline; `at_end` also what has no newline.
function Stream:run(at_end)
  if self.owner.on_line then return self:run_lines(at_end) end
  local batch, reader, source, run_batch = self.ctx.batch, self.reader, self.ctx.source_id, self.ctx.run_batch
  local parse = at_end and api.line_reader_finish or api.line_reader_parse
  repeat
    batch.count = 0
    local careful = api.line_reader_careful(reader)
    local count = parse(reader, batch, source)
    if count > 0 then protected(self, run_batch, batch) end
    api.line_reader_commit(reader)
  until count < BATCH_MAX and not (careful and count > 0)
end

-- Something is wrong with the descriptor, which would wake us all the time: look now and then
-- instead. Said once, until it is well again.
function Stream:pause(what, status)
  local trouble = ("cannot be %s: %s"):format(what, ffi.string(api.error_text(status)))
  if trouble ~= self.trouble then
    self.ctx:log("error", "%s: %s (tried again every %d s)", self.owner.path, trouble, RETRY_SECONDS)
  end
  self.trouble = trouble
  self:unwatch()
  self:again(RETRY_SECONDS)
end

-- The last writer is gone: be silent until the next one comes.
function Stream:reopen()
  if self.closing then return false end
  self:unwatch()
  local status = api.fifo_reopen(self.fifo)
  if status == 0 then
    self:watch()
    self.trouble = nil
    return true
  end
  self:pause("opened again", status)
  return false
end

--- Read and run, at most `fills` times. A stream whose FIFO was removed from its path ends
--- with its last writer.
---@return boolean|nil empty true: there was nothing more to read
function Stream:turn(fills)
  local reader, reopened = self.reader, false
  self:run(false)
  while fills > 0 do
    local n = api.line_reader_fill(reader, self.fifo.fd)
    if n > 0 then
      fills, reopened = fills - 1, false
      if not self.handle and not self.closing then self:watch() end
      self:run(false)
      -- The end of the file is told of a writer that was there when the descriptor was opened, or
      -- came later. Of one that was gone by then only another read tells; it matters within a line.
      if not self.retired and not self.closing and not api.line_reader_within_line(reader) then return nil end
    elseif n == 0 then
      self:run(true)
      if self.retired then
        self.owner:ended(self)
        return true
      end
      if reopened or not self:reopen() then return true end
      reopened = true
    elseif n == -EAGAIN then
      if not self.handle and not self.closing then self:watch() end
      return true
    else
      self:pause("read", n)
      return true
    end
  end
  self:again(0)
  return nil
end

--- Read what is there, but no longer than the deadline; what cannot be read any more is
--- counted.
---@param deadline_ns integer on the monotonic clock
function Stream:drain(deadline_ns)
  self.closing = true
  repeat
    local empty = self:turn(1)
  until empty or api.clock_monotonic_ns() >= deadline_ns
  api.line_reader_abandon(self.reader)
  local lost = api.fifo_waiting(self.fifo)
  if lost > 0 then
    local counter = self.ctx:counter("flowd_input_octets_lost_total", { plugin = self.ctx.name })
    counter.value = counter.value + lost
    self.ctx:log("error", "%s: %d octets were left unread: writers wrote on while we stopped", self.owner.path, lost)
  end
end

function Stream:close()
  self.closing = true
  if self.timer then self.ctx:release(self.timer) end
  self.timer = nil
  self:unwatch()
  if self.name then self.owner.input_names[self.name] = nil end
  api.line_reader_close(self.reader)
  api.state_input_close(self.ctx.state, self.input)
  self:withdraw()
  if self.fifo then api.fifo_close(self.fifo) end
end

return stream
