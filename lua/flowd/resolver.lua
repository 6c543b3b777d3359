-- SPDX-License-Identifier: Apache-2.0
--- Host names to addresses, without ever blocking the loop.
--
-- Asks what the system's files say: hosts first, then the name servers and search domains of
-- resolv.conf, for IPv6 and IPv4. Both files are read anew for every question. An address in
-- text needs neither.
local ffi = require("ffi")
local api = require("flowd.api")
local core = require("flowd.resolver_core")
local loop = require("flowd.loop")

local resolver = {
  --- The system's files; tests put others here.
  resolv_conf = "/etc/resolv.conf",
  hosts = "/etc/hosts",
}

-- Seconds before a question that failed is asked again: doubled each time.
local BACKOFF_FIRST, BACKOFF_MAX = 1, 60
-- Seconds between two questions that refusals cause.
local AGAIN_MIN = 5

local parsed = ffi.new("struct flow_address")

--- An address as text in its canonical form; nil when the text is no address.
---@param text string "192.0.2.1", "2001:db8::1", "[2001:db8::1]"
---@return string|nil
function resolver.literal(text)
  text = text:match("^%[(.*)%]$") or text
  if api.address_parse(text, #text, parsed) < 0 then return nil end
  local room = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)
  return ffi.string(room, api.address_format(parsed, room))
end

--- Resolve a host name or an address. The callback comes later, exactly once, with an array of
--- addresses in text, or with nil and what went wrong; not after close() of the handle.
---@param ctx table|nil the context that owns the question: it ends with its plugin
---@param host string
---@param callback fun(addresses: string[]|nil, message: string|nil)
---@return table handle with close()
function resolver.resolve(ctx, host, callback)
  local literal = resolver.literal(host)
  if literal then
    local function answer() callback({ literal }, nil) end
    -- Later, as a name server's answer would come: callers see one order of events.
    return ctx and ctx:after(0, answer) or loop.after(0, answer)
  end
  local query
  query = core.resolve(host, function(addresses, message)
    if ctx then ctx:release(query) end
    callback(addresses, message)
  end, resolver.resolv_conf, resolver.hosts)
  return ctx and ctx:own(query) or query
end

local Follow = {}
Follow.__index = Follow

function Follow:ask()
  self.timer = nil
  self.asked_ns = api.clock_monotonic_ns()
  self.query = resolver.resolve(self.ctx, self.host, function(addresses, message)
    self.query = nil
    if addresses and #addresses == 0 then addresses, message = nil, "the name has no address" end
    if addresses then
      self.wait = BACKOFF_FIRST
      self:ask_in(self.interval)
      self.on_addresses(addresses)
    else
      self:ask_in(math.min(self.wait, self.interval))
      self.wait = math.min(self.wait * 2, BACKOFF_MAX)
      if self.on_failure then self.on_failure(message) end
    end
  end)
end

function Follow:ask_in(seconds)
  if self.timer then self.ctx:release(self.timer) end
  self.timer = self.ctx:after(seconds, function() self:ask() end)
end

--- Ask again soon: the addresses seem to be wrong. At most once in a few seconds.
function Follow:again()
  if self.query or self.closed or self.literal then return end
  local since = tonumber(api.clock_monotonic_ns() - self.asked_ns) / 1e9
  self:ask_in(math.max(0, AGAIN_MIN - since))
end

--- Stop asking.
function Follow:close()
  self.closed = true
  for _, name in ipairs({ "query", "timer" }) do
    if self[name] then self.ctx:release(self[name]) end
    self[name] = nil
  end
end

--- Keep a name resolved: ask now, again every `interval` seconds, and after a failure with
--- growing pauses from 1 to 60 seconds.
---@param ctx table the context that owns it
---@param host string a name or an address; an address is told at once and never asked for
---@param options { interval: number, on_addresses: fun(addresses: string[]), on_failure: fun(message: string)? }
---@return table handle with again() and close()
function resolver.follow(ctx, host, options)
  local self = setmetatable({
    ctx = ctx, host = host, interval = options.interval, wait = BACKOFF_FIRST,
    on_addresses = options.on_addresses, on_failure = options.on_failure,
    literal = resolver.literal(host),
  }, Follow)
  if self.literal then
    self.on_addresses({ self.literal })
  else
    self:ask()
  end
  return self
end

return resolver
