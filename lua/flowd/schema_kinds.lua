-- SPDX-License-Identifier: Apache-2.0
--- The kinds of option of flowd.schema: what each accepts, says that it expects, and
-- turns a value into; lists, tables and maps are in flowd.schema_containers. Each kind has
--   expects(field) -> string            in words, for errors and the manual
--   check(field, value, at) -> completed, or nil after at.fail(message)
-- `at` is where the value stands: at.keys, at.fail, at.registry, at.parent.
local api = require("flowd.api")
local ffi = require("ffi")

local M = {}
local kinds = {}
M.kinds = kinds

local function quote(text)
  if #text > 60 then text = text:sub(1, 57) .. "..." end
  return '"' .. text:gsub('[%c"\\]', function(c)
    return c == '"' and '\\"' or c == "\\" and "\\\\" or ("\\x%02X"):format(c:byte())
  end) .. '"'
end

--- A value as an error message shows it.
function M.show(value)
  local t = type(value)
  if t == "string" then return quote(value) end
  if t == "number" and value == math.floor(value) and math.abs(value) < 1e15 then return ("%d"):format(value) end
  if t == "number" or t == "boolean" then return tostring(value) end
  if t == "nil" then return "nothing" end
  return "a " .. t
end

function M.expects(field) return kinds[field.kind].expects(field) end

-- at.fail with the common wording. Returns nothing, so that a check can return it.
local function refuse(field, value, at, hint)
  at.fail(("expected %s; got %s%s"):format(M.expects(field), M.show(value), hint or ""))
end
M.refuse = refuse

