-- SPDX-License-Identifier: Apache-2.0
--- The fields of open flows as flows{…} knows them: what they are of a slot, and conditions on them.
jit.off(true, true)

local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local addresses = require("flowd.addresses")
local format = require("flowd.console.format")
local place = require("flowd.console.place")
local suggest = require("flowd.suggest")

local C = ffi.C
local fields = {}

local protocols = { tcp = C.FLOW_TCP, udp = C.FLOW_UDP }
local protocol_names = { [C.FLOW_TCP] = "tcp", [C.FLOW_UDP] = "udp" }

-- By which flows can be sorted and grouped.
local numbers = {
  id = C.FLOW_QUERY_ID, protocol = C.FLOW_QUERY_PROTOCOL, family = C.FLOW_QUERY_FAMILY, src = C.FLOW_QUERY_SRC,
  dst = C.FLOW_QUERY_DST, src_port = C.FLOW_QUERY_SRC_PORT, dst_port = C.FLOW_QUERY_DST_PORT,
  experiment = C.FLOW_QUERY_EXPERIMENT, activity = C.FLOW_QUERY_ACTIVITY, plugin = C.FLOW_QUERY_SOURCE,
  rule = C.FLOW_QUERY_RULE, label = C.FLOW_QUERY_LABEL, start = C.FLOW_QUERY_START, seen = C.FLOW_QUERY_SEEN,
  bytes_sent = C.FLOW_QUERY_BYTES_SENT, bytes_received = C.FLOW_QUERY_BYTES_RECEIVED, application = C.FLOW_QUERY_APPLICATION,
}

--- Names of the fields by which flows can be sorted.
---@return string[]
function fields.names()
  local names = {}
  for name in pairs(numbers) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The number of a field for flow_query.h.
---@param what string for messages: "sort", "by"
---@param name any
---@return integer
function fields.number(what, name)
  if type(name) ~= "string" or not numbers[name] then
    error(("flows: %s: expected the name of a field; got %s%s"):format(what,
      type(name) == "string" and ("%q"):format(name) or type(name),
      type(name) == "string" and suggest.hint(name, fields.names()) or ""), 0)
  end
  return numbers[name]
end

local function refuse(name, value, expected)
  error(("flows: %s: expected %s; got %s"):format(name, expected,
    type(value) == "string" and ("%q"):format(value) or tostring(value)), 0)
end

-- ---- conditions ----------------------------------------------------------------------

local function range(name, value, max)
  local low, high
  if type(value) == "number" then
    low, high = value, value
  elseif type(value) == "string" then
    low, high = value:match("^(%d*)%-(%d*)$")
    if not low then low, high = value:match("^(%d+)$"), value:match("^(%d+)$") end
    low, high = low and (tonumber(low) or 0), high and (tonumber(high) or max)
  end
  if not low or not high or low < 0 or high > max or low > high or low % 1 ~= 0 or high % 1 ~= 0 then
    refuse(name, value, ('a number, or a range as in "5000-6000" or "1000-", up to %d'):format(max))
  end
  return { low = low, high = high }
end

local scratch = ffi.new("struct flow_address")

