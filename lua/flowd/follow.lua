-- SPDX-License-Identifier: Apache-2.0
--- Follow a log file: its lines as they are written, whatever becomes of the file.
--
--     ctx:follow{ path = "/var/log/transfers.log", on_line = function(line) ... end }
--
-- Renamed and made anew: the old file is read to its end, and for a while longer, since its writer may still have
-- it open. Copied and truncated: what was written between our last look and the truncation is read
-- from the copy. The position outlives the daemon; after a crash some lines may come twice, and none is missed.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local follow_file = require("flowd.follow_file")
local json = require("flowd.json")
local parser = require("flowd.json_parser")
local registry = require("flowd.registry")

local follow = {}

local ENOENT = 2
local LINE_MAX = 16384
local READS_PER_TURN = 16 -- of the loop, 64 KiB each; then others have their turn
local LOOK_SECONDS = 2 -- when the system tells of changes; on some network file systems it does not
local LINGER_SECONDS = 10 -- for a writer of the old file to notice that it was renamed
local SAVE_SECONDS = 1
local ENTRIES_MAX = 256
local packed = { gz = true, bz2 = true, xz = true, zst = true, lz4 = true, Z = true, zip = true }

local Follow = {}
Follow.__index = Follow

local function text_of(status) return ffi.string(api.error_text(status)) end

local function key_of(entry) return ("%s:%s"):format(tostring(entry.device), tostring(entry.inode)) end

-- -- for the files -----------------------------------------------------------------------

function Follow:line(text)
  self.lines.value = self.lines.value + 1
  api.watchdog_progress()
  self.ctx:protected(self.on_line, text)
end

function Follow:too_long() self.refused.value = self.refused.value + 1 end

function Follow:rotated(how)
  local counter = self.ctx:counter("flowd_log_rotations_total", { plugin = self.ctx.name, found = how })
  counter.value = counter.value + 1
end

-- -- the position ------------------------------------------------------------------------

-- What is kept: { device, inode, position, print }; numbers of 64 bits as text.
local function read_saved(self)
  local input = self.input
  if input and input.device ~= 0 then
    return { device = tostring(input.device), inode = tostring(input.inode), position = tonumber(input.position),
      print = tostring(input.reserved[0]) }
  end
  local file = self.save_path and io.open(self.save_path, "rb")
  if not file then return nil end
  local text = file:read(8192)
  file:close()
  local saved = text and parser.decode(text)
  if type(saved) == "table" and saved.path == self.path and type(saved.position) == "number" then return saved end
  return nil
end

