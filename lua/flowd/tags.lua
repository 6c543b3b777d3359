-- SPDX-License-Identifier: Apache-2.0
--- Experiments, activities, and tags, which are both in one, as policy writes them:
--
--     "atlas"   "atlas/Data Challenge"   { "atlas", "Data Challenge" }   { 2, 26 }
--
-- As a number a tag is the scitag integer, experiment * 64 + activity; activity 0 is unset.
-- Rules call this: see flowd.view for how it is written.
local ffi = require("ffi")
require("flowd.api")
local show = require("flowd.show")

local type = type

local EXPERIMENT_MAX, ACTIVITY_MAX = ffi.C.FLOW_EXPERIMENT_MAX, ffi.C.FLOW_ACTIVITY_MAX
local TAG_MIN, TAG_MAX = ACTIVITY_MAX + 1, EXPERIMENT_MAX * (ACTIVITY_MAX + 1) + ACTIVITY_MAX

local tags = {}

---@class flowd.Names names of a registry that were asked for, and their ids
---@field registry flowd.Registry
---@field experiments table<string, integer>
---@field activities table<integer, table<string, integer>> by experiment
---@field tags table<string, integer>

--- Names of a registry. Each is looked up once; what is unknown, every time.
---@param registry flowd.Registry
---@return flowd.Names
function tags.names(registry)
  local names = { registry = registry, experiments = {}, activities = {}, tags = {} }
  for id = 0, EXPERIMENT_MAX do names.activities[id] = {} end
  return names
end

--- Id of an experiment: a number within the range, a name, or nil for 0.
---@param names flowd.Names
---@param value any
---@return integer? id
---@return string? message
local function experiment(names, value)
  if type(value) == "number" then
    if value >= 0 and value <= EXPERIMENT_MAX and value % 1 == 0 then return value end
  elseif value == nil then
    return 0
  elseif type(value) == "string" then
    local id = names.experiments[value]
    if id then return id end
    local message
    id, message = names.registry:experiment_id(value)
    names.experiments[value] = id
    return id, message
  end
  return nil, ("experiment: expected a name or an id from 0 (unset) to %d; got %s"):format(EXPERIMENT_MAX, show(value))
end
tags.experiment = experiment

--- Id of an experiment's activity: a number within the range, a name, or nil for 0.
---@param names flowd.Names
---@param experiment_id integer
---@param value any
---@return integer? id
---@return string? message
local function activity(names, experiment_id, value)
  if type(value) == "number" then
    if value >= 0 and value <= ACTIVITY_MAX and value % 1 == 0 then return value end
  elseif value == nil then
    return 0
  elseif type(value) == "string" then
    local known = names.activities[experiment_id]
    local id = known[value]
    if id then return id end
    if experiment_id == 0 then
      return nil, ("activity %s: a name needs an experiment, and none is set"):format(show(value))
    end
    local message
    id, message = names.registry:activity_id(experiment_id, value)
    known[value] = id
    return id, message
  end
  return nil, ("activity: expected a name or an id from 0 (unset) to %d; got %s"):format(ACTIVITY_MAX, show(value))
end
tags.activity = activity

local function resolve_pair(names, experiment_value, activity_value)
  local experiment_id, message = experiment(names, experiment_value)
  if not experiment_id then return nil, nil, message end
  if experiment_id == 0 then return nil, nil, "tag: expected an experiment; got " .. show(experiment_value) end
  local activity_id
  activity_id, message = activity(names, experiment_id, activity_value)
  if not activity_id then return nil, nil, message end
  return experiment_id, activity_id
end

-- "experiment/activity" in its parts; names have no slash.
local function split(text)
  local experiment_name, activity_name = text:match("^%s*([^/]-)%s*/%s*([^/]-)%s*$")
  if experiment_name then return experiment_name, activity_name end
  return text:match("^%s*(.-)%s*$"), nil
end

local function resolve_text(names, text)
  local tag = names.tags[text]
  if tag then return (tag - tag % 64) / 64, tag % 64 end
  local experiment_id, activity_id, message = resolve_pair(names, split(text))
  if experiment_id then names.tags[text] = experiment_id * 64 + activity_id end
  return experiment_id, activity_id, message
end

--- What stands for a tag, as two ids.
---@param names flowd.Names
---@param value any tag number, text, pair, or an experiment
---@param activity_value any with an experiment: its activity
---@return integer? experiment
---@return integer? activity
---@return string? message
function tags.resolve(names, value, activity_value)
  local experiment_id, activity_id, message
  if activity_value ~= nil then
    experiment_id, activity_id, message = resolve_pair(names, value, activity_value)
  elseif type(value) == "number" then
    if value % 1 == 0 and value >= TAG_MIN and value <= TAG_MAX then
      return (value - value % 64) / 64, value % 64
    end
    message = ("tag: expected a tag number from %d to %d, or an experiment and an activity; got %s%s")
      :format(TAG_MIN, TAG_MAX, show(value), value >= 1 and value < TAG_MIN and (" — the experiment alone is { %s }"):format(value) or "")
  elseif type(value) == "string" then
    experiment_id, activity_id, message = resolve_text(names, value)
  elseif type(value) == "table" then
    if value[1] == nil or value[3] ~= nil then
      message = "tag: expected a pair such as { \"atlas\", \"Data Challenge\" } or { 2, 26 }; got " .. (value[1] == nil and show(value)
        or "three or more values")
    else
      experiment_id, activity_id, message = resolve_pair(names, value[1], value[2])
    end
  else
    message = ("tag: expected %q, a pair or a tag number; got %s"):format("experiment/activity", show(value))
  end
  return experiment_id, activity_id, message
end

return tags
