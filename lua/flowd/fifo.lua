-- SPDX-License-Identifier: Apache-2.0
--- Read a FIFO for as long as a plugin lives: writers come and go, the FIFO is removed and
-- made again; nothing is lost and nothing is polled.
--
--     self.fifo = ctx:fifo({ path = "/run/flowd-lua/np", mode = "0660" })
--
-- Its lines are flow lines (src/flow_line.h) and become events, unless `on_line` takes them.
-- The writer blocks while we are busy: more is read only when the lines before have gone
-- through the pipeline.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")
local fifo_stream = require("flowd.fifo_stream")
local paths = require("flowd.paths")

local fifo = {}

local Fifo = {}
Fifo.__index = Fifo

local EPERM, ENOENT, EACCES = 1, 2, 13
local KEEP = 0xffffffff -- UINT32_MAX in struct fifo_options: the daemon's own
local FILLS_AT_CHANGE = 64 -- of an input buffer: empties the largest pipe
local STOP_SECONDS = 0.5 -- to read what is left when we stop
-- Between looks at the path, in case the directory's watch said nothing, and without a watch.
local LOOK_SECONDS, UNWATCHED_LOOK_SECONDS = 5, 1
-- Who removed the FIFO may be about to make another one there.
local GRACE_SECONDS = 0.25

local function account(find, what, name)
  if name == nil or name == "" then return KEEP end
  local id = ffi.new("uint32_t[1]")
  if find(name, id) ~= 0 then error(('there is no %s "%s"'):format(what, name), 0) end
  return id[0]
end

local function settings_of(options)
  return ffi.new("struct fifo_options", {
    mode = tonumber(options.mode or "0660", 8),
    uid = account(api.account_user, "user", options.owner),
    gid = account(api.account_group, "group", options.group),
    replace_regular_file = options.replace_regular_file or false,
  })
end

--- As root, before the daemon becomes `user`: have the FIFO, for open() with the same options to find.
---@param options table as of fifo.open
---@param user ffi.cdata* struct privileges_user
function fifo.prepare(options, user)
  local ok, settings = pcall(settings_of, options)
  if not ok then return end -- said by open()
  if settings.uid == KEEP then settings.uid = user.uid end
  if settings.gid == KEEP then settings.gid = user.gid end
  fifo_stream.prepare(options.path, settings, user)
end

--- Could we, an ordinary user, open or make that FIFO?
---@param options table as of fifo.open
---@return string|nil problem why not
function fifo.denied(options)
  local path = options.path
  local status = api.privileges_access(path, 4)
  if status == 0 then return nil end
  local who = ("user %d, who runs flowd-lua,"):format(api.privileges_uid())
  if status ~= -ENOENT then return ("%s: %s cannot read from it"):format(path, who) end
  local directory = paths.directory_of(path)
  if api.privileges_access(directory == "" and "/" or directory, 3) ~= 0 then
    return ("%s: %s cannot make a pipe there: restart flowd-lua as root, or make the pipe"):format(path, who)
  end
  local ok, settings = pcall(settings_of, options)
  if ok and not api.privileges_may_give(settings.uid, settings.gid) then
    return ("%s: %s cannot give a pipe to that owner or group: restart flowd-lua as root, or make the pipe"):format(path, who)
  end
end

local function now() return tonumber(api.clock_monotonic_ns()) / 1e9 end

function Fifo:log(level, format, ...) self.ctx:log(level, "%s: " .. format, self.path, ...) end

function Fifo:count(base)
  local counter = self.ctx:counter(base, { plugin = self.ctx.name })
  counter.value = counter.value + 1
end

function Fifo:remark(stream, message)
  if message ~= "" then self.ctx:log(stream.fifo.notable and "warn" or "info", "%s", message) end
end

-- -- the path ---------------------------------------------------------------------------

function Fifo:close_watch()
  if not self.watch_fd then return end
  self.ctx:release(self.watch_handle)
  api.path_watch_close(self.watch_fd)
  self.watch_fd, self.watch_handle = nil, nil
end

function Fifo:open_watch()
  local fd = api.path_watch_open(self.path)
  if fd < 0 then
    if not self.unwatched then
      self:log("warn", "its directory cannot be watched: %s; looking every %d s", ffi.string(api.error_text(fd)),
        UNWATCHED_LOOK_SECONDS)
    end
    self.unwatched = true
    self:look_after(UNWATCHED_LOOK_SECONDS)
    return
  end
  self.unwatched = nil
  self.watch_fd = fd
  self.watch_handle = self.ctx:fd(fd, "r", function()
    local seen = api.path_watch_read(fd, self.path)
    if bit.band(seen, ffi.C.PATH_WATCH_ENDED) ~= 0 then self:close_watch() end
    if seen ~= 0 then self:look() end
  end)
