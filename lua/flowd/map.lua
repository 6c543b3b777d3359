-- SPDX-License-Identifier: Apache-2.0
--- Maps from what a flow is to its tag.
--
--     local servers = flowd.map.prefixes{ ["2001:db8:1::/48"] = "atlas", ["2001:db8:1:2::/64"] = "atlas/Data Challenge" }
--     local users = flowd.map.exact "users.csv"
--     rule "by server" (function(flow) flow:tag(servers:find(flow.src) or users:find(flow.user)) end)
--
-- A map is made while a configuration loads, before the registry is known: its values are
-- checked when the rules are compiled (map.bind). One from a file is filled again when the file
-- changes (map.refresh); a rule that holds it sees the new contents from one event to the next.
local contents = require("flowd.map.contents")
local file_maps = require("flowd.map.files")
local held = require("flowd.map.held")
local show = require("flowd.show")
local suggest = require("flowd.suggest")
local tags = require("flowd.tags")

local map = {}

---@class flowd.Map
---@field find fun(self: flowd.Map, key: any): integer? tag number, for flow:tag

---@class flowd.MapKind
---@field kind string
---@field example string
---@field columns string what a line of a CSV file is
---@field settings? table<string, true> names of what may stand behind the contents
---@field new fun(settings: table, maps: table): table?, string? a builder: add(key, tag, position), or entry and row
---   for what is no key and tag, each returns what is wrong; finish(pause) returns the number of the map and what keeps it, or
---   nil and a list of { message, position? }
---@field find fun(number: integer, key: any, self: flowd.Map): integer? the tag number; errors are told two levels up

local kinds = {}
for _, name in ipairs({ "prefixes", "ports", "globs", "exact", "first_of", "round_robin", "random", "schedule" }) do
  kinds[name] = require("flowd.map." .. name)
end

