-- SPDX-License-Identifier: Apache-2.0
--- A configuration file that shows every option with its default and what it is for: the source
-- of conf/flowd.lua, made from the same schemas that a configuration is checked against.
local config_print = require("flowd.config_print")
local options = require("flowd.options")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")

local conf_template = {}

local WIDTH = 100

-- What a site that marks and reports announced flows needs. The other modules are shown, but off.
local on = { pipe = true, firefly = true, marker = true }

local function comment(out, indent, text)
  local line = indent .. "--"
  for word in text:gmatch("%S+") do
    if #line + 1 + #word > WIDTH and line ~= indent .. "--" then
      out[#out + 1] = line
      line = indent .. "--"
    end
    line = line .. " " .. word
  end
  out[#out + 1] = line
end

local write_fields

local function write_field(out, name, field, indent)
  comment(out, indent, schema.description(field))
  if field.kind == "table" and not field.optional then
    out[#out + 1] = ("%s%s = {"):format(indent, name)
    write_fields(out, field, indent .. "  ")
    out[#out + 1] = indent .. "},"
  elseif field.default ~= nil then
    out[#out + 1] = ("%s%s = %s,"):format(indent, name, config_print.value(field.default, field, indent))
  else
    out[#out + 1] = ("%s-- %s = (none)"):format(indent, name)
  end
end

write_fields = function(out, field, indent)
  for i, entry in ipairs(schema.ordered(field)) do
    if i > 1 then out[#out + 1] = "" end
    write_field(out, entry.name, entry.field, indent)
  end
end

local function write_module(out, kind, name, indent)
  local module = assert(plugins.find(kind, name))
  local lines = {}
  comment(lines, indent, module.doc)
  lines[#lines + 1] = ("%s%s = {"):format(indent, name)
  local field = options.of_module(module)
  -- A key that is the module's name needs no `use`.
  field.fields.use = nil
  write_fields(lines, field, indent .. "  ")
  lines[#lines + 1] = indent .. "},"
  for _, line in ipairs(lines) do
    local text = line:sub(#indent + 1)
    if not on[name] and not text:find("^%-%-") then
      line = text == "" and indent .. "--" or indent .. "-- " .. text
    end
    out[#out + 1] = line
  end
end

local function write_modules(out, kind)
  local field = options.global[kind]
  comment(out, "  ", field.doc)
  out[#out + 1] = ("  %s = {"):format(kind)
  for i, name in ipairs(plugins.builtin(kind)) do
    if i > 1 then out[#out + 1] = "" end
    write_module(out, kind, name, "    ")
  end
  out[#out + 1] = "  },"
end

--- The file.
---@return string
function conf_template.text()
  local out = {
    "-- flowd-lua: configuration. Every option is here with its default; what is left out has it, too.",
    "-- flowd-lua check tells all that is wrong with it; flowd-lua.conf(5) says more.",
    "return {",
  }
  for i, entry in ipairs(schema.ordered(options.global)) do
    if i > 1 then out[#out + 1] = "" end
    if entry.name == "plugins" or entry.name == "backends" then
      write_modules(out, entry.name)
    elseif entry.name == "rules" then
      comment(out, "  ", entry.field.doc)
      out[#out + 1] = "  rules = {"
      out[#out + 1] = '    -- rule "what the storage servers send is ATLAS" {'
      out[#out + 1] = '    --   match = { src = "2001:db8:1::/48", experiment = 0 },'
      out[#out + 1] = '    --   set = { experiment = "atlas" },'
      out[#out + 1] = "    -- },"
      out[#out + 1] = "  },"
    else
      write_field(out, entry.name, entry.field, "  ")
    end
  end
  out[#out + 1] = "}\n"
  return table.concat(out, "\n")
end

return conf_template
