-- SPDX-License-Identifier: Apache-2.0
--- Tags that are in the registry, and those that are not (src/known_tags.h).
local api = require("flowd.api")
local counters = require("flowd.counters")

local known_tags = {}

local check = api.known_tags_check
local experiments = counters.get("flowd_registry_unknown_total", { what = "experiment" })
local activities = counters.get("flowd_registry_unknown_total", { what = "activity" })
local strict = false

--- What is known from now on.
---@param registry flowd.Registry
---@param is_strict boolean unknown tags are taken away
function known_tags.use_registry(registry, is_strict)
  api.known_tags_clear()
  registry:each(function(experiment_id, _, activity_id) api.known_tags_add(experiment_id, activity_id or 0) end)
  strict = is_strict
  -- Counters made before the state file was open are not those that are shown.
  experiments = counters.get("flowd_registry_unknown_total", { what = "experiment" })
  activities = counters.get("flowd_registry_unknown_total", { what = "activity" })
end

--- Count the unknown ones of a batch whose tags were just decided.
---@param batch ffi.cdata* struct flow_batch *
function known_tags.check(batch) check(batch, strict, experiments, activities) end

return known_tags
