-- SPDX-License-Identifier: Apache-2.0
--- The accepted configuration, as text, for the process that takes over when a script hangs: that one runs
--- what ran before, not what somebody is editing, and not what hung while it was loaded.
local ffi = require("ffi")
local api = require("flowd.api")
local log = require("flowd.log")

local snapshot = {}

local NAME = "policy"

---@class flowd.Snapshot
---@field files table<string, string> text of each file that was read, by path
---@field lists table<string, string[]> what each pattern matched
---@field fixed table<string, string|number> options that are taken when the first process starts
---@field off table<string, string> scripts that are switched off, "rule NAME" or such: why

---@return flowd.Snapshot
function snapshot.new() return { files = {}, lists = {}, off = {}, fixed = {} } end

local function records(self)
  local parts = {}
  local function add(kind, key, value)
    parts[#parts + 1] = ("%s %d %d\n"):format(kind, #key, #value)
    parts[#parts + 1], parts[#parts + 2] = key, value
  end
  for path, text in pairs(self.files) do add("file", path, text) end
  for pattern, list in pairs(self.lists) do add("list", pattern, table.concat(list, "\0")) end
  for name, value in pairs(self.fixed) do add("fixed", name, tostring(value)) end
  for name, why in pairs(self.off) do add("off", name, why) end
  return table.concat(parts)
end

--- As text.
---@param self flowd.Snapshot
---@return string
function snapshot.encode(self) return records(self) end

--- From text; nil: it is none.
---@param text string
---@return flowd.Snapshot|nil
function snapshot.decode(text)
  local self, at = snapshot.new(), 1
  while at <= #text do
    local kind, key_size, size, next_at = text:match("^(%l+) (%d+) (%d+)\n()", at)
    if not kind then return nil end
    local middle = next_at + tonumber(key_size)
    local key, value = text:sub(next_at, middle - 1), text:sub(middle, middle + tonumber(size) - 1)
    at = middle + tonumber(size)
    if at > #text + 1 then return nil end
    if kind == "list" then
      local list = {}
      for path in value:gmatch("[^%z]+") do list[#list + 1] = path end
      self.lists[key] = list
    elseif kind == "file" then
      self.files[key] = value
    elseif kind == "fixed" then
      self.fixed[key] = value
    elseif kind == "off" then
      self.off[key] = value
    end
  end
  return self
end

local offered

--- Write it, which takes its time when there is much of it; for offer().
---@param self flowd.Snapshot
---@return integer fd owned by the caller, or a negative error
function snapshot.write(self)
  local text = records(self)
  return api.memory_file_make("flowd-lua policy", text, #text)
end

--- Leave it to the next image, instead of the one before.
---@param fd integer what snapshot.write() gave; from now on it belongs to this module
function snapshot.offer(fd)
  local status = fd < 0 and fd or api.handover_offer(NAME, fd)
  if status < 0 then
    log.warn("the configuration cannot be kept in memory: %s: after a hang the files will be read again",
      ffi.string(api.error_text(status)))
    if fd >= 0 then api.descriptor_close(fd) end
    return
  end
  if offered then api.descriptor_close(offered) end
  offered = fd
end

--- The next image is to read the files: it was asked for.
function snapshot.withdraw()
  if not offered then return end
  api.handover_withdraw(NAME)
  api.descriptor_close(offered)
  offered = nil
end

--- What the image before left, when a script hung in it.
---@return flowd.Snapshot|nil
function snapshot.take()
  local fd = api.handover_take(NAME)
  if fd < 0 then return nil end
  local size = tonumber(api.memory_file_size(fd))
  local buffer = ffi.new("char[?]", math.max(size, 1))
  local got = size >= 0 and tonumber(api.memory_file_read(fd, buffer, size)) or -1
  api.descriptor_close(fd)
  return got >= 0 and snapshot.decode(ffi.string(buffer, got)) or nil
end

return snapshot
