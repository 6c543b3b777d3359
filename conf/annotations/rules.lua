---@meta
-- SPDX-License-Identifier: Apache-2.0
-- What rule files can use, for editors with a Lua language server (LuaLS): point Lua.workspace.library of its settings at this
-- folder. flowd-lua-rules(7) is made from this file. A line "-- == TITLE ==" starts a section of the manual, plain comments behind
-- it are its text.

-- == RULES ==
-- Rules run in order when a flow is announced; what they decide holds until its end. A rule that does nothing leaves the flow to
-- the next one. What becomes of a flow afterwards, its end included, runs no rules: fields that are told then, as bytes_sent and end_time, a
-- rule has only of flows whose start nobody announced. After the rules, a flow without activity gets 1, which the registry calls default, and one without experiment is
-- counted and goes to no backend.
--
-- They stand in the configuration's list of rules, or in files named there, each of which makes rules or returns a list of them. A rule is
-- a function of the flow or a declaration:
--
--     rule "inside the site" (function(flow)
--       if flow.dst:within("2001:db8:10::/48") then return drop end
--     end)
--
--     rule "storage" {
--       match = { dst_port = { 1094, "20000-25000" }, experiment = "unset" },
--       set = { experiment = "atlas", activity = "Data Challenge" },
--       route = { "marker", "firefly" },
--     }
--
-- An error in a rule is logged with its file and line and counted, what the rule changed is taken back, and the flow goes on as if that
-- rule had not been there. A rule that keeps failing, or never returns, is switched off until a reload.
--
-- A tag is an experiment and an activity: "atlas", "atlas/Data Challenge" or { "atlas", "Data Challenge" }, each a name of the registry (in any
-- case, "_" for a blank) or an id.

---@alias flowd.Tag string|integer[]|string[]

--- A rule. Its name is shown in the log, in counters and in messages.
---@param name string 1 to 64 characters, another one for each rule
---@return fun(body: flowd.RuleFunction|flowd.RuleDeclaration): flowd.Rule
function rule(name) end

---@class flowd.Rule

---@alias flowd.RuleFunction fun(flow: flowd.Flow): flowd.Verdict?

---@class flowd.Verdict

--- What a rule's function returns to have the flow forgotten: it is neither marked nor reported.
---@type flowd.Verdict
drop = nil

--- What a rule's function returns to skip the rules behind it.
---@type flowd.Verdict
accept = nil

--- Load a file of helpers below the configuration's directory, once: "lists.servers" is lists/servers.lua. It runs in the
--- sandbox of the rules; what it returns is what require gives.
---@param name string
---@return any
function require(name) end

-- == THE FLOW ==
-- The flow is there while a rule runs; afterwards it raises an error: keep its fields, not the flow. Fields that no plugin
-- told are nil.

--- A flow as a rule sees it.
---@class flowd.Flow
---@field src flowd.Address This host's end.
---@field dst flowd.Address The other end.
---@field src_port integer This host's port.
---@field dst_port integer The other end's port.
---@field protocol "tcp"|"udp" "tcp" or "udp".
---@field family 4|6 4 or 6, for IPv4 and IPv6.
---@field state "start"|"ongoing"|"end" "start", "ongoing" or "end": what happened to the flow.
---@field plugin string The key of the plugin that announced the flow.
---@field experiment integer|string The id, 0 when unset. Can be set, to an id or a name of the registry.
---@field activity integer|string The id, 0 when unset. Can be set, to an id or a name that the registry has for the flow's experiment.
---@field experiment_name string? The name, nil when the registry has none.
---@field activity_name string? The name, nil when the registry has none.
---@field application string The program that makes the transfer, "" when unknown. Can be set, to at most 47 octets.
---@field time number When it happened, in seconds of UNIX time.
---@field start_time number When the flow began, in seconds of UNIX time.
---@field end_time number? When the flow ended, nil unless it has.
---@field duration number Seconds from its start to this event.
---@field bytes_sent integer? Octets sent by src, nil when unknown.
---@field bytes_received integer? Octets received by src, nil when unknown.
---@field uid integer? The user's id, nil when unknown.
---@field user string? The user's name, nil when unknown.
---@field pid integer? The process, nil when unknown.
---@field comm string? The name of the process, nil when unknown.
---@field cgroup string? The control group, nil when unknown.
local flow = {}

