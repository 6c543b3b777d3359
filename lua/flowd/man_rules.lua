-- SPDX-License-Identifier: Apache-2.0
--- The part of flowd-lua.conf(5) about rules. A spec compares it with what the code knows.
local man_rules = {}

--- Fields of a flow, in the order of the manual.
man_rules.fields = {
  { "src", "This host's end: an address." },
  { "dst", "The other end: an address." },
  { "src_port", "A number." },
  { "dst_port", "A number." },
  { "protocol", '"tcp" or "udp".' },
  { "family", "4 or 6." },
  { "state", '"start", "ongoing" or "end".' },
  { "plugin", "The key of the plugin that announced the flow." },
  { "experiment", "The id, 0 when unset. Can be set, to an id or a name of the registry." },
  { "activity", "The id, 0 when unset. Can be set, to an id or a name that the registry has for the flow's experiment." },
  { "experiment_name", "The name, nil when the registry has none." },
  { "activity_name", "The name, nil when the registry has none." },
  { "application", 'The program that makes the transfer, "" when unknown. Can be set, to at most 47 octets.' },
  { "time", "When it happened, in seconds of UNIX time." },
  { "start_time", "When the flow began, in seconds of UNIX time." },
  { "end_time", "When the flow ended, nil unless it has." },
  { "duration", "Seconds from its start to this event." },
  { "bytes_sent", "Octets sent by src, nil when unknown." },
  { "bytes_received", "Octets received by src, nil when unknown." },
  { "uid", "The user's id, nil when unknown." },
  { "user", "The user's name, nil when unknown." },
  { "pid", "The process, nil when unknown." },
  { "comm", "The name of the process, nil when unknown." },
  { "cgroup", "The control group, nil when unknown." },
}

--- What can be called on a flow and on an address, and what rule files have beside Lua.
man_rules.calls = {
  { "flow:tag(experiment, activity)", 'Set both at once; also flow:tag("atlas/Data Challenge"), and what a map found. '
    .. "nil changes nothing. Returns whether there was a tag." },
  { "flow:route(backend, ...)", "Send the flow to these backends and to no others." },
  { "address:within(prefixes)", 'Is it within a prefix such as "2001:db8::/32", a list of them, or a set?' },
  { "address:is_private()", "Is it private, loopback or link-local?" },
  { "address:is_global()", "Is it reachable from anywhere?" },
  { "flowd.prefixes { ... }", "A set of prefixes, for within; fast, however many there are." },
  { "flowd.address(text)", "An address." },
  { "flowd.map.prefixes { [prefix] = tag, ... }", "A map that gives, by map:find(address), the tag of the longest prefix." },
  { "flowd.map.ports { [port] = tag, ... }", 'A map that gives, by map:find(port), the tag of a port or a range such as '
    .. '"20000-25000".' },
}

--- Fields of a declared rule's match.
man_rules.match = {
  { "protocol", '"tcp" or "udp".' },
  { "family", '4 or 6, or "ipv4" or "ipv6".' },
  { "state", '"start", "ongoing" or "end".' },
  { "plugin", "Keys of plugins." },
  { "src_port", 'Ports, or ranges such as "20000-25000".' },
  { "dst_port", "The same." },
  { "src", "Addresses, prefixes, or a set of prefixes." },
  { "dst", "The same." },
  { "experiment", 'Ids or names; "unset" for a flow without.' },
  { "activity", 'Ids, or names if experiment stands beside it; "unset" for a flow without.' },
  { "application", 'Texts; a * at the end stands for anything.' },
  { "time", 'Times in UTC, "2026-03-01" or "2026-03-01T12:30", or ranges: "2026-03-01..2026-03-31", ">= 2026-03-01".' },
  { "start_time", "The same." },
  { "end_time", "The same; of ends only." },
  { "duration", 'Seconds, or ranges such as "> 5m" or "1h..2h" (ms, s, m, h, d).' },
  { "bytes_sent", 'Octets, or ranges such as ">= 10M" or "1k..2k". Unknown octets do not match.' },
  { "bytes_received", "The same." },
  { "uid", "Ids. As long as no plugin tells it, and with what follows, nothing matches." },
  { "user", "Names." },
  { "pid", "Ids." },
  { "comm", "Names." },
  { "cgroup", "Names." },
}

local function list(page, macro, rows)
  page:macro("Bl -tag -width Ds")
  for _, row in ipairs(rows) do
    page:item(macro, row[1])
    page:text(row[2])
  end
  page:macro("El")
end

--- Write the section.
---@param page table of flowd.man
function man_rules.write(page)
  page:macro("Sh RULES")
  page:text([[Rules run in order when a flow is announced; what they decide holds until its end. A rule that does nothing
leaves the flow to the next one. After the rules, a flow without activity gets 1, which the registry calls default, and
one without experiment is counted and goes to no backend.

A rule is a function of the flow or a declaration:]])
  page:literal([[
rule "inside the site" (function(flow)
  if flow.dst:within("2001:db8:10::/48") then return drop end
end)

rule "storage" {
  match = { dst_port = { 1094, "20000-25000" }, experiment = "unset" },
  set = { experiment = "atlas", activity = "Data Challenge" },
  route = { "marker", "firefly" },
}]])
  page:macro("Pp")
  page:text([[A function may return drop, and the flow is forgotten, or accept, and the rules behind it are skipped.
An error in a rule is logged and counted; the flow goes on as if that rule had not been there. A rule that keeps failing is
switched off.]])
  page:macro("Ss Fields of a flow")
  list(page, "Va", man_rules.fields)
  page:macro("Ss Calls")
  page:text([[A tag is written "experiment", "experiment/activity" or { experiment, activity }, each an id or a name.]])
  list(page, "Li", man_rules.calls)
  page:macro("Ss Declarations")
  page:text([[Everything in match must hold; a list means any of its entries. The flow then gets what set says (experiment,
activity, application), goes to the backends in route, and with drop = true or accept = true it is dropped or accepted.
The fields of match:]])
  list(page, "Va", man_rules.match)
end

return man_rules
