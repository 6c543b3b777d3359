-- SPDX-License-Identifier: Apache-2.0
--- The registry of experiments and activities: names and ids, both ways.
--
-- Names are compared without regard to case; a blank and "_" are equal. The names of
-- activities belong to an experiment: "Data Challenge" is 26 of atlas and 4 of cms.
local bit = require("bit")
local ffi = require("ffi")
require("flowd.api")
local json = require("flowd.json_parser")
local suggest = require("flowd.suggest")

local EXPERIMENT_MAX, ACTIVITY_MAX = ffi.C.FLOW_EXPERIMENT_MAX, ffi.C.FLOW_ACTIVITY_MAX
local NAME_MAX = 100
-- A published registry has some ten thousand octets.
local FILE_MAX = 4 * 1024 * 1024

---@class flowd.Registry
---@field source string where it is from
---@field modified string|nil when it was published, as it says itself
---@field fingerprint string|nil of the text; nil: built in
local Registry = {}
Registry.__index = Registry

local registry = {}

--- The form in which names are compared.
---@param name string
---@return string
function registry.normalise(name) return (name:lower():gsub("_", " ")) end
local normalise = registry.normalise

-- An id given as a number or as digits; nil for a name. Second result: out of range.
local function as_id(value, max)
  local id = value
  if type(value) == "string" and value:find("^%d+$") then id = tonumber(value) end
  if type(id) ~= "number" then return nil end
  if id ~= math.floor(id) or id < 1 or id > max then return nil, true end
  return id
end

local function unknown(what, name, names)
  return ('unknown %s "%s"%s'):format(what, tostring(name), suggest.hint(name, names))
end

