-- SPDX-License-Identifier: Apache-2.0
--- The main state, seen from a policy state.
--
--     local plugins = require("flowd.host").call("plugins")
--
-- calls policy_state.host.plugins there. Plain values only, both ways; errors come back as errors.
local host = {}

--- Call a function of the main state.
---@param name string
function host.call(name, ...) return _flowd.policy.host(name, ...) end

return host
