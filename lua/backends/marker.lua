-- SPDX-License-Identifier: Apache-2.0
--- Backend "marker": flow labels on the packets of open flows (src/marker.h).
local api = require("flowd.api")
local ffi = require("ffi")
local privileges = require("flowd.privileges")
local schema = require("flowd.schema")

local ERROR_SIZE = 512
local TICK_SECONDS = 1
local LOOK_SECONDS = 0.02 -- from one part of a large table to the next

local marker = {
  name = "marker",
  doc = "Writes the experiment and activity of a flow into the flow label of its IPv6 packets, TCP and UDP, as they "
    .. "leave an interface. An eBPF program does that: it changes nothing else in a packet, never drops one, and lives "
    .. "beside the programs, filters and qdiscs of others. IPv4 has no flow label: such flows are left alone. So are "
    .. "all fragments of a packet but the first, which alone has the ports. Program and marks are pinned in a BPF file "
    .. "system (/sys/fs/bpf/flowd-lua): a killed or replaced daemon's flows stay marked, and the next start takes them "
    .. "over. A stop removes them, unless on_stop = \"keep\".",
  schema = {
    interfaces = schema.list({
      of = schema.string({ pattern = "^[^%s/]+$", expects = "the name of a network interface" }),
      min = 1, default = { "lo" },
      doc = "Network interfaces whose outgoing packets are marked. One that is not there, or goes and comes back, is "
        .. "marked when it is there, within milliseconds after the kernel tells of it; it is an error when none is there at "
        .. "the start.",
    }),
    strategy = schema.one_of({
      "label", default = "label",
      doc = "How packets are marked. label: by the IPv6 flow label.",
    }),
    method = schema.one_of({
      "auto", "tcx", "clsact", default = "auto",
      doc = "How the program is attached. tcx: by a link, before the interface's other egress programs (Linux 6.6 and "
        .. "later). clsact: by a filter on the clsact qdisc, which is made if there is none, and then removed at the "
        .. "end unless others use it. auto: tcx where the kernel has it, else clsact.",
    }),
    lease = schema.seconds({
      max = 2147483647, default = "5m",
      doc = "How long packets are marked after the daemon was killed and did not come back; 0 is for ever. While it "
        .. "runs it renews this all the time, and the next start finds its flows as they were.",
    }),
  },
}

local methods = { auto = ffi.C.MARKER_AUTO, tcx = ffi.C.MARKER_TCX, clsact = ffi.C.MARKER_CLSACT }
local method_names = { [tonumber(ffi.C.MARKER_TCX)] = "tcx", [tonumber(ffi.C.MARKER_CLSACT)] = "clsact" }

-- Fields of struct marker_counts, with the counter that each becomes: field, index or false, name, labels.
local fields = {
  { "packets", ffi.C.MARKER_MARKED, "flowd_marker_packets_total", { result = "marked" } },
  { "packets", ffi.C.MARKER_MISSED, "flowd_marker_packets_total", { result = "missed" } },
  { "packets", ffi.C.MARKER_NOT_IPV6, "flowd_marker_packets_total", { result = "skipped", reason = "not_ipv6" } },
  { "packets", ffi.C.MARKER_PROTOCOL, "flowd_marker_packets_total", { result = "skipped", reason = "protocol" } },
  { "packets", ffi.C.MARKER_FRAGMENT, "flowd_marker_packets_total", { result = "skipped", reason = "fragment" } },
  { "packets", ffi.C.MARKER_TRUNCATED, "flowd_marker_packets_total", { result = "skipped", reason = "truncated" } },
  { "packets", ffi.C.MARKER_EXTENSIONS, "flowd_marker_packets_total", { result = "skipped", reason = "extensions" } },
  { "packets", ffi.C.MARKER_WRITE, "flowd_marker_packets_total", { result = "skipped", reason = "write" } },
  { "packets", ffi.C.MARKER_REUSED, "flowd_marker_packets_total", { result = "skipped", reason = "reused" } },
  { "packets", ffi.C.MARKER_EXPIRED, "flowd_marker_packets_total", { result = "skipped", reason = "expired" } },
  { "refused", ffi.C.MARKER_REFUSED_FULL, "flowd_marker_refused_total", { reason = "full" } },
  { "refused", ffi.C.MARKER_REFUSED_MEMORY, "flowd_marker_refused_total", { reason = "memory" } },
  { "refused", ffi.C.MARKER_REFUSED_OTHER, "flowd_marker_refused_total", { reason = "other" } },
  { "added", false, "flowd_marker_added_total" },
  { "changed", false, "flowd_marker_changed_total" },
  { "removed", false, "flowd_marker_removed_total" },
  { "ipv4", false, "flowd_marker_ipv4_total" },
}

