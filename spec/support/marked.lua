-- SPDX-License-Identifier: Apache-2.0
--- `it` for tests that need marked packets: skipped, with the reason, where the binary or the kernel
--- cannot mark.
local marking = require("spec.support.marking")

---@param it fun(name: string, body: fun())
---@return fun(name: string, body: fun())
return function(it)
  local available, reason = marking.available()
  if available then return it end
  -- busted's `pending` means "skip this test" only in the environment of a spec file.
  local environment = getfenv(2)
  return function(name) it(name, function() environment.pending(reason) end) end
end
