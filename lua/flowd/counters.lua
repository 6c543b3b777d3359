-- SPDX-License-Identifier: Apache-2.0
--- Counters by name and labels, and what each of them means.
--
--     local counter = require("flowd.counters").get
--     local refused = counter("flowd_lines_refused_total", { plugin = "pipe", reason = "too_long" })
--     refused.value = refused.value + 1
--
-- The handle stays valid for the process's life: get it once, keep it in a local.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")

local counters = {}

--- Help text of every base name, for `stats` and the Prometheus exposition. A counter without
--- a line here fails spec/unit/counters_spec.lua. Sorted by name.
---@type table<string, string>
counters.help = {
  flowd_backend_errors_total = "Errors that a backend raised while it handled events.",
  flowd_callback_errors_total = "Errors that callbacks of a plugin or backend raised.",
  flowd_connections_refused_total = "Connections that a plugin's or backend's server closed at once, by reason: "
    .. "too_many, or tls (no TLS could be agreed on, or the client's certificate is not accepted).",
  flowd_console_changes_total = "Changes that were made from the console; each is logged with its user.",
  flowd_console_clients = "Clients of the console that are connected now.",
  flowd_console_connections_total = "Clients that connected to the console.",
  flowd_console_dropped_total = "Clients of the console that were dropped, by reason: does_not_read, in_a_frame (they left in the "
    .. "middle of a request), no_memory.",
  flowd_console_longest_microseconds = "The longest time of a processor that the console took between two looks at what else there "
    .. "is to do: no event waited longer for it.",
  flowd_console_refused_total = "What the console refused, by reason: user (who may not), clients (too many), frame (malformed), "
    .. "descriptors (none was left).",
  flowd_console_requests_total = "Requests of the console's clients.",
  flowd_counters_overflow_total = "Increments of counters for which the table of names had no room.",
  flowd_datagram_errors_total = "Errors that came back for datagrams which a plugin or backend sent.",
  flowd_datagrams_dropped_total = "Datagrams of plugins and backends that were given up, by reason: queue_full (the "
    .. "oldest of a full queue), unsendable (the system refused), stopped, too_long (received), system_queue_full "
    .. "(received faster than read).",
  flowd_datagrams_received_total = "Datagrams that plugins and backends received.",
  flowd_datagrams_sent_total = "Datagrams that plugins and backends sent.",
  flowd_events_dropped_total = "Events that a rule dropped, and those of flows that never opened because of it.",
  flowd_events_unmapped_total = "Events whose experiment was still unset after the rules: sent to no backend.",
  flowd_fifo_failures_total = "Times that a removed FIFO could not be made again, or the one in its place not be used.",
  flowd_fifo_replaced_total = "Times that a FIFO was found removed or replaced.",
  flowd_fireflies_calls_total = "System calls (sendmmsg) by which fireflies were sent.",
  flowd_fireflies_dropped_total = "Fireflies given up, by reason: queue_full (the oldest of a full queue), too_big, "
    .. "unsendable (no route, forbidden), no_host (multicast, broadcast), stopped (queued when the daemon ended).",
  flowd_fireflies_errors_total = "Errors of the system when it was given fireflies to send.",
  flowd_fireflies_octets_total = "Octets of the fireflies sent, padding included.",
  flowd_fireflies_queued = "Fireflies that wait for a receiver that is slow, down or without an address.",
  flowd_fireflies_refused_total = "ICMP errors that came back for fireflies sent: nobody listens, or no way to get there.",
  flowd_fireflies_segmented_total = "Fireflies that left by segmentation offload (UDP_SEGMENT).",
  flowd_fireflies_sent_total = "Fireflies that the system took for sending.",
  flowd_flows_adopted_total = "Open flows taken over from the daemon before.",
  flowd_flows_end_without_start_total = "Ends of flows that were not open: reported with start-time = end-time.",
  flowd_flows_ended_total = "Flows that ended.",
  flowd_flows_missed_ends_total = "Flows that ended because their local TCP socket is gone and nobody told: found after a "
    .. "restart, or when the same addresses and ports started again (succeeded).",
  flowd_flows_not_adopted_total = "Flows found in the state file and not taken over, by reason.",
  flowd_flows_open = "Flows that are open now.",
  flowd_flows_reapplied_total = "Open flows that reapply ran today's rules over, by result: unchanged, changed (another "
    .. "tag), rerouted, dropped and unmapped (both: ended).",
  flowd_flows_refused_total = "Starts refused because the flow could not be stored, by reason.",
  flowd_flows_sockets_total = "Flows whose local TCP socket was found and recorded.",
  flowd_flows_started_total = "Flows that were opened.",
  flowd_http_requests_total = "HTTP requests that plugins and backends made, by result: 2xx and so on, or failed (no "
    .. "complete answer).",
  flowd_http_served_total = "HTTP requests that plugins' and backends' servers answered, by class of the status; timeout: "
    .. "requests that did not arrive in time.",
  flowd_hang_microseconds = "From the entry of the script that hung last until events were handled again.",
  flowd_input_errors_total = "Batches or lines whose handling raised an error.",
  flowd_input_octets_lost_total = "Octets that were left unread in a FIFO when the daemon stopped, or could not be set aside.",
  flowd_input_set_aside_total = "Lines that were in hand at two crashes in a row: set aside in a file in state_dir.",
  flowd_inputs_refused_total = "Input buffers that could not be had in the state file.",
  flowd_lines_refused_total = "Lines that were refused, by reason.",
  flowd_lines_total = "Lines that became events.",
  flowd_map_files_stale = "Files of maps that are wrong as they are now: what they said before is in use.",
  flowd_map_files_total = "Changed files of maps, by result: ok, or refused for an error.",
  flowd_log_errors_total = "Times that a log file which a plugin follows could not be read.",
  flowd_log_lines_refused_total = "Lines of log files that plugins follow which were longer than allowed.",
  flowd_log_lines_total = "Lines of log files that plugins follow.",
  flowd_log_rotations_total = "Times that a log file was replaced or truncated, by what was found: renamed, truncated, "
    .. "lost (truncated, and no copy of what was in it).",
  flowd_marker_added_total = "Flows that were marked.",
  flowd_marker_adopted = "Whether the marks of a process before this one were taken over at the start: 1 or 0.",
  flowd_marker_changed_total = "Marks that were given another label, by a new start of an open flow.",
  flowd_marker_flows = "Flows that are marked now.",
  flowd_marker_interface_marked = "Whether what leaves the interface is marked: 1 or 0.",
  flowd_marker_ipv4_total = "Flows that were not marked because IPv4 has no flow label.",
  flowd_marker_marked_octets_total = "Octets of marked packets by experiment and activity: from the IPv6 header on, as on the "
    .. "wire, each segment with its headers.",
  flowd_marker_marked_packets_total = "Marked packets by experiment and activity, as on the wire.",
  flowd_marker_memory_octets = "The kernel's memory for the table of marks.",
  flowd_marker_packets_total = "Packets by what the marking program did and why; missed: of no marked flow, but from the port of one.",
  flowd_marker_refused_total = "Marks that could not be set, changed or removed, by reason.",
  flowd_marker_removed_total = "Marks that were removed.",
  flowd_memory_off_total = "Rules, timers, plugins and backends switched off because they held most of the memory that "
    .. "memory_limit allows, by kind and name.",
  flowd_memory_refused_total = "Times that a plugin's or backend's connection had no room for what it wrote or received, because "
    .. "it held what memory_limit allows, by kind and name.",
  flowd_modules_failed = "Plugins and backends that are configured and did not start.",
  flowd_policy_memory_octets = "Memory that rules, maps and timers use; memory_limit is its limit.",
  flowd_registry_unknown_total = "Events whose experiment, or whose activity of a known experiment, is not in the "
    .. "registry; they pass unless registry.strict.",
  flowd_registry_updates_total = "Times that the registry's URL was asked, by result: new, unchanged, failed (no answer "
    .. "of use), refused (the configuration cannot be loaded with it).",
  flowd_reload_pause_microseconds = "How long events waited at most, at a time, during the last reload.",
  flowd_reloads_total = "Times the configuration was loaded again on SIGHUP, by result: ok, or refused for an error.",
  flowd_resolver_failures_total = "Look-ups of a collector's name that gave no address.",
  flowd_rule_errors_total = "Events on which a rule failed: they went on as if it had not matched.",
  flowd_rule_hits_total = "Events on which a rule acted.",
  flowd_rule_microseconds_total = "Time that a rule took, estimated from a sample of the events. Declared rules that an "
    .. "index finds (flowd_rules_indexed) have one figure together.",
  flowd_rule_slow_total = "Times that a rule took more than slow_rule_percent of the daemon's time, looked at every 5 seconds.",
  flowd_rules_index_octets = "Memory of the index of declared rules.",
  flowd_rules_indexed = "Declared rules that are found by the index and not tried one by one.",
  flowd_rules_off = "Rules that are switched off because they kept failing.",
  flowd_script_off = "Rules and timers that are switched off, by kind and name: 1 until a reload or restart.",
  flowd_scripts_hung_total = "Scripts that never returned, by kind and name: the process was replaced and goes on "
    .. "without them.",
  flowd_scripts_off = "Rules, plugins and backends that are switched off because they never returned.",
  flowd_site_total = "What rules count by flowd.state.counter, by its name.",
  flowd_site_events_dropped_total = "Events that a site's own plugin or backend gave up, by reason.",
  flowd_site_events_total = "Events that a site's own plugin or backend handled.",
  flowd_state_damaged_total = "Parts of the state file that were found damaged and given up.",
  flowd_timer_errors_total = "Errors that timers of the policy raised, by where the timer was made.",
  flowd_writes_refused_total = "Writes of plugins and backends that did not fit into the connection's queue: the peer "
    .. "takes too little.",
}

