-- SPDX-License-Identifier: Apache-2.0
--- A plugin of a site's own: events from the log of a transfer service.
--
-- Put it into /etc/flowd-lua/plugins and name it in the configuration:
--
--     plugins = { transfer_log = { path = "/var/log/transfers.log" } },
--
-- The log has a line for the start and one for the end of each transfer, the source being this host's end:
--
--     2026-01-01T12:00:00Z start 2001:db8::1 1094 2001:db8::2 40000 vo=atlas activity=Data_Challenge
--     2026-01-01T12:05:00Z end 2001:db8::1 1094 2001:db8::2 40000 vo=atlas sent=123456 received=789
--
-- Another service writes another line: change `parse`. Renaming and truncating the log, restarts of the daemon and
-- lines that are no such thing are looked after.
local schema = require("flowd.schema")

local transfer_log = {
  name = "transfer_log",
  doc = "Follows the log of a transfer service and emits an event for each transfer that starts or ends.",
  schema = {
    path = schema.path{ required = true, doc = "The log." },
    protocol = schema.one_of{ "tcp", "udp", default = "tcp", doc = "What the transfers use." },
  },
}

-- Seconds of UNIX time of "2026-01-01T12:00:00.25Z"; nil when it is no such time.
local function seconds_of(text)
  local year, month, day, hour, minute, second = text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):([%d.]+)Z$")
  if not tonumber(second) then return nil end
  -- Days since 1970, the year beginning in March (os.time would take the time for a local one).
  local y, m = tonumber(year) - (tonumber(month) <= 2 and 1 or 0), (tonumber(month) + 9) % 12
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400) + math.floor((153 * m + 2) / 5)
    + tonumber(day) - 719469
  return days * 86400 + tonumber(hour) * 3600 + tonumber(minute) * 60 + tonumber(second)
end

-- An event from a line; nil when it is none.
local function parse(line, protocol)
  local time, state, src, src_port, dst, dst_port, rest = line:match("^(%S+) (%l+) (%S+) (%d+) (%S+) (%d+)(.*)$")
  if state ~= "start" and state ~= "end" or not seconds_of(time) then return nil end
  local fields = {}
  for key, value in rest:gmatch("(%w+)=(%S+)") do fields[key] = value end
  return {
    state = state, time = seconds_of(time), protocol = protocol,
    src = src, src_port = tonumber(src_port), dst = dst, dst_port = tonumber(dst_port),
    -- Names or numbers; what is not there is for the rules to find out.
    experiment = fields.vo, activity = fields.activity, application = "transfer_log",
    bytes_sent = tonumber(fields.sent), bytes_received = tonumber(fields.received),
  }
end

function transfer_log:start(ctx)
  local refused = ctx:counter("flowd_lines_refused_total", { plugin = ctx.name, reason = "transfer_log" })
  ctx:follow{ path = self.options.path, on_line = function(line)
    local event = parse(line, self.options.protocol)
    -- emit raises for what cannot be: an address that is none, an experiment that nobody knows.
    local ok, message = pcall(function() ctx:emit(event or error("not the line of a transfer", 0)) end)
    if ok then return end
    refused.value = refused.value + 1
    ctx:log("debug", "%q: %s", line:sub(1, 200), message)
  end }
end

return transfer_log
