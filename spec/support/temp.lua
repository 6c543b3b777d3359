-- SPDX-License-Identifier: Apache-2.0
--- Files for tests, in a directory that goes when the test is over.
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")

ffi.cdef([[
char *mkdtemp(char *);
int access(const char *, int);
]])

local temp = {}

local function quote(path)
  return "'" .. path:gsub("'", "'\\''") .. "'"
end

--- A new directory, mode 0700, removed with all it holds when the test is over.
---@return string path
function temp.dir()
  local template = (os.getenv("TMPDIR") or "/tmp") .. "/flowd-lua-test-XXXXXX"
  local path = ffi.new("char[?]", #template + 1, template)
  if ffi.C.mkdtemp(path) == nil then error("mkdtemp " .. template .. " failed") end
  path = ffi.string(path)
  cleanup.add(function() os.execute("rm -rf " .. quote(path)) end)
  return path
end

---@param path string
---@param text string
---@return string path
function temp.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
  return path
end

---@param path string
---@return string|nil text nil when it cannot be read
function temp.read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

---@param path string
---@return boolean
function temp.exists(path)
  return ffi.C.access(path, 0) == 0
end

return temp
