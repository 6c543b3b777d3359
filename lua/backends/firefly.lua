-- SPDX-License-Identifier: Apache-2.0
--- Sends fireflies: one UDP datagram for each start and end of a flow.
--
-- Encoding, queues and system calls are C (src/firefly*.h, src/udp_out.h), one call a batch.
-- Here is what happens rarely: names become addresses, receivers that refuse are tried again.
--
-- Loops. A firefly may reach a host that listens for fireflies, makes events of them, and
-- whose own firefly backend sends to the events' destination: for ever, if that is the listener
-- itself. This backend only sends; its sockets are its own and nothing reads what they
-- receive. An event that came in as a firefly must not leave for the same place again: that is
-- for its plugin's route to say, or for a rule (flow:route("marker")).
local ffi = require("ffi")
local api = require("flowd.api")
local resolver = require("flowd.resolver")
local schema = require("flowd.schema")

-- In the order of src/udp_out.h: from DOWN on, nothing leaves soon.
local STATE = {
  READY = ffi.C.UDP_OUT_READY, BLOCKED = ffi.C.UDP_OUT_BLOCKED, DOWN = ffi.C.UDP_OUT_DOWN,
  CLOSED = ffi.C.UDP_OUT_CLOSED,
}

--- "host", "host:port", "[address]:port" or a bare IPv6 address into its parts.
---@param text string
---@param default_port integer
---@return string|nil host
---@return integer|string port, or what is wrong
local function split_endpoint(text, default_port)
  local host, port = text:match("^%[([^%[%]]+)%]:(%d+)$")
  if not host then host = text:match("^%[([^%[%]]+)%]$") end
  local bracketed = host ~= nil
  if not host then host, port = text:match("^([^:%[%]]+):(%d+)$") end
  if not host and not text:find("[%[%]]") and (resolver.literal(text) or not text:find(":")) then host = text end
  if not host or host == "" then
    return nil, ('expected "host", "host:port", "address" or "[IPv6 address]:port"; got "%s"'):format(text)
  end
  if bracketed and not (resolver.literal(host) and host:find(":")) then
    return nil, ('expected an IPv6 address between the brackets; got "%s"'):format(host)
  end
  if not resolver.literal(host) and (host:find("[^%w%._%-]") or host:find("^[%d%.]+$")) then
    return nil, ("expected a host name or an address; got \"%s\""):format(host)
  end
  port = port and tonumber(port) or default_port
  if port < 1 or port > 65535 then return nil, ("expected a port from 1 to 65535; got %d"):format(port) end
  return host, port
end

local firefly = {
  name = "firefly",
  doc = "Sends a firefly, the SciTags UDP message (syslog header and JSON, version 1), when a flow starts and when it "
    .. "ends: to the flow's destination and to any number of collectors. Nothing here ever waits: a receiver that is "
    .. "slow, down or has no address yet keeps a bounded queue of its own.",
  schema = {
    to_destination = schema.boolean{ default = true,
      doc = "Send to the destination of each flow." },
    port = schema.port{ default = 10514,
      doc = "The port at the destinations, and at collectors that name none." },
    collectors = schema.list{ default = {}, max = 64,
      of = schema.any_of{
        schema.string{ expects = 'a collector, such as "collector.example.org:10514"',
          check = function(text)
            local host, message = split_endpoint(text, 10514)
            return not host and message or nil
          end,
          doc = "A name or an address, and a port unless it is the option `port`." },
        schema.table{ fields = {
          host = schema.host{ required = true, doc = "A name or an address." },
          port = schema.port{ doc = "Default: the option `port` of the backend." },
        }, doc = "The same as a table." },
      },
      doc = 'Collectors, each `"host"`, `"host:port"`, `"[IPv6 address]:port"` or `{ host = …, port = … }`. A name is '
        .. "resolved without delaying the start, and again when it fails and every `resolve_interval`. When it has "
        .. "several addresses, one that refuses is left for the next." },
    syslog_header = schema.boolean{ default = true,
      doc = "Begin each message with a syslog header (RFC 5424). Off: the JSON object alone." },
    hostname = schema.string{ default = "", max_length = 255, pattern = "^[!-~]*$",
      expects = "a host name without blanks",
      doc = 'What the header names as the sender; "" is the system\'s host name.' },
    queue_length = schema.integer{ default = 10000, min = 1, max = 1000000, unit = "fireflies",
      doc = "How many fireflies may wait for each collector, and for the destinations of each address family. A full "
        .. "queue drops its oldest." },
    resolve_interval = schema.seconds{ default = "5m", min = 1,
      doc = "How often the collectors' names are resolved again." },
    segmentation = schema.boolean{ default = true,
      doc = "Let the kernel cut many fireflies for one receiver out of one long buffer (UDP_SEGMENT), which halves the "
        .. "cost of a large batch. They are padded with blanks to equal length. Where it does not work it is not used." },
  },
}

