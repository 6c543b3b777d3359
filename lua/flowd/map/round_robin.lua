-- SPDX-License-Identifier: Apache-2.0
--- Tags in turn.
local dry = require("flowd.dry")
local held = require("flowd.map.held")

local round_robin = {
  kind = "round_robin", example = '{ "atlas/Data Challenge", "cms", … }', columns = "TAG or EXPERIMENT,ACTIVITY", list = true,
}

local Builder = {}
Builder.__index = Builder

function round_robin.new() return setmetatable({ tags = {} }, Builder) end

function Builder:entry(key, value, resolve)
  if type(key) ~= "number" then return ("expected a list of tags; got the key %q"):format(tostring(key)) end
  local tag, message = resolve(value)
  if not tag then return message end
  self.tags[#self.tags + 1] = tag
end

function Builder:row(fields, resolve)
  if #fields > 2 then return ("expected %s; got %d fields"):format(round_robin.columns, #fields) end
  local tag, message = resolve(fields[1], fields[2])
  if not tag then return message end
  self.tags[#self.tags + 1] = tag
end

function Builder:finish()
  if #self.tags == 0 then return nil, { { "expected at least one tag" } } end
  return 0, { tags = self.tags, count = #self.tags, at = 0 }
end

local function put_back(turn, at)
  local before = turn.at
  turn.at = at
  return turn, before
end

function round_robin.find(_, _, self)
  local turn = held[self]
  if dry.on then dry.note(put_back, turn, turn.at) end
  local at = turn.at % turn.count + 1
  turn.at = at
  return (turn.tags[at])
end

return round_robin
