-- SPDX-License-Identifier: Apache-2.0
--- The C primitives, through FFI: every FFI_EXPORT function of src/*.h is a field.
-- Their documentation stands in those headers. Trusted code only: no checks here.
local ffi = require("ffi")
ffi.cdef(require("flowd.cdef"))
-- A text that nobody needs any more.
package.loaded["flowd.cdef"] = nil

local api = ffi.cast("const struct flowd_api *", _flowd.api)
return api
