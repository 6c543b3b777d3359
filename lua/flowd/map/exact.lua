-- SPDX-License-Identifier: Apache-2.0
--- Map of texts and numbers, each as it is.
local held = require("flowd.map.held")

local show = require("flowd.show")

local error, type = error, type

local exact = {
  kind = "exact", example = '{ ["dcache-atlas"] = "atlas", … }', columns = "KEY,TAG or KEY,EXPERIMENT,ACTIVITY",
}

local Builder = {}
Builder.__index = Builder

function exact.new() return setmetatable({ tags = {} }, Builder) end

function Builder:add(key, tag)
  local tags = self.tags
  if type(key) ~= "string" and type(key) ~= "number" then
    return ("expected a text or a number; got %s"):format(show(key))
  end
  if tags[key] and tags[key] ~= tag then return ("%s is there twice, with different values"):format(show(key)) end
  tags[key] = tag
  -- Files have texts only, flows numbers too.
  if type(key) == "number" then
    tags[tostring(key)] = tag
  elseif tostring(tonumber(key)) == key then
    tags[tonumber(key)] = tag
  end
end

function Builder:finish() return 0, self.tags end

function exact.find(_, key, self)
  if key == nil then return nil end
  if type(key) ~= "string" and type(key) ~= "number" then
    error(("find: expected a text or a number; got %s"):format(show(key)), 3)
  end
  local tags = held[self]
  return (tags[key])
end

return exact
