-- SPDX-License-Identifier: Apache-2.0
--- Files that nobody but root and the owner of the configuration can have written (src/trust.h).
local ffi = require("ffi")
local api = require("flowd.api")

local trusted = {}

local FILE_MAX = 64 * 1024 * 1024
local ERROR_SIZE = 4608

--- The text of a trusted file.
---@param path string
---@param owner integer uid whose files are trusted, besides root's, or TRUST_OWN_FILE
---@return string? text
---@return string? message that starts with the path
function trusted.read(path, owner)
  local message = ffi.new("char[?]", ERROR_SIZE)
  local size = api.trust_read(path, owner, nil, 0, message, ERROR_SIZE)
  if size < 0 then return nil, ffi.string(message) end
  if size > FILE_MAX then return nil, ("%s: larger than %d octets"):format(path, FILE_MAX) end
  -- One more octet tells a file that grew from one that did not.
  local buffer = ffi.new("char[?]", size + 1)
  local got = api.trust_read(path, owner, buffer, size + 1, message, ERROR_SIZE)
  if got < 0 then return nil, ffi.string(message) end
  if got > size then return nil, path .. ": changes while it is read" end
  return ffi.string(buffer, got)
end

return trusted
