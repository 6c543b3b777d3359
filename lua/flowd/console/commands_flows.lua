-- SPDX-License-Identifier: Apache-2.0
--- Commands of the console about open flows: flows, flow, inject, close, watch. May be left anywhere: what has
--- to be of one moment is a function of flow_fields or flow_words.
jit.off(true, true)

local ffi = require("ffi")
local api = require("flowd.api")
local fields = require("flowd.console.flow_fields")
local format = require("flowd.console.format")
local place = require("flowd.console.place")
local slice = require("flowd.slice")
local suggest = require("flowd.suggest")

slice.may_be_left()

local C = ffi.C

local CHUNK = 8192 -- slots at a time: some hundred microseconds
local LIMIT, LIMIT_MAX = 50, 20000
local PREDICATE_ROWS = 4294967295

-- ---- showing ---------------------------------------------------------------------------

local function endpoint(f, end_name)
  local text = tostring(f[end_name])
  return (f.family == 6 and "[%s]:%d" or "%s:%d"):format(text, f[end_name .. "_port"])
end

local function named(id, name) return ("%s (%d)"):format(name or "unknown", id) end

local function age_text(seconds)
  if seconds < 100 then return ("%.0fs"):format(seconds) end
  if seconds < 6000 then return ("%.0fm"):format(seconds / 60) end
  if seconds < 172800 then return ("%.0fh"):format(seconds / 3600) end
  return ("%.0fd"):format(seconds / 86400)
end

local function octets_text(n)
  local unit = 1
  local units = { "", "k", "M", "G", "T", "P" }
  while n >= 1000 and unit < #units do
    n = n / 1000
    unit = unit + 1
  end
  return unit == 1 and ("%d"):format(n) or ("%.3g%s"):format(n, units[unit])
end

local columns = {
  { title = "ID", right = true }, { title = "PROTO", spare = 7 }, { title = "SRC" }, { title = "DST" },
  { title = "EXPERIMENT" }, { title = "ACTIVITY", spare = 8 }, { title = "AGE", right = true, spare = 6 },
  { title = "SENT", right = true, spare = 3 }, { title = "RECEIVED", right = true, spare = 2 },
  { title = "PLUGIN", spare = 4 }, { title = "RULE", spare = 5, optional = true },
  { title = "APPLICATION", spare = 1, optional = true },
}

