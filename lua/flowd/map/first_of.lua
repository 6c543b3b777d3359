-- SPDX-License-Identifier: Apache-2.0
--- Maps asked in order: the first that has an answer gives the tag. An item is a map, asked with what
--- find was given; { "dst", map }, asked with that field of the flow that find was given; or a tag.
local held = require("flowd.map.held")
local show = require("flowd.show")
local suggest = require("flowd.suggest")

local ITEMS_MAX = 100

local first_of = {
  kind = "first_of", example = '{ { "dst", servers }, { "src_port", services }, "atlas" }',
  columns = "FIELD,KEY,TAG or FIELD,KEY,EXPERIMENT,ACTIVITY", list = true,
}

-- The kind of map for a field of the flow.
local kinds = {
  src = "prefixes", dst = "prefixes", src_port = "ports", dst_port = "ports", application = "globs", plugin = "globs",
  user = "globs", comm = "globs", cgroup = "globs", uid = "exact", protocol = "exact", state = "exact", family = "exact",
}

-- Which are texts.
local texts = { application = true, plugin = true, user = true, comm = true, cgroup = true, protocol = true, state = true }

local field_names = { "default" }
for name in pairs(kinds) do field_names[#field_names + 1] = name end
table.sort(field_names)

local Builder = {}
Builder.__index = Builder

---@param _ table settings
---@param maps table is_map, kind_of, builder(kind) and wrap(kind, number, held): of flowd.map
function first_of.new(_, maps) return setmetatable({ maps = maps, items = {}, by_field = {} }, Builder) end

-- An item { "dst", map }, or what is wrong with it.
function Builder:asked_with(field, map, more)
  if not self.maps.is_map(map) or more ~= nil then
    return nil, ('expected a field of the flow and a map, as in { "dst", servers }; got %s, %s'):format(show(field), show(map))
  end
  if not kinds[field] then
    return nil, ("a flow has no field %s that a map is for%s"):format(show(field), suggest.hint(field, field_names))
  end
  local kind, wanted = self.maps.kind_of(map), kinds[field]
  if kind == wanted or kind == "first_of" or kind == "exact" and wanted ~= "prefixes" or kind == "globs" and texts[field] then
    return { field = field, map = map }
  end
  return nil, ("flow.%s can be asked of a map.%s; got a map.%s"):format(field, wanted, kind)
end

function Builder:entry(key, value, resolve)
  local is_map = self.maps.is_map
  if type(key) ~= "number" then return ("expected a list; got the key %q"):format(tostring(key)) end
  local item
  if is_map(value) then
    item = { map = value }
  elseif type(value) == "table" and (is_map(value[1]) or is_map(value[2]) or kinds[value[1]]) then
    local message
    item, message = self:asked_with(value[1], value[2], value[3])
    if not item then return message end
  else
    local tag, message = resolve(value)
    if not tag then return message end
    item = { tag = tag }
  end
  self.items[#self.items + 1] = item
end

-- The lines of one field are one map, asked where the first of them stands.
function Builder:row(fields, resolve, position)
  if #fields < 3 or #fields > 4 then return ("expected %s; got %d fields"):format(first_of.columns, #fields) end
  local tag, message = resolve(fields[3], fields[4])
  if not tag then return message end
  local field = fields[1]
  if field == "default" then
    self.items[#self.items + 1] = { tag = tag }
    return nil
  elseif not kinds[field] then
    return ("a flow has no field %q that a map is for%s"):format(field, suggest.hint(field, field_names))
  end
  local item = self.by_field[field]
  if not item then
    item = { field = field, kind = kinds[field] }
    item.builder = self.maps.builder(item.kind)
    self.by_field[field], self.items[#self.items + 1] = item, item
  end
  return item.builder:add(fields[2], tag, position)
end

function Builder:finish()
  local problems = {}
  if #self.items == 0 or #self.items > ITEMS_MAX then
    return nil, { { ("expected 1 to %d items; got %d"):format(ITEMS_MAX, #self.items) } }
  end
  local maps, lines = {}, { "local maps = ..." }
  for i, item in ipairs(self.items) do
    if item.builder then
      local number, rest = item.builder:finish()
      if number then
        item.map = self.maps.wrap(item.kind, number, rest)
      else
        for _, problem in ipairs(rest) do problems[#problems + 1] = problem end
      end
    end
    maps[i] = item.map or false
    if item.map then lines[#lines + 1] = ("local map%d = maps[%d]"):format(i, i) end
  end
  if #problems > 0 then return nil, problems end
  -- Written out: a loop in a rule would be one that LuaJIT compiles apart.
  lines[#lines + 1] = "return function(key)\nlocal tag"
  for i, item in ipairs(self.items) do
    if item.tag then
      lines[#lines + 1] = ("do return %d end"):format(item.tag)
    else
      lines[#lines + 1] = ("tag = map%d:find(key%s) if tag then return tag end"):format(i, item.field and "." .. item.field or "")
    end
  end
  lines[#lines + 1] = "return nil\nend"
  return 0, setfenv(assert(loadstring(table.concat(lines, "\n"), "=map.first_of")), {})(maps)
end

function first_of.find(_, key, self)
  local ask = held[self]
  return (ask(key))
end

return first_of
