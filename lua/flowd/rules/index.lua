-- SPDX-License-Identifier: Apache-2.0
--- Runs of declared rules in an index of C (src/rule_index.h), so that many cost about what few do.
--
-- Which rules stand in an index depends on what they are, not on whether they are on: one that is
-- switched off stays in its place and matches nothing.
local bit = require("bit")
local ffi = require("ffi")
local addresses = require("flowd.addresses")
local api = require("flowd.api")
local counters = require("flowd.counters")
local memory = require("flowd.memory")
local slice = require("flowd.slice")

local index = {}

-- A declared rule by itself costs a few comparisons; asking an index costs about as much as five of
-- these, and preparing a batch for it as a dozen.
local RUN_MIN, RULES_MIN = 5, 12
-- A set with more prefixes than that is asked as a whole: taken apart it would be kept once more.
local PREFIXES_MAX = 256

-- Bits of flow_event.runs.
local RUNS = 16

local C = ffi.C

-- Rules of one index; specs make it smaller.
index.size = C.RULE_INDEX_MAX

local sets = {
  experiment = C.RULE_SETS_EXPERIMENT, activity = C.RULE_SETS_ACTIVITY, application = C.RULE_SETS_APPLICATION,
  route = C.RULE_SETS_ROUTE,
}
local verdicts = { drop = C.RULE_DROPS, accept = C.RULE_ACCEPTS }

local function check(status)
  if status ~= 0 then error(("rules: the index refuses a condition (error %d)"):format(-status), 0) end
end

-- A rule may have tens of thousands of conditions.
local function told(status)
  check(status)
  slice.pause()
end

local UINT64_MAX = 0xffffffffffffffffULL

-- ---- conditions ----------------------------------------------------------------------

local function values(field)
  return function(x, rule, test)
    for _, value in ipairs(test) do told(api.rule_index_range(x, rule, field, value, value)) end
  end
end

local function ranges(field)
  return function(x, rule, test)
    for _, range in ipairs(test) do
      told(api.rule_index_range(x, rule, field, range[1], range[2] == math.huge and UINT64_MAX or range[2]))
    end
  end
end

local function prefixes(field)
  return function(x, rule, test)
    if #test.list > PREFIXES_MAX then
      check(api.rule_index_set(x, rule, field, test.pointer))
      return
    end
    addresses.each_prefix(test.list, function(address, bits) told(api.rule_index_prefix(x, rule, field, address, bits)) end)
  end
end

local function activity(x, rule, test)
  for _, value in ipairs(test.any) do check(api.rule_index_range(x, rule, C.RULE_ACTIVITY, value, value)) end
  for _, pair in ipairs(test.named) do check(api.rule_index_pair(x, rule, pair[1], pair[2])) end
end

