-- SPDX-License-Identifier: Apache-2.0
--- Is a schema one? For the plugins and backends of a site, before options are checked against it.
local schema_kinds = require("flowd.schema_containers") -- all kinds
local show = require("flowd.show")
local suggest = require("flowd.suggest")

local schema_check = {}

-- What every field may say, and what it is of.
local common = { kind = "string", order = "number", doc = "string", default = "any", required = "boolean", optional = "boolean",
  check = "function" }
-- What the kinds may say besides.
local special = { min = "number", max = "number", unit = "string", max_length = "number", pattern = "string", expects = "string",
  empty = "boolean", one_of = "table", family = "number", absolute = "boolean", of = "any", keys = "table", fields = "table",
  values = "table" }

local words = {}
for _, list in ipairs({ common, special }) do
  for word in pairs(list) do
    if word ~= "kind" and word ~= "order" then words[#words + 1] = word end
  end
end
table.sort(words)

local function check_field(field, path, problems)
  local function fail(format, ...) problems[#problems + 1] = ("%s: " .. format):format(path, ...) end
  if type(field) ~= "table" or not schema_kinds.kinds[field.kind] then
    fail('expected a kind of option, as in schema.port{ default = 10514, doc = "…" }; got %s', show(field))
    return
  end
  for word, value in pairs(field) do
    local wanted = common[word] or special[word]
    if not wanted then
      local hint = suggest.hint(word, words)
      fail("%s: an option has no such word%s", show(word), hint ~= "" and hint or "; there is " .. table.concat(words, ", "))
    elseif wanted ~= "any" and type(value) ~= wanted then
      fail("%s: expected a %s; got %s", word, wanted, show(value))
    end
  end
  if field.kind == "table" and type(field.fields) ~= "table" then
    fail("fields: expected a table of options; got %s", show(field.fields))
  end
  for _, word in ipairs({ "of", "keys" }) do
    -- Of an activity, `of` is the name of the option that has its experiment.
    if field[word] ~= nil and field.kind ~= "activity" then check_field(field[word], path .. "." .. word, problems) end
  end
  for name, inner in pairs(type(field.fields) == "table" and field.fields or {}) do
    check_field(inner, ("%s.%s"):format(path, tostring(name)), problems)
  end
  for i, inner in ipairs(field.kind == "any_of" and field.values or {}) do check_field(inner, ("%s[%d]"):format(path, i), problems) end
end

--- What is wrong with a module's schema.
---@param fields table as the module has it: options by name, or a field of kind "table"
---@return string[] problems each "schema.NAME: …"; in no particular order
function schema_check.problems(fields)
  local problems = {}
  if type(fields.kind) == "string" then
    check_field(fields, "schema", problems)
    return problems
  end
  for name, field in pairs(fields) do
    if type(name) == "string" and name:find("^[%a_][%w_]*$") then
      check_field(field, "schema." .. name, problems)
    else
      problems[#problems + 1] = ("schema: expected options by name, as in { port = schema.port{ … } }; got %s"):format(show(name))
    end
  end
  return problems
end

return schema_check
