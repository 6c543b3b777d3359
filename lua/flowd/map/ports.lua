-- SPDX-License-Identifier: Apache-2.0
--- Map of ports: a single port before a range that holds it.
local ffi = require("ffi")
local declaration = require("flowd.rules.declaration")
local numbers = require("flowd.numbers")
local pages = require("flowd.pages")
local show = require("flowd.show")

local error, type = error, type

local MAPS_MAX = 4096
local numbered = numbers.new("const uint16_t *", MAPS_MAX, pages.new("uint16_t", 65536))
local tables = numbered.pointers

local ports = {
  kind = "ports", example = '{ [1094] = "atlas", ["20000-25000"] = "cms", … }', columns = "PORTS,TAG or PORTS,EXPERIMENT,ACTIVITY",
}

local Builder = {}
Builder.__index = Builder

function ports.new() return setmetatable({ ranges = {} }, Builder) end

function Builder:add(key, tag, position)
  local first, last = declaration.port_range(key)
  if not first then return last end
  self.ranges[#self.ranges + 1] = { first = first, last = last, tag = tag, position = position, single = first == last }
end

function Builder:finish()
  local ranges, problems = self.ranges, {}
  -- Ranges first, single ports over them.
  table.sort(ranges, function(a, b)
    if a.single ~= b.single then return b.single end
    return a.first < b.first
  end)
  local tag = ffi.new("uint16_t[65536]")
  local owner = {}
  for _, range in ipairs(ranges) do
    for port = range.first, range.last do
      local other = owner[port]
      if other and other.single == range.single and other.tag ~= range.tag then
        problems[#problems + 1] = { ("port %d is in two entries, %d-%d and %d-%d, with different values"):format(port,
          other.first, other.last, range.first, range.last), range.position }
        break
      end
      owner[port], tag[port] = range, range.tag
    end
  end
  if #problems > 0 then return nil, problems end
  local number, message = numbered:take(tag)
  if not number then return nil, { { "maps of ports: " .. message } } end
  return number, tag
end

function ports.find(number, port)
  if type(port) ~= "number" or not (port >= 0 and port <= 65535) then
    error(("find: expected a port, a number from 1 to 65535; got %s"):format(show(port)), 3)
  elseif not (number >= 0 and number < MAPS_MAX) then
    error("this map was changed", 3)
  end
  local tag = tables[number][port]
  if tag ~= 0 then return tag end
  return nil
end

return ports
