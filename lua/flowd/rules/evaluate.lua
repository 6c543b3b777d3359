-- SPDX-License-Identifier: Apache-2.0
--- Declared rules, one condition at a time and one event at a time: for people who ask why, and for tests
-- of the fast ways (flowd.rules.generate, flowd.rules.index), which must come to the same.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local declaration = require("flowd.rules.declaration")

local evaluate = {}

local HAS_BYTES, DROPPED = ffi.C.EVENT_HAS_BYTES, ffi.C.EVENT_DROPPED

local function one_of(value, list)
  for _, item in ipairs(list) do
    if value == item then return true end
  end
  return false
end

local function in_ranges(value, ranges)
  for _, range in ipairs(ranges) do
    if value >= range[1] and value <= range[2] then return true end
  end
  return false
end

local function within(address, set) return api.prefix_map_find(set.pointer, address) ~= 0 end

local function activity(e, test)
  if one_of(e.activity, test.any) then return true end
  for _, pair in ipairs(test.named) do
    if pair[1] == e.experiment and pair[2] == e.activity then return true end
  end
  return false
end

local function application(e, test)
  local text = ffi.string(e.application)
  if test.exact[text] then return true end
  for _, start in ipairs(test.starts) do
    if text:sub(1, #start) == start then return true end
  end
  return false
end

local function lasted(e) return math.max(tonumber(e.time_us) - tonumber(e.start_us), 0) end
local function has_bytes(e) return bit.band(e.flags, HAS_BYTES) ~= 0 end

local tests = {
  protocol = function(e, test) return one_of(e.key.protocol, test) end,
  family = function(e, test) return one_of(e.key.family, test) end,
  state = function(e, test) return one_of(e.state, test) end,
  plugin = function(e, test) return one_of(e.source, test) end,
  experiment = function(e, test) return one_of(e.experiment, test) end,
  activity = activity,
  application = application,
  src_port = function(e, test) return in_ranges(e.key.src_port, test) end,
  dst_port = function(e, test) return in_ranges(e.key.dst_port, test) end,
  src = function(e, test) return within(e.key.src, test) end,
  dst = function(e, test) return within(e.key.dst, test) end,
  time = function(e, test) return in_ranges(tonumber(e.time_us), test) end,
  start_time = function(e, test) return in_ranges(tonumber(e.start_us), test) end,
  end_time = function(e, test) return e.state == ffi.C.FLOW_END and in_ranges(tonumber(e.time_us), test) end,
  duration = function(e, test) return in_ranges(lasted(e), test) end,
  bytes_sent = function(e, test) return has_bytes(e) and in_ranges(tonumber(e.bytes_sent), test) end,
  bytes_received = function(e, test) return has_bytes(e) and in_ranges(tonumber(e.bytes_received), test) end,
}

--- The conditions of a declared rule on an event, in the order of the manual.
---@param d flowd.Declaration
---@param e ffi.cdata* struct flow_event &
---@return { field: string, holds: boolean }[]
function evaluate.conditions(d, e)
  local list = {}
  for _, field in ipairs(declaration.match_fields) do
    local test = d.tests[field]
    -- What nobody knows matches nothing.
    if test then list[#list + 1] = { field = field, holds = tests[field] ~= nil and tests[field](e, test) } end
  end
  return list
end

---@return boolean
function evaluate.matches(d, e)
  for _, condition in ipairs(evaluate.conditions(d, e)) do
    if not condition.holds then return false end
  end
  return true
end

--- Do to an event what a declared rule does. Counts no hit.
---@param d flowd.Declaration
---@param e ffi.cdata*
---@param number integer of the rule
---@return "drop"|"accept"|nil verdict
function evaluate.apply(d, e, number)
  e.rule = number
  if d.experiment then e.experiment = d.experiment end
  if d.activity then e.activity = d.activity end
  if d.route then e.route = d.route end
  if d.application then
    ffi.fill(e.application, ffi.C.FLOW_APPLICATION_SIZE)
    ffi.copy(e.application, d.application)
  end
  if d.verdict == "drop" then e.flags = bit.bor(e.flags, DROPPED) end
  return d.verdict
end

return evaluate
