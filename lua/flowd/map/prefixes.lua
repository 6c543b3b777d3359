-- SPDX-License-Identifier: Apache-2.0
--- Map of prefixes: the longest that holds an address gives the tag.
local addresses = require("flowd.addresses")

local find = addresses.find

local prefixes = {
  kind = "prefixes", example = '{ ["2001:db8::/32"] = "atlas/Data Challenge", … }',
  columns = "PREFIX,TAG or PREFIX,EXPERIMENT,ACTIVITY",
}

local Builder = {}
Builder.__index = Builder

function prefixes.new()
  local inner, message = addresses.map_builder()
  return inner and setmetatable({ inner = inner, positions = {} }, Builder), message
end

function Builder:add(prefix, tag, position)
  local message = self.inner:add(prefix, tag)
  if not message then self.positions[#self.positions + 1] = position end
  return message
end

function Builder:finish(pause)
  local pointer, map, which = self.inner:finish(pause)
  if not pointer then return nil, { { map, self.positions[which] } } end
  local number, message = addresses.number_map(map)
  if not number then return nil, { { message } } end
  return number, map
end

function prefixes.find(number, address)
  local tag = find(number, address)
  if tag ~= 0 then return tag end
  return nil
end

return prefixes
