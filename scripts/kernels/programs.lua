-- SPDX-License-Identifier: Apache-2.0
-- Run by the binary under test: flowd-lua lua programs.lua
-- Tries each eBPF program in it; a line each: NAME ERRNO INSTRUCTIONS VERIFIED MACHINE_CODE
local api = require("flowd.api")
local ffi = require("ffi")

local trial = ffi.new("struct program_trial")
local n = 0
while api.programs_try(n, trial) == 0 do
  n = n + 1
  print(("%s.%s %d %d %d %d"):format(ffi.string(trial.object), ffi.string(trial.program), -trial.error,
    trial.instructions, trial.verified, trial.machine_code))
end