function Follow:save()
  local kept = self.kept
  if not self.save_path or not kept then return end
  local text = json.encode({ path = self.path, device = kept.device, inode = kept.inode, position = kept.position,
    print = kept.print }) .. "\n"
  local status = api.save_file_replace(self.save_path, text, #text, 384) -- 0600
  if status ~= 0 and not self.complained then
    self.complained = true
    self.ctx:log("warn", "%s: the position cannot be kept in %s: %s", self.path, self.save_path, text_of(status))
  end
end

-- Everything handed out so far has become what it becomes. Files that come before ours are not forgotten
-- until they are through.
function Follow:settle()
  local file = self.file
  if not file or #self.queue > 0 then return end
  local raw, print = file.raw, file:print(file.handed)
  self.kept = { device = tostring(raw.device), inode = tostring(raw.inode), position = file.handed, print = tostring(print) }
  if self.input then
    self.input.device, self.input.inode, self.input.position, self.input.reserved[0] = raw.device, raw.inode, file.handed, print
  end
end

function Follow:settle_soon()
  if self.settling then return end
  -- Behind the events that on_line emitted, which run at the end of this turn of the loop.
  self.settling = self.ctx:after(0.001, function()
    self.settling = nil
    self:settle()
    self.unsaved = self.unsaved or self.ctx:after(SAVE_SECONDS, function()
      self.unsaved = nil
      self:save()
    end)
  end)
end

-- -- files that come and go --------------------------------------------------------------

-- The files whose names begin as ours does, those that are packed excepted.
local function list(self)
  local entries = ffi.new("struct log_file_entry[?]", ENTRIES_MAX)
  local count = math.min(api.log_file_list(self.path, entries, ENTRIES_MAX), ENTRIES_MAX)
  local all = {}
  for i = 0, count - 1 do
    local name = ffi.string(entries[i].name)
    if not packed[name:match("%.(%w+)$") or ""] then
      all[#all + 1] = { name = name, key = key_of(entries[i]), modified = entries[i].modified_ns }
    end
  end
  table.sort(all, function(a, b) return a.modified < b.modified end)
  return all
end

local function learn(self)
  self.known = {}
  for _, entry in ipairs(list(self)) do self.known[entry.key] = true end
end

local function beside(self, name) return (self.path:match("^.*/") or "") .. name end

-- To be read to its end before ours is.
local function enqueue(self, file) self.queue[#self.queue + 1] = file end

-- The copy of a file that was truncated: what follows our position there.
local function find_copy(self, position, print)
  if position == 0 then return true end
  local current = self.file and key_of(self.file.raw)
  for _, entry in ipairs(list(self)) do
    if not self.known[entry.key] and entry.key ~= current then
      local copy = follow_file.open(self, beside(self, entry.name), position)
      if copy and copy:size() >= position and tostring(copy:print()) == print then
        enqueue(self, copy)
        return true
      end
      if copy then copy:close() end
    end
  end
  return false
end

-- Does one of them begin as the other does?
local function is_copy(a, b)
  local n = math.min(64, a:size(), b:size())
  return n > 0 and a:print(n) == b:print(n)
end

-- Files that came and were renamed again between two looks.
local function find_between(self, old, new)
  local old_key, new_key = key_of(old.raw), key_of(new.raw)
  for _, entry in ipairs(list(self)) do
    if not self.known[entry.key] and entry.key ~= old_key and entry.key ~= new_key then
      local file = follow_file.open(self, beside(self, entry.name), 0)
      if file and not is_copy(file, old) then
        enqueue(self, file)
      elseif file then
        file:close()
      end
    end
  end
end

function Follow:watch_file()
  if self.file_watch then
    self.ctx:release(self.file_handle)
    api.path_watch_close(self.file_watch)
  end
  self.file_watch, self.file_handle = nil, nil
  local fd = api.path_watch_open_file(self.path)
  if fd < 0 then return end
  self.file_watch = fd
  self.file_handle = self.ctx:fd(fd, "r", function()
    api.path_watch_drain(fd)
    self:turn()
  end)
end

function Follow:complain(status)
  local counter = self.ctx:counter("flowd_log_errors_total", { plugin = self.ctx.name })
  counter.value = counter.value + 1
  if status ~= self.trouble then
    self.ctx:log("error", "%s: %s (tried again every %d s)", self.path, text_of(status), LOOK_SECONDS)
  end
  self.trouble = status
end

-- Open what stands at the path; offset nil: at its end.
function Follow:open_file(offset)
  local file, status = follow_file.open(self, self.path, offset)
  if not file then
    if status ~= -ENOENT then self:complain(status) end
    return nil
  end
  self.trouble = nil
  self.file = file
  self:watch_file()
  learn(self)
  return file
end

-- A file that was replaced is read for as long as somebody writes to it.
function Follow:retire(old)
  local offset = old.offset
  self.retired[old] = self.ctx:after(self.linger, function()
    self:turn()
    if old.offset > offset then return self:retire(old) end
    self.retired[old] = nil
    old:finish()
    old:close()
  end)
end

-- Another file stands at the path, and ours is at its end.
function Follow:replace()
  local old = self.file
  local file, status = follow_file.open(self, self.path, 0)
  if not file then
    if status ~= -ENOENT then self:complain(status) end
    return false
  end
  self:rotated("renamed")
  self:retire(old)
  find_between(self, old, file)
  self.file, self.print = file, nil
  self:watch_file()
  learn(self)
  return true
end

function Follow:truncated()
  local file = self.file
  local found = find_copy(self, file.offset, tostring(self.print))
  self:rotated(found and "truncated" or "lost")
  if not found then
    self.ctx:log("warn", "%s: was truncated, and there is no copy of what was in it: lines may be missed", self.path)
  elseif self.queue[1] then
    -- The line that we have the start of goes on in the copy.
    self.queue[#self.queue].partial, self.queue[#self.queue].skipping = file.partial, file.skipping
  end
  file:rewind()
  self.print = nil
  learn(self)
end

-- Is the file still the one we know, and not shorter than before?
function Follow:look()
  if not self.file then return self:open_file(0) ~= nil end
  local size = self.file:size()
  if size < self.file.offset or self.print and self.file:print() ~= self.print then self:truncated() end
  return true
end

-- Read one piece of what comes next. Returns false when there is nothing more now.
function Follow:step()
  local first = self.queue[1]
  if first then
    if first:read() <= 0 and not self.closed then
      first:finish()
      first:close()
      table.remove(self.queue, 1)
    end
    return true
  end
  local file = self.file
  local n = file:read()
  if self.closed then return false end
  self.print = file.offset > 0 and file:print() or nil
  if n > 0 then return true end
  if n < 0 then
    self:complain(n)
    return false
  end
  return api.log_file_is_at(file.raw, self.path) == 0 and self:replace()
end

--- Read what there is, of all files.
function Follow:turn()
  if self.closed or not self.started then return end
  for old in pairs(self.retired) do
    for _ = 1, READS_PER_TURN do
      if self.closed or old:read() <= 0 then break end
    end
  end
  if self.closed or #self.queue == 0 and not self:look() then return end
  self:settle_soon()
  for _ = 1, READS_PER_TURN do
    local more = self:step()
    if self.closed or not more then return end
  end
  self.again = self.again or self.ctx:after(0, function()
    self.again = nil
    self:turn()
  end)
end

-- -- life --------------------------------------------------------------------------------

-- Go on where the one before us stopped: in the file at the path, or in the one that it was renamed to.
local function resume(self, saved)
  local function reopen(path)
    local file = follow_file.open(self, path, saved.position)
    if not file then return nil end
    local fits = file:size() >= saved.position and tostring(file:print(saved.position)) == saved.print
    if fits then return file end
    file:close()
    return nil
  end
  local key = ("%s:%s"):format(saved.device, saved.inode)
  local there = reopen(self.path)
  if there and key_of(there.raw) == key then
    self.file, self.print = there, saved.position > 0 and there:print() or nil
    return true
  end
  if there then there:close() end
  for _, entry in ipairs(list(self)) do
    if entry.key == key then
      local file = reopen(beside(self, entry.name))
      if file then
        -- Everything that came after it is new to us, too.
        self.known = { [key] = true }
        for _, other in ipairs(list(self)) do
          if other.modified < entry.modified then self.known[other.key] = true end
        end
        self.file, self.print = file, saved.position > 0 and file:print() or nil
        return true
      end
    end
  end
  -- Truncated meanwhile: the copy has what we missed.
  local current = follow_file.open(self, self.path, 0)
  if not current then return false end
  self.file, self.known = current, {}
  if not find_copy(self, saved.position, saved.print) then
    self:rotated("lost")
    self.ctx:log("warn", "%s: is not the file that was read last, and that one is gone: lines may be missed", self.path)
  end
  return true
end

function Follow:watch_directory()
  local fd = api.path_watch_open(self.path)
  if fd < 0 then return end
  self.directory_watch = fd
  self.directory_handle = self.ctx:fd(fd, "r", function()
    if bit.band(api.path_watch_read(fd, self.path), ffi.C.PATH_WATCH_CHANGED) ~= 0 then self:turn() end
  end)
end

--- Stop; the position is kept.
function Follow:close()
  if self.closed then return end
  self.closed = true
  self:settle()
  self:save()
  self.ctx.handles[self] = nil
  for _, name in ipairs({ "file_handle", "directory_handle", "timer", "again", "settling", "unsaved" }) do
    if self[name] then self.ctx:release(self[name]) end
  end
  for _, name in ipairs({ "file_watch", "directory_watch" }) do
    if self[name] then api.path_watch_close(self[name]) end
  end
  for old, timer in pairs(self.retired) do
    self.ctx:release(timer)
    old:close()
  end
  for _, file in ipairs(self.queue) do file:close() end
  if self.file then self.file:close() end
  if self.input then api.state_input_close(self.ctx.state, self.input) end
end

local function open_memory(self, name)
  local ctx = self.ctx
  if not self.remember then return end
  if (ctx.state_dir or "") ~= "" then self.save_path = ("%s/follow-%s.json"):format(ctx.state_dir, registry.fingerprint(name)) end
  -- Also in the state file, which knows it after a crash to the line.
  if ctx.state then
    local input = api.state_input_open(ctx.state, "follow:" .. registry.fingerprint(name), 4096)
    if input ~= nil then self.input = input end
  end
end

--- Follow a log file until close(), or until the plugin stops. One that is not there is waited for.
---@param ctx table the owner
---@param options table path; on_line(line); from: "end" (only what is new) or "start", for a file that was never
---  followed; line_max: octets of the longest line (16384), longer ones are refused and counted; remember: keep the
---  position for the next start (true); linger: seconds for which a renamed file is read on (10)
---@return table handle with close()
function follow.open(ctx, options)
  if type(options) ~= "table" or type(options.path) ~= "string" or options.path == "" then
    error("follow: expected path, the name of a file", 2)
  end
  if type(options.on_line) ~= "function" then error("follow: expected on_line to be a function", 2) end
  if options.from ~= nil and options.from ~= "end" and options.from ~= "start" then
    error(('follow: expected from to be "start" or "end", got %q'):format(tostring(options.from)), 2)
  end
  local self = setmetatable({
    ctx = ctx, path = options.path, on_line = options.on_line, line_max = options.line_max or LINE_MAX,
    linger = options.linger or LINGER_SECONDS, remember = options.remember ~= false, retired = {}, known = {}, queue = {},
    lines = ctx:counter("flowd_log_lines_total", { plugin = ctx.name }),
    refused = ctx:counter("flowd_log_lines_refused_total", { plugin = ctx.name }),
  }, Follow)
  open_memory(self, ctx.name .. "\0" .. options.path)
  ctx:own(self)
  self:watch_directory()
  self.timer = ctx:every(LOOK_SECONDS, function() self:turn() end)
  local saved = self.remember and read_saved(self)
  -- Lines come from the loop, not from here: the plugin is not ready yet.
  self.again = ctx:after(0, function()
    self.again, self.started = nil, true
    if not (saved and resume(self, saved)) then
      self:open_file(options.from == "start" and 0 or nil)
    else
      if next(self.known) == nil then learn(self) end
      self:watch_file()
    end
    self:turn()
  end)
  return self
end

return follow