function M.ordered(fields)
  local list = {}
  for name, field in pairs(fields) do list[#list + 1] = { name = name, field = field } end
  table.sort(list, function(a, b)
    if a.field.order ~= b.field.order then return (a.field.order or 0) < (b.field.order or 0) end
    return a.name < b.name
  end)
  return list
end

local function checked(field, value, at)
  local completed = kinds[field.kind].check(field, value, at)
  if completed ~= nil and field.check then
    local message = field.check(completed)
    if message then at.fail(message) end
  end
  return completed
end

--- The completed copy of `value` (nil: not given) for `field`.
function M.complete(field, value, at)
  if value == nil then
    if field.required then
      at.fail(("this option is required: expected %s"):format(M.expects(field)), nil, true)
      return nil
    end
    if field.default ~= nil then
      -- What is wrong with it is not what somebody wrote as an option.
      local before = at.is_default
      at.is_default = true
      local completed = checked(field, field.default, at)
      at.is_default = before
      return completed
    end
    if field.kind ~= "table" or field.optional then return nil end
    value = {}
  end
  return checked(field, value, at)
end

-- Call fn for what stands at a key of a table.
function M.at_key(at, key, fn, ...)
  at.keys[#at.keys + 1] = key
  local completed = fn(...)
  at.keys[#at.keys] = nil
  return completed
end

-- -- scalars -------------------------------------------------------------------------

kinds.boolean = {
  expects = function() return "true or false" end,
  check = function(field, value, at)
    if type(value) ~= "boolean" then return refuse(field, value, at) end
    return value
  end,
}

kinds.string = {
  expects = function(field)
    if field.one_of then return "one of " .. table.concat(field.one_of, ", ") end
    return field.expects or (field.pattern and "a string that matches " .. field.pattern) or
      (field.empty == false and "a string that is not empty") or "a string"
  end,
  check = function(field, value, at)
    if type(value) ~= "string" then return refuse(field, value, at) end
    if field.one_of then
      for _, candidate in ipairs(field.one_of) do
        if candidate == value then return value end
      end
      return refuse(field, value, at, at.suggest(value, field.one_of))
    end
    if field.pattern and not value:find(field.pattern) then return refuse(field, value, at) end
    if field.empty == false and value == "" then return refuse(field, value, at) end
    if field.max_length and #value > field.max_length then
      at.fail(("expected at most %d characters; got %d"):format(field.max_length, #value))
      return nil
    end
    return value
  end,
}

local function range(field, what)
  local unit = field.unit and " " .. field.unit or ""
  if field.min and field.max then return ("%s from %s to %s%s"):format(what, M.show(field.min), M.show(field.max), unit) end
  if field.min then return ("%s, %s%s or more"):format(what, M.show(field.min), unit) end
  if field.max then return ("%s, at most %s%s"):format(what, M.show(field.max), unit) end
  return unit == "" and what or ("%s (%s)"):format(what, field.unit)
end
M.range = range

local function in_range(field, value)
  return type(value) == "number" and value == value and math.abs(value) ~= math.huge
    and (not field.min or value >= field.min) and (not field.max or value <= field.max)
end

kinds.number = {
  expects = function(field) return range(field, "a number") end,
  check = function(field, value, at)
    if not in_range(field, value) then return refuse(field, value, at) end
    return value
  end,
}

kinds.integer = {
  expects = function(field) return range(field, "an integer") end,
  check = function(field, value, at)
    if not in_range(field, value) or value ~= math.floor(value) then return refuse(field, value, at) end
    return value
  end,
}

kinds.port = {
  expects = function() return "a port from 1 to 65535" end,
  check = function(field, value, at)
    if not in_range({ min = 1, max = 65535 }, value) or value ~= math.floor(value) then
      return refuse(field, value, at)
    end
    return value
  end,
}

-- A file mode stays text, as chmod writes it; four digits when completed.
kinds.mode = {
  expects = function() return 'a file mode in octal, such as "0660"' end,
  check = function(field, value, at)
    if type(value) ~= "string" or not value:find("^0?[0-7][0-7][0-7]$") then return refuse(field, value, at) end
    return ("0" .. value):sub(-4)
  end,
}

local unit_seconds = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400 }

-- Completed: seconds as a number.
kinds.seconds = {
  expects = function(field)
    local words = range({ min = field.min or 0, max = field.max }, "seconds")
    return words .. ' (a number, or "500ms", "30s", "5m", "1h", "1d")'
  end,
  check = function(field, value, at)
    local seconds = value
    if type(value) == "string" then
      local number, unit = value:match("^(%d+%.?%d*)%s*(%a*)$")
      seconds = number and unit_seconds[unit == "" and "s" or unit] and
        tonumber(number) * unit_seconds[unit == "" and "s" or unit]
    end
    if not in_range({ min = field.min or 0, max = field.max or 1e9 }, seconds) then return refuse(field, value, at) end
    return seconds
  end,
}

-- -- names of things outside -----------------------------------------------------------

local address = ffi.new("struct flow_address")

local function family_of(text)
  return type(text) == "string" and api.address_parse(text, #text, address) or -1
end

kinds.address = {
  expects = function(field)
    return field.family == 4 and "an IPv4 address" or field.family == 6 and "an IPv6 address"
      or "an IPv4 or IPv6 address"
  end,
  check = function(field, value, at)
    local family = family_of(value)
    if family < 0 or (field.family and family ~= field.family) then return refuse(field, value, at) end
    return value
  end,
}

-- RFC 1123 host names; a closing dot is allowed, and "_", which is seen in practice.
local function is_host_name(text)
  local name = text:gsub("%.$", "")
  -- A name of digits and dots only would be an address that does not parse.
  if name == "" or #name > 253 or name:find("^[%d%.]+$") then return false end
  for label in (name .. "."):gmatch("([^.]*)%.") do
    if #label > 63 or not label:find("^[%w_][%w_%-]*$") or label:find("%-$") then return false end
  end
  return true
end

kinds.host = {
  expects = function() return "a host name or an address" end,
  check = function(field, value, at)
    if type(value) ~= "string" or (family_of(value) < 0 and not is_host_name(value)) then
      return refuse(field, value, at)
    end
    return value
  end,
}

function M.may_be_empty(field) return field.default == "" or field.empty == true end

-- A path. "" only where it is the default or the option says so (empty = true).
kinds.path = {
  expects = function(field)
    local what = field.absolute and "an absolute path" or "a path"
    return M.may_be_empty(field) and what .. ', or "" for none' or what
  end,
  check = function(field, value, at)
    if type(value) ~= "string" or value:find("%z") or #value > 4095 or (value == "" and not M.may_be_empty(field))
      or (field.absolute and value ~= "" and value:sub(1, 1) ~= "/") then
      return refuse(field, value, at)
    end
    return value
  end,
}

local function whole(value, max) return in_range({ min = 1, max = max }, value) and value == math.floor(value) end

-- Completed: the id.
kinds.experiment = {
  expects = function() return "an experiment: an id from 1 to 511 or a name of the registry" end,
  check = function(field, value, at)
    if whole(value, ffi.C.FLOW_EXPERIMENT_MAX) then return value end
    if type(value) ~= "string" or not at.registry then return refuse(field, value, at) end
    local id, message = at.registry:experiment_id(value)
    if not id then at.fail(message) end
    return id
  end,
}

-- Completed: the id. A name belongs to the experiment of the option beside it (field.of,
-- by default "experiment"), which stands before it in the schema.
kinds.activity = {
  expects = function() return "an activity: an id from 1 to 63 or a name of the registry" end,
  check = function(field, value, at)
    if whole(value, ffi.C.FLOW_ACTIVITY_MAX) then return value end
    local experiment = at.parent and at.parent[field.of or "experiment"]
    if type(value) ~= "string" or not at.registry then return refuse(field, value, at) end
    if not experiment then
      at.fail(("the activity %s needs an experiment beside it, or give its id"):format(M.show(value)))
      return nil
    end
    local id, message = at.registry:activity_id(experiment, value)
    if not id then at.fail(message) end
    return id
  end,
}

-- -- choices ---------------------------------------------------------------------------

kinds.one_of = {
  expects = function(field)
    local words = {}
    for i, v in ipairs(field.values) do words[i] = tostring(v) end
    return "one of " .. table.concat(words, ", ")
  end,
  check = function(field, value, at)
    for _, candidate in ipairs(field.values) do
      if candidate == value then return value end
    end
    local words = {}
    for _, v in ipairs(field.values) do
      if type(v) == "string" then words[#words + 1] = v end
    end
    return refuse(field, value, at, at.suggest(value, words))
  end,
}

local lua_type = {
  boolean = "boolean", number = "number", integer = "number", port = "number",
  list = "table", table = "table", map = "table", rules = "table",
}

-- The first alternative that fits. When none does but only one is of the value's type, that one
-- says what is wrong.
kinds.any_of = {
  expects = function(field)
    local words = {}
    for i, f in ipairs(field.values) do words[i] = M.expects(f) end
    return table.concat(words, ", or ")
  end,
  check = function(field, value, at)
    local errors, same_type, candidates = at.errors, nil, 0
    for _, alternative in ipairs(field.values) do
      at.errors = {}
      local completed = M.complete(alternative, value, at)
      if #at.errors == 0 then
        at.errors = errors
        return completed
      end
      if (lua_type[alternative.kind] or "string") == type(value) then
        candidates, same_type = candidates + 1, at.errors
      end
    end
    at.errors = errors
    if candidates ~= 1 then return refuse(field, value, at) end
    for _, e in ipairs(same_type) do errors[#errors + 1] = e end
    return nil
  end,
}

kinds.any = {
  expects = function() return "any value" end,
  check = function(_, value) return value end,
}

return M
