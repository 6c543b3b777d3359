-- SPDX-License-Identifier: Apache-2.0
--- A counter of a running daemon as it is in the state file, which the daemon has mapped: it can be read without
--- asking anybody, and set back.
local ffi = require("ffi")
local api = require("flowd.api")

ffi.cdef([[
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int open(const char *, int, ...);
]])

local O_RDWR, PROT_READ_WRITE, MAP_SHARED = 2, 3, 1
local HEAD = 4 * 1024 * 1024 -- octets of the file in which counters are

--- It stays mapped as long as this process lives.
---@param runtime_dir string
---@param series string
---@return ffi.cdata* volatile uint64_t *; code that reads it in a loop must not be compiled
return function(runtime_dir, series)
  local path = runtime_dir .. "/state"
  local file = assert(io.open(path))
  local head = file:read(HEAD)
  file:close()
  local at = assert(head:find(series .. "\0", 1, true), series) - 1 - ffi.offsetof("struct counter", "name")
  local fd = ffi.C.open(path, O_RDWR)
  assert(fd >= 0, path)
  local base = ffi.C.mmap(nil, #head, PROT_READ_WRITE, MAP_SHARED, fd, 0)
  api.descriptor_close(fd)
  assert(ffi.cast("intptr_t", base) ~= -1, "mmap")
  return ffi.cast("volatile uint64_t *", ffi.cast("char *", base) + at)
end