--- The id of an experiment. An id that the registry does not know is returned as it is.
---@param name string|integer name, id, or id as digits
---@return integer|nil id
---@return string|nil message
function Registry:experiment_id(name)
  local id, out_of_range = as_id(name, EXPERIMENT_MAX)
  if id then return id end
  if out_of_range then return nil, ("experiment %s: expected an id from 1 to %d"):format(name, EXPERIMENT_MAX) end
  if type(name) ~= "string" then
    return nil, ("experiment: expected a name or an id from 1 to %d, got %s"):format(EXPERIMENT_MAX, type(name))
  end
  id = self.ids[normalise(name)]
  if id then return id end
  local names = {}
  for _, e in ipairs(self.experiments) do names[#names + 1] = e.name end
  return nil, unknown("experiment", name, names)
end

--- The id of an activity. An id that the registry does not know is returned as it is.
---@param experiment_id integer
---@param name string|integer name, id, or id as digits
---@return integer|nil id
---@return string|nil message
function Registry:activity_id(experiment_id, name)
  local id, out_of_range = as_id(name, ACTIVITY_MAX)
  if id then return id end
  if out_of_range then return nil, ("activity %s: expected an id from 1 to %d"):format(name, ACTIVITY_MAX) end
  if type(name) ~= "string" then
    return nil, ("activity: expected a name or an id from 1 to %d, got %s"):format(ACTIVITY_MAX, type(name))
  end
  local experiment = self.by_id[experiment_id]
  if not experiment then
    return nil, ('activity "%s": the registry has no experiment %s'):format(name, tostring(experiment_id))
  end
  id = experiment.ids[normalise(name)]
  if id then return id end
  local names = {}
  for _, a in ipairs(experiment.list) do names[#names + 1] = a.name end
  return nil, unknown("activity of " .. experiment.name, name, names)
end

---@param id integer
---@return string|nil
function Registry:experiment_name(id)
  local experiment = self.by_id[id]
  return experiment and experiment.name
end

---@param experiment_id integer
---@param activity_id integer
---@return string|nil
function Registry:activity_name(experiment_id, activity_id)
  local experiment = self.by_id[experiment_id]
  return experiment and experiment.activities[activity_id]
end

local function describe_one(id, name)
  if id == 0 then return "unset" end
  return ("%s (%d)"):format(name or "unknown", id)
end

--- "atlas (2) / Data Challenge (26)"; "unset" for 0, "unknown (99)" for what has no name.
---@param experiment_id integer
---@param activity_id integer
---@return string
function Registry:describe(experiment_id, activity_id)
  return describe_one(experiment_id, self:experiment_name(experiment_id)) .. " / "
    .. describe_one(activity_id, self:activity_name(experiment_id, activity_id))
end

--- Call fn(experiment_id, experiment_name, activity_id, activity_name) for every activity, in the
--- order of the ids; once with activity_id nil before those of an experiment.
function Registry:each(fn)
  for _, e in ipairs(self.experiments) do
    fn(e.id, e.name)
    for _, a in ipairs(e.list) do fn(e.id, e.name, a.id, a.name) end
  end
end

-- Where something is: what follows a check's other arguments, for string.format. A daemon starts with several
-- hundred checks and no problem.
local function check_name(problems, name, where, ...)
  if type(name) ~= "string" or name == "" or #name > NAME_MAX or name:find("%c") then
    problems[#problems + 1] = ("%s, name: expected a name of 1 to %d characters, got %s"):format(where:format(...), NAME_MAX,
      type(name) == "string" and ("%q"):format(name:sub(1, NAME_MAX)) or type(name))
    return false
  end
  return true
end

local function check_id(problems, id, max, where, ...)
  if type(id) ~= "number" or id ~= math.floor(id) or id < 1 or id > max then
    problems[#problems + 1] = ("%s, id: expected an id from 1 to %d, got %s"):format(where:format(...), max, tostring(id))
    return false
  end
  return true
end

local ACTIVITY, EXPERIMENT = "experiment %s, activity %d", "experiment %d"

-- One experiment's activities: list of { id, name } in any order.
local function add_activities(experiment, list, problems)
  for position, a in ipairs(list) do
    local named = check_name(problems, a.name, ACTIVITY, experiment.name, position)
    local numbered = check_id(problems, a.id, ACTIVITY_MAX, ACTIVITY, experiment.name, position)
    if named and numbered then
      local key = normalise(a.name)
      if experiment.activities[a.id] then
        problems[#problems + 1] = ('%s: id %d is both "%s" and "%s"'):format(ACTIVITY:format(experiment.name, position),
          a.id, experiment.activities[a.id], a.name)
      elseif experiment.ids[key] then
        problems[#problems + 1] = ('%s: the name "%s" has two ids, %d and %d'):format(
          ACTIVITY:format(experiment.name, position), a.name, experiment.ids[key], a.id)
      else
        experiment.activities[a.id], experiment.ids[key] = a.name, a.id
        experiment.list[#experiment.list + 1] = { id = a.id, name = a.name }
      end
    end
  end
end

-- experiments: list of { id, name, activities = list of { id, name } }.
local function build(experiments, source, modified)
  local self = setmetatable({ by_id = {}, ids = {}, experiments = {}, source = source, modified = modified }, Registry)
  local problems = {}
  for position, e in ipairs(experiments) do
    local named = check_name(problems, e.name, EXPERIMENT, position)
    local numbered = check_id(problems, e.id, EXPERIMENT_MAX, EXPERIMENT, position)
    if named and numbered then
      local key = normalise(e.name)
      if self.by_id[e.id] then
        problems[#problems + 1] = ('%s: id %d is both "%s" and "%s"'):format(EXPERIMENT:format(position), e.id,
          self.by_id[e.id].name, e.name)
      elseif self.ids[key] then
        problems[#problems + 1] = ('%s: the name "%s" has two ids, %d and %d'):format(EXPERIMENT:format(position), e.name,
          self.ids[key], e.id)
      else
        local experiment = { id = e.id, name = e.name, activities = {}, ids = {}, list = {} }
        self.by_id[e.id], self.ids[key] = experiment, e.id
        self.experiments[#self.experiments + 1] = experiment
        add_activities(experiment, e.activities, problems)
        table.sort(experiment.list, function(a, b) return a.id < b.id end)
      end
    end
  end
  if #problems > 0 then return nil, problems end
  table.sort(self.experiments, function(a, b) return a.id < b.id end)
  return self
end

--- The snapshot inside the binary.
---@return flowd.Registry
function registry.load_embedded()
  local data = require("flowd.registry_data")
  local experiments = {}
  for i, e in ipairs(data.experiments) do
    local list = {}
    for id, name in pairs(e.activities) do list[#list + 1] = { id = id, name = name } end
    experiments[i] = { id = e.id, name = e.name, activities = list }
  end
  return assert(build(experiments, "built in", data.modified))
end

-- A JSON array as a list, or nil.
local function array(value)
  if type(value) ~= "table" or next(value) ~= nil and value[1] == nil then return nil end
  return value
end

--- A registry from text in the published form (api.json).
---@param text string
---@param source string where the text is from, for messages
---@return flowd.Registry|nil
---@return string[]|nil problems
function registry.parse(text, source)
  local data, message, line, column = json.decode(text)
  if data == nil then return nil, { ("%s:%d:%d: not JSON: %s"):format(source, line, column, message) } end
  local function refuse(...) return nil, { source .. ": " .. string.format(...) } end
  if type(data) ~= "table" or data[1] ~= nil then return refuse("expected a JSON object with \"experiments\"") end
  if data.version ~= 1 then return refuse("version: expected 1, got %s", tostring(data.version)) end
  if not array(data.experiments) then return refuse("experiments: expected a list") end
  if #data.experiments == 0 then return refuse("experiments: expected at least one") end
  local experiments = {}
  for i, e in ipairs(data.experiments) do
    if type(e) ~= "table" then return refuse("experiment %d: expected an object", i) end
    local activities = array(e.activities)
    if not activities then return refuse("experiment %d: activities: expected a list", i) end
    local list = {}
    for j, a in ipairs(activities) do
      if type(a) ~= "table" then return refuse("experiment %d, activity %d: expected an object", i, j) end
      list[j] = { id = a.activityId, name = a.activityName }
    end
    experiments[i] = { id = e.expId, name = e.expName, activities = list }
  end
  local self, problems = build(experiments, source, type(data.modified) == "string" and data.modified or nil)
  if self then
    self.fingerprint = registry.fingerprint(text)
    return self
  end
  for i, problem in ipairs(problems) do problems[i] = source .. ": " .. problem end
  return nil, problems
end

--- What tells texts apart.
---@param text string
---@return string
function registry.fingerprint(text)
  local a, b = 5381, 52711
  for i = 1, #text do
    local octet = text:byte(i)
    a, b = bit.tobit(a * 33 + octet), bit.bxor(bit.tobit(b * 31), octet)
  end
  return bit.tohex(a) .. bit.tohex(b)
end

--- The text of a file.
---@param path string
---@return string|nil text
---@return string[]|nil problems
function registry.read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, { message } end
  local text = file:read(FILE_MAX + 1)
  file:close()
  if not text then return nil, { path .. ": the file is empty or cannot be read" } end
  if #text > FILE_MAX then return nil, { ("%s: larger than %d octets"):format(path, FILE_MAX) } end
  return text
end

--- A registry from a file in the published form. Who may write the file is not checked: it is data,
--- and every part of it is.
---@param path string
---@return flowd.Registry|nil
---@return string|nil message all problems, separated by "; "
---@return string[]|nil problems
function registry.load_file(path)
  local text, problems = registry.read_file(path)
  local self
  if text then self, problems = registry.parse(text, path) end
  if self then return self end
  return nil, table.concat(problems, "; "), problems
end

return registry