local kind_names = {}
for name in pairs(kinds) do kind_names[#kind_names + 1] = name end
table.sort(kind_names)
map.kinds = kind_names

-- What maps of one kind have in common.
local function make_class(kind)
  local find = kind.find
  return {
    __index = setmetatable({
      find = function(self, key)
        local number = self[1]
        if not number then error("a map answers when the rules run, not while the configuration loads", 2) end
        return (find(number, key, self))
      end,
    }, { __index = function(_, name)
      if type(name) == "number" then return nil end
      error(("a map has no function %s; it has find"):format(show(name)), 2)
    end }),
    __call = function() error("a map is asked with find, as in servers:find(flow.dst)", 2) end,
    __newindex = function() error("a map cannot be changed", 2) end,
    __tostring = function() return "map." .. kind.kind end,
    __metatable = false,
  }
end

local classes = {}
for name, kind in pairs(kinds) do classes[name] = make_class(kind) end

-- Every map there is, and its kind: nothing else is one.
local made = setmetatable({}, { __mode = "k" })

local function new_object(name)
  local object = setmetatable({ false }, classes[name])
  made[object] = name
  return object
end

-- From here on the map answers with this. The object holds its number, as sets of prefixes do.
local function use(object, number, rest)
  held[object] = rest
  object[1] = number
end

-- What maps that hold maps need of this module.
local maps = {
  is_map = function(value) return type(value) == "table" and made[value] ~= nil end,
  kind_of = function(object) return made[object] end,
  builder = function(name) return assert(kinds[name].new({}, nil)) end,
  wrap = function(name, number, rest)
    local object = new_object(name)
    use(object, number, rest)
    return object
  end,
}

-- ---- making ------------------------------------------------------------------------

local function check_settings(kind, settings)
  if settings == nil then return end
  if type(settings) ~= "table" then error(("map.%s: expected a table of settings; got %s"):format(kind.kind, show(settings)), 3) end
  for name in pairs(settings) do
    if not (kind.settings and kind.settings[name]) then
      local known = {}
      for other in pairs(kind.settings or {}) do known[#known + 1] = other end
      local hint = suggest.hint(name, known)
      if hint == "" then hint = ("; known %s"):format(#known == 0 and "are none" or "is " .. table.concat(known, ", ")) end
      error(("map.%s: unknown setting %s%s"):format(kind.kind, show(name), hint), 3)
    end
  end
end

--- The table `flowd.map` of an environment.
---@param collect fun(unbound: table) gets each map that is made: for map.bind
---@param files? flowd.map.Files how files are found; nil: there are none
---@return table<string, fun(values: table|string, settings: table?): flowd.Map>
function map.makers(collect, files)
  local makers = {}
  for name, kind in pairs(kinds) do
    makers[name] = function(values, settings)
      local file
      if type(values) == "string" and (values:find("%.csv$") or values:find("%.lua$")) then
        if not files then error(("map.%s: files are not available here"):format(name), 2) end
        file = values
      elseif type(values) ~= "table" or maps.is_map(values) then
        error(("map.%s: expected a table %s or the name of a file (.csv, .lua); got %s"):format(name, kind.example, show(values)), 2)
      end
      check_settings(kind, settings)
      local at = debug.getinfo(2, "Sl")
      local object = new_object(name)
      collect({
        kind = kind, values = not file and values or nil, file = file, files = files, object = object, settings = settings or {},
        where = ("%s:%d"):format(at.source:sub(2), at.currentline),
      })
      return object
    end
  end
  return makers
end

-- ---- filling -----------------------------------------------------------------------

-- Tags as the registry has them, each looked up once: a number, or nil and a message.
local function resolver(registry)
  local names, known = tags.names(registry), {}
  return function(value, activity)
    if activity == "" then activity = nil end
    if activity == nil then
      local tag = known[value]
      if tag then return tag end
    end
    local experiment_id, activity_id, message = tags.resolve(names, value, activity)
    if not experiment_id then return nil, message end
    local tag = experiment_id * 64 + activity_id
    if activity == nil and type(value) == "string" then known[value] = tag end
    return tag
  end
end

local fill

-- Maps that a map's Lua file made.
local function fill_inner(files, resolve, problems, pause)
  local inner = files.inner
  files.inner = {}
  for _, one in ipairs(inner) do
    local wrong, commit
    if one.file then
      wrong = { ("%s: map.%s: a map from a file inside of another's file is not possible"):format(one.where, one.kind.kind) }
    else
      wrong, commit = fill(one, one.object, resolve, nil, pause)
    end
    for _, message in ipairs(wrong) do problems:add("", message) end
    if commit then commit() end
  end
end

-- Fill a map: from its table, or from the text of its file. Returns what is wrong; when nothing is, what puts
-- the contents in place.
fill = function(unbound, object, resolve, text, pause)
  local kind, problems = unbound.kind, contents.problems()
  local name = ("map.%s: "):format(kind.kind)
  local builder, refusal = kind.new(unbound.settings, maps)
  if not builder then return { ("%s: %s%s"):format(unbound.where, name, refusal) } end
  local where
  if unbound.file then
    where = file_maps.read(unbound, builder, text, resolve, problems, pause)
    fill_inner(unbound.files, resolve, problems, pause)
  else
    where = contents.from_table(builder, unbound.values, resolve, problems,
      function() return ("%s: %s"):format(unbound.where, name) end)
  end
  if not problems:any() or not kind.list then
    local number, rest = builder:finish(pause)
    if number and not problems:any() then return {}, function() use(object, number, rest) end end
    for _, problem in ipairs(number and {} or rest) do problems:add(where(problem[2]), problem[1]) end
  end
  return problems:take()
end

--- Check the values of maps against the registry and make them answer.
---@param unbound table[] collected since the last call; emptied
---@param registry flowd.Registry
---@return string[] problems each "FILE:LINE: map.KIND: …", or of the file that a map is from
function map.bind(unbound, registry)
  local problems, resolve = {}, resolver(registry)
  for _, one in ipairs(unbound) do
    local wrong, commit
    if one.file then
      local text, message = file_maps.open(one)
      if text then
        wrong, commit = fill(one, one.object, resolve, text, function() end)
      else
        wrong = { ("%s: map.%s: %s"):format(one.where, one.kind.kind, message) }
      end
      if commit then file_maps.watch(one, registry) end
    else
      wrong, commit = fill(one, one.object, resolve)
    end
    if commit then commit() end
    for _, problem in ipairs(wrong) do problems[#problems + 1] = problem end
  end
  for n = #unbound, 1, -1 do
    -- It was for now, and leads to the rules, which lead to the maps: they would never go.
    if unbound[n].files then unbound[n].files.read = nil end
    unbound[n] = nil
  end
  return problems
end

--- Fill the maps again whose files changed. A file that is wrong is logged and counted, and what was there before
--- stays in use. Call it about once a second.
---@param budget_ns? integer how long it may take: nil is as long as it takes
---@return boolean done false: it was not done in time, call again soon
---@return table<string, string>? texts of the files that were taken, by path
function map.refresh(budget_ns)
  return file_maps.refresh(budget_ns, function(unbound, object, registry, text, pause)
    return fill(unbound, object, resolver(registry), text, pause)
  end)
end

--- Refresh only the maps of one configuration: those of the one before may still be in memory. nil: all.
---@param files? flowd.map.Files
function map.use_only(files) file_maps.use_only(files) end

return map
