-- SPDX-License-Identifier: Apache-2.0
--- Paths of files.
local ffi = require("ffi")
local api = require("flowd.api")

local paths = {}

local GLOB_SIZE = 1024 * 1024
local ENOENT = 2

--- The directory that a file is in; "." when its path names none.
---@param path string
---@return string
function paths.directory_of(path)
  local directory = path:match("^(.*)/[^/]*$")
  if directory == "" then return "/" end
  return directory or "."
end

--- A path as it is meant by what stands in a directory.
---@param directory string
---@param path string
---@return string
function paths.below(directory, path)
  if path:sub(1, 1) == "/" or directory == "." then return path end
  return directory .. "/" .. path
end

--- The paths that match a pattern of glob(7), sorted; a pattern without wildcard gives itself.
---@param pattern string
---@return string[]|nil
---@return string|nil message
function paths.glob(pattern)
  local buffer = ffi.new("char[?]", GLOB_SIZE)
  local count = api.process_glob(pattern, buffer, GLOB_SIZE)
  if count == -ENOENT then return {} end
  if count < 0 then return nil, ("%s: cannot be listed (error %d)"):format(pattern, -count) end
  local list, position = {}, buffer
  for i = 1, count do
    list[i] = ffi.string(position)
    position = position + #list[i] + 1
  end
  return list
end

return paths
