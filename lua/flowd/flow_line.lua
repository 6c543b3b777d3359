-- SPDX-License-Identifier: Apache-2.0
--- Flow lines (src/flow_line.h): the names they may use.
local api = require("flowd.api")

local flow_line = {}

local EEXIST, ENAMETOOLONG = 17, 36
local problems = { [-EEXIST] = "another one has this name", [-ENAMETOOLONG] = "the name is too long" }

local function add(experiment_id, activity_id, name)
  local status = api.flow_line_name_add(experiment_id, activity_id, name)
  if status == 0 then return end
  error(("registry: experiment %d, activity %d: flow lines cannot use the name %q: %s"):format(experiment_id,
    activity_id, name, problems[status] or "error " .. -status), 0)
end

--- Let lines use the names of this registry, and no others.
---@param registry flowd.Registry
function flow_line.use_registry(registry)
  api.flow_line_names_clear()
  registry:each(function(experiment_id, experiment_name, activity_id, activity_name)
    add(experiment_id, activity_id or 0, activity_name or experiment_name)
  end)
end

return flow_line
