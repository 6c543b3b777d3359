-- SPDX-License-Identifier: Apache-2.0
--- The kinds of option of flowd.schema that hold others: lists, maps, tables of options, lists of rules.
-- They are added to flowd.schema_kinds, where it is told what a kind has.
local M = require("flowd.schema_kinds")
local show = require("flowd.show")

local kinds = M.kinds
local at_key, range, refuse = M.at_key, M.range, M.refuse

-- A table that stands for an object of a library is not data.
local function is_data(value) return type(value) == "table" and getmetatable(value) == nil end

kinds.list = {
  expects = function(field)
    local what = field.of and "a list, each " .. M.expects(field.of) or "a list"
    return field.min and ("%s; %d or more"):format(what, field.min) or what
  end,
  check = function(field, value, at)
    if not is_data(value) then return refuse(field, value, at) end
    local completed, count = {}, 0
    for key in pairs(value) do
      if type(key) ~= "number" or key < 1 or key ~= math.floor(key) then
        at.fail(("expected a list; got the name %s in it"):format(M.show(key)), type(key) == "string" and key or nil)
        return nil
      end
      count = math.max(count, key)
    end
    for i = 1, count do
      if value[i] == nil then
        at.fail(("expected a list without gaps; position %d of %d is nil"):format(i, count))
        return nil
      end
      local item = at_key(at, i, M.complete, field.of, value[i], at)
      completed[#completed + 1] = item
    end
    if field.min and count < field.min or field.max and count > field.max then
      at.fail(("expected %s; got %d"):format(range(field, "a number of entries"), count))
    end
    return completed
  end,
}

kinds.map = {
  expects = function(field)
    return ("a table from %s to %s"):format(field.keys and M.expects(field.keys) or "a name", M.expects(field.of))
  end,
  check = function(field, value, at)
    if not is_data(value) then return refuse(field, value, at) end
    local completed, names = {}, {}
    for key in pairs(value) do names[#names + 1] = key end
    table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
    for _, key in ipairs(names) do
      at_key(at, (type(key) == "string" or type(key) == "number") and key or tostring(key), function()
        local k = M.complete(field.keys or { kind = "string" }, key, at)
        local v = M.complete(field.of, value[key], at)
        if k ~= nil then completed[k] = v end
      end)
    end
    return completed
  end,
}

kinds.table = {
  expects = function() return "a table of options" end,
  check = function(field, value, at)
    if not is_data(value) then return refuse(field, value, at) end
    local names, unknown = {}, {}
    for name in pairs(field.fields) do names[#names + 1] = name end
    table.sort(names)
    for key in pairs(value) do
      if field.fields[key] == nil then unknown[#unknown + 1] = key end
    end
    table.sort(unknown, function(a, b) return tostring(a) < tostring(b) end)
    for _, key in ipairs(unknown) do
      if type(key) == "string" then
        local hint = at.suggest(key, names)
        if hint == "" and #names > 0 and #names <= 16 then hint = "; known are " .. table.concat(names, ", ") end
        at.fail("unknown option" .. hint, key)
      else
        at.fail(("expected named options; got %s without a name"):format(M.show(value[key])),
          type(key) == "number" and key or nil)
      end
    end
    local completed = {}
    for _, entry in ipairs(M.ordered(field.fields)) do
      -- A neighbour's completed value is what an activity's name needs.
      at.parent = completed
      completed[entry.name] = at_key(at, entry.name, M.complete, entry.field, value[entry.name], at)
    end
    at.parent = nil
    return completed
  end,
}

local BODY_ALONE = ': a name stands before it, and what it does behind the name: rule "name" (function(flow) … end)'

-- A list of rules, and of files of rules. What a rule is, flowd.rules says; flowd.config has
-- already replaced the files by their rules where it needs them.
kinds.rules = {
  expects = function() return 'a list of rules: rule "name" (function(flow) ... end), rule "name" { ... }, or "file.lua"' end,
  check = function(field, value, at)
    if type(value) ~= "table" then return refuse(field, value, at) end
    if not is_data(value) then
      at.fail(("expected a list of rules; got one thing alone: write rules = { %s … }"):format(show(value)))
      return nil
    end
    local completed, count = {}, 0
    for key in pairs(value) do
      if type(key) ~= "number" or key < 1 or key ~= math.floor(key) then
        at.fail(("expected a list of rules; got the name %s in it"):format(M.show(key)),
          type(key) == "string" and key or nil)
      else
        count = math.max(count, key)
      end
    end
    for i = 1, count do
      local item = value[i]
      if type(item) == "string" and item ~= "" or type(item) == "table" then
        completed[i] = item
      else
        at_key(at, i, refuse, { kind = "rules_item" }, item, at,
          type(item) == "function" and BODY_ALONE or nil)
        -- The rules behind it keep their positions: errors are told by position.
        completed[i] = false
      end
    end
    return completed
  end,
}

kinds.rules_item = {
  expects = function() return 'a rule (rule "name" ...) or the name of a file of rules' end,
  check = function(_, value) return value end,
}

return M
