-- SPDX-License-Identifier: Apache-2.0
--- A backend of a site's own: each start and end of a flow as a line of JSON on a Unix socket.
--
-- Put it into /etc/flowd-lua/backends and name it in the configuration:
--
--     backends = { json_socket = { path = "/run/monitor/events" } },
--
--     {"state":"start","time":1767268800.5,"protocol":"tcp","src":"2001:db8::1","src_port":1094,"dst":"2001:db8::2",
--      "dst_port":40000,"experiment":2,"activity":26,"experiment_name":"atlas","activity_name":"Data Challenge"}
--
-- A reader that is slow or away fills a bounded queue, whose oldest lines are dropped and counted. When it comes
-- back it gets the rest; lines that were under way when the connection broke come again.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local json = require("flowd.json")
local schema = require("flowd.schema")

local json_socket = {
  name = "json_socket",
  doc = "Writes each start and end of a flow as a line of JSON to a Unix socket.",
  schema = {
    path = schema.path{ required = true, doc = "The socket, on which somebody listens." },
    queue_length = schema.integer{ default = 10000, min = 1, max = 1000000, unit = "lines",
      doc = "How many lines may wait. A full queue drops its oldest." },
    retry = schema.seconds{ default = 1, min = 0.01, max = 3600,
      doc = "How long after a failure the socket is tried again." },
  },
}

local BUNDLE = 200 -- lines that are written at once
local words = { [ffi.C.FLOW_START] = "start", [ffi.C.FLOW_ONGOING] = "ongoing", [ffi.C.FLOW_END] = "end" }
local protocols = { [6] = "tcp", [17] = "udp" }
local text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)

local function address(a) return ffi.string(text, api.address_format(a, text)) end

local function line_of(e, registry)
  local key = e.key
  local has_bytes = bit.band(e.flags, ffi.C.EVENT_HAS_BYTES) ~= 0
  return json.encode({
    state = words[e.state], time = tonumber(e.time_us) / 1e6, start_time = tonumber(e.start_us) / 1e6,
    protocol = protocols[key.protocol], src = address(key.src), src_port = key.src_port,
    dst = address(key.dst), dst_port = key.dst_port, experiment = e.experiment, activity = e.activity,
    experiment_name = registry:experiment_name(e.experiment),
    activity_name = registry:activity_name(e.experiment, e.activity),
    bytes_sent = has_bytes and e.bytes_sent or nil, bytes_received = has_bytes and e.bytes_received or nil,
  }) .. "\n"
end

function json_socket:start(ctx)
  self.queue, self.first, self.last = {}, 1, 0
  self.sent = ctx:counter("flowd_site_events_total", { backend = ctx.name })
  self.dropped = ctx:counter("flowd_site_events_dropped_total", { backend = ctx.name, reason = "queue_full" })
  self.unsent = ctx:counter("flowd_site_events_dropped_total", { backend = ctx.name, reason = "stopped" })
  -- In straight-line style: connect, write what there is, wait for more; start anew when something fails.
  ctx.spawn(function()
    while true do
      local stream, message = ctx.connect{
        path = self.options.path,
        on_data = function() end, -- what the reader says is of no interest
        on_end = function() self:wake_up() end,
      }
      if stream then
        ctx:log("info", "%s: connected", self.options.path)
        self.complained = false
        message = self:serve(ctx, stream)
        stream:close()
      end
      if not self.complained then ctx:log("warn", "%s (tried again every %g s)", message, self.options.retry) end
      self.complained = true
      ctx.sleep(self.options.retry)
    end
  end)
end

-- Write until something fails; returns what.
function json_socket:serve(ctx, stream)
  while not stream.ended and not stream.closed do
    if self.first > self.last then
      ctx.wait(function(wake) self.wake = wake end)
    else
      local from, upto = self.first, math.min(self.last, self.first + BUNDLE - 1)
      local ok, message = stream:write(table.concat(self.queue, "", from, upto))
      if ok then ok, message = stream:flush() end
      if not ok then return self.options.path .. ": " .. message end
      -- Meanwhile the oldest of them may have been dropped.
      for i = math.max(from, self.first), upto do
        self.queue[i] = nil
        self.sent.value = self.sent.value + 1
      end
      self.first = math.max(self.first, upto + 1)
    end
  end
  return self.options.path .. ": the reader has gone"
end

function json_socket:wake_up()
  local wake = self.wake
  self.wake = nil
  if wake then wake() end
end

function json_socket:on_events(events, n)
  local route_bit, registry = self.ctx.route_bit, self.ctx.registry
  for i = 0, n - 1 do
    local e = events[i]
    if bit.band(e.flags, ffi.C.EVENT_DELIVER) ~= 0 and bit.band(e.route, route_bit) ~= 0 then
      if self.last - self.first + 1 >= self.options.queue_length then
        self.queue[self.first] = nil
        self.first = self.first + 1
        self.dropped.value = self.dropped.value + 1
      end
      self.last = self.last + 1
      self.queue[self.last] = line_of(e, registry)
    end
  end
end

-- Once for each batch of events.
function json_socket:flush()
  if self.last >= self.first then self:wake_up() end
end

--- Lines that can be expected to leave soon: asked when the daemon stops.
function json_socket:pending() return self.complained and 0 or self.last - self.first + 1 end

function json_socket:stop() self.unsent.value = self.unsent.value + self.last - self.first + 1 end

return json_socket
