-- SPDX-License-Identifier: Apache-2.0
--- Logging from Lua. Levels: trace, debug, info, warn, error.
local ffi = require("ffi")
local api = require("flowd.api")

local log = {}

local numbers = { trace = 0, debug = 1, info = 2, warn = 3, error = 4 }

--- Number of a level's name, or nil.
---@param name string
---@return integer|nil
function log.level(name) return numbers[name] end

--- What is logged from here on.
---@param level "trace"|"debug"|"info"|"warn"|"error" the least urgent
---@param with_time boolean start each line with the time
function log.setup(level, with_time)
  api.log_setup(numbers[level] or error("log: unknown level " .. tostring(level), 2), with_time)
end

--- Write one message; arguments as string.format. A line break starts a new log line.
---@param level "trace"|"debug"|"info"|"warn"|"error"
---@param format string
function log.write(level, format, ...)
  local number = numbers[level] or error("log: unknown level " .. tostring(level), 2)
  if not api.log_enabled(number) then return end
  local text = select("#", ...) > 0 and format:format(...) or format
  api.log_lines(number, text)
end

for level in pairs(numbers) do
  log[level] = function(format, ...) return log.write(level, format, ...) end
end

local suppressed = ffi.new("uint32_t[1]")

--- A logger that lets `burst` messages pass in each `seconds`, then counts the rest.
---@param burst? integer default 10
---@param seconds? number default 10
---@return fun(level: string, format: string, ...)
function log.limited(burst, seconds)
  local limit = ffi.new("struct log_limit", { burst = burst or 10, interval_ns = (seconds or 10) * 1e9 })
  return function(level, format, ...)
    if not api.log_enabled(numbers[level]) or not api.log_limit_pass(limit, suppressed) then return end
    local text = select("#", ...) > 0 and format:format(...) or format
    if suppressed[0] > 0 then text = ("%s (and %d more of this kind)"):format(text, suppressed[0]) end
    log.write(level, "%s", text)
  end
end

return log
