-- SPDX-License-Identifier: Apache-2.0
--- A marker without a daemon: flow events in, packets through its program.
---
---     local m = marking.open(100)
---     m:events({ { state = "start", src_port = 5000, slot = 0, label = 0x20004 } })
---     local out = m:run(frame)
local api = require("flowd.api")
local bit = require("bit")
local ffi = require("ffi")
local packets = require("spec.support.packets")

local marking = {}
local Marking = {}
Marking.__index = Marking

local ROUTE = 4
local states = { start = ffi.C.FLOW_START, ongoing = ffi.C.FLOW_ONGOING, ["end"] = ffi.C.FLOW_END }
local protocols = { tcp = 6, udp = 17 }
local message = ffi.new("char[512]")

--- Can BPF programs be loaded here?
---@return boolean, string|nil reason
function marking.available()
  local m = api.marker_open(1, message, 512)
  if m == nil then return false, ffi.string(message) end
  api.marker_close(m)
  return true
end

--- Closed by the garbage collector, or by close().
---@param flows_max integer
---@param directory string|nil pinned there
function marking.open(flows_max, directory)
  local handle = directory and api.marker_open_pinned(flows_max, directory, message, 512)
    or api.marker_open(flows_max, message, 512)
  if handle == nil then error(ffi.string(message), 2) end
  local self = setmetatable({ handle = ffi.gc(handle, api.marker_close), batch = ffi.new("struct flow_batch") }, Marking)
  return self
end

function Marking:close()
  api.marker_close(ffi.gc(self.handle, nil))
  self.handle = nil
end

