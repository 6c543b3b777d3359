-- SPDX-License-Identifier: Apache-2.0
--- Where the marker pins its programs and tables (src/marker_pins.h).
local pins = {}

pins.mount = "/sys/fs/bpf"

local DEFAULT_RUNTIME_DIR = "/run/flowd-lua"

--- The directory of the daemon with that runtime_dir: each has its own. Names in a BPF file system
--- have neither slash nor dot.
---@param runtime_dir string
---@return string path
function pins.directory(runtime_dir)
  local path = runtime_dir:gsub("/+$", "")
  if path == DEFAULT_RUNTIME_DIR then return pins.mount .. "/flowd-lua" end
  local name = path:gsub("^/+", ""):gsub("[^%w/]", function(c) return ("_%02x"):format(c:byte()) end):gsub("/+", "-")
  return pins.mount .. "/flowd-lua-" .. name
end

--- The runtime_dir of the daemon whose directory that is, or nil.
---@param directory string
---@return string|nil
function pins.runtime_dir(directory)
  local name = directory:match("^" .. pins.mount .. "/flowd%-lua(.*)$")
  if name == "" then return DEFAULT_RUNTIME_DIR end
  if not name or name:sub(1, 1) ~= "-" then return nil end
  return (name:gsub("%-", "/"):gsub("_(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

return pins