--- Set experiment and activity together: a tag, an experiment and an activity, or what a map found. nil changes nothing.
---@param experiment flowd.Tag|integer|nil
---@param activity string|integer|nil unset when left out
---@return boolean there whether there was a tag
function flow:tag(experiment, activity) end

--- Send the flow to these backends and to no others.
---@param backend string the key of a configured backend
---@param ... string
function flow:route(backend, ...) end

--- An IP address. Two can be compared with ==, and tostring gives the text. A text equals no address: write flow.src == flowd.address("::1"),
--- or flow.src:within("::1").
---@class flowd.Address
---@field family 4|6 4 or 6, for IPv4 and IPv6.
local address = {}

--- Is it within a prefix such as "2001:db8::/32", a list of them, or a set?
---@param prefixes flowd.PrefixSet|string|(string|flowd.PrefixSet)[]
---@return boolean
function address:within(prefixes) end

--- Is it private, shared, link-local or loopback?
---@return boolean
function address:is_private() end

--- Is it reachable from anywhere: neither private nor otherwise special, nor multicast?
---@return boolean
function address:is_global() end

-- == DECLARATIONS ==
-- Everything in match must hold; a list means any of its entries. A thousand declarations cost little more than twenty.

--- A declared rule.
---@class flowd.RuleDeclaration
---@field match flowd.RuleMatch? What must hold; left out, the rule is for every flow.
---@field set flowd.RuleSet? What the flow then gets.
---@field route string|string[]|nil The backends that it goes to, and no others.
---@field drop boolean? With true, it is forgotten.
---@field accept boolean? With true, the rules behind this one are skipped.

--- What a declaration sets.
---@class flowd.RuleSet
---@field experiment string|integer|nil A name or an id; "unset" takes it away.
---@field activity string|integer|nil A name or an id; a name needs an experiment, in set or in match.
---@field application string? At most 47 octets.

--- The fields of match.
---@class flowd.RuleMatch
---@field protocol "tcp"|"udp"|string[]|nil "tcp" or "udp".
---@field family 4|6|"ipv4"|"ipv6"|nil 4 or 6, or "ipv4" or "ipv6".
---@field state "start"|"ongoing"|"end"|string[]|nil "start", "ongoing" or "end".
---@field plugin string|string[]|nil Keys of plugins.
---@field src_port integer|string|(integer|string)[]|nil Ports, or ranges such as "20000-25000".
---@field dst_port integer|string|(integer|string)[]|nil The same.
---@field src string|string[]|flowd.PrefixSet|nil Addresses, prefixes, or a set of prefixes.
---@field dst string|string[]|flowd.PrefixSet|nil The same.
---@field experiment string|integer|(string|integer)[]|nil Ids or names; "unset" for a flow without.
---@field activity string|integer|(string|integer)[]|nil Ids, or names if experiment stands beside it; "unset" for a flow without.
---@field application string|string[]|nil Texts; a * at the end stands for anything.
---@field time string|string[]|nil Times in UTC, "2026-03-01" or "2026-03-01T12:30", or ranges: "2026-03-01..2026-03-31", ">= 2026-03-01".
---@field start_time string|string[]|nil The same.
---@field end_time string|string[]|nil The same; of ends only.
---@field duration string|number|(string|number)[]|nil Seconds, or ranges such as "> 5m" or "1h..2h" (ms, s, m, h, d).
---@field bytes_sent string|number|(string|number)[]|nil Octets, or ranges such as ">= 10M" or "1k..2k". Unknown octets do not match.
---@field bytes_received string|number|(string|number)[]|nil The same.
---@field uid integer|integer[]|nil Ids. As long as no plugin tells it, and with what follows, nothing matches.
---@field user string|string[]|nil Names.
---@field pid integer|integer[]|nil Ids.
---@field comm string|string[]|nil Names.
---@field cgroup string|string[]|nil Names.

