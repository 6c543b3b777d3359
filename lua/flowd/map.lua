-- SPDX-License-Identifier: Apache-2.0
--- Maps from what a flow is to its tag.
--
--     local servers = flowd.map.prefixes{ ["2001:db8:1::/48"] = "atlas", ["2001:db8:1:2::/64"] = "atlas/Data Challenge" }
--     rule "by server" (function(flow) flow:tag(servers:find(flow.src) or servers:find(flow.dst)) end)
--
-- A map is made while a configuration loads, before the registry is known: its values are
-- checked when the rules are compiled (map.bind).
local tags = require("flowd.tags")

local map = {}

---@class flowd.Map
---@field find fun(self: flowd.Map, key: any): integer? tag number, for flow:tag

---@class flowd.MapKind
---@field kind string
---@field example string
---@field make fun(entries: { [1]: any, [2]: integer }[]): integer?, any from keys and tag numbers to the number of
---   a map and what keeps it; or nil and all that is wrong
---@field find fun(number: integer, key: any): integer? the tag number; errors are told two levels up

local kinds = { prefixes = require("flowd.map.prefixes"), ports = require("flowd.map.ports") }

local function show(key)
  return type(key) == "string" and ("%q"):format(key) or tostring(key)
end

-- Sorted, so that messages come in the same order each time.
local function sorted_entries(values)
  local entries = {}
  for key, value in pairs(values) do entries[#entries + 1] = { key, value } end
  table.sort(entries, function(a, b)
    local left, right = a[1], b[1]
    if type(left) == type(right) and type(left) == "number" then return left < right end
    if type(left) ~= type(right) then return type(left) < type(right) end
    return tostring(left) < tostring(right)
  end)
  return entries
end

-- Map -> the memory behind it.
local anchors = setmetatable({}, { __mode = "k" })

-- Give an unbound map its values' ids and make its finder. Returns what is wrong.
local function bind(unbound, registry)
  local names = tags.names(registry)
  local problems, entries = {}, {}
  for _, entry in ipairs(unbound.entries) do
    local experiment, activity, message = tags.resolve(names, entry[2])
    if experiment then
      entries[#entries + 1] = { entry[1], experiment * 64 + activity }
    else
      problems[#problems + 1] = ("[%s]: %s"):format(show(entry[1]), message)
    end
  end
  local number, rest = unbound.kind.make(entries)
  for _, message in ipairs(number and {} or rest) do problems[#problems + 1] = message end
  if #problems == 0 then
    -- The object holds its number, as sets of prefixes do.
    unbound.object[1] = number
    anchors[unbound.object] = rest
  end
  for i, problem in ipairs(problems) do problems[i] = ("%s: map.%s: %s"):format(unbound.where, unbound.kind.kind, problem) end
  return problems
end

-- What maps of one kind have in common.
local function make_class(kind)
  local find = kind.find
  return {
    __index = {
      find = function(self, key)
        local number = self[1]
        if not number then error("a map answers when the rules run, not while the configuration loads", 2) end
        return (find(number, key))
      end,
    },
    __newindex = function() error("a map cannot be changed", 2) end,
    __tostring = function() return "map." .. kind.kind end,
    __metatable = false,
  }
end

local classes = {}
for name, kind in pairs(kinds) do classes[name] = make_class(kind) end

--- The table `flowd.map` of an environment.
---@param collect fun(unbound: table) gets each map that is made: for map.bind
---@return table<string, fun(values: table): flowd.Map>
function map.makers(collect)
  local makers = {}
  for name, kind in pairs(kinds) do
    makers[name] = function(values)
      if type(values) ~= "table" then
        error(("map.%s: expected a table %s; got %s"):format(name, kind.example, show(values)), 2)
      end
      local at = debug.getinfo(2, "Sl")
      local object = setmetatable({ false }, classes[name])
      collect({
        kind = kind, entries = sorted_entries(values), object = object,
        where = ("%s:%d"):format(at.source:sub(2), at.currentline),
      })
      return object
    end
  end
  return makers
end

--- Check the values of maps against the registry and make them answer.
---@param unbound table[] collected since the last call; emptied
---@param registry flowd.Registry
---@return string[] problems each "FILE:LINE: map.KIND: …"
function map.bind(unbound, registry)
  local problems = {}
  for i = 1, #unbound do
    for _, problem in ipairs(bind(unbound[i], registry)) do problems[#problems + 1] = problem end
  end
  for i = #unbound, 1, -1 do unbound[i] = nil end
  return problems
end

return map