end

-- Sooner wins.
function Fifo:look_after(seconds)
  local due = now() + seconds
  if self.look_timer then
    if self.look_due <= due then return end
    self.ctx:release(self.look_timer)
  end
  self.look_due = due
  self.look_timer = self.ctx:after(seconds, function()
    self.look_timer = nil
    self:look()
  end)
end

--- Is the path still the FIFO's that we read? If not, what was written to the old one is read first.
function Fifo:look()
  if self.closing then return end
  if not self.watch_fd then self:open_watch() end
  local stream = self.stream
  if stream then
    local at = api.fifo_is_at(stream.fifo, self.path)
    -- 1: yes. An error other than "nothing there" does not tell.
    if at == 1 or (at < 0 and at ~= -ENOENT) then return end
    self:log("warn", at == 0 and "another file took the place of the FIFO" or "the FIFO was removed")
    self:count("flowd_fifo_replaced_total")
    self.stream = nil
    self.vanished = now()
    self.old[stream] = true
    stream.retired = true
    stream:withdraw() -- its name goes to the FIFO that comes
    stream:turn(FILLS_AT_CHANGE)
  end
  self:open_again()
end

function Fifo:open_again()
  local nothing = api.fifo_is_at(self.none, self.path) == -ENOENT
  local left = self.vanished + GRACE_SECONDS - now()
  if nothing and left > 0 then return self:look_after(left) end
  local stream, message = fifo_stream.open(self)
  if stream then
    self.stream, self.failure = stream, nil
    self:remark(stream, message)
    self:log("info", "%s", stream.fifo.created and "made the FIFO again" or "reading the FIFO that was made there")
  elseif message ~= self.failure then
    self.failure = message
    self:count("flowd_fifo_failures_total")
    self.ctx:log("error", "%s (it is tried again when that changes)", message)
  end
end

--- Called by a retired stream at its end.
function Fifo:ended(stream)
  self.old[stream] = nil
  stream:close()
end

-- -- life --------------------------------------------------------------------------------

--- Stop: remove the FIFO if we made it, read what was written to it, close it.
function Fifo:close()
  if self.closing then return end
  self.closing = true
  self:close_watch()
  for _, name in ipairs({ "look_timer", "look_every" }) do
    if self[name] then self.ctx:release(self[name]) end
    self[name] = nil
  end
  local deadline_ns = api.clock_monotonic_ns() + ffi.cast("uint64_t", STOP_SECONDS * 1e9)
  local streams = {}
  for stream in pairs(self.old) do streams[#streams + 1] = stream end
  if self.stream then
    local status = api.fifo_remove(self.stream.fifo, self.path)
    if status == -EACCES or status == -EPERM then
      self:log("info", "stays: only root can remove it from there")
    elseif status ~= 0 then
      self:log("error", "cannot be removed: %s", ffi.string(api.error_text(status)))
    end
    streams[#streams + 1] = self.stream
  end
  self.old, self.stream = {}, nil
  for _, stream in ipairs(streams) do
    stream.retired = nil
    stream:drain(deadline_ns)
    stream:close()
  end
end

--- Open the FIFO of a path and read it until close(), or until the plugin stops.
---@param ctx table the plugin's context
---@param options table path; mode ("0660"), owner, group (names or numbers) of a FIFO that is made;
---  replace_regular_file; on_line: function(line) that takes each line instead of the pipeline
---@return table handle with close(); raises a message for the operator when the FIFO cannot be had
function fifo.open(ctx, options)
  local self = setmetatable({
    ctx = ctx, path = options.path, on_line = options.on_line, settings = settings_of(options),
    old = {}, input_names = {}, vanished = 0, none = ffi.new("struct fifo", { fd = -1 }),
  }, Fifo)
  local stream, message = fifo_stream.open(self)
  if not stream then error(message, 0) end
  self.stream = stream
  self:remark(stream, message)
  ctx:own(self)
  -- Shown from the start, as 0.
  for _, base in ipairs({ "flowd_fifo_replaced_total", "flowd_fifo_failures_total", "flowd_input_errors_total",
    "flowd_input_octets_lost_total", "flowd_input_set_aside_total" }) do
    ctx:counter(base, { plugin = ctx.name })
  end
  fifo_stream.recover(self)
  self:open_watch()
  self.look_every = ctx:every(LOOK_SECONDS, function() self:look() end)
  return self
end

return fifo
