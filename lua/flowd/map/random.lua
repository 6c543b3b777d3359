-- SPDX-License-Identifier: Apache-2.0
--- Tags at random, each with its weight. By Walker's alias method: one draw, whatever their number.
local api = require("flowd.api")
local held = require("flowd.map.held")
local show = require("flowd.show")

-- Every Lua state starts with the same numbers.
math.randomseed(tonumber(api.clock_realtime_us() % 2147483647ULL))

local floor, draw, type = math.floor, math.random, type

local random = {
  kind = "random", example = '{ "atlas", "cms" } or, with weights, { ["atlas/Data Challenge"] = 9, cms = 1 }',
  columns = "TAG, EXPERIMENT,ACTIVITY or EXPERIMENT,ACTIVITY,WEIGHT", list = true,
}

local Builder = {}
Builder.__index = Builder

function random.new() return setmetatable({ tags = {}, weights = {} }, Builder) end

function Builder:put(tag, weight)
  local number = tonumber(weight)
  if not number or not (number > 0 and number < 1e9) then
    return ("expected a weight above 0; got %s"):format(show(weight))
  end
  self.tags[#self.tags + 1], self.weights[#self.weights + 1] = tag, number
end

function Builder:entry(key, value, resolve)
  if type(key) ~= "string" and type(key) ~= "number" then return ("expected a tag and its weight; got the key %s"):format(show(key)) end
  local weighted = type(key) == "string"
  local tag, message = resolve(weighted and key or value)
  if not tag then return message end
  return self:put(tag, weighted and value or 1)
end

function Builder:row(fields, resolve)
  if #fields > 3 then return ("expected %s; got %d fields"):format(random.columns, #fields) end
  local tag, message = resolve(fields[1], fields[2])
  if not tag then return message end
  return self:put(tag, fields[3] or 1)
end

-- Each place of the table is shared by two tags: its own, up to `share`, and another behind it.
local function table_of(tags, weights)
  local count, total = #tags, 0
  for i = 1, count do total = total + weights[i] end
  local share, other, small, large = {}, {}, {}, {}
  for i = 1, count do
    share[i], other[i] = weights[i] * count / total, tags[i]
    local list = share[i] < 1 and small or large
    list[#list + 1] = i
  end
  while #small > 0 and #large > 0 do
    local less, more = table.remove(small), large[#large]
    other[less] = tags[more]
    share[more] = share[more] - (1 - share[less])
    if share[more] < 1 then small[#small + 1] = table.remove(large) end
  end
  -- What rounding left.
  for _, i in ipairs(small) do share[i] = 1 end
  return { tags = tags, share = share, other = other, count = count }
end

function Builder:finish()
  if #self.tags == 0 then return nil, { { "expected at least one tag" } } end
  return 0, table_of(self.tags, self.weights)
end

function random.find(_, _, self)
  local lot = held[self]
  local place = draw() * lot.count
  local i = floor(place)
  if place - i < lot.share[i + 1] then return (lot.tags[i + 1]) end
  return (lot.other[i + 1])
end

return random
