-- SPDX-License-Identifier: Apache-2.0
--- The annotations of the configuration, from the schemas. Usage: bin/flowd-lua lua scripts/build/annotations.lua FILE
local options = require("flowd.options")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")

local annotations = {}

local simple = {
  boolean = "boolean", string = "string", path = "string", host = "string", address = "string", mode = "string", number = "number",
  integer = "integer", port = "integer", seconds = "number|string", experiment = "string|integer", activity = "string|integer",
  func = "function", any = "any", rules = "(string|flowd.Rule)[]", rules_item = "string|flowd.Rule",
}

local Writer = {}
Writer.__index = Writer

-- The type of a field; tables become classes of their own, written before the one in hand.
function Writer:type_of(field, name)
  local kind = field.kind
  if kind == "table" then
    self:class(name, field)
    return name
  elseif kind == "list" then
    local of = self:type_of(field.of, name .. ".item")
    return (of:find("|", 1, true) and "(%s)[]" or "%s[]"):format(of)
  elseif kind == "map" then
    return ("table<string, %s>"):format(field.of and self:type_of(field.of, name .. ".item") or "any")
  elseif kind == "one_of" then
    local words = {}
    for i, value in ipairs(field.values) do words[i] = type(value) == "string" and ("%q"):format(value) or tostring(value) end
    return table.concat(words, "|")
  elseif kind == "any_of" then
    local types = {}
    for i, value in ipairs(field.values) do types[i] = self:type_of(value, ("%s.%d"):format(name, i)) end
    return table.concat(types, "|")
  end
  return simple[kind] or error("kind " .. tostring(kind) .. " has no type here")
end

function Writer:class(name, field, doc)
  local lines = {}
  for _, entry in ipairs(schema.ordered(field)) do
    lines[#lines + 1] = ("---@field %s%s %s %s"):format(entry.name, entry.field.required and "" or "?",
      self.overrides[name .. "." .. entry.name] or self:type_of(entry.field, name .. "." .. entry.name),
      schema.description(entry.field):gsub("%s+", " "))
  end
  self.blocks[#self.blocks + 1] = (doc and "--- " .. doc:gsub("%s+", " ") .. "\n" or "") .. "---@class " .. name .. "\n"
    .. table.concat(lines, "\n")
end

--- The text of conf/annotations/configuration.lua.
---@return string
function annotations.configuration()
  local self = setmetatable({ blocks = {}, overrides = {} }, Writer)
  for _, kind in ipairs({ "plugins", "backends" }) do
    local fields, name = {}, "flowd.Configuration." .. kind
    for _, module_name in ipairs(plugins.builtin(kind)) do
      local module = assert(plugins.find(kind, module_name))
      local class = name .. "." .. module_name
      self:class(class, schema.as_field(options.of_module(module)), module.doc)
      fields[#fields + 1] = ("---@field %s? %s"):format(module_name, class)
    end
    fields[#fields + 1] = "---@field [string] table a site's own, or another instance: { use = NAME, … }"
    self.blocks[#self.blocks + 1] = ("---@class %s\n%s"):format(name, table.concat(fields, "\n"))
    self.overrides["flowd.Configuration." .. kind] = name
  end
  self:class("flowd.Configuration", { kind = "table", fields = options.global },
    "What a configuration returns: `---@type flowd.Configuration` before `local configuration = { … }`.")
  return "---@meta\n-- SPDX-License-Identifier: Apache-2.0\n"
    .. "-- The configuration, for editors with a Lua language server. Made by `make conf`.\n\n"
    .. table.concat(self.blocks, "\n\n") .. "\n"
end

if arg and arg[0] and arg[0]:find("annotations%.lua$") then
  local text = annotations.configuration()
  local file = assert(io.open(arg[1], "w"))
  assert(file:write(text))
  assert(file:close())
end

return annotations
