-- SPDX-License-Identifier: Apache-2.0
--- Words to the service manager, as sd_notify(3) has them; without one this does nothing.
local api = require("flowd.api")
local log = require("flowd.log")

---@param text string one line for each state, "READY=1" say
return function(text)
  local status = api.notify_send(text)
  if status < 0 then log.debug("service manager: cannot be told (error %d)", -status) end
end
