-- SPDX-License-Identifier: Apache-2.0
--- One file of a log that is followed: octets from a position on, in lines.
local ffi = require("ffi")
local api = require("flowd.api")

local File = {}
File.__index = File

local follow_file = {}

local CHUNK = 65536

local room = ffi.new("char[?]", CHUNK)

---@class flowd.FollowFile
---@field offset integer of the next octet to read
---@field handed integer of the first octet behind the last whole line

--- Open a file; nil and -errno when that cannot be.
---@param owner table flowd.follow's: line(text), too_long(), line_max
---@param path string
---@param offset integer|nil where to begin; nil: at its end
---@return flowd.FollowFile|nil
---@return integer|nil status
function follow_file.open(owner, path, offset)
  local raw = ffi.new("struct log_file")
  local status = api.log_file_open(raw, path)
  if status ~= 0 then return nil, status end
  offset = offset or tonumber(api.log_file_size(raw))
  return setmetatable({ owner = owner, raw = raw, offset = offset, handed = offset, partial = "" }, File)
end

---@return integer
function File:size() return tonumber(api.log_file_size(self.raw)) end

--- A fingerprint of what stands before a position.
---@return integer uint64_t
function File:print(offset) return api.log_file_print(self.raw, offset or self.offset) end

-- Whole lines of a piece; what is left is the start of the next one.
local function lines(self, text)
  local owner, start = self.owner, 1
  while true do
    local stop = text:find("\n", start, true)
    if not stop then break end
    local line = self.partial .. text:sub(start, stop - 1)
    self.handed = self.handed + #self.partial + self.skipped + stop - start + 1
    if self.skipping or #line > owner.line_max then
      owner:too_long()
    else
      owner:line(line)
    end
    self.partial, self.skipping, self.skipped = "", false, 0
    start = stop + 1
    if owner.closed then return end
  end
  local rest = text:sub(start)
  if self.skipping or #self.partial + #rest > owner.line_max then
    self.skipped = self.skipped + #self.partial + #rest
    self.partial, self.skipping = "", true
  else
    self.partial = self.partial .. rest
  end
end

File.skipped = 0

--- Read one piece. Returns how many octets, 0 at the end, -errno.
---@return integer
function File:read()
  local n = tonumber(api.log_file_read(self.raw, self.offset, room, CHUNK))
  if n <= 0 then return n end
  self.offset = self.offset + n
  local text = ffi.string(room, n)
  if self.partial == "" and not self.skipping then
    -- A writer that does not append leaves a hole where a file was truncated.
    local hole = #text:match("^%z*")
    if hole > 0 then
      self.handed = self.handed + hole
      text = text:sub(hole + 1)
    end
  end
  lines(self, text)
  return n
end

--- Nothing more comes: what has no newline is the last line.
function File:finish()
  if self.skipping then self.owner:too_long() elseif self.partial ~= "" then self.owner:line(self.partial) end
  self.handed = self.offset
  self.partial, self.skipping, self.skipped = "", false, 0
end

--- Begin again at the start.
function File:rewind()
  self.offset, self.handed, self.partial, self.skipping, self.skipped = 0, 0, "", false, 0
end

function File:close() api.log_file_close(self.raw) end

return follow_file
