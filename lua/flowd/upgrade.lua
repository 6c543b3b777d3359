-- SPDX-License-Identifier: Apache-2.0
--- SIGUSR2: the binary at our path, a newer one perhaps, takes the place of this process.
local ffi = require("ffi")
local api = require("flowd.api")
local ending = require("flowd.ending")
local log = require("flowd.log")
local snapshot = require("flowd.snapshot")
local subprocess = require("flowd.subprocess")

local upgrade = {}

local CHECK_SECONDS = 60 -- for a new binary to say whether it can take over
local FLUSH_SECONDS = 0.2 -- for queued fireflies before it does

--- Let the binary that stands at our path now take over, when it says that it can.
---@param daemon table flowd.daemon's
function upgrade.start(daemon)
  if daemon.upgrading then return end
  local argv = { ffi.string(api.handover_binary()), "check", "--conf", daemon.config.path, "takeover" }
  local handle, message = subprocess.run(argv, { seconds = CHECK_SECONDS }, function(status, output)
    daemon.upgrading = nil
    if status ~= 0 then
      log.error("SIGUSR2: this process goes on: %s %s", argv[1], status == -1 and "did not answer" or "refuses:")
      log.write("error", "%s", output)
      return
    end
    ending.finish_backends(daemon, api.clock_monotonic_ns() + ffi.cast("uint64_t", FLUSH_SECONDS * 1e9))
    log.info("SIGUSR2: handing over to %s", argv[1])
    snapshot.withdraw() -- it was asked to: it reads the files
    api.notify_send("RELOADING=1")
    local failure = api.handover_exec()
    daemon:keep_configuration()
    log.error("SIGUSR2: this process goes on: %s: %s", argv[1], ffi.string(api.error_text(failure)))
  end)
  daemon.upgrading = handle
  if not handle then log.error("SIGUSR2: this process goes on: %s", message) end
end

return upgrade
