-- SPDX-License-Identifier: Apache-2.0
--- What this binary is.
local version = {}

--- "0.1.0"
version.number = _flowd.version

--- "flowd-lua 0.1.0 (LuaJIT 2.1.0-beta3, x64 Linux)"
---@return string
function version.text()
  return ("flowd-lua %s (%s, %s %s)"):format(version.number, jit.version, jit.arch, jit.os)
end

return version
