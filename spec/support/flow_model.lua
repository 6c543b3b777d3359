-- SPDX-License-Identifier: Apache-2.0
--- What the flow table should do, in plain Lua: the oracle of its random test. Flows are tables,
--- keys are strings; it is written from the rules in src/flow_table.h, event by event.
local Model = {}
Model.__index = Model

local model = {}

---@param flows_max integer
function model.new(flows_max)
  return setmetatable({ max = flows_max, flows = {}, live = 0 }, Model)
end

--- First pass, before the rules. Returns what resolve must have said.
---@param event table { key, state, time }
---@param ended table<string, boolean> 5-tuples with an end earlier in this batch
function Model:resolve(event, ended)
  local key = event.key
  local flow = self.flows[key]
  if event.state == "end" then
    ended[key] = true
    if not flow then return { stray = true } end
    self.flows[key] = nil
    self.live = self.live - 1
    return { flow = flow, known = true, decided = true }
  end
  if flow then return { flow = flow, known = true, decided = event.state == "ongoing" } end
  if self.live >= self.max then return { refused = true, decided = true } end
  flow = { key = key, start = event.time, born = true }
  self.flows[key] = flow
  self.live = self.live + 1
  return { flow = flow, reopened = ended[key] }
end

local function tag(target, event)
  target.experiment = event.experiment
  target.activity = event.activity == 0 and 1 or event.activity
  target.route = event.route
end

--- Second pass, with the rules' decisions. Returns what a backend must see, or nil and why not.
function Model.commit(_, event, found, mask)
  if found.refused then return nil, "refused" end
  local flow = found.flow
  if found.decided then
    if not flow.open then return nil, flow.why end
    if event.bytes then flow.bytes = event.bytes end
    return { start = flow.start, experiment = flow.experiment, activity = flow.activity, route = flow.route,
      application = event.application ~= "" and event.application or flow.application, flow = flow }
  end
  local why = event.drop and "dropped" or event.experiment == 0 and "unmapped" or nil
  if why then
    if flow and not flow.open then flow.why = why end
    return nil, why
  end
  local seen = { application = event.application, flow = flow }
  tag(seen, event)
  seen.route = bit.band(seen.route, mask)
  if not flow then
    seen.start = event.time
    return seen
  end
  if not flow.open then
    flow.open, flow.start, flow.application = true, event.time, ""
    flow.bytes = nil
  end
  flow.experiment, flow.activity, flow.route = seen.experiment, seen.activity, seen.route
  flow.rule = event.rule
  if event.application ~= "" then flow.application = event.application end
  if event.bytes then flow.bytes = event.bytes end
  seen.start = flow.start
  return seen
end

--- Flows whose starts were all refused by rules do not exist.
function Model:finish(found)
  for _, f in ipairs(found) do
    local flow = f.flow
    if flow and not flow.open and self.flows[flow.key] == flow then
      self.flows[flow.key] = nil
      self.live = self.live - 1
    end
  end
end

return model