-- == SETS OF PREFIXES ==
-- One look-up, however many prefixes there are. An IPv4 address is in no IPv6 prefix.

--- flowd-lua's own words.
---@class flowd
flowd = {}

--- A set of prefixes.
---@param list string|flowd.PrefixSet|(string|flowd.PrefixSet)[] prefixes, addresses and sets
---@return flowd.PrefixSet
function flowd.prefixes(list) end

--- An address from text.
---@param text string
---@return flowd.Address
function flowd.address(text) end

--- A set of prefixes, for address:within.
---@class flowd.PrefixSet
local set = {}

--- Is the address in the set?
---@param address flowd.Address|string
---@return boolean
function set:contains(address) end

-- == MAPS ==
-- A map finds the tag for what it is asked with; flow:tag takes the answer, nil when there is none. Values are tags, checked against the
-- registry when the configuration is loaded.
--
--     local servers = flowd.map.prefixes { ["2001:db8:1::/48"] = "atlas", ["2001:db8:2::/48"] = "cms/Data Challenge" }
--     local users = flowd.map.exact "maps/users.csv"
--
--     rule "by server" (function(flow) flow:tag(servers:find(flow.src) or users:find(flow.user)) end)
--
-- Each is made from a table or from a file, whose name (relative to the configuration's directory) ends in .csv or .lua. It must
-- be trusted as the configuration is, and is read again when it changes. A new one that is wrong is logged with file and line and counted, and what
-- it said before stays in use. Have another file renamed to its name, so that it is never read half written. Maps are made in files, not by
-- rules while they run.
--
-- A line of a CSV file is KEY,TAG or KEY,EXPERIMENT,ACTIVITY. Fields may stand in double quotes, a line that starts with # is a comment, and
-- a first line that calls its last column tag, experiment, activity or weight is a heading. Of round_robin it is TAG or EXPERIMENT,ACTIVITY; of random
-- a weight may follow those two; of first_of it is FIELD,KEY,TAG, where the lines of one field make one map, in the order of the first of them, and
-- default,,TAG stands for any flow. A Lua file returns the table.

--- A map.
---@class flowd.Map
local map = {}

--- The tag for a key: an address for prefixes, a port for ports, a text for globs, a text or number for exact; for schedule the flow, seconds of
--- UNIX time or nothing, for now; for first_of the flow; for the others nothing.
---@param key any
---@return integer? tag for flow:tag
function map:find(key) end

---@class flowd.map
flowd.map = {}

--- By address: the longest prefix wins.
---@param values table<string, flowd.Tag>|string
---@return flowd.Map
function flowd.map.prefixes(values) end

--- By port: keys are ports and ranges such as "20000-25000"; a single port wins over a range.
---@param values table<integer|string, flowd.Tag>|string
---@return flowd.Map
function flowd.map.ports(values) end

--- By text: in a key * stands for anything, ? for one character, \ takes the next one as it is. The key with most characters of its own wins.
---@param values table<string, flowd.Tag>|string
---@return flowd.Map
function flowd.map.globs(values) end

--- By text or number, each as it is.
---@param values table<string|number, flowd.Tag>|string
---@return flowd.Map
function flowd.map.exact(values) end

--- Maps asked in order: an item is a map, asked as this one is; { "dst", map }, asked with that field of the flow, which this one is then asked
--- with; or a tag.
---@param items (flowd.Map|flowd.Tag|table)[]|string
---@return flowd.Map
function flowd.map.first_of(items) end

--- Tags in turn.
---@param tags flowd.Tag[]|string
---@return flowd.Map
function flowd.map.round_robin(tags) end

--- Tags at random: a list, or each with its weight, as { ["atlas/Data Challenge"] = 9, cms = 1 }.
---@param tags flowd.Tag[]|table<string, number>|string
---@return flowd.Map
function flowd.map.random(tags) end

--- By day of the week and time of day: keys as "mon-fri 08:00-18:00", "sat sun", "22:00-06:00" (over midnight, it belongs to the
--- day on which it starts), "always". Of several that hold, the one for the fewest minutes of the week wins.
---@param values table<string, flowd.Tag>|string
---@param settings { zone: string? }? zone: "local" (the default), "UTC", a difference such as "+02:00", or a name such as "Europe/Zurich"
---@return flowd.Map
function flowd.map.schedule(values, settings) end

-- == STATE ==
-- What rules remember outlives a reload. Locals of a rule file do not. Whenever the process starts again (a restart, a crash, SIGUSR2, a
-- script that never returned) tables begin empty: they are the rules' memory and not the daemon's state. Counters are in its state
-- file, and go on after all of these; they begin anew after a stop, unless on_stop = "keep".

---@class flowd.state
flowd.state = {}

--- A counter, the same by its name, which flowd-lua stats shows as flowd_site_total{name="..."}.
---@param name string
---@return flowd.StateCounter
function flowd.state.counter(name) end

--- A table of plain values, the same by its name. Keys are texts, numbers and addresses, values texts, numbers and booleans.
---@param name string
---@param settings { max: integer?, when_full: "error"|"forget"|nil }? max: how many keys (10000); when_full: "error" (the default), or "forget" the oldest key
---@return flowd.StateTable
function flowd.state.table(name, settings) end

---@class flowd.StateCounter
local counter = {}

--- Add to it.
---@param amount integer? 1 when left out
---@return integer value what it is now
function counter:add(amount) end

--- What it has come to.
---@return integer
function counter:get() end

---@class flowd.StateTable
local memory = {}

--- The value of a key; nil when there is none.
---@param key string|number|flowd.Address
---@return string|number|boolean|nil
function memory:get(key) end

--- Set the value of a key; nil takes it away.
---@param key string|number|flowd.Address
---@param value string|number|boolean|nil
function memory:set(key, value) end

--- Add to the number of a key, 0 when there is none.
---@param key string|number|flowd.Address
---@param amount number? 1 when left out
---@return number value what it is now
function memory:add(key, amount) end

--- How many keys there are.
---@return integer
function memory:count() end

--- Take all keys away.
function memory:clear() end

--- Every key and its value, the oldest first: for key, value in memory:each() do.
---@return fun(): string|number|nil, string|number|boolean|nil
function memory:each() end

-- == CALLED LATER ==
-- Timers are made while the configuration is loaded or by rules, run from when the configuration is in use, and end with the next
-- reload. One that fails five times in a row, or never returns, is switched off. No flow can be seen in them.

--- Call a function every so many seconds.
---@param seconds number from 0.01
---@param fn fun()
---@return flowd.Timer
function flowd.every(seconds, fn) end

--- Call a function once.
---@param seconds number from 0.01
---@param fn fun()
---@return flowd.Timer
function flowd.after(seconds, fn) end

---@class flowd.Timer
local timer = {}

--- Call it never again.
function timer:stop() end

-- == LOG ==

--- Write into the daemon's log, at most 20 lines of a level a minute; how many more there were is told. print writes one, too, at any rate.
---@param level "debug"|"info"|"warn"|"error"
---@param format string as of string.format
---@param ... any
function flowd.log(level, format, ...) end

-- == THE SANDBOX ==
-- Of Lua there are assert, error, ipairs, next, pairs, pcall, print, select, setmetatable, getmetatable (of tables), tonumber, tostring, type, unpack and
-- xpcall; string without dump, table, math, bit, and of os clock, date, difftime and time. Files, processes, FFI, debug and bytecode cannot be reached. A
-- name that was not declared is an error, both when it is read and when it is assigned to: declare with local.
