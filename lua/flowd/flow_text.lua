-- SPDX-License-Identifier: Apache-2.0
--- A flow in words, as a person asks about one:
--
--     [start|ongoing|end] tcp 2001:db8::1 1094 2001:db8::2 40000 [experiment activity] [key=value ...]
--
-- Keys: state, plugin, experiment, activity, application, time, start_time, bytes_sent, bytes_received. A value with
-- blanks stands in double quotes; in names, _ stands for a blank too. As the log writes it, is good, too:
-- "tcp [2001:db8::1]:1094 -> [2001:db8::2]:40000". What is wrong is told with the word it is in.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local read_range = require("flowd.rules.ranges").read
local suggest = require("flowd.suggest")

local flow_text = {}

flow_text.form = "[start|ongoing|end] tcp|udp SOURCE PORT DESTINATION PORT [EXPERIMENT ACTIVITY] [KEY=VALUE ...]"

local states = { start = ffi.C.FLOW_START, ongoing = ffi.C.FLOW_ONGOING, ["end"] = ffi.C.FLOW_END }
local protocols = { tcp = ffi.C.FLOW_TCP, udp = ffi.C.FLOW_UDP }

-- Words with their places: { text, first, last }. A quote may stand anywhere in a word.
local function split(text)
  local words, at = {}, 1
  while true do
    local first = text:find("%S", at)
    if not first then return words end
    local parts, i = {}, first
    while i <= #text and not text:find("^%s", i) do
      local quoted = text:match('^"([^"]*)"', i)
      if quoted then
        parts[#parts + 1], i = quoted, i + #quoted + 2
      else
        parts[#parts + 1], i = text:sub(i, i), i + 1
      end
    end
    words[#words + 1] = { text = table.concat(parts), first = first, last = i - 1 }
    at = i
  end
end

local Reader = {}
Reader.__index = Reader

-- Ends the reading: at a word, or behind the last one.
function Reader:fail(word, format, ...)
  error({ message = format:format(...), first = word and word.first or #self.text + 1, last = word and word.last or #self.text + 1,
    word = word and word.text }, 0)
end

function Reader:next(what)
  local word = self.words[self.position]
  if not word or word.text:find("^[%a_]+=") then
    self:fail(word, "%s is missing: expected %s", what, flow_text.form)
  end
  self.position = self.position + 1
  return word
end

function Reader:one_of(word, what, known)
  local value = known[word.text:lower()]
  if value then return value end
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  return self:fail(word, "%s: expected one of %s%s", what, table.concat(names, ", "), suggest.hint(word.text, names))
end

function Reader:address(what, out)
  local word = self:next(what)
  if word.text == "->" and what == "destination address" then word = self:next(what) end
  local host, port = word.text:match("^%[(.*)%]:(%d+)$")
  if not host then host, port = word.text:match("^([%d.]+):(%d+)$") end
  if host then self.joined = { text = port, first = word.first, last = word.last } end
  host = host or word.text:match("^%[(.*)%]$") or word.text
  local family = api.address_parse(host, #host, out)
  if family < 0 then self:fail(word, "%s: expected an IPv4 or IPv6 address", what) end
  return family, word
end

function Reader:port(what)
  local word = self.joined or self:next(what)
  self.joined = nil
  local port = word.text:find("^%d+$") and tonumber(word.text)
  if not port or port < 1 or port > 65535 then self:fail(word, "%s: expected 1 to 65535", what) end
  return port
end

local function number_or_name(text)
  if text:find("^%d+$") then return tonumber(text) end
  return (text:gsub("_", " "))
end

function Reader:experiment(word, text)
  if text == "0" or text == "unset" or text == "-" then return 0 end
  local id, message = self.registry:experiment_id(number_or_name(text))
  if not id then self:fail(word, "%s", message) end
  return id
end

function Reader:activity(word, text)
  if text == "0" or text == "unset" or text == "-" then return 0 end
  if self.event.experiment == 0 and not text:find("^%d+$") then
    self:fail(word, "activity: a name needs an experiment, and none is given: give a number")
  end
  local id, message = self.registry:activity_id(self.event.experiment, number_or_name(text))
  if not id then self:fail(word, "%s", message) end
  return id
end

local function amount(self, word, text, field)
  local first, last = read_range("amount", text)
  if not first or first ~= last then self:fail(word, "%s: expected octets, such as 1000 or 10M", field) end
  self.event.flags = bit.bor(self.event.flags, ffi.C.EVENT_HAS_BYTES)
  self.event[field] = first
end

local function time(event_field)
  return function(self, word, text, field)
    local first = read_range("time", text)
    if not first or text:find("[<>]") or text:find("..", 1, true) then
      self:fail(word, '%s: expected a time in UTC such as 2026-03-01T12:30, or seconds of UNIX time', field)
    end
    self.event[event_field] = first
  end
end

-- Keys, in the order in which they are taken: an activity's name needs the experiment.
local order = { "state", "plugin", "experiment", "activity", "application", "time", "start_time", "bytes_sent", "bytes_received" }
local keys = {
  state = function(self, word, text)
    self.event.state = self:one_of({ text = text, first = word.first, last = word.last }, "state", states)
  end,
  plugin = function(self, word, text)
    local id = self.plugin_id(text)
    if not id then
      self:fail(word, "plugin: no plugin %q is configured%s", text, suggest.hint(text, self.plugins or {}))
    end
    self.event.source = id
  end,
  experiment = function(self, word, text) self.event.experiment = self:experiment(word, text) end,
  activity = function(self, word, text) self.event.activity = self:activity(word, text) end,
  application = function(self, word, text)
    if #text >= ffi.C.FLOW_APPLICATION_SIZE or text:find("%c") then
      self:fail(word, "application: expected at most %d octets", ffi.C.FLOW_APPLICATION_SIZE - 1)
    end
    ffi.copy(self.event.application, text)
  end,
  time = time("time_us"), start_time = time("start_us"),
  bytes_sent = amount, bytes_received = amount,
}

function Reader:options()
  local given = {}
  for i = self.position, #self.words do
    local word = self.words[i]
    local key, value = word.text:match("^([%a_]+)=(.*)$")
    if not key then self:fail(word, "expected KEY=VALUE; keys are %s", table.concat(order, ", ")) end
    if not keys[key] then
      self:fail(word, "unknown key %q%s; keys are %s", key, suggest.hint(key, order), table.concat(order, ", "))
    end
    if given[key] then self:fail(word, "%s is given twice", key) end
    given[key] = { word = word, value = value }
  end
  for _, key in ipairs(order) do
    if given[key] then keys[key](self, given[key].word, given[key].value, key) end
  end
  if not given.start_time then self.event.start_us = self.event.time_us end
  if self.event.start_us > self.event.time_us then self:fail(given.start_time.word, "start_time: is later than time") end
end

function Reader:read()
  local event, key = self.event, self.event.key
  if #self.words == 0 then self:fail(nil, "a flow is missing: expected %s", flow_text.form) end
  event.state = ffi.C.FLOW_START
  if states[self.words[1].text:lower()] then event.state = states[self:next("state").text:lower()] end
  key.protocol = self:one_of(self:next("protocol"), "protocol", protocols)
  key.family = self:address("source address", key.src)
  key.src_port = self:port("source port")
  local family, word = self:address("destination address", key.dst)
  if family ~= key.family then
    self:fail(word, "destination address: expected IPv%d, as the source is", key.family)
  end
  key.dst_port = self:port("destination port")
  local experiment = self.words[self.position]
  if experiment and not experiment.text:find("^[%a_]+=") then
    self.position = self.position + 1
    event.experiment = self:experiment(experiment, experiment.text)
    local activity = self:next("activity (0 for none)")
    event.activity = self:activity(activity, activity.text)
  end
  self:options()
end

---@class flowd.FlowTextError
---@field message string
---@field first integer place in the text
---@field last integer
---@field word? string

--- Read a flow.
---@param text string
---@param event ffi.cdata* struct flow_event &, is overwritten
---@param options { registry: flowd.Registry, plugin_id: (fun(name: string): integer?), plugins: string[]? }
---@return boolean ok
---@return flowd.FlowTextError? what is wrong
function flow_text.read(text, event, options)
  ffi.fill(event, ffi.sizeof("struct flow_event"))
  event.route, event.slot = ffi.C.FLOW_ROUTE_ALL, ffi.C.FLOW_SLOT_NONE
  event.time_us = api.clock_realtime_us()
  local self = setmetatable({
    text = text, words = split(text), position = 1, event = event, registry = options.registry,
    plugin_id = options.plugin_id or function() end, plugins = options.plugins,
  }, Reader)
  local ok, failure = pcall(self.read, self)
  if ok then return true end
  if type(failure) ~= "table" then error(failure, 0) end
  return false, failure
end

--- What is wrong, with the word underlined.
---@param text string
---@param failure flowd.FlowTextError
---@return string lines
function flow_text.show(text, failure)
  return ("%s\n  %s\n  %s%s"):format(failure.message, (text:gsub("%c", " ")), (" "):rep(failure.first - 1),
    ("^"):rep(math.max(failure.last - failure.first + 1, 1)))
end

return flow_text
