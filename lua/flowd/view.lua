-- SPDX-License-Identifier: Apache-2.0
--- What a rule sees of an event: checked fields, never the event's memory.
--
-- There is one view. It shows the event that the chain is at, and raises when it is used
-- outside a rule's call. Fields are functions that LuaJIT inlines: after compilation a read
-- is a load from the event. The chain moves the view by an index, not by a pointer, so that
-- nothing is allocated per event.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local addresses = require("flowd.addresses")
local suggest = require("flowd.suggest")
local tags = require("flowd.tags")

local band, bor = bit.band, bit.bor
local new_address = addresses.new

local EXPERIMENT_MAX, ACTIVITY_MAX = ffi.C.FLOW_EXPERIMENT_MAX, ffi.C.FLOW_ACTIVITY_MAX
local APPLICATION_SIZE = ffi.C.FLOW_APPLICATION_SIZE
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

local function show(value)
  return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

local function outside()
  error("the flow is only there while a rule runs: keep its fields, not the flow itself", 3)
end

-- Fields that only plugins of later versions know are nil.
local function unknown() return nil end

-- Readers by field; each gets the event.
local function make_readers(registry, source_name)
  local sources = {}

  return {
    src = function(e)
      local word = e.key.src.word
      return new_address(word[0], word[1], word[2], word[3])
    end,
    dst = function(e)
      local word = e.key.dst.word
      return new_address(word[0], word[1], word[2], word[3])
    end,
    src_port = function(e) return e.key.src_port end,
    dst_port = function(e) return e.key.dst_port end,
    protocol = function(e) return protocols[e.key.protocol] end,
    family = function(e) return e.key.family end,
    state = function(e) return states[e.state] end,
    plugin = function(e)
      local id = e.source
      local name = sources[id]
      if not name then
        name = source_name(id) or ""
        sources[id] = name
      end
      return name
    end,
    experiment = function(e) return e.experiment end,
    activity = function(e) return e.activity end,
    experiment_name = function(e) return registry:experiment_name(e.experiment) end,
    activity_name = function(e) return registry:activity_name(e.experiment, e.activity) end,
    application = function(e) return ffi.string(e.application) end,
    time = function(e) return tonumber(e.time_us) / 1e6 end,
    start_time = function(e) return tonumber(e.start_us) / 1e6 end,
    bytes_sent = function(e)
      if band(e.flags, HAS_BYTES) ~= 0 then return tonumber(e.bytes_sent) end
    end,
    bytes_received = function(e)
      if band(e.flags, HAS_BYTES) ~= 0 then return tonumber(e.bytes_received) end
    end,
    uid = unknown, user = unknown, pid = unknown, comm = unknown, cgroup = unknown,
  }
end

-- Ids by what a rule assigns: an id within its range, or a name. Names are remembered; an
-- unknown one is nil and a message each time.
local function make_resolvers(registry)
  local experiments, activities = {}, {}
  for id = 0, EXPERIMENT_MAX do activities[id] = {} end

  local function experiment(value)
    if type(value) == "number" then
      if value >= 0 and value <= EXPERIMENT_MAX and value % 1 == 0 then return value end
    elseif value == nil then
      return 0
    elseif type(value) == "string" then
      local id = experiments[value]
      if id then return id end
      local message
      id, message = registry:experiment_id(value)
      experiments[value] = id
      return id, message
    end
    return nil, ("experiment: expected a name or an id from 0 (unset) to %d; got %s"):format(EXPERIMENT_MAX, show(value))
  end

  local function activity(experiment_id, value)
    if type(value) == "number" then
      if value >= 0 and value <= ACTIVITY_MAX and value % 1 == 0 then return value end
    elseif value == nil then
      return 0
    elseif type(value) == "string" then
      local known = activities[experiment_id]
      local id = known[value]
      if id then return id end
      if experiment_id == 0 then
        return nil, ("activity %s: a name needs an experiment, and none is set"):format(show(value))
      end
      local message
      id, message = registry:activity_id(experiment_id, value)
      known[value] = id
      return id, message
    end
    return nil, ("activity: expected a name or an id from 0 (unset) to %d; got %s"):format(ACTIVITY_MAX, show(value))
  end

  return experiment, activity
end

-- Names of what can be assigned and read, sorted: for messages.
local function sorted_keys(...)
  local names = {}
  for _, t in ipairs({ ... }) do
    for name in pairs(t) do names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- A view, and the hands that move it.
