-- SPDX-License-Identifier: Apache-2.0
--- What a rule sees of an event: checked fields, never the event's memory.
--
-- There is one view. It shows the event that the chain is at, and raises when it is used outside a
-- rule's call. LuaJIT inlines all of it: a compiled read is a load from the event. What keeps it so:
-- - the event at hand stands in a cell of C memory, whose address is a constant of the machine
--   code: moving on allocates nothing;
-- - fields are told apart by comparisons with constants, which the compiler does while it compiles;
-- - functions are made once: of a function that was made several times the compiler takes no
--   upvalue for a constant; what differs from chain to chain is bound (view.bind);
-- - Lua's own functions are locals;
-- - no tail calls, but `return (f())`: LuaJIT takes a tail call for the turn of a loop, of which a
--   trace may have few.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local addresses = require("flowd.addresses")
local show = require("flowd.show")
local suggest = require("flowd.suggest")
local tags = require("flowd.tags")

local band, bor = bit.band, bit.bor
local error, select, tonumber, type = error, select, tonumber, type
local string_of = ffi.string
local new_address = addresses.new
local resolve_experiment, resolve_activity, resolve_tag = tags.experiment, tags.activity, tags.resolve

local APPLICATION_SIZE = ffi.C.FLOW_APPLICATION_SIZE
local RUNS_ALL = ffi.C.RULE_RUNS_ALL -- the index is to look again
local HAS_BYTES = ffi.C.EVENT_HAS_BYTES

---@class flowd.Flow
---@field src flowd.Address this host's end
---@field dst flowd.Address the other end
---@field src_port integer
---@field dst_port integer
---@field protocol "tcp"|"udp"
---@field family 4|6
---@field state "start"|"ongoing"|"end"
---@field plugin string the plugin that announced the flow
---@field experiment integer 0..511, 0 is unset; assign a number or a name of the registry
---@field activity integer 0..63, 0 is unset; assign a number or a name of the experiment's
---@field experiment_name? string
---@field activity_name? string
---@field application string "" is unknown; assign up to 47 octets
---@field time number when it happened, seconds of UNIX time
---@field start_time number when the flow began
---@field end_time? number when it ended: of ends only
---@field duration number seconds from its start to this event
---@field bytes_sent? integer by src
---@field bytes_received? integer by src
---@field uid? integer
---@field user? string
---@field pid? integer
---@field comm? string
---@field cgroup? string

local protocols = { [ffi.C.FLOW_TCP] = "tcp", [ffi.C.FLOW_UDP] = "udp" }
local states = { [ffi.C.FLOW_START] = "start", [ffi.C.FLOW_ONGOING] = "ongoing", [ffi.C.FLOW_END] = "end" }

local view = {}

-- The event shown, null when no rule runs; and, for the chain's loops, whether they run rules or
-- turn idly; and whether memory was refused (src/heap.h). At most 16 octets: a larger one would not be a constant.
local cell = ffi.new("struct { struct flow_event *event; bool live, refused; uint32_t turn; }")
view.cell = cell

-- What is bound: names of the registry, bits of backends by name, names of plugins by id and where they
-- are from, counters of rules by number.
local names, backends, plugins, source_name, hits

local function outside()
  error("the flow is only there while a rule runs: keep its fields, not the flow itself", 3)
end

-- ---- changing ----------------------------------------------------------------------

-- What the running rule overwrote and the event has no room for.
local saved_application = ffi.new("char[?]", APPLICATION_SIZE)
local application_saved = false

--- Before the first change that a rule makes to an event.
---@param e ffi.cdata*
local function act(e)
  local rule = e.cursor
  if e.undo_cursor ~= rule then
    e.undo_cursor = rule
    e.undo_rule = e.rule
    e.undo_experiment = e.experiment
    e.undo_activity = e.activity
    e.undo_route = e.route
    application_saved = false
    e.rule = rule
    hits[rule].value = hits[rule].value + 1
  end
end
view.act = act

--- Take back what the running rule changed.
function view.undo()
  local e = cell.event
  local rule = e.cursor
  if e.undo_cursor ~= rule then return end
  e.runs = RUNS_ALL
  e.rule = e.undo_rule
  e.experiment = e.undo_experiment
  e.activity = e.undo_activity
  e.route = e.undo_route
  if application_saved then ffi.copy(e.application, saved_application, APPLICATION_SIZE) end
  e.undo_cursor = 0
  hits[rule].value = hits[rule].value - 1