local name_max = ffi.C.COUNTER_NAME_SIZE - 1
local shortest = 16 -- octets to which a label value may be cut

--- A short, stable fingerprint: keeps shortened label values apart.
local function fingerprint(text)
  local h = 5381
  for i = 1, #text do h = bit.tobit(h * 33 + text:byte(i)) end
  return bit.tohex(h)
end

local escapes = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

local function escape(value)
  -- Other control characters have no escape in the exposition format.
  return (value:gsub('[\\"\n]', escapes):gsub("%c", "?"))
end

--- Cut a value at `limit` octets, not inside a UTF-8 sequence, and mark it with its fingerprint.
local function shorten(value, limit)
  local keep = math.max(limit - 9, 0)
  while keep > 0 and value:byte(keep + 1) >= 0x80 and value:byte(keep + 1) < 0xC0 do keep = keep - 1 end
  return value:sub(1, keep) .. "~" .. fingerprint(value)
end

local function series(base, keys, values)
  local parts = {}
  for i, key in ipairs(keys) do parts[i] = ('%s="%s"'):format(key, escape(values[key])) end
  return ("%s{%s}"):format(base, table.concat(parts, ","))
end

--- The Prometheus series of a base name and labels. Labels are sorted by key; a value that
--- does not fit is shortened and marked with a fingerprint, so that two of them stay apart.
---@param base string such as "flowd_events_total"
---@param labels? table<string, string|number|boolean>
---@return string
function counters.name(base, labels)
  if not base:find("^flowd_[a-z0-9_]+$") then
    error(("counter %q: expected flowd_ and then lower-case letters, digits, underscores"):format(base), 2)
  end
  if not labels or next(labels) == nil then return base end
  local keys, values = {}, {}
  for key, value in pairs(labels) do
    if type(key) ~= "string" or not key:find("^[a-z_][a-z0-9_]*$") then
      error(("counter %s: label %q: expected lower-case letters, digits, underscores"):format(base, tostring(key)), 2)
    end
    keys[#keys + 1] = key
    values[key] = tostring(value)
  end
  table.sort(keys)
  local name = series(base, keys, values)
  while #name > name_max do
    local longest = keys[1]
    for _, key in ipairs(keys) do
      if #values[key] > #values[longest] then longest = key end
    end
    local value = values[longest]
    if #value <= shortest then break end -- the C side counts it as overflow
    values[longest] = shorten(value, math.max(#value - (#name - name_max), shortest))
    name = series(base, keys, values)
  end
  return name
end

--- Find or register a counter. Add to its field `value`.
---@param base string
---@param labels? table<string, string|number|boolean>
---@return { value: integer } counter `struct counter *`
function counters.get(base, labels)
  return api.counter_get(counters.name(base, labels))
end

--- The base name of a series: what stands before its labels.
---@param name string
---@return string
function counters.base(name) return (name:match("^[^{]*")) end

--- Every registered counter, in order of registration.
---@return fun(): string?, any
function counters.each()
  local i = -1
  return function()
    i = i + 1
    local c = api.counter_at(i)
    if c == nil then return nil end
    return ffi.string(c.name), c
  end
end

return counters
