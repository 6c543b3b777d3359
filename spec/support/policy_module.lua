-- SPDX-License-Identifier: Apache-2.0
--- Runs inside policy states, for specs: text becomes the module "spec_module" there.
local protected = require("flowd.protect").call

local support = {}

function support.load(text) package.loaded.spec_module = assert(loadstring(text, "=spec_module"))() end

--- Call with the memory that scripts have.
function support.limited(name)
  local module, field = name:match("^(.+)%.([^.]+)$")
  local ok, message = protected(require(module)[field])
  if not ok then error(message, 0) end
end

function support.collect() collectgarbage() end

return support
