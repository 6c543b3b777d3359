-- SPDX-License-Identifier: Apache-2.0
--- A loaded configuration as Lua source that, loaded again, gives the same options.
local options = require("flowd.options")
local schema = require("flowd.schema")

local config_print = {}

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch("%S+") do keywords[word] = true end

local function key_text(key)
  if type(key) == "string" and key:match("^[%a_][%w_]*$") and not keywords[key] then return key end
  return type(key) == "string" and ("[%q]"):format(key) or ("[%s]"):format(key)
end

local function number_text(value)
  if value == math.floor(value) and math.abs(value) < 1e15 then return ("%d"):format(value) end
  local short = ("%.14g"):format(value)
  return tonumber(short) == value and short or ("%.17g"):format(value)
end

local function scalar_text(value)
  if type(value) == "string" then return (("%q"):format(value):gsub("\\\n", "\\n"):gsub("\r", "\\r")) end
  if type(value) == "number" then return number_text(value) end
  if type(value) == "function" then
    local info = debug.getinfo(value, "S")
    return ("nil --[[ function at %s:%d ]]"):format(info.source:gsub("^@", ""), info.linedefined)
  end
  return tostring(value)
end

-- Keys in the schema's order; what it does not name, sorted.
local function ordered_keys(value, field)
  local keys, seen = {}, {}
  if field and field.kind == "table" then
    for _, entry in ipairs(schema.ordered(field)) do
      if value[entry.name] ~= nil then keys[#keys + 1], seen[entry.name] = entry.name, true end
    end
  end
  local rest = {}
  for key in pairs(value) do
    if not seen[key] then rest[#rest + 1] = key end
  end
  table.sort(rest, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  for _, key in ipairs(rest) do keys[#keys + 1] = key end
  return keys
end

local function field_of(field, key)
  if not field then return nil end
  if field.kind == "table" then return field.fields[key] end
  return (field.kind == "map" or field.kind == "list") and field.of or nil
end

local write

local function write_table(out, value, field, indent)
  local keys = ordered_keys(value, field)
  if #keys == 0 then
    out[#out + 1] = "{}"
    return
  end
  -- A list of plain values fits one line.
  local flat = #keys == #value and #value <= 8
  for _, item in ipairs(value) do flat = flat and type(item) ~= "table" and type(item) ~= "function" end
  if flat then
    local items = {}
    for i, item in ipairs(value) do items[i] = scalar_text(item) end
    out[#out + 1] = "{ " .. table.concat(items, ", ") .. " }"
    return
  end
  out[#out + 1] = "{\n"
  for position, key in ipairs(keys) do
    out[#out + 1] = indent .. "  "
    if key ~= position then out[#out + 1] = key_text(key) .. " = " end
    write(out, value[key], field_of(field, key), indent .. "  ")
    out[#out + 1] = ",\n"
  end
  out[#out + 1] = indent .. "}"
end

write = function(out, value, field, indent)
  if type(value) == "table" then return write_table(out, value, field, indent) end
  out[#out + 1] = scalar_text(value)
end

--- Any value of a schema as Lua source.
---@param value any
---@param field table? the field it belongs to, for the order of its keys
---@param indent string? of the lines after the first
---@return string
function config_print.value(value, field, indent)
  local out = {}
  write(out, value, field, indent or "")
  return table.concat(out)
end

local function write_modules(out, config, kind)
  out[#out + 1] = ("  %s = {"):format(kind)
  local keys = ordered_keys(config.values[kind])
  for _, key in ipairs(keys) do
    out[#out + 1] = ("\n    %s = "):format(key_text(key))
    write(out, config.values[kind][key], options.of_module(config.modules[kind][key]), "    ")
    out[#out + 1] = ","
  end
  out[#out + 1] = #keys > 0 and "\n  },\n" or "},\n"
end

local function write_rules(out, config)
  if #config.entries == 0 then
    out[#out + 1] = "  rules = {},\n"
    return
  end
  out[#out + 1] = "  rules = {\n"
  local function comment(rule, indent)
    out[#out + 1] = ("%s-- rule %q at %s:%d\n"):format(indent, rule.name, rule.file, rule.line)
  end
  for _, entry in ipairs(config.entries) do
    if entry.name then
      out[#out + 1] = ("    %s,\n"):format(scalar_text(entry.name))
      for _, rule in ipairs(entry.rules) do comment(rule, "      ") end
    else
      comment(entry.rule, "    ")
    end
  end
  out[#out + 1] = "  },\n"
end

--- The whole configuration.
---@param config flowd.Config
---@return string
function config_print.text(config)
  local out = { ("-- %s, with all defaults\nreturn {\n"):format(config.path) }
  for _, entry in ipairs(schema.ordered(options.global)) do
    local name = entry.name
    if name == "plugins" or name == "backends" then
      write_modules(out, config, name)
    elseif name == "rules" then
      write_rules(out, config)
    elseif config.values[name] ~= nil then
      out[#out + 1] = ("  %s = "):format(name)
      write(out, config.values[name], entry.field, "  ")
      out[#out + 1] = ",\n"
    end
  end
  out[#out + 1] = "}\n"
  return table.concat(out)
end

return config_print