end

local function set_experiment(e, value)
  local id, message = resolve_experiment(names, value)
  if not id then error(message, 3) end
  act(e)
  e.runs = RUNS_ALL
  e.experiment = id
end

local function set_activity(e, value)
  local id, message = resolve_activity(names, e.experiment, value)
  if not id then error(message, 3) end
  act(e)
  e.runs = RUNS_ALL
  e.activity = id
end

local function set_application(e, value)
  if type(value) ~= "string" or #value >= APPLICATION_SIZE or value:find("%c") then
    error(("application: expected a text of at most %d octets without control characters; got %s")
      :format(APPLICATION_SIZE - 1, show(value)), 3)
  end
  act(e)
  if not application_saved then
    ffi.copy(saved_application, e.application, APPLICATION_SIZE)
    application_saved = true
  end
  e.runs = RUNS_ALL
  ffi.fill(e.application, APPLICATION_SIZE)
  ffi.copy(e.application, value)
end

-- ---- methods -----------------------------------------------------------------------

-- What rules get; its metatable follows.
local flow = {}

local function no_colon(name, example)
  error(("%s: expected a colon, not a point, before %s: flow:%s"):format(name, name, example), 3)
end

--- Set experiment and activity together: `flow:tag("atlas/Data Challenge")`, `flow:tag("atlas", "Data Challenge")`,
--- `flow:tag(2, 26)`, or what a map found. Without an activity it is unset. nil changes nothing.
---@return boolean was there a tag?
local function tag(self, experiment, activity)
  local e = cell.event
  if e == nil then outside() end
  if self ~= flow then no_colon("tag", "tag(\"atlas/Data Challenge\")") end
  if experiment == nil then return false end
  local experiment_id, activity_id, message = resolve_tag(names, experiment, activity)
  if not experiment_id then error(message, 2) end
  act(e)
  e.runs = RUNS_ALL
  e.experiment = experiment_id
  e.activity = activity_id
  return true
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

