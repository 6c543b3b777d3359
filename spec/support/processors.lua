-- SPDX-License-Identifier: Apache-2.0
--- On which processor this process runs.
local bit = require("bit")
local ffi = require("ffi")

ffi.cdef("int sched_setaffinity(int, size_t, const uint64_t *);")

local processors = {}

--- Stay on a processor, or (nil) go where there is room again.
---@param cpu integer|nil
function processors.pin(cpu)
  local set = ffi.new("uint64_t[16]")
  if not cpu then ffi.fill(set, ffi.sizeof(set), 0xFF) end
  if cpu then set[math.floor(cpu / 64)] = bit.lshift(1ULL, cpu % 64) end
  assert(ffi.C.sched_setaffinity(0, ffi.sizeof(set), set) == 0)
end

--- How many this process may run on.
---@return integer
function processors.count() return tonumber(require("spec.support.process").must({ "nproc" })) end

return processors
