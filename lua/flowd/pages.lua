-- SPDX-License-Identifier: Apache-2.0
--- Large C objects that are resident only where they were written: ffi.new writes zeros everywhere.
local ffi = require("ffi")
local api = require("flowd.api")

local pages = {}

--- A new object, all zeros.
---@param ctype string of a struct or element
---@param count? integer of elements, default 1
---@return ffi.cdata* pointer to it; what it points to lives as long as this
function pages.new(ctype, count)
  local size = ffi.sizeof(ctype) * (count or 1)
  local memory = api.pages_new(size)
  if memory == nil then error("not enough memory", 2) end
  return ffi.gc(ffi.cast(ctype .. " *", memory), function(dead) api.pages_free(dead, size) end)
end

return pages