function marker:make_counters()
  self.totals = {}
  for i, field in ipairs(fields) do
    self.totals[i] = { field = field[1], index = field[2], counter = self.ctx:counter(field[3], field[4]), last = 0ULL }
  end
  self.classes = ffi.new("struct marker_class[?]", ffi.C.MARKER_CLASSES_MAX)
  self.memory = self.ctx:counter("flowd_marker_memory_octets")
  self.adopted = self.ctx:counter("flowd_marker_adopted")
  self.adopted.value = api.marker_adopted(self.handle) and 1 or 0
  self.open = self.ctx:counter("flowd_marker_flows")
  self.counts = ffi.new("struct marker_counts")
  self.problems, self.gauges = {}, {}
  for _, interface in ipairs(self.options.interfaces) do
    self.gauges[interface] = self.ctx:counter("flowd_marker_interface_marked", { interface = interface })
  end
end

--- Bring what the program and the table of marks have counted into the daemon's counters.
function marker:count()
  local counts, classes = self.counts, self.classes
  local class_count = api.marker_account(self.handle, counts, classes)
  for _, total in ipairs(self.totals) do
    local now = counts[total.field]
    if total.index then now = now[total.index] end
    if total.field == "packets" then
      -- What is new; packets that were marked while no daemon ran are among them.
      total.counter.value = total.counter.value + now
    else
      total.counter.value = total.counter.value + (now - total.last)
      total.last = now
    end
  end
  for i = 0, class_count - 1 do
    local class = classes[i]
    local labels = { experiment = tostring(class.experiment), activity = tostring(class.activity) }
    local packets = self.ctx:counter("flowd_marker_marked_packets_total", labels)
    local octets = self.ctx:counter("flowd_marker_marked_octets_total", labels)
    packets.value, octets.value = packets.value + class.packets, octets.value + class.octets
  end
  self.open.value, self.memory.value = counts.open, api.marker_memory(self.handle)
end

--- Look at what flows have counted: all of a table of 32,768, a part at a time of a larger one.
function marker:look()
  self.looking = nil
  if api.marker_look(self.handle) then return self:count() end
  self.looking = self.ctx:after(LOOK_SECONDS, function() self:look() end)
end

--- The same in one go, to the last packet.
function marker:look_at_all()
  if self.looking then
    repeat local done = api.marker_look(self.handle) until done
  end
  repeat local done = api.marker_look(self.handle) until done
  self:count()
end

--- What the console's marker() shows.
---@return table plain
function marker:console()
  self:count()
  local interfaces = {}
  for i, interface in ipairs(self.options.interfaces) do
    local method = api.marker_attached(self.handle, interface)
    interfaces[i] = {
      name = interface, attached = method >= 0, method = method_names[method], problem = self.problems[interface],
    }
  end
  return { flows = tonumber(self.open.value), memory = tonumber(self.memory.value), interfaces = interfaces }
end

-- Attach to one interface: true, or false and the reason.
function marker:attach(interface)
  local message = ffi.new("char[?]", ERROR_SIZE)
  if api.marker_attach(self.handle, interface, methods[self.options.method], message, ERROR_SIZE) < 0 then
    return false, ffi.string(message)
  end
  self.ctx:log("info", "interface %s: marking what leaves it (%s)", interface,
    method_names[api.marker_attached(self.handle, interface)] or "it vanished at once")
  return true
end