-- -- one receiver: an output with its counters, watchers and address ---------------------

local function new_receiver(self, what, to)
  local ctx = self.ctx
  local function counter(name, reason) return ctx:counter(name, { to = to, reason = reason }) end
  local c = ffi.new("struct udp_out_counters")
  c.sent = counter("flowd_fireflies_sent_total")
  c.octets = counter("flowd_fireflies_octets_total")
  c.segmented = counter("flowd_fireflies_segmented_total")
  c.calls = counter("flowd_fireflies_calls_total")
  c.refused = counter("flowd_fireflies_refused_total")
  c.failed = counter("flowd_fireflies_errors_total")
  c.dropped_full = counter("flowd_fireflies_dropped_total", "queue_full")
  c.dropped_too_big = counter("flowd_fireflies_dropped_total", "too_big")
  c.dropped_unsendable = counter("flowd_fireflies_dropped_total", "unsendable")
  c.dropped_stopped = counter("flowd_fireflies_dropped_total", "stopped")
  c.queued = counter("flowd_fireflies_queued")
  local out = api.udp_out_new(what .. " " .. to, self.options.queue_length, c)
  if out == nil then error("out of memory for queue_length = " .. self.options.queue_length, 0) end
  local receiver = { out = ffi.gc(out, api.udp_out_free), name = to, counters = c }
  self.receivers[#self.receivers + 1] = receiver
  api.udp_out_segments(receiver.out, self.options.segmentation)
  return receiver
end

local function forget(self, receiver, name)
  if receiver[name] then self.ctx:release(receiver[name]) end
  receiver[name] = nil
end

local attend

-- Connect to the address at hand; the loop then watches for errors that come back.
local function connect(self, receiver)
  local text = receiver.addresses[receiver.position]
  local address = ffi.new("struct flow_address")
  api.address_parse(text, #text, address)
  for _, name in ipairs({ "readable", "writable", "timer" }) do forget(self, receiver, name) end
  receiver.address = text
  if api.udp_out_connect(receiver.out, address, receiver.port, #receiver.addresses > 1) ~= 0 then return end
  receiver.readable = self.ctx:fd(api.udp_out_fd(receiver.out), "r", function()
    api.udp_out_notice(receiver.out)
    attend(self, receiver)
  end)
  self.ctx:log("debug", "collector %s: sending to %s port %d", receiver.name, text, receiver.port)
end

-- The one at hand refuses: the next of its addresses, and a fresh answer soon.
local function try_elsewhere(self, receiver)
  receiver.follow:again()
  if #receiver.addresses > 1 then
    receiver.position = receiver.position % #receiver.addresses + 1
    connect(self, receiver)
  end
end

-- See to it that a receiver with something queued is flushed when it can be.
function attend(self, receiver)
  local out = receiver.out
  local state = api.udp_out_state(out)
  if api.udp_out_queued(out) == 0 then return end
  if state == STATE.BLOCKED then
    if receiver.writable then return end
    receiver.writable = self.ctx:fd(api.udp_out_fd(out), "w", function()
      forget(self, receiver, "writable")
      api.udp_out_flush(out)
      attend(self, receiver)
    end)
  elseif state ~= STATE.READY and state ~= STATE.CLOSED then
    if receiver.timer then return end
    receiver.timer = self.ctx:after(api.udp_out_retry_in(out), function()
      receiver.timer = nil
      if api.udp_out_state(out) == STATE.DOWN and api.udp_out_retry_in(out) == 0 and receiver.follow then
        try_elsewhere(self, receiver)
      end
      api.udp_out_flush(out)
      attend(self, receiver)
    end)
  end
end

-- The name's addresses are known, or known anew.
local function use_addresses(self, receiver, addresses)
  local keep
  for i, address in ipairs(addresses) do
    if address == receiver.address then keep = i end
  end
  receiver.addresses = addresses
  receiver.position = keep or 1
  if receiver.unresolved then self.ctx:log("info", "collector %s: resolved", receiver.name) end
  receiver.unresolved = nil
  if keep and api.udp_out_state(receiver.out) ~= STATE.CLOSED then
    api.udp_out_segments(receiver.out, self.options.segmentation)
  else
    connect(self, receiver)
  end
  api.udp_out_flush(receiver.out)
  attend(self, receiver)
end

local function add_collector(self, entry)
  local host, port
  if type(entry) == "table" then
    host, port = entry.host, entry.port or self.options.port
  else
    host, port = split_endpoint(entry, self.options.port)
  end
  local name = (host:find(":") and "[%s]:%d" or "%s:%d"):format(host, port)
  local receiver = new_receiver(self, "firefly collector", name)
  receiver.port = port
  if api.firefly_sender_add(self.sender, receiver.out) ~= 0 then
    error(("expected at most %d collectors"):format(ffi.C.FIREFLY_COLLECTORS_MAX), 0)
  end
  local failures = self.ctx:counter("flowd_resolver_failures_total", { name = host })
  receiver.follow = resolver.follow(self.ctx, host, {
    interval = self.options.resolve_interval,
    on_addresses = function(addresses) use_addresses(self, receiver, addresses) end,
    on_failure = function(message)
      failures.value = failures.value + 1
      -- While it has an address that once was right, a failed look-up changes nothing.
      if receiver.unresolved then return end
      receiver.unresolved = true
      self.ctx:log("warn", "collector %s: cannot resolve the name: %s: asking again", name, message)
    end,
  })
end

local function add_destinations(self)
  local outs = {}
  for i, family in ipairs({ 4, 6 }) do
    local receiver = new_receiver(self, "fireflies to", "destinations")
    -- Where the system has one family only, the other's fireflies stay in their queue.
    api.udp_out_open(receiver.out, family)
    outs[i] = receiver.out
  end
  local skipped = self.ctx:counter("flowd_fireflies_dropped_total", { to = "destinations", reason = "no_host" })
  api.firefly_sender_destinations(self.sender, self.options.port, outs[1], outs[2], skipped)
  self.ctx:every(self.options.resolve_interval, function()
    for _, out in ipairs(outs) do api.udp_out_segments(out, self.options.segmentation) end
  end)
end

-- -- the backend -------------------------------------------------------------------------

function firefly:start(ctx)
  local options = self.options
  local style = ffi.new("struct firefly_style")
  api.firefly_style_init(style, options.syslog_header, options.hostname)
  self.receivers = {}
  self.sender = ffi.gc(api.firefly_sender_new(style), api.firefly_sender_free)
  if self.sender == nil then error("out of memory", 0) end
  self.route_bit = ctx.route_bit
  if options.to_destination then add_destinations(self) end
  for _, entry in ipairs(options.collectors) do add_collector(self, entry) end
  if #self.receivers == 0 then
    ctx:log("warn", "nowhere to send to: to_destination is off and collectors is empty")
  end
end

local queue, flush, now = api.firefly_queue, api.firefly_flush, api.clock_realtime_us

function firefly:on_events(events, n) queue(self.sender, events, n, now(), self.route_bit) end

function firefly:flush()
  if flush(self.sender) == 0 then return end
  for _, receiver in ipairs(self.receivers) do attend(self, receiver) end
end

--- Fireflies that can be expected to leave soon: what waits for a receiver that is down, being
--- tried or without address is not among them.
---@return integer
function firefly:pending()
  local total = 0
  for _, receiver in ipairs(self.receivers) do
    local state = api.udp_out_state(receiver.out)
    if state < STATE.DOWN then total = total + api.udp_out_queued(receiver.out) end
  end
  return total
end

function firefly:stop()
  for _, receiver in ipairs(self.receivers or {}) do
    if receiver.follow then receiver.follow:close() end
    local left = api.udp_out_give_up(receiver.out)
    if left > 0 then self.ctx:log("warn", "%s: %d fireflies were not sent", receiver.name, left) end
  end
end

firefly.split_endpoint = split_endpoint

return firefly
