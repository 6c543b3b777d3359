-- SPDX-License-Identifier: Apache-2.0
--- `flowd-lua marker test`: does this kernel mark what leaves an interface? A marker of our own, for a second,
--- beside the daemon's; a few datagrams (src/egress_probe.h); what left.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")

local marker_test = {}

local ERROR_SIZE = 512
local DATAGRAMS = 5
local ROUTE = 1

local message = ffi.new("char[?]", ERROR_SIZE)
local method_names = { [tonumber(ffi.C.MARKER_TCX)] = "tcx", [tonumber(ffi.C.MARKER_CLSACT)] = "clsact" }

local function address(a)
  local text = ffi.new("char[64]")
  return ffi.string(text, api.address_format(a, text))
end

local function show(key, interface)
  return ("udp [%s]:%d -> [%s%%%s]:%d"):format(address(key.src), key.src_port, address(key.dst), interface, key.dst_port)
end

-- Mark a flow, or unmark it.
local function tell(marker, batch, key, label, state)
  local event = batch.event[0]
  ffi.fill(event, ffi.sizeof("struct flow_event"))
  batch.count = 1
  event.key, event.label, event.state, event.slot, event.route = key, label, state, 0, ROUTE
  event.flags = bit.bor(ffi.C.EVENT_DELIVER, state == ffi.C.FLOW_START and 0 or
    bit.bor(ffi.C.EVENT_KNOWN, ffi.C.EVENT_DECIDED))
  api.marker_queue(marker, batch.event, 1, ROUTE)
  api.marker_flush(marker)
end

-- Datagrams, and a line about them; nil and why not.
local function send(probe, label, what, say)
  local seen = ffi.new("struct egress_seen")
  if api.egress_probe_send(probe, DATAGRAMS, label, seen, message, ERROR_SIZE) < 0 then
    return nil, ffi.string(message)
  end
  local other = seen.captured - seen.labelled
  say(what, ("%d sent, %d captured behind the program: %d with label 0x%05x%s"):format(seen.sent, seen.captured,
    seen.labelled, label, other > 0 and (", %d with another (0x%05x)"):format(other, seen.other_label) or ""))
  return seen
end

local function try(marker, probe, interface, label, say)
  local batch = ffi.new("struct flow_batch")
  say("flow", show(probe.key, interface))
  local before, problem = send(probe, label, "unmarked", say)
  if not before then return nil, problem end
  tell(marker, batch, probe.key, label, ffi.C.FLOW_START)
  local marked
  marked, problem = send(probe, label, "marked", say)
  if not marked then return nil, problem end
  tell(marker, batch, probe.key, label, ffi.C.FLOW_END)
  if marked.captured == 0 then return nil, "what was sent did not leave it: its queue, a filter or a driver took it" end
  if marked.captured < marked.sent then return nil, "some of what was sent did not leave it" end
  if before.labelled > 0 then return nil, "packets carry the label before their flow is marked" end
  if marked.labelled < marked.captured then return nil, "packets of a marked flow leave without its label" end
  return true
end

--- Try it.
---@param interface string
---@param attached { method: string, program: integer }|nil what the daemon has there
---@param say fun(what: string, text: string) takes lines of the report
---@return boolean|nil
---@return string|nil problem why packets are not marked, or it cannot be told
function marker_test.run(interface, attached, say)
  local probe = ffi.new("struct egress_probe")
  if api.egress_probe_open(probe, interface, message, ERROR_SIZE) < 0 then return nil, ffi.string(message) end
  probe = ffi.gc(probe, api.egress_probe_close)
  local marker = api.marker_open(1, message, ERROR_SIZE)
  if marker == nil then return nil, ("interface %s: %s"):format(interface, ffi.string(message)) end
  marker = ffi.gc(marker, api.marker_close)
  -- A filter of ours stands in the place of the daemon's.
  local method = attached and attached.method == "clsact" and ffi.C.MARKER_TCX or ffi.C.MARKER_AUTO
  local ok, problem
  if api.marker_attach(marker, interface, method, message, ERROR_SIZE) < 0 then
    problem = ffi.string(message)
    if attached and attached.method == "clsact" then
      problem = ("interface %s: the daemon marks it by clsact, and this kernel takes no second program: try it while "
        .. "the daemon does not run"):format(interface)
    end
  else
    say("test", ("a program of its own, by %s"):format(method_names[api.marker_attached(marker, interface)] or "?"))
    -- Any label that packets do not have by chance.
    local label = tonumber(bit.band(api.clock_monotonic_ns(), 0xfffff))
    ok, problem = try(marker, probe, interface, label == 0 and 1 or label, say)
    if problem then problem = ("interface %s: %s"):format(interface, problem) end
  end
  api.marker_close(ffi.gc(marker, nil))
  api.egress_probe_close(ffi.gc(probe, nil))
  return ok, problem
end

return marker_test
