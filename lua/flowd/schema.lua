-- SPDX-License-Identifier: Apache-2.0
--- The language in which options are described, and the check against it.
--
-- A module's `schema` is a table of fields: `{ port = schema.port{ default = 10514, doc = "..." } }`.
-- Tables are closed: an option that no field describes is an error. Every field may have
--   doc       one or more sentences for the manual and conf/flowd.lua
--   default   the value when the option is not given (written as a user would write it)
--   required  true: it must be given
--   optional  true: a table that is not given stays nil instead of being all defaults
--   check     function(value) -> message or nil: what the kind cannot express
-- A field without default that is neither required nor a table is nil when not given.
--
-- `schema.validate` returns the completed copy and the list of all errors. The copy is
-- normalised (see each kind) and may be given to validate again with the same result.
local schema_kinds = require("flowd.schema_kinds")
require("flowd.schema_containers") -- adds its kinds
local suggest = require("flowd.suggest")

local schema = {}

-- Fields remember the order in which they were written: the order of the manual.
local created = 0

for kind in pairs(schema_kinds.kinds) do
  schema[kind] = function(field)
    created = created + 1
    field = field or {}
    field.kind = kind
    field.order = created
    return field
  end
end

-- The alternatives stand in the array part: schema.one_of{ "tcx", "clsact", default = "tcx" }.
for _, kind in ipairs({ "one_of", "any_of" }) do
  local make = schema[kind]
  schema[kind] = function(field)
    field.values = field.values or field.of
    if not field.values then
      field.values = {}
      for i = 1, #field do field.values[i], field[i] = field[i], nil end
    end
    return make(field)
  end
end

--- A module's schema may be the fields alone or a table field.
---@param fields table
---@return table field of kind "table"
function schema.as_field(fields)
  if type(fields.kind) == "string" then return fields end
  return { kind = "table", fields = fields, order = 0 }
end

--- The fields of a table field in the order in which they were written.
---@param field table
---@return { name: string, field: table }[]
function schema.ordered(field)
  return schema_kinds.ordered(schema.as_field(field).fields)
end

--- What a field accepts, in words: "an integer from 1 to 65535".
---@param field table
---@return string
function schema.expects(field) return schema_kinds.expects(field) end

-- What goes without saying.
local plain = { ["a string"] = true, ["a path"] = true, ["true or false"] = true, ["a list, each a path"] = true,
  ["a list, each a string"] = true }

--- A field's documentation for people: its doc and what it accepts.
---@param field table
---@return string
function schema.description(field)
  local doc = field.doc or ""
  if field.kind == "table" or field.kind == "map" or field.kind == "rules" or field.kind == "any" then return doc end
  local expects = schema_kinds.expects(field)
  if plain[expects] or #expects > 160 then return doc end
  return ("%s Expects %s."):format(doc, expects)
end

--- `{"plugins", "pipe", "paths", 1}` as `plugins.pipe.paths[1]`.
---@param keys (string|number)[]
---@return string
function schema.path_text(keys)
  local out = {}
  for i, key in ipairs(keys) do
    if type(key) == "number" then
      out[i] = ("[%s]"):format(key)
    elseif key:match("^[%a_][%w_]*$") then
      out[i] = (i > 1 and "." or "") .. key
    else
      out[i] = ("[%q]"):format(key)
    end
  end
  return table.concat(out)
end

---@class schema.Error
---@field path string "backends.marker.strategy"
---@field keys (string|number)[] the same, taken apart
---@field message string what was expected, what was found, the nearest name
---@field missing boolean? true when the option is not there at all

--- Check a value, and complete it with the defaults.
---@param fields table a field, or a module's schema
---@param value any
---@param context { keys: (string|number)[]?, registry: table?, directory: string? }? where the value stands;
--- the registry that names experiments and activities
---@return any completed, schema.Error[] errors
function schema.validate(fields, value, context)
  context = context or {}
  local at = {
    keys = {}, errors = {}, registry = context.registry, directory = context.directory,
    suggest = suggest.hint,
  }
  for i, key in ipairs(context.keys or {}) do at.keys[i] = key end
  function at.fail(message, extra_key, missing)
    local keys = { unpack(at.keys) }
    if at.is_default then message = "not given, and its default in the schema is wrong: " .. message end
    if extra_key ~= nil then keys[#keys + 1] = extra_key end
    at.errors[#at.errors + 1] = { path = schema.path_text(keys), keys = keys, message = message, missing = missing }
  end
  local completed = schema_kinds.complete(schema.as_field(fields), value, at)
  return completed, at.errors
end

return setmetatable(schema, { __index = function(_, kind)
  local names = {}
  for name in pairs(schema_kinds.kinds) do names[#names + 1] = name end
  table.sort(names)
  local hint = suggest.hint(kind, names)
  error(("schema.%s: there is no such kind of option%s"):format(tostring(kind),
    hint ~= "" and hint or "; there is " .. table.concat(names, ", ")), 2)
end })