---@param options { registry: flowd.Registry, backends: table<string, integer>, source_name: (fun(id: integer): string?), hits: ffi.cdata* }
---   backends: name to bit mask; hits: struct counter *[rule number]
---@return table view: flow (for rules); enter(events), at(index), leave(), position(), undo(), act(event), for the chain
function view.new(options)
  local registry, backends, hits = options.registry, options.backends, options.hits
  local resolve_experiment, resolve_activity = make_resolvers(registry)
  local resolve_tag = tags.resolver(resolve_experiment, resolve_activity)

  -- The event shown: events[index]; -1 is none.
  local events, index = nil, -1
  -- What the running rule overwrote and the event has no room for.
  local saved_application = ffi.new("char[?]", APPLICATION_SIZE)
  local application_saved = false

  -- Before the first change that a rule makes to an event.
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

  local readers = make_readers(registry, options.source_name)
  local writers, methods = {}, {}

  function writers.experiment(e, value)
    local id, message = resolve_experiment(value)
    if not id then error(message, 3) end
    act(e)
    e.experiment = id
  end

  function writers.activity(e, value)
    local id, message = resolve_activity(e.experiment, value)
    if not id then error(message, 3) end
    act(e)
    e.activity = id
  end

  function writers.application(e, value)
    if type(value) ~= "string" or #value >= APPLICATION_SIZE or value:find("%c") then
      error(("application: expected a text of at most %d octets without control characters; got %s")
        :format(APPLICATION_SIZE - 1, show(value)), 3)
    end
    act(e)
    if not application_saved then
      ffi.copy(saved_application, e.application, APPLICATION_SIZE)
      application_saved = true
    end
    ffi.fill(e.application, APPLICATION_SIZE)
    ffi.copy(e.application, value)
  end

  --- Set experiment and activity together: `flow:tag("atlas/Data Challenge")`, `flow:tag("atlas", "Data Challenge")`,
  --- `flow:tag(2, 26)`, or what a map found. Without an activity it is unset. nil changes nothing.
  ---@return boolean was there a tag?
  function methods.tag(_, experiment, activity)
    if index < 0 then outside() end
    if experiment == nil then return false end
    local e = events[index]
    local experiment_id, activity_id, message = resolve_tag(experiment, activity)
    if not experiment_id then error(message, 2) end
    act(e)
    e.experiment = experiment_id
    e.activity = activity_id
    return true
  end

  local function backend_bit(name)
    local mask = backends[name]
    if mask then return mask end
    local names = sorted_keys(backends)
    error(("route: no backend %s is configured%s"):format(show(name),
      #names == 0 and "" or " (there is " .. table.concat(names, ", ") .. ")" .. suggest.hint(name, names)), 3)
  end

  --- Send the flow to these backends and to no others.
  ---@param first string
  function methods.route(_, first, second, third, ...)
    if index < 0 then outside() end
    if first == nil then error("route: expected the name of a backend", 2) end
    local mask = backend_bit(first)
    if second ~= nil then mask = bor(mask, backend_bit(second)) end
    if third ~= nil then mask = bor(mask, backend_bit(third)) end
    for i = 1, select("#", ...) do mask = bor(mask, backend_bit((select(i, ...)))) end
    local e = events[index]
    act(e)
    e.route = mask
  end

  local flow = setmetatable({}, {
    __metatable = false,
    __index = function(_, field)
      if index < 0 then outside() end
      local read = readers[field]
      if read then return read(events[index]) end
      local method = methods[field]
      if method then return method end
      error(("a flow has no field %s%s"):format(show(field), suggest.hint(field, sorted_keys(readers, methods))), 2)
    end,
    __newindex = function(_, field, value)
      if index < 0 then outside() end
      local write = writers[field]
      if write then
        -- Not a tail call: an error names the line two levels up.
        write(events[index], value)
        return
      end
      if readers[field] or methods[field] then
        error(("flow.%s cannot be changed; what can is %s"):format(field, table.concat(sorted_keys(writers), ", ")), 2)
      end
      error(("a flow has no field %s%s"):format(show(field), suggest.hint(field, sorted_keys(writers))), 2)
    end,
    __tostring = function()
      if index < 0 then return "flow (none: no rule is running)" end
      return view.describe(events[index])
    end,
  })

  return {
    flow = flow,
    act = act,
    enter = function(batch_events) events = batch_events end,
    --- Move to an event, and return it.
    at = function(i)
      index = i
      return events[i]
    end,
    leave = function() events, index = nil, -1 end,
    position = function() return index end,
    --- Take back what the running rule changed. Returns whether it had changed anything.
    undo = function()
      local e = events[index]
      local rule = e.cursor
      if e.undo_cursor ~= rule then return false end
      e.rule = e.undo_rule
      e.experiment = e.undo_experiment
      e.activity = e.undo_activity
      e.route = e.undo_route
      if application_saved then ffi.copy(e.application, saved_application, APPLICATION_SIZE) end
      e.undo_cursor = 0
      hits[rule].value = hits[rule].value - 1
      return true
    end,
  }
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