local function application(x, rule, test)
  for text in pairs(test.exact) do told(api.rule_index_application(x, rule, text, #text, false)) end
  for _, start in ipairs(test.starts) do told(api.rule_index_application(x, rule, start, #start, true)) end
end

local conditions = {
  protocol = values(C.RULE_PROTOCOL), family = values(C.RULE_FAMILY), state = values(C.RULE_STATE),
  plugin = values(C.RULE_PLUGIN), experiment = values(C.RULE_EXPERIMENT), activity = activity,
  src_port = ranges(C.RULE_SRC_PORT), dst_port = ranges(C.RULE_DST_PORT), src = prefixes(C.RULE_SRC),
  dst = prefixes(C.RULE_DST), application = application,
  time = ranges(C.RULE_TIME), start_time = ranges(C.RULE_START_TIME), end_time = ranges(C.RULE_END_TIME),
  duration = ranges(C.RULE_DURATION), bytes_sent = ranges(C.RULE_BYTES_SENT), bytes_received = ranges(C.RULE_BYTES_RECEIVED),
}

--- Can an index hold this rule?
local function fits(rule)
  if not rule.declaration then return false end
  for field in pairs(rule.declaration.tests) do
    if not conditions[field] then return false end
  end
  return true
end

local effect = ffi.new("struct rule_effect")

local function add(x, position, number, d, hits)
  for field, test in pairs(d.tests) do conditions[field](x, position, test) end
  ffi.fill(effect, ffi.sizeof(effect))
  effect.hits, effect.number = hits[number], number
  effect.experiment, effect.activity, effect.route = d.experiment or 0, d.activity or 0, bit.tobit(d.route or 0)
  if d.application then ffi.copy(effect.application, d.application) end
  local what = verdicts[d.verdict] or 0
  for field, flag in pairs(sets) do
    if d[field] then what = bit.bor(what, flag) end
  end
  effect.what = what
  check(api.rule_index_effect(x, position, effect))
end

-- ---- which rules ---------------------------------------------------------------------

---@class flowd.rules.Unit what the chain runs as one: a rule, or rules of an index
---@field first integer number of the rule, or of the first of them
---@field last integer
---@field index? ffi.cdata* struct rule_index *
---@field from? integer their places in the index
---@field to? integer
---@field run? integer bit of flow_event.runs

-- Runs of rules that fit, long enough to be worth a call.
local function find_runs(rules)
  local runs, total, first = {}, 0, nil
  for number = 1, #rules + 1 do
    if rules[number] and fits(rules[number]) then
      first = first or number
    elseif first then
      if number - first >= RUN_MIN then
        runs[#runs + 1] = { first = first, last = number - 1 }
        total = total + number - first
      end
      first = nil
    end
  end
  return total >= RULES_MIN and runs or {}
end

-- Rules by the index that holds them: { { numbers of rules } }, and the units in order.
local function plan(rules, stretches)
  local groups, units, number, run = {}, {}, 1, 0
  for _, stretch in ipairs(stretches) do
    for single = number, stretch.first - 1 do units[#units + 1] = { first = single, last = single } end
    number = stretch.first
    while number <= stretch.last do
      local group = groups[#groups]
      if not group or #group >= index.size then
        group = {}
        groups[#groups + 1] = group
      end
      local count = math.min(stretch.last - number + 1, index.size - #group)
      units[#units + 1] = {
        first = number, last = number + count - 1, group = group, from = #group, to = #group + count - 1, run = run % RUNS,
      }
      run = run + 1
      for i = number, number + count - 1 do group[#group + 1] = i end
      number = number + count
    end
  end
  for single = number, #rules do units[#units + 1] = { first = single, last = single } end
  return groups, units
end

-- In steps, as everything that is loaded. It is for as long as this Lua state, whose limit it counts against while it
-- grows.
local function build(group, rules, hits, account, before)
  local x = ffi.gc(api.rule_index_new(#group), api.rule_index_free)
  if x == nil then error("rules: out of memory", 0) end
  for position, number in ipairs(group) do
    slice.pause()
    add(x, position - 1, number, rules[number].declaration, hits)
  end
  local status, octets
  repeat
    slice.pause()
    status = api.rule_index_build_step(x)
    if status < 0 then check(status) end
    octets = before + tonumber(api.rule_index_memory(x))
    if not account:grow(octets) then
      account:close()
      ffi.gc(x, nil)
      api.rule_index_free(x)
      error("rules: not enough memory: memory_limit is too low for the index of declared rules", 0)
    end
  until status == 0
  return x, octets
end

---@class flowd.rules.Index
---@field units flowd.rules.Unit[] in order
---@field indexes ffi.cdata*[] struct rule_index *
local Index = {}
Index.__index = Index

--- Put rules into indexes where that is worth it.
---@param rules table[] { declaration | fn }
---@param hits ffi.cdata* struct counter *[] by rule number
---@return flowd.rules.Index
function index.new(rules, hits)
  local self = setmetatable({ indexes = {}, anchors = {}, places = {} }, Index)
  local groups
  groups, self.units = plan(rules, find_runs(rules))
  local octets, account = 0, memory.account()
  for i, group in ipairs(groups) do
    local x
    x, octets = build(group, rules, hits, account, octets)
    self.anchors[i] = x
    -- Without its finalizer it is a constant of machine code.
    group.index = ffi.cast("struct rule_index *", x)
    self.indexes[i] = group.index
    for position, number in ipairs(group) do self.places[number] = { index = group.index, position = position - 1 } end
  end
  for _, unit in ipairs(self.units) do
    if unit.group then
      unit.index, unit.group = unit.group.index, nil
      check(api.rule_index_set_run(unit.index, unit.from, unit.to, unit.run))
    end
  end
  self.memory, self.count = octets, 0
  for _, group in ipairs(groups) do self.count = self.count + #group end
  return self
end

--- Switch a rule on or off. False: it stands in no index.
---@param number integer
---@param on boolean
---@return boolean
function Index:switch(number, on)
  local place = self.places[number]
  if not place then return false end
  api.rule_index_switch(place.index, place.position, on)
  return true
end

local indexed, held = counters.get("flowd_rules_indexed"), counters.get("flowd_rules_index_octets")

local begin = api.rule_index_begin

--- Tell what the indexes of the chain in use hold.
function Index:show() indexed.value, held.value = self.count, self.memory end

--- A batch comes.
---@param events ffi.cdata* struct flow_event *
---@param count integer
function Index:begin(events, count)
  local indexes = self.indexes
  if #indexes == 0 then return end
  begin(indexes[1], events, count, true, #indexes == 1)
  -- Most have one: a loop would keep the caller's from being compiled.
  if #indexes > 1 then
    for i = 2, #indexes do begin(indexes[i], events, count, false, false) end
  end
end

return index