--- Attach where it is not attached: at the start, and later to interfaces that come, or come back.
---@return integer how many interfaces are marked now
---@return string[] problems those that are new: said once, not at every attempt
function marker:attach_all()
  local marked, news = 0, {}
  for _, interface in ipairs(self.options.interfaces) do
    local attached = api.marker_attached(self.handle, interface) >= 0
    if not attached then
      if api.marker_detach(self.handle, interface) == 0 then
        self.ctx:log("warn", "interface %s: it has vanished, or our filter was taken from it", interface)
      end
      local problem
      attached, problem = self:attach(interface)
      if problem and problem ~= self.problems[interface] then news[#news + 1] = problem end
      self.problems[interface] = problem
    end
    if attached then marked = marked + 1 end
    self.gauges[interface].value = attached and 1 or 0
  end
  return marked, news
end

function marker:tell(problems)
  for _, problem in ipairs(problems) do self.ctx:log("warn", "%s; trying again", problem) end
end

--- The same while it runs: what cannot be had is told.
function marker:keep_attached()
  local _, problems = self:attach_all()
  self:tell(problems)
end

function marker:start(ctx)
  local message = ffi.new("char[?]", ERROR_SIZE)
  self.handle = api.marker_open_pinned(ctx.max_flows, privileges.pins_directory(ctx.runtime_dir), message,
    ERROR_SIZE)
  if self.handle == nil then
    error(("on %s: %s"):format(table.concat(self.options.interfaces, ", "), ffi.string(message)), 0)
  end
  self:make_counters()
  self:renew()
  local marked, problems = self:attach_all()
  if marked == 0 then
    self:stop()
    error("none of its interfaces can be marked: " .. table.concat(problems, "; "), 0)
  end
  self:tell(problems)
  self:watch()
  ctx:every(TICK_SECONDS, function()
    self:renew()
    if not self.looking then self:look() end
    self:keep_attached()
  end)
end

--- New options, without a packet unmarked: what is new is attached before what is old is let go.
---@param options table
---@return boolean
function marker:change(options)
  if options.strategy ~= self.options.strategy then return false end
  local message, wanted = ffi.new("char[?]", ERROR_SIZE), {}
  local before = self.options
  for _, interface in ipairs(options.interfaces) do
    wanted[interface] = true
    if api.marker_reattach(self.handle, interface, methods[options.method], message, ERROR_SIZE) < 0
      and api.marker_attached(self.handle, interface) >= 0 then
      self.ctx:log("error", "%s; it is marked as before (%s)", ffi.string(message),
        method_names[api.marker_attached(self.handle, interface)])
    end
    self.gauges[interface] = self.gauges[interface] or self.ctx:counter("flowd_marker_interface_marked", { interface = interface })
  end
  self.options = options
  self:keep_attached()
  for _, interface in ipairs(before.interfaces) do
    if not wanted[interface] then
      if api.marker_detach(self.handle, interface) == 0 then
        self.ctx:log("info", "interface %s: not marked any more", interface)
      end
      self.gauges[interface].value = 0
    end
  end
  self:renew()
  return true
end

--- Marking goes on for another `lease`.
function marker:renew()
  local r = api.marker_lease(self.handle, math.ceil(self.options.lease))
  if r < 0 and r ~= self.lease_error then
    self.ctx:log("warn", "the lease cannot be renewed: %s", ffi.string(api.error_text(r)))
  end
  self.lease_error = r
end

--- Have the kernel tell of interfaces that come and go; the timer is for what it does not tell, such as
--- a filter that somebody removed.
function marker:watch()
  local fd = api.marker_watch_open()
  if fd < 0 then
    self.ctx:log("warn", "interfaces cannot be watched (error %d): a new one is marked within %g s", -fd, TICK_SECONDS)
    return
  end
  self.watched = self.ctx:fd(fd, "r", function()
    if api.marker_watch_read(fd) then self:keep_attached() end
  end)
  self.watch_fd = fd
end

function marker:on_events(events, count) api.marker_queue(self.handle, events, count, self.ctx.route_bit) end

--- Ends are told how much was sent, where only the marked packets tell: before the other backends have them.
function marker:complete(events, count) api.marker_fill_usage(self.handle, events, count) end

-- Flows that were open before this process: their marks stay, or are set again.
marker.adopt = marker.on_events

--- Those were all.
function marker:adopt_end()
  api.marker_settle(self.handle)
  self:count()
  if self.adopted.value == 1ULL then
    self.ctx:log("info", "took over %d marks and what was attached", tonumber(self.open.value))
  end
end

function marker:flush()
  api.marker_flush(self.handle)
end

--- Detach everywhere and remove all that is ours.
function marker:stop()
  self:look_at_all()
  for _, gauge in pairs(self.gauges) do gauge.value = 0 end
  self.open.value, self.adopted.value, self.memory.value = 0, 0, 0
  if self.watched then
    self.ctx:release(self.watched)
    api.marker_watch_close(self.watch_fd)
    self.watched = nil
  end
  api.marker_close(self.handle)
  self.handle = nil
end

return marker
