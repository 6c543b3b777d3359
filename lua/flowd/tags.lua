-- SPDX-License-Identifier: Apache-2.0
--- Tags: an experiment and an activity in one, as policy writes and maps hold them.
--
--     "atlas"   "atlas/Data Challenge"   { "atlas", "Data Challenge" }   { 2, 26 }
--
-- As a number a tag is the scitag integer, experiment * 64 + activity; activity 0 is unset.
local ffi = require("ffi")
require("flowd.api")

local EXPERIMENT_MAX, ACTIVITY_MAX = ffi.C.FLOW_EXPERIMENT_MAX, ffi.C.FLOW_ACTIVITY_MAX
local TAG_MIN, TAG_MAX = ACTIVITY_MAX + 1, EXPERIMENT_MAX * (ACTIVITY_MAX + 1) + ACTIVITY_MAX

local tags = {}

local function show(value)
  return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

-- "experiment/activity" in its parts; names have no slash.
local function split(text)
  local experiment, activity = text:match("^%s*([^/]-)%s*/%s*([^/]-)%s*$")
  if experiment then return experiment, activity end
  return text:match("^%s*(.-)%s*$"), nil
end

--- A function from what stands for a tag to its two ids.
---@param resolve_experiment fun(value: any): integer?, string?
---@param resolve_activity fun(experiment: integer, value: any): integer?, string?
---@return fun(experiment: any, activity: any): integer?, integer?, string? experiment, activity, message
function tags.resolver(resolve_experiment, resolve_activity)
  -- Texts are taken apart once each.
  local known = {}

  local function resolve_pair(experiment, activity)
    local experiment_id, message = resolve_experiment(experiment)
    if not experiment_id then return nil, nil, message end
    if experiment_id == 0 then return nil, nil, "tag: expected an experiment; got " .. show(experiment) end
    local activity_id
    activity_id, message = resolve_activity(experiment_id, activity)
    if not activity_id then return nil, nil, message end
    return experiment_id, activity_id
  end

  local function resolve_text(text)
    local experiment_id, activity_id, message = resolve_pair(split(text))
    if experiment_id then known[text] = experiment_id * 64 + activity_id end
    return experiment_id, activity_id, message
  end

  return function(experiment, activity)
    if activity ~= nil then return resolve_pair(experiment, activity) end
    if type(experiment) == "number" then
      if experiment % 1 == 0 and experiment >= TAG_MIN and experiment <= TAG_MAX then
        return (experiment - experiment % 64) / 64, experiment % 64
      end
      return nil, nil, ("tag: expected a tag number from %d to %d, or an experiment and an activity; got %s")
        :format(TAG_MIN, TAG_MAX, show(experiment))
    elseif type(experiment) == "string" then
      local tag = known[experiment]
      if tag then return (tag - tag % 64) / 64, tag % 64 end
      return resolve_text(experiment)
    elseif type(experiment) == "table" then
      return resolve_pair(experiment[1], experiment[2])
    end
    return nil, nil, ("tag: expected %q, a pair or a tag number; got %s"):format("experiment/activity", show(experiment))
  end
end

return tags