local function show_flows(list, write, width, view)
  local now = tonumber(api.clock_realtime_us()) / 1e6
  local function row(i)
    local f = list[i]
    return {
      ("%d"):format(f.id), f.protocol, endpoint(f, "src"), endpoint(f, "dst"), named(f.experiment, f.experiment_name),
      named(f.activity, f.activity_name), age_text(now - f.start), octets_text(f.bytes_sent), octets_text(f.bytes_received),
      f.plugin or "", f.rule or "", format.clean(f.application or ""),
    }
  end
  if #list == 0 then
    write("no flow\n")
    return
  end
  format.columns(columns, #list, row, write, width)
  local info = view.info
  if info.total and info.total > #list then
    write(("%d of %d; limit=N shows more\n"):format(#list, info.total))
  elseif info.more then
    write(("the first %d; limit=N shows more, sort=… or count=true looks at all\n"):format(#list))
  end
end

local flow_order = { "id", "protocol", "src", "dst", "experiment", "activity", "application", "start", "seen", "bytes_sent",
  "bytes_received", "label", "plugin", "rule", "backends" }

local function time_text(seconds) return os.date("!%Y-%m-%dT%H:%M:%SZ", seconds) end

local function flow_lines(f)
  local now = tonumber(api.clock_realtime_us()) / 1e6
  local out = {
    id = ("%d"):format(f.id), protocol = f.protocol, src = endpoint(f, "src"), dst = endpoint(f, "dst"),
    experiment = named(f.experiment, f.experiment_name), activity = named(f.activity, f.activity_name),
    application = f.application and format.clean(f.application),
    start = ("%s (%s ago)"):format(time_text(f.start), age_text(now - f.start)),
    seen = ("%s (%s ago)"):format(time_text(f.seen), age_text(now - f.seen)),
    bytes_sent = ("%d"):format(f.bytes_sent), bytes_received = ("%d"):format(f.bytes_received),
    label = f.label and ("0x%05x"):format(f.label), plugin = f.plugin,
    rule = f.rule and f.rule .. (f.rule_before and " (the rules have changed since)" or "") or f.decided and "one of long ago"
      or "none: it is as announced",
    backends = #f.backends > 0 and table.concat(f.backends, ", ") or "none",
  }
  return out
end

local function show_flow(f, write)
  local lines = flow_lines(f)
  for _, name in ipairs(flow_order) do
    if lines[name] then write(("%-15s %s\n"):format(name, lines[name])) end
  end
end

local record_class = format.class({ text = show_flow, keys = fields.keys })

-- A name that is none is a mistake: it would be nil for every flow.
local function unknown_field(name)
  error(("a flow has no field %s%s"):format(tostring(name),
    type(name) == "string" and suggest.hint(name, fields.keys) or ""), 3)
end

function record_class.__index(_, name)
  if type(name) == "string" and not fields.get[name] then unknown_field(name) end
  return nil
end

local function shown(record) return setmetatable(record, record_class) end

-- A record of which each field is made when it is asked for: most flows are asked for one or two.
local lazy_class = format.class({
  text = function(f, write) show_flow(fields.record(f[fields.SLOT]), write) end,
  plain = function(f) return shown(fields.record(f[fields.SLOT])) end,
})
function lazy_class.__index(f, name)
  local make = fields.get[name]
  if not make and type(name) == "string" then unknown_field(name) end
  return make and make(rawget(f, fields.SLOT))
end

local function lazy(slot) return setmetatable({ [fields.SLOT] = slot }, lazy_class) end

-- ---- queries -----------------------------------------------------------------------------

-- Runs a query; events are handled in between.
local function run(query)
  while api.flow_query_run(query, CHUNK) do slice.pause() end
  if api.flow_query_short(query) then error("flows: out of memory", 0) end
end

-- Each row's flow, if it is still open: a copy.
local function each_row(query)
  local position, count = -1, api.flow_query_rows(query)
  return function()
    while position + 1 < count do
      position = position + 1
      local flow = fields.row(query, position)
      if flow then return flow end
    end
    return nil
  end
end

local function sums(sum)
  return { flows = tonumber(sum.flows), bytes_sent = tonumber(sum.bytes_sent), bytes_received = tonumber(sum.bytes_received) }
end

local function show_groups(list, write, width, view)
  local function row(i)
    local g = list[i]
    return { tostring(g.name), ("%d"):format(g.flows), octets_text(g.bytes_sent), octets_text(g.bytes_received) }
  end
  if #list == 0 then return write("no flow\n") end
  format.columns({ { title = view.info.by:upper() }, { title = "FLOWS", right = true }, { title = "SENT", right = true },
    { title = "RECEIVED", right = true } }, #list, row, write, width)
  if #list < view.info.total then write(("%d of %d; limit=N shows more\n"):format(#list, view.info.total)) end
end

-- A list with something beside it that is no entry.
local function listed(list, info, show) return format.view(list, { text = show, rows = true, info = info }) end

local group_order = { flows = true, bytes_sent = true, bytes_received = true, value = true }

-- One experiment is asked about: its activities have names.
local function one_experiment(given)
  local list = {}
  for name in pairs(type(given.experiment) == "table" and given.experiment or { given.experiment }) do list[#list + 1] = name end
  if #list ~= 1 then return nil end
  return (place.registry():experiment_id(type(given.experiment) == "table" and given.experiment[1] or given.experiment))
end

local function grouped(query, given)
  local by, sort, descending = given.by, given.sort or "-flows", false
  if type(sort) == "string" and sort:sub(1, 1) == "-" then sort, descending = sort:sub(2), true end
  if not group_order[sort] then
    error(('flows: sort: with by, expected "flows", "bytes_sent", "bytes_received" or "value", or one of them with "-" in front; got %s')
      :format(type(sort) == "string" and format.quote(given.sort) or type(sort)), 0)
  end
  if api.flow_query_group_by(query, fields.number("by", by)) ~= 0 then
    error(('flows: by: expected experiment, activity, plugin, rule, protocol, family, src_port or dst_port; got "%s"'):format(by), 0)
  end
  api.flow_query_order(query, 0, false, 0, true)
  run(query)
  local list, experiment = {}, one_experiment(given)
  local value = api.flow_query_group_next(query, 0)
  while value < C.FLOW_QUERY_GROUPS do
    local entry = sums(api.flow_query_group(query, value))
    entry.value, entry.name = value, fields.label(by, value, experiment)
    list[#list + 1] = entry
    value = api.flow_query_group_next(query, value + 1)
  end
  slice.library.table.sort(list, function(a, b)
    local x, y = a[sort], b[sort]
    if x ~= y then
      if descending then return x > y end
      return x < y
    end
    return a.value < b.value
  end)
  local total = #list
  for i = total, (given.limit or total) + 1, -1 do list[i] = nil end
  return listed(list, { by = by, total = total }, show_groups)
end

local function check(given)
  local limit = given.limit
  if limit ~= nil and (type(limit) ~= "number" or limit < 1 or limit > LIMIT_MAX or limit % 1 ~= 0) then
    error(("flows: limit: expected a number from 1 to %d; got %s"):format(LIMIT_MAX,
      type(limit) == "string" and format.quote(limit) or tostring(limit)), 0)
  end
  if given.where ~= nil and type(given.where) ~= "function" then
    error("flows: where: expected a function of a flow, as in where=function(f) return f.src_port > 1023 end", 0)
  end
  if given.where and (given.by or given.sum) then error("flows: where does not go with by and sum", 0) end
end

local function flows(_, given)
  given = given == nil and {} or given
  require("flowd.console.commands").check_arguments("flows", given)
  check(given)
  local query = fields.query()
  fields.restrict(query, given)
  if given.by ~= nil then return grouped(query, given) end
  if (given.count or given.sum) and not given.where then
    api.flow_query_order(query, 0, false, 0, true)
    run(query)
    local total = sums(api.flow_query_total(query))
    return given.sum and total or total.flows
  end
  local sort, descending = given.sort, false
  if type(sort) == "string" and sort:sub(1, 1) == "-" then sort, descending = sort:sub(2), true end
  local limit = given.limit or LIMIT
  -- One more than is shown tells whether there is more.
  api.flow_query_order(query, sort and fields.number("sort", sort) or 0, descending,
    given.where and PREDICATE_ROWS or sort and limit or limit + 1, given.where ~= nil)
  run(query)
  local list, info, hits = {}, {}, 0
  for slot in each_row(query) do
    if given.where then
      if given.where(lazy(slot)) then
        hits = hits + 1
        if #list < limit and not given.count then list[#list + 1] = shown(fields.record(slot)) end
      end
      if hits > limit and not given.count then break end
    elseif #list < limit then
      list[#list + 1] = shown(fields.record(slot))
    else
      info.more = true
    end
  end
  if given.count then return hits end
  if given.where then info.more = hits > limit end
  if sort and not given.where then info.total = tonumber(api.flow_query_total(query).flows) end
  return listed(list, info, show_flows)
end

-- A copy of the open flow that an id, a record or a 5-tuple in words names.
local function find(what, command)
  if type(what) == "table" and type(rawget(what, "id")) == "number" then what = what.id end
  local key = type(what) == "string" and what:match("%S+%s+%S+%s+%S+%s+%S+") and require("flowd.console.flow_words").key(what, command)
  if key then
    return fields.open(key) or error(("%s: no open flow is %s"):format(command, what), 0)
  end
  local id = tonumber(what)
  if not id or id < 1 or id % 1 ~= 0 then
    error(('%s: expected the id of a flow, as flows{} shows it, or "tcp ::1 2345 ::1 5777"; got %s'):format(command,
      type(what) == "string" and format.quote(what) or type(what)), 0)
  end
  local query = fields.query()
  fields.restrict(query, { id = id })
  api.flow_query_order(query, 0, false, 1, false)
  run(query)
  local open = each_row(query)()
  if open then return open end
  error(("%s: no open flow has the id %d"):format(command, id), 0)
end

local function inject(session, given)
  local words = require("flowd.console.flow_words")
  if type(given) ~= "string" and type(given) ~= "table" then
    error('inject: expected a line as in inject "tcp ::1 2345 ::1 5777 atlas Data_Challenge", or named arguments; got '
      .. type(given), 0)
  end
  local event = words.event(given, "inject")
  words.event_key(event, "inject")
  session:change("inject " .. words.describe(event))
  local flow, became = words.inject(event)
  return flow and shown(fields.record(flow)) or became
end

local function close(session, what)
  local slot = find(what, "close")
  local words = require("flowd.console.flow_words")
  local event = words.end_of(slot)
  session:change(("close %d: %s"):format(tonumber(slot.id), words.describe(event)))
  local ok, message = place.call("console_inject", event)
  if not ok then error("close: " .. message, 0) end
  return "ended"
end

local function watch(session, what, seconds)
  seconds = seconds == nil and 1 or seconds
  if type(seconds) ~= "number" or seconds < 0.1 or seconds > 86400 then
    error("watch: seconds: expected 0.1 to 86400; got " .. tostring(seconds), 0)
  end
  local fn = what
  if type(what) == "string" then
    local message
    fn, message = load("return " .. what, "=watch", "t", session.env)
    if not fn then error("watch: " .. message, 0) end
    jit.off(fn, true)
  elseif type(what) ~= "function" then
    error('watch: expected Lua in quotes, as in watch("#flows{}", 2); got ' .. type(what), 0)
  end
  while true do
    local value = fn()
    session:stream(value, function(write)
      write(os.date("!%H:%M:%S ", tonumber(api.clock_realtime_us()) / 1e6))
      format.text(value, write, session.width)
    end)
    session:wait(seconds)
  end
end

local conditions = {
  id = "the flow's number, or a range", protocol = '"tcp" or "udp"', family = "4 or 6",
  src = "this host's end: an address or a prefix", dst = "the other end: an address or a prefix",
  host = "either end", src_port = 'a port, or a range as in "5000-6000"', dst_port = "the same, of the other end",
  port = "either port", experiment = "a name or an id", activity = "a name or an id of the experiment's",
  application = 'what announced it said; "xr*" for all that begin so', plugin = "the plugin that announced it",
  rule = "the last rule that decided something about it", backend = "a backend that it goes to",
  label = "the flow label, without its random bits being known: a number or a range",
  older = "open for at least so many seconds", newer = "open for at most so many seconds",
  idle = "nothing was heard of it for so many seconds",
  bytes_sent = 'octets, as in "1000000-"', bytes_received = "the same, received",
  where = "a function that is given each flow and says whether to take it: slower, for what else there is",
  sort = 'the field to sort by, "-bytes_sent" for the largest first', limit = "how many to show, 50 unless given",
  count = "true: only how many", sum = "true: how many, with their octets together",
  by = 'count and sum up by experiment, activity, plugin, rule, protocol, family, src_port or dst_port; sort may be "-flows" (unless '
    .. 'given), "-bytes_sent" and so on then',
}

return {
  {
    name = "flows", usage = "flows{…}", summary = "open flows: those that match, sorted, counted or summed up",
    doc = [[Without arguments, the first 50. Each argument narrows it down; a list means any of its values. A million flows are
searched while events go on.

The result is a list: #flows{experiment="cms"} counts it, for _, f in ipairs(flows{}) do … end goes through it. The
fields of a flow are those that flow(ID) shows.]],
    example = 'flows{experiment="atlas", dst="2001:db8::/32", sort="-bytes_sent", limit=20}',
    arguments = conditions, query = true, run = flows,
  },
  {
    name = "flow", usage = "flow(ID)", summary = "everything known about one flow, with the rule that decided",
    doc = 'ID is what flows{} shows, a flow of its list, or the 5-tuple in words: "tcp ::1 2345 ::1 5777".',
    example = "flow(1)", query = true,
    run = function(_, what) return shown(fields.record(find(what, "flow"))) end,
  },
  {
    name = "inject", usage = "inject{…}", summary = "an event as a plugin would announce it, through rules and backends",
    doc = [[Takes a line as the pipe does, "start tcp ::1 2345 ::1 5777 atlas Data_Challenge", or named arguments. It is a real
event: the flow is marked and reported. Shows the flow as it is then, or what became of it. close(ID) ends it.]],
    example = 'inject{src="::1", src_port=2345, dst="::1", dst_port=5777, experiment="atlas", activity="Data Challenge"}',
    changes = true, run = inject,
    arguments = {
      state = '"start" (unless given), "ongoing" or "end"', protocol = '"tcp" (unless given) or "udp"', src = "this host's end",
      src_port = "its port", dst = "the other end", dst_port = "its port", experiment = "a name or an id; may be left to the rules",
      activity = "a name or an id", application = "a text", bytes_sent = "octets", bytes_received = "octets",
    },
  },
  {
    name = "close", usage = "close(ID)", summary = "ends a flow, as if its plugin had announced the end",
    doc = "The end is reported and the mark is removed. ID as for flow().",
    example = "close(1)", changes = true, run = close,
  },
  {
    name = "watch", usage = "watch(EXPRESSION, SECONDS)", summary = "shows the value of an expression again and again, until Ctrl-C",
    doc = [[EXPRESSION is Lua in quotes, or a function. SECONDS is 1 unless given. With eval --json each value is JSON in a line of
its own.]],
    example = 'watch("flows{count=true}", 2)', run = watch,
  },
}
