-- SPDX-License-Identifier: Apache-2.0
--- A small JSON-schema checker (draft 2020-12) for decoded JSON: the keywords that the public
-- firefly schema uses, and an error for any other, so that none is passed over in silence.
-- `format` is asserted, not only noted.
--
-- Values come from dkjson with objects and arrays marked (see json_schema.decode).
local json = require("dkjson")

local json_schema = {}

local kinds = {
  object = function(v) return type(v) == "table" and (getmetatable(v) or {}).__jsontype == "object" end,
  array = function(v) return type(v) == "table" and (getmetatable(v) or {}).__jsontype == "array" end,
  string = function(v) return type(v) == "string" end,
  number = function(v) return type(v) == "number" end,
  integer = function(v) return type(v) == "number" and v == math.floor(v) end,
  boolean = function(v) return type(v) == "boolean" end,
  null = function(v) return v == json.null end,
}

local function days_in(year, month)
  if month == 2 then return (year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)) and 29 or 28 end
  return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
end

local function is_ipv4(text)
  local octets = { text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  for _, octet in ipairs(octets) do
    if tonumber(octet) > 255 or (#octet > 1 and octet:sub(1, 1) == "0") then return false end
  end
  return #octets == 4
end

-- RFC 4291, 2.2, by the letter: groups counted, one "::" at most.
local function is_ipv6(text)
  local tail = text:match("[^:]*$")
  local groups = 0
  if tail:find(".", 1, true) then
    if not is_ipv4(tail) then return false end
    text, groups = text:sub(1, -#tail - 1) .. "0", 1
  end
  local gap = text:find("::", 1, true)
  if gap and text:find("::", gap + 1, true) then return false end
  if text:find("^:[^:]") or text:find("[^:]:$") then return false end
  for group in text:gmatch("[^:]+") do
    if not group:find("^%x%x?%x?%x?$") then return false end
    groups = groups + 1
  end
  return gap and groups <= 7 or groups == 8
end

local formats = {
  ["date-time"] = function(text) -- RFC 3339, 5.6
    local y, mo, d, h, mi, s, zone = text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt](%d%d):(%d%d):(%d%d)(.*)$")
    if not y then return false end
    y, mo, d, h, mi, s = tonumber(y), tonumber(mo), tonumber(d), tonumber(h), tonumber(mi), tonumber(s)
    zone = zone:gsub("^%.%d+", "")
    return mo >= 1 and mo <= 12 and d >= 1 and d <= days_in(y, mo) and h <= 23 and mi <= 59 and s <= 60
      and (zone == "Z" or zone == "z" or zone:find("^[+-][01]%d:[0-5]%d$") ~= nil
        or zone:find("^[+-]2[0-3]:[0-5]%d$") ~= nil)
  end,
  ipv4 = is_ipv4,
  ipv6 = is_ipv6,
}

local check

-- Each keyword: function(argument, value, schema, path) -> message or nil.
local keywords = {
  type = function(name, value, _, path)
    if not kinds[name](value) then return ("%s: expected %s, got %s"):format(path, name, json.encode(value)) end
  end,
  enum = function(list, value, _, path)
    for _, candidate in ipairs(list) do
      if candidate == value then return nil end
    end
    return ("%s: %s is none of %s"):format(path, json.encode(value), json.encode(list))
  end,
  const = function(wanted, value, _, path)
    if value ~= wanted then return ("%s: expected %s, got %s"):format(path, json.encode(wanted), json.encode(value)) end
  end,
  minimum = function(limit, value, _, path)
    if type(value) == "number" and value < limit then return ("%s: %s is below %s"):format(path, value, limit) end
  end,
  maximum = function(limit, value, _, path)
    if type(value) == "number" and value > limit then return ("%s: %s is above %s"):format(path, value, limit) end
  end,
  format = function(name, value, _, path)
    if type(value) == "string" and not formats[name](value) then
      return ("%s: %q is no %s"):format(path, value, name)
    end
  end,
  required = function(names, value, _, path)
    if not kinds.object(value) then return nil end
    for _, name in ipairs(names) do
      if value[name] == nil then return ("%s: %s is missing"):format(path, name) end
    end
  end,
  properties = function(map, value, _, path)
    if not kinds.object(value) then return nil end
    for name, schema in pairs(map) do
      if value[name] ~= nil then
        local message = check(schema, value[name], path .. "." .. name)
        if message then return message end
      end
    end
  end,
  additionalProperties = function(schema, value, parent, path)
    if not kinds.object(value) then return nil end
    for name, item in pairs(value) do
      if not (parent.properties or {})[name] then
        local message = check(schema, item, path .. "." .. name)
        if message then return message end
      end
    end
  end,
  oneOf = function(list, value, _, path)
    local matches, last = 0, nil
    for _, schema in ipairs(list) do
      local message = check(schema, value, path)
      if message then last = message else matches = matches + 1 end
    end
    if matches ~= 1 then
      return ("%s: fits %d of %d alternatives, expected exactly one (%s)"):format(path, matches, #list, last or "")
    end
  end,
  ["if"] = function(condition, value, parent, path)
    local branch = check(condition, value, path) == nil and "then" or "else"
    if parent[branch] ~= nil then return check(parent[branch], value, path) end
  end,
}
-- Handled with `if`, or saying nothing about values.
local silent = { ["then"] = true, ["else"] = true, ["$schema"] = true, ["$id"] = true, title = true, description = true }

function check(schema, value, path)
  if schema == true then return nil end
  if schema == false then return path .. ": nothing is allowed here" end
  for name, argument in pairs(schema) do
    if keywords[name] then
      local message = keywords[name](argument, value, schema, path)
      if message then return message end
    elseif not silent[name] then
      error(("this checker does not know the keyword %q at %s"):format(name, path), 0)
    end
  end
  return nil
end

--- Decode JSON so that it can be checked: all of the text must be one value.
---@param text string
---@return any|nil value, string|nil message
function json_schema.decode(text)
  local value, position, message = json.decode(text, 1, json.null)
  if message then return nil, message end
  if text:find("[^ \t\r\n]", position) then return nil, ("more after the JSON, at octet %d"):format(position) end
  return value
end

--- Check a decoded value.
---@return string|nil message what does not fit; nil: valid
function json_schema.check(schema, value) return check(schema, value, "$") end

--- The schema in a file.
function json_schema.load(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return assert(json_schema.decode(text))
end

return json_schema