local function fill_address(to, text)
  if api.address_parse(text, #text, to) < 0 then error("address: " .. text) end
end

--- Make a batch of events, as the flow table delivers them. Fields of an event, with defaults: state
--- ("start"), protocol ("tcp"), src, dst, src_port (5000), dst_port (443), slot, label (0x20004),
--- known, decided, routed (true), delivered (true).
---@param list table[]
function Marking:fill(list)
  local batch = self.batch
  ffi.fill(batch.event, ffi.sizeof("struct flow_event") * #list)
  batch.count = #list
  for i, fields in ipairs(list) do
    local e = batch.event[i - 1]
    local src = fields.src or packets.src
    fill_address(e.key.src, src)
    fill_address(e.key.dst, fields.dst or packets.dst)
    e.key.src_port, e.key.dst_port = fields.src_port or 5000, fields.dst_port or 443
    e.key.protocol = protocols[fields.protocol or "tcp"]
    e.key.family = src:find(":") and 6 or 4
    e.state = states[fields.state or "start"]
    e.slot = fields.slot or ffi.C.FLOW_SLOT_NONE
    e.label = fields.label or 0x20004
    e.route = fields.routed == false and 2 or ROUTE
    e.flags = bit.bor(fields.delivered == false and 0 or ffi.C.EVENT_DELIVER, fields.known and ffi.C.EVENT_KNOWN or 0,
      fields.decided and ffi.C.EVENT_DECIDED or 0)
  end
end

--- Queue the batch that was made last.
function Marking:queue_filled() api.marker_queue(self.handle, self.batch.event, self.batch.count, ROUTE) end

--- Make a batch and queue it.
---@param list table[]
function Marking:queue(list)
  self:fill(list)
  self:queue_filled()
end

function Marking:flush() api.marker_flush(self.handle) end

--- Queue and flush.
---@param list table[]
function Marking:events(list)
  self:queue(list)
  self:flush()
end

--- Run the program on a packet. Returns what became of it, or nil and the kernel's errno. The kernel makes a
--- socket that sends it.
---@param packet string
---@param bare boolean|nil without Ethernet header
---@param other_socket boolean|nil than the one that sent the flow's packet before; default: as if it were the first
---@return string|nil out
---@return integer verdict
function Marking:run(packet, bare, other_socket)
  if not other_socket then api.marker_forget_sockets(self.handle) end
  local out = ffi.new("uint8_t[?]", #packet + 64, 0xEE)
  local run = ffi.new("struct marker_packet_run")
  run.packet, run.length, run.out = ffi.cast("const void *", packet), #packet, out
  local r = api.marker_run(self.handle, not bare, run)
  if r < 0 then return nil, r end
  return ffi.string(out, run.out_length), run.verdict
end

local kinds = { [0] = "marked", "missed", "not_ipv6", "protocol", "fragment", "truncated", "extensions", "write",
  "reused", "expired" }
local refusals = { [0] = "full", "memory", "other" }

-- A key with the defaults of fill.
local function key_of(self, fields)
  local other = ffi.new("struct flow_batch")
  local batch = self.batch
  self.batch = other
  self:fill({ fields })
  self.batch = batch
  return other.event[0].key
end

--- What the program knows of a flow; nil when it is not marked.
---@param fields table of an event
---@return { packets: integer, octets: integer, cookie: integer }|nil
function Marking:usage(fields)
  local usage = ffi.new("struct marker_usage")
  if api.marker_flow_usage(self.handle, key_of(self, fields), usage) < 0 then return nil end
  return { packets = tonumber(usage.packets), octets = tonumber(usage.octets), cookie = tonumber(usage.cookie) }
end

local function as_table(c)
  local result = { refused = {} }
  for i, name in pairs(kinds) do result[name] = tonumber(c.packets[i]) end
  for i, name in pairs(refusals) do result.refused[name] = tonumber(c.refused[i]) end
  for _, name in ipairs({ "open", "added", "changed", "removed", "ipv4" }) do result[name] = tonumber(c[name]) end
  return result
end

--- What the marker counted: packets by kind, flows by what was done.
---@return table<string, integer>
function Marking:counts()
  local c = ffi.new("struct marker_counts")
  api.marker_counts(self.handle, c)
  return as_table(c)
end

--- Packets that were not asked about before: by "experiment/activity", and by kind.
---@return table<string, { packets: integer, octets: integer }>
---@return table<string, integer>
function Marking:account()
  local c, classes = ffi.new("struct marker_counts"), ffi.new("struct marker_class[?]", ffi.C.MARKER_CLASSES_MAX)
  local list = {}
  repeat local done = api.marker_look(self.handle) until done
  for i = 0, api.marker_account(self.handle, c, classes) - 1 do
    local class = classes[i]
    list[class.experiment .. "/" .. class.activity] = { packets = tonumber(class.packets), octets = tonumber(class.octets) }
  end
  return list, as_table(c)
end

---@param interface string
---@param method "auto"|"tcx"|"clsact"
---@return integer result
---@return string message
function Marking:attach(interface, method)
  local methods = { auto = ffi.C.MARKER_AUTO, tcx = ffi.C.MARKER_TCX, clsact = ffi.C.MARKER_CLSACT }
  ffi.fill(message, 512)
  local r = api.marker_attach(self.handle, interface, methods[method], message, 512)
  return r, ffi.string(message)
end

--- "tcx", "clsact" or nil
function Marking:attached(interface)
  return ({ [tonumber(ffi.C.MARKER_TCX)] = "tcx", [tonumber(ffi.C.MARKER_CLSACT)] = "clsact" })[
    api.marker_attached(self.handle, interface)]
end

--- The label that a packet leaves with, 0x12345 or so; 0: it had none and got none.
---@param src_port integer
---@param fields { protocol: "tcp"|"udp"|nil, src: string|nil, dst: string|nil, dst_port: integer|nil }|nil
---@return integer
function Marking:label_of(src_port, fields)
  fields = fields or {}
  local transport = fields.protocol == "udp" and packets.udp or packets.tcp
  local frame = packets.ethernet(packets.ipv6({
    next = fields.protocol == "udp" and 17 or 6, src = fields.src, dst = fields.dst,
    payload = transport(src_port, fields.dst_port or 443),
  }))
  local out = assert(self:run(frame))
  return (out:byte(16) % 16) * 65536 + out:byte(17) * 256 + out:byte(18)
end

function Marking:detach(interface) return api.marker_detach(self.handle, interface) end

return marking