local function backend_bit(name)
  local mask = backends[name]
  if mask then return mask end
  local known = sorted_keys(backends)
  if type(name) ~= "string" then
    error(('route: expected names of backends, as in flow:route("marker", "firefly"); got %s'):format(show(name)), 3)
  end
  error(("route: no backend %s is configured%s"):format(show(name),
    #known == 0 and "" or " (there is " .. table.concat(known, ", ") .. ")" .. suggest.hint(name, known)), 3)
end

--- Send the flow to these backends and to no others.
---@param first string
local function route(self, first, second, third, ...)
  local e = cell.event
  if e == nil then outside() end
  if self ~= flow then no_colon("route", "route(\"marker\")") end
  if first == nil then error("route: expected the name of a backend; got nothing", 2) end
  local mask = backend_bit(first)
  if second ~= nil then mask = bor(mask, backend_bit(second)) end
  if third ~= nil then mask = bor(mask, backend_bit(third)) end
  for i = 1, select("#", ...) do mask = bor(mask, backend_bit((select(i, ...)))) end
  act(e)
  e.route = mask
end

-- ---- reading -----------------------------------------------------------------------

local function plugin_name(id)
  local name = plugins[id]
  if not name then
    name = source_name(id) or ""
    plugins[id] = name
  end
  return name
end

local function experiment_name(e) return (names.registry:experiment_name(e.experiment)) end
local function activity_name(e) return (names.registry:activity_name(e.experiment, e.activity)) end

-- What each field of the flow is, in terms of `e`, its key and the names around the generated reader.
-- Frequent ones first. nil: only plugins of later versions know.
local fields = {
  { "src_port", "key.src_port" },
  { "dst_port", "key.dst_port" },
  { "experiment", "e.experiment" },
  { "activity", "e.activity" },
  { "src", "(new_address(key.src.word[0], key.src.word[1], key.src.word[2], key.src.word[3]))" },
  { "dst", "(new_address(key.dst.word[0], key.dst.word[1], key.dst.word[2], key.dst.word[3]))" },
  { "protocol", "protocols[key.protocol]" },
  { "state", "states[e.state]" },
  { "family", "key.family" },
  { "plugin", "(plugin_name(e.source))" },
  { "application", "(string_of(e.application))" },
  { "experiment_name", "(experiment_name(e))" },
  { "activity_name", "(activity_name(e))" },
  { "time", "tonumber(e.time_us) / 1e6" },
  { "start_time", "tonumber(e.start_us) / 1e6" },
  { "end_time", "e.state == END and (tonumber(e.time_us) / 1e6) or nil" },
  { "duration", "e.time_us > e.start_us and (tonumber(e.time_us - e.start_us) / 1e6) or 0" },
  { "bytes_sent", "band(e.flags, HAS_BYTES) ~= 0 and (tonumber(e.bytes_sent)) or nil" },
  { "bytes_received", "band(e.flags, HAS_BYTES) ~= 0 and (tonumber(e.bytes_received)) or nil" },
  { "uid", "nil" }, { "user", "nil" }, { "pid", "nil" }, { "comm", "nil" }, { "cgroup", "nil" },
}

local writable = { "activity", "application", "experiment" }
local readable = { "tag", "route" }
for _, field in ipairs(fields) do readable[#readable + 1] = field[1] end

local function unknown(field, known, level)
  local hint = (field == "drop" or field == "accept") and (": a rule says `return %s`"):format(field) or suggest.hint(field, known)
  error(("a flow has no field %s%s"):format(show(field), hint), level + 1)
end

-- The function behind flow.FIELD: one comparison a field, each with a constant. `around`: the names
-- that it uses.
local function make_reader(around)
  local keys, source = sorted_keys(around), { "local around = ...\n" }
  for _, name in ipairs(keys) do source[#source + 1] = ("local %s = around.%s\n"):format(name, name) end
  source[#source + 1] = "return function(_, field)\nlocal e = cell.event\nif e == nil then outside() end\nlocal key = e.key\n"
  for _, field in ipairs(fields) do
    source[#source + 1] = ("if field == %q then return %s end\n"):format(field[1], field[2])
  end
  source[#source + 1] = "if field == 'tag' then return tag end\nif field == 'route' then return route end\n"
  source[#source + 1] = "unknown(field)\nend"
  return loadstring(table.concat(source), "=flow")(around)
end

local read = make_reader({
  cell = cell, outside = outside, unknown = function(field) unknown(field, readable, 3) end, new_address = new_address,
  protocols = protocols, states = states, plugin_name = plugin_name, string_of = string_of, tonumber = tonumber, band = band,
  HAS_BYTES = HAS_BYTES, END = tonumber(ffi.C.FLOW_END), experiment_name = experiment_name, activity_name = activity_name,
  tag = tag, route = route,
})

local function write(_, field, value)
  local e = cell.event
  if e == nil then outside() end
  -- Not tail calls: an error names the line two levels up.
  if field == "experiment" then
    set_experiment(e, value)
    return
  elseif field == "activity" then
    set_activity(e, value)
    return
  elseif field == "application" then
    set_application(e, value)
    return
  end
  for _, name in ipairs(readable) do
    if name == field then
      local called = (field == "tag" or field == "route") and ("; %s is called: flow:%s(…)"):format(field, field) or ""
      error(("flow.%s cannot be changed; what can is %s%s"):format(field, table.concat(writable, ", "), called), 2)
    end
  end
  unknown(field, writable, 2)
end

--- What rules get.
---@type flowd.Flow
view.flow = setmetatable(flow, {
  __metatable = false, __index = read, __newindex = write,
  __tostring = function()
    if cell.event == nil then return "flow (none: no rule is running)" end
    return view.describe(cell.event)
  end,
})

--- What a chain binds the view to.
---@param options table registry, backends (masks by name), source_name (id to name), hits (struct counter ** by rule number)
---@return table binding for view.bind
function view.binding(options)
  return {
    names = tags.names(options.registry), backends = options.backends, plugins = {}, source_name = options.source_name,
    source_id = options.source_id, hits = options.hits,
  }
end

--- Before a chain runs that is not the one that ran last.
function view.bind(binding)
  names, backends, plugins = binding.names, binding.backends, binding.plugins
  source_name, hits = binding.source_name, binding.hits
end

local text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)

local function endpoint(address, family, port)
  local host = ffi.string(text, api.address_format(address, text))
  return (family == 6 and "[%s]:%d" or "%s:%d"):format(host, port)
end

--- An event in a line, for logs: `start tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000`.
---@param e ffi.cdata* struct flow_event &
---@return string
function view.describe(e)
  local key = e.key
  return ("%s %s %s -> %s"):format(states[e.state] or "?", protocols[key.protocol] or "?",
    endpoint(key.src, key.family, key.src_port), endpoint(key.dst, key.family, key.dst_port))
end

return view
