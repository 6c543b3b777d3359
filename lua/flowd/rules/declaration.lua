-- SPDX-License-Identifier: Apache-2.0
--- A declared rule, checked: { match = …, set = …, route = …, drop = true } becomes tests and
--- effects in the numbers that events hold.
local bit = require("bit")
local ffi = require("ffi")
require("flowd.api")
local addresses = require("flowd.addresses")
local read_range = require("flowd.rules.ranges").read
local show = require("flowd.show")
local suggest = require("flowd.suggest")

local declaration = {}

local ACTIVITY_MAX = ffi.C.FLOW_ACTIVITY_MAX
local APPLICATION_MAX = ffi.C.FLOW_APPLICATION_SIZE - 1
local PORT_MAX = 65535

---@class flowd.Declaration
---@field tests table<string, any> by field; see `matchers`
---@field match table<string, any> as it was written
---@field experiment? integer
---@field activity? integer
---@field application? string
---@field route? integer mask of backends
---@field verdict? "drop"|"accept"

local function sorted_keys(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = tostring(name) end
  table.sort(names)
  return names
end

-- One value or a list of them, as a list. nil: it has named fields.
local function as_list(value)
  if type(value) ~= "table" then return { value } end
  for key in pairs(value) do
    if type(key) ~= "number" then return nil end
  end
  return value
end

local Check = {}
Check.__index = Check

function Check:fail(path, format, ...)
  self.messages[#self.messages + 1] = path .. ": " .. format:format(...)
end

-- Every item of a value or list through fn(item), which returns a number, or nil and a message.
function Check:numbers(path, value, fn, when_empty)
  local list = as_list(value)
  local numbers = {}
  if not list then
    self:fail(path, "expected a value or a list; got a table with named fields")
    return numbers
  end
  if #list == 0 then self:fail(path, "the list is empty: %s", when_empty or "it would never match") end
  for _, item in ipairs(list) do
    local number, message = fn(item)
    if number then
      numbers[#numbers + 1] = number
    else
      self:fail(path, "%s", message)
    end
  end
  return numbers
end

local function one_of(words)
  return function(self, path, value)
    return self:numbers(path, value, function(item)
      local number = words[type(item) == "string" and item:lower() or item]
      if number then return number end
      local names = {}
      for word in pairs(words) do
        if type(word) == "string" then names[#names + 1] = word end
      end
      table.sort(names)
      return nil, ("expected one of %s; got %s%s"):format(table.concat(names, ", "), show(item), suggest.hint(item, names))
    end)
  end
end

--- A port or a range of ports, as its ends.
---@param item any 1094, "1094" or "20000-25000"
---@return integer? first, integer|string last_or_message
function declaration.port_range(item)
  local first, last = item, item
  if type(item) == "string" then
    first, last = item:match("^%s*(%d+)%s*%-%s*(%d+)%s*$")
    if not first then first = item:match("^%s*(%d+)%s*$") end
    first, last = tonumber(first), tonumber(last or first)
  end
  if type(first) ~= "number" or type(last) ~= "number" or first % 1 ~= 0 or first < 1 or last > PORT_MAX then
    return nil, ("expected a port from 1 to %d or a range such as \"20000-25000\"; got %s"):format(PORT_MAX, show(item))
  end
  if first > last then return nil, ("the range %s ends before it starts"):format(show(item)) end
  return first, last
end

local function ports(self, path, value)
  local ranges = {}
  self:numbers(path, value, function(item)
    local first, last = declaration.port_range(item)
    if first then ranges[#ranges + 1] = { first, last } end
    return first, last
  end)
  table.sort(ranges, function(a, b) return a[1] < b[1] end)
  -- Neighbours and overlaps become one.
  local merged = {}
  for _, range in ipairs(ranges) do
    local before = merged[#merged]
    if before and range[1] <= before[2] + 1 then
      before[2] = math.max(before[2], range[2])
    else
      merged[#merged + 1] = range
    end
  end
  return merged
end

local function amounts(kind)
  return function(self, path, value)
    local list = {}
    self:numbers(path, value, function(item)
      local first, last = read_range(kind, item)
      if first then list[#list + 1] = { first, last } end
      return first, last
    end)
    return list
  end
end

-- Fields that are unknown as long as no plugin tells them: a rule with one of them waits for that.
local function unknown(expected, check)
  return function(self, path, value)
    return self:numbers(path, value, function(item)
      if check(item) then return 0 end
      return nil, ("expected %s; got %s"):format(expected, show(item))
    end)
  end
end

local function is_id(item) return type(item) == "number" and item % 1 == 0 and item >= 0 and item < 2 ^ 32 end
local function is_text(item) return type(item) == "string" and item ~= "" end

local function prefixes(self, path, value)
  local pointer, anchor, list = addresses.build_set(value)
  if pointer then return { pointer = pointer, anchor = anchor, list = list } end
  for _, message in ipairs(anchor) do self:fail(path, "%s", message) end
  return nil
end

local function experiments(self, path, value)
  return self:numbers(path, value, function(item)
    if item == 0 or item == "unset" then return 0 end
    return self.registry:experiment_id(item)
  end)
end

-- A name of an activity has a meaning per experiment: { [experiment] = {activities} } or, for
-- numbers, { any = {activities} }.
local function activities(self, path, value)
  local named, any = {}, {}
  self:numbers(path, value, function(item)
    if item == 0 or item == "unset" then
      any[#any + 1] = 0
      return 0
    elseif type(item) == "number" then
      local id, message = self.registry:activity_id(0, item)
      any[#any + 1] = id
      return id, message
    elseif type(item) ~= "string" then
      return nil, ("expected a name or an id from 1 to %d; got %s"):format(ACTIVITY_MAX, show(item))
    elseif #(self.tests.experiment or {}) == 0 then
      return nil, ("%s: the name of an activity needs match.experiment"):format(show(item))
    end
    for _, experiment in ipairs(self.tests.experiment) do
      local id, message = self.registry:activity_id(experiment, item)
      if not id then return nil, message end
      named[#named + 1] = { experiment, id }
    end
    return 0
  end)
  return { any = any, named = named }
end

local function applications(self, path, value)
  local exact, starts = {}, {}
  self:numbers(path, value, function(item)
    if type(item) ~= "string" or item == "" then return nil, ("expected a text; got %s"):format(show(item)) end
    local start = item:match("^([^*]*)%*$")
    if start then
      starts[#starts + 1] = start
    elseif item:find("*", 1, true) then
      return nil, ("%s: a * stands at the end only"):format(show(item))
    else
      exact[item] = true
    end
    return 0
  end)
  return { exact = exact, starts = starts }
end

local function plugins(self, path, value)
  return self:numbers(path, value, function(item)
    if type(item) ~= "string" then return nil, ("expected the name of a plugin; got %s"):format(show(item)) end
    if self.plugins and not self.plugins[item] then
      local names = sorted_keys(self.plugins)
      return nil, ("no plugin %s is configured (there is %s)%s"):format(show(item),
        #names == 0 and "none" or table.concat(names, ", "), suggest.hint(item, names))
    end
    local id = self.source_id(item)
    if id <= 0 then return nil, ("plugin %s: there is no room for another name in the state file"):format(show(item)) end
    return id
  end)
end

-- In the order in which they are checked: activities need to know the experiments.
local order = {
  "protocol", "family", "state", "plugin", "src_port", "dst_port", "src", "dst", "experiment", "activity", "application",
  "time", "start_time", "end_time", "duration", "bytes_sent", "bytes_received", "uid", "user", "pid", "comm", "cgroup",
}
local matchers = {
  src = prefixes, dst = prefixes, src_port = ports, dst_port = ports,
  protocol = one_of({ tcp = ffi.C.FLOW_TCP, udp = ffi.C.FLOW_UDP }),
  family = one_of({ ipv4 = 4, ipv6 = 6, [4] = 4, [6] = 6 }),
  state = one_of({ start = ffi.C.FLOW_START, ongoing = ffi.C.FLOW_ONGOING, ["end"] = ffi.C.FLOW_END }),
  plugin = plugins, experiment = experiments, activity = activities, application = applications,
  time = amounts("time"), start_time = amounts("time"), end_time = amounts("time"), duration = amounts("duration"),
  bytes_sent = amounts("amount"), bytes_received = amounts("amount"),
  uid = unknown("a user's id", is_id), pid = unknown("a process's id", is_id), user = unknown("a user's name", is_text),
  comm = unknown("the name of a process", is_text), cgroup = unknown("the name of a control group", is_text),
}
declaration.match_fields = order

local examples = { match = "match = { dst_port = 1094 }", set = 'set = { experiment = "atlas" }' }

function Check:closed(path, value, fields)
  if type(value) ~= "table" then
    self:fail(path, "expected a table%s; got %s", examples[path] and ", as in " .. examples[path] or "", show(value))
    return false
  end
  for key in pairs(value) do
    if not fields[key] then
      local names = sorted_keys(fields)
      local hint = suggest.hint(key, names)
      self:fail(path == "" and tostring(key) or path .. "." .. tostring(key), "unknown field%s",
        hint ~= "" and hint or " (there is " .. table.concat(names, ", ") .. ")")
    end
  end
  return true
end

function Check:match(value)
  if value == nil or not self:closed("match", value, matchers) then return end
  for _, field in ipairs(order) do
    if value[field] ~= nil then self.tests[field] = matchers[field](self, "match." .. field, value[field]) end
  end
end

function Check:set_activity(value, out)
  if type(value) ~= "string" or value:find("^%d+$") then
    local id, message = self.registry:activity_id(0, value)
    if value == 0 or value == "unset" then id = 0 end
    if not id then self:fail("set.activity", "%s", message) end
    out.activity = id
    return
  end
  local candidates = out.experiment and { out.experiment } or self.tests.experiment or {}
  if #candidates == 0 then
    return self:fail("set.activity", "%s: the name of an activity needs an experiment, in set or in match", show(value))
  end
  for _, experiment in ipairs(candidates) do
    local id, message = self.registry:activity_id(experiment, value)
    if not id then return self:fail("set.activity", "%s", message) end
    if out.activity and out.activity ~= id then
      return self:fail("set.activity", "%s has another id for each experiment in match.experiment: make a rule for each",
        show(value))
    end
    out.activity = id
  end
end

local settable = { experiment = true, activity = true, application = true }

function Check:set(value, out)
  if value == nil or not self:closed("set", value, settable) then return end
  if value.experiment == 0 or value.experiment == "unset" then
    out.experiment = 0
  elseif value.experiment ~= nil then
    local id, message = self.registry:experiment_id(value.experiment)
    local name, activity = tostring(value.experiment):match("^([^/]+)/([^/]+)$")
    if not id and name then
      self:fail("set.experiment", "%s; an activity stands beside it: set = { experiment = %q, activity = %q }", message, name, activity)
    elseif not id then
      self:fail("set.experiment", "%s", message)
    end
    out.experiment = id
  end
  if value.activity ~= nil and (value.experiment == nil or out.experiment) then self:set_activity(value.activity, out) end
  local application = value.application
  if application ~= nil then
    if type(application) ~= "string" or #application > APPLICATION_MAX or application:find("%c") then
      self:fail("set.application", "expected a text of at most %d octets without control characters; got %s",
        APPLICATION_MAX, show(application))
    end
    out.application = application
  end
end

function Check:route(value, out)
  if value == nil then return end
  local mask = 0
  self:numbers("route", value, function(name)
    local backend = self.backends[name]
    if backend then
      mask = bit.bor(mask, backend)
      return mask
    end
    local names = sorted_keys(self.backends)
    return nil, ("no backend %s is configured (there is %s)%s"):format(show(name),
      #names == 0 and "none" or table.concat(names, ", "), suggest.hint(name, names))
  end, "to send a flow to no backend say drop = true")
  out.route = mask
end

local known = { match = true, set = true, route = true, drop = true, accept = true }

--- Check a declaration.
---@param body table what stands behind rule "name"
---@param options table registry, backends, plugins (optional), source_id: as for flowd.rules.compile
---@return flowd.Declaration? declaration
---@return string[]? messages all that is wrong, each "path: message"
function declaration.check(body, options)
  local self = setmetatable({
    messages = {}, tests = {}, registry = options.registry, backends = options.backends, plugins = options.plugins,
    source_id = options.source_id,
  }, Check)
  local out = { tests = self.tests, match = type(body.match) == "table" and body.match or {} }
  self:closed("", body, known)
  self:match(body.match)
  self:set(body.set, out)
  self:route(body.route, out)
  for _, verdict in ipairs({ "drop", "accept" }) do
    if body[verdict] == true then
      out.verdict = verdict
    elseif body[verdict] then
      self:fail(verdict, "expected true; got %s", show(body[verdict]))
    end
  end
  if body.drop and body.accept then self:fail("accept", "a rule drops or accepts, not both") end
  if #self.messages == 0 and not (out.experiment or out.activity or out.application or out.route or out.verdict) then
    self.messages[1] = "the rule does nothing: expected set, route, drop or accept"
  end
  if #self.messages > 0 then return nil, self.messages end
  return out
end

return declaration