local function prefix(name, value)
  local text = tostring(value)
  local host, length = text:match("^([^/]*)/(%d+)$")
  host = host or text
  local family = api.address_parse(host, #host, scratch)
  local dotted = not host:find(":", 1, true)
  length = tonumber(length) or (dotted and 32 or 128)
  if family < 0 or length > (dotted and 32 or 128) then
    refuse(name, value, 'an address or a prefix, as in "2001:db8::/32"')
  end
  return { prefix = scratch, prefix_length = dotted and length + 96 or length }
end

local function known(name, value, id, names)
  if id ~= nil then return { low = id, high = id } end
  table.sort(names)
  error(("flows: %s: there is no %s %q%s"):format(name, name, tostring(value), suggest.hint(tostring(value), names)), 0)
end

local function id_of(name, resolve, ...)
  local id, message = resolve(place.registry(), ...)
  if not id then error(("flows: %s: %s"):format(name, message), 0) end
  return { low = id, high = id }
end

local PORT, U64 = 65535, 2 ^ 53

-- Each gives the alternatives of one value: lists of { field, low, high | prefix | text }.
local conditions = {}

local function simple(name, field, make)
  conditions[name] = function(value)
    local c = make(value)
    c.field = field
    return { c }
  end
end

simple("id", C.FLOW_QUERY_ID, function(v) return range("id", v, U64) end)
simple("protocol", C.FLOW_QUERY_PROTOCOL, function(v)
  local number = protocols[v]
  if not number then refuse("protocol", v, '"tcp" or "udp"') end
  return { low = number, high = number }
end)
simple("family", C.FLOW_QUERY_FAMILY, function(v)
  if v ~= 4 and v ~= 6 then refuse("family", v, "4 or 6") end
  return { low = v, high = v }
end)
simple("src", C.FLOW_QUERY_SRC, function(v) return prefix("src", v) end)
simple("dst", C.FLOW_QUERY_DST, function(v) return prefix("dst", v) end)
simple("src_port", C.FLOW_QUERY_SRC_PORT, function(v) return range("src_port", v, PORT) end)
simple("dst_port", C.FLOW_QUERY_DST_PORT, function(v) return range("dst_port", v, PORT) end)
simple("label", C.FLOW_QUERY_LABEL, function(v) return range("label", v, 0xfffff) end)
simple("bytes_sent", C.FLOW_QUERY_BYTES_SENT, function(v) return range("bytes_sent", v, U64) end)
simple("bytes_received", C.FLOW_QUERY_BYTES_RECEIVED, function(v) return range("bytes_received", v, U64) end)
simple("experiment", C.FLOW_QUERY_EXPERIMENT, function(v)
  return id_of("experiment", place.registry().experiment_id, v)
end)
simple("plugin", C.FLOW_QUERY_SOURCE, function(v)
  local names, found = {}, nil
  for id = 1, 1023 do
    local name = api.state_name(place.state(), id)
    if name == nil then break end
    name = ffi.string(name)
    names[#names + 1] = name
    if name == v then found = id end
  end
  return known("plugin", v, found, names)
end)
-- Of today's rules, and of those before.
function conditions.rule(value)
  local list = place.call("console_rule_numbers", value)
  if type(value) ~= "string" or #list == 0 then
    local names = {}
    for number, rule in ipairs(place.chain().rules) do names[number] = rule.name end
    known("rule", value, nil, names)
  end
  for i, number in ipairs(list) do list[i] = { field = C.FLOW_QUERY_RULE, low = number, high = number } end
  return list
end
simple("backend", C.FLOW_QUERY_ROUTE, function(v)
  local names = {}
  for name in pairs(place.bits()) do names[#names + 1] = name end
  local mask = place.bits()[v]
  local c = known("backend", v, mask, names)
  if mask < 0 then c.low = mask + 2 ^ 32 end
  return c
end)
simple("application", C.FLOW_QUERY_APPLICATION, function(v)
  if type(v) ~= "string" or #v > 46 then refuse("application", v, 'a text, as in "xrootd" or "xr*"') end
  return { text = v }
end)

function conditions.host(value)
  local src, dst = prefix("host", value), prefix("host", value)
  src.field, dst.field = C.FLOW_QUERY_SRC, C.FLOW_QUERY_DST
  return { src, dst }
end

function conditions.port(value)
  local src, dst = range("port", value, PORT), range("port", value, PORT)
  src.field, dst.field = C.FLOW_QUERY_SRC_PORT, C.FLOW_QUERY_DST_PORT
  return { src, dst }
end

-- Ages in seconds: of the start, or of the last event.
local function age(name, field, older)
  conditions[name] = function(value)
    if type(value) ~= "number" or value < 0 then refuse(name, value, "seconds") end
    local edge = math.max(tonumber(api.clock_realtime_us()) - value * 1e6, 0)
    return { older and { field = field, low = 0, high = edge } or { field = field, low = edge, high = 2 ^ 62 } }
  end
end
age("older", C.FLOW_QUERY_START, true)
age("newer", C.FLOW_QUERY_START, false)
age("idle", C.FLOW_QUERY_SEEN, true)

-- Activities have names within an experiment.
local function activity(value, given)
  local experiment = type(given.experiment) ~= "table" and given.experiment or nil
  if type(value) == "string" and not value:find("^%d+$") and not experiment then
    error('flows: activity: a name needs one experiment, as in flows{experiment="atlas", activity="Data Challenge"}', 0)
  end
  local registry = place.registry()
  local id, message = registry:activity_id(experiment and registry:experiment_id(experiment) or 0, value)
  if not id then error("flows: activity: " .. message, 0) end
  return { { field = C.FLOW_QUERY_ACTIVITY, low = id, high = id } }
end

--- A query without conditions.
---@return ffi.cdata* struct flow_query *
function fields.query()
  local query = api.flow_query_new(place.table())
  if query == nil then error("flows: out of memory", 0) end
  return ffi.gc(query, api.flow_query_free)
end

--- Give a query the conditions that stand in named arguments.
---@param query ffi.cdata* struct flow_query *
---@param given table
function fields.restrict(query, given)
  local group, condition = 0, ffi.new("struct flow_query_condition")
  for name, value in pairs(given) do
    local make = name == "activity" and function(v) return activity(v, given) end or conditions[name]
    if make then
      local values = type(value) == "table" and value[1] ~= nil and value or { value }
      for _, one in ipairs(values) do
        for _, c in ipairs(make(one)) do
          ffi.fill(condition, ffi.sizeof(condition))
          condition.field, condition.group = c.field, group
          condition.low, condition.high = c.low or 0, c.high or 0
          if c.prefix then
            -- Shared by the conditions of one value: read again.
            local again = prefix(name, one)
            condition.prefix, condition.prefix_length = again.prefix, again.prefix_length
          end
          if c.text then ffi.copy(condition.text, c.text) end
          if api.flow_query_add(query, condition) ~= 0 then
            error(("flows: more than %d values to look for"):format(C.FLOW_QUERY_CONDITIONS_MAX), 0)
          end
        end
      end
      group = group + 1
    end
  end
end

--- Names of the arguments that are conditions.
function fields.is_condition(name) return conditions[name] ~= nil or name == "activity" end

-- ---- flows as values -------------------------------------------------------------------

--- What a value of a field by which flows are grouped is called.
---@param field string
---@param value integer
---@return string|number
function fields.label(field, value, experiment)
  local registry = place.registry()
  if field == "experiment" then
    return ("%s (%d)"):format(registry:experiment_name(value) or "unknown", value)
  elseif field == "activity" then
    local name = experiment and registry:activity_name(experiment, value)
    return name and ("%s (%d)"):format(name, value) or value
  elseif field == "protocol" then
    return protocol_names[value] or value
  elseif field == "plugin" then
    return fields.plugin(value) or value
  elseif field == "rule" then
    return value == C.FLOW_QUERY_GROUPS - 1 and "(of a configuration before)" or fields.rule(value) or "none"
  end
  return value
end

---@param id integer
---@return string|nil
function fields.plugin(id)
  local name = api.state_name(place.state(), id)
  return name ~= nil and ffi.string(name) or nil
end

---@param number integer
---@return string|nil
function fields.rule(number)
  local chain = place.chain()
  local rule = chain and chain.rules[number]
  return rule and rule.name
end

local backends_class = format.class({ rows = true })

local function backends_of(route)
  local names = {}
  for name, mask in pairs(place.bits()) do
    if bit.band(route, mask) ~= 0 then names[#names + 1] = name end
  end
  table.sort(names)
  return setmetatable(names, backends_class)
end

local function address(a)
  local w = a.word
  return addresses.new(w[0], w[1], w[2], w[3])
end

local slot_type, slot_size = ffi.typeof("struct flow_slot"), ffi.sizeof("struct flow_slot")

local function copy(slot)
  local flow = slot_type()
  ffi.copy(flow, slot, slot_size)
  return flow
end

--- A copy of the flow that a row of a query is about; nil: it is not open any more.
---@param query ffi.cdata* struct flow_query *
---@param position integer
---@return ffi.cdata*|nil struct flow_slot
function fields.row(query, position)
  local row = api.flow_query_row(query, position)
  local slot = api.flow_table_slot(place.table(), row.slot)
  return slot ~= nil and slot.id == row.id and copy(slot) or nil
end

--- A copy of the open flow of a key.
---@param key ffi.cdata* const struct flow_key *
---@return ffi.cdata*|nil struct flow_slot
function fields.open(key)
  local slot = api.flow_table_find(place.table(), key)
  return slot ~= C.FLOW_SLOT_NONE and copy(api.flow_table_slot(place.table(), slot)) or nil
end

-- What each field of a flow is. nil: it is unknown, or there is none.
local get = {
  id = function(f) return tonumber(f.id) end,
  protocol = function(f) return protocol_names[f.key.protocol] or f.key.protocol end,
  family = function(f) return f.key.family end,
  src = function(f) return address(f.key.src) end,
  src_port = function(f) return f.key.src_port end,
  dst = function(f) return address(f.key.dst) end,
  dst_port = function(f) return f.key.dst_port end,
  experiment = function(f) return f.experiment end,
  experiment_name = function(f) return (place.registry():experiment_name(f.experiment)) end,
  activity = function(f) return f.activity end,
  activity_name = function(f) return (place.registry():activity_name(f.experiment, f.activity)) end,
  application = function(f) return f.application[0] ~= 0 and ffi.string(f.application) or nil end,
  start = function(f) return tonumber(f.start_us) / 1e6 end,
  seen = function(f) return tonumber(f.seen_us) / 1e6 end,
  bytes_sent = function(f) return tonumber(f.bytes_sent) end,
  bytes_received = function(f) return tonumber(f.bytes_received) end,
  label = function(f) return f.key.family == 6 and f.label or nil end,
  plugin = function(f) return fields.plugin(f.source) end,
  rule = function(f) return (place.rule_of(f)) end,
  rule_before = function(f) return not select(2, place.rule_of(f)) or nil end,
  decided = function(f) return f.rule ~= 0 end,
  backends = function(f) return backends_of(f.route) end,
}
fields.get = get

--- Names of the fields, sorted.
---@type string[]
fields.keys = {}
for name in pairs(get) do fields.keys[#fields.keys + 1] = name end
table.sort(fields.keys)

-- Where a record keeps the flow of which its fields are made when they are asked for.
fields.SLOT = {}

--- An open flow as a plain table.
---@param slot ffi.cdata* const struct flow_slot *
---@return table
function fields.record(slot)
  local record = {}
  for name, make in next, get do record[name] = make(slot) end
  return record
end

return fields
