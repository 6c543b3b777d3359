-- SPDX-License-Identifier: Apache-2.0
--- What `rule "name" …` makes, before it is compiled.
local show = require("flowd.show")

local definition = {}

---@class flowd.Rule
---@field name string
---@field body fun(flow: flowd.Flow)|table the function, or the declaration
---@field file string where it was written
---@field line integer

-- Rules made by `rule`, and by nothing that only looks like one.
local made = setmetatable({}, { __mode = "k" })

-- A rule at this key: its fields. Scripts have not got the key.
local FIELDS = {}

-- What a script holds of a rule: it cannot be changed.
local function handle(fields)
  return setmetatable({}, {
    __index = function(_, key)
      if key == FIELDS then return fields end
      return fields[key]
    end,
    __newindex = function() error(('rule "%s" cannot be changed'):format(fields.name), 2) end,
    __tostring = function() return ('rule "%s"'):format(fields.name) end,
    __metatable = false,
  })
end

---@param value any
---@return boolean
function definition.is_rule(value) return type(value) == "table" and made[value] == true end

--- Forget the body of a rule that is not to run again: what it holds can go.
---@param rule flowd.Rule
function definition.discard(rule) rule[FIELDS].body = false end

--- Say that a rule was written elsewhere.
---@param rule flowd.Rule
---@param file string
---@param line integer
function definition.place(rule, file, line)
  local fields = rule[FIELDS]
  fields.file, fields.line = file, line
end

--- The function `rule` of an environment.
---@param on_rule fun(rule: flowd.Rule) is told each rule that is made
---@param named table<function, string> gets, until its body is given, what to say of a rule that has none
---@return fun(name: string): fun(body: function|table): flowd.Rule
function definition.maker(on_rule, named)
  return function(name)
    if type(name) ~= "string" or name == "" or #name > 64 or name:find("%c") then
      error(('rule: expected a name of 1 to 64 characters, as in rule "web" {…}; got %s')
        :format(show(name)), 2)
    end
    local at = debug.getinfo(2, "Sl")
    local file, line = at.source:sub(2), at.currentline
    local function give(body)
      if type(body) ~= "function" and type(body) ~= "table" then
        error(('rule "%s": expected a function or a table; got %s'):format(name, show(body)), 2)
      end
      named[give] = nil
      local rule = handle({ name = name, body = body, file = file, line = line })
      made[rule] = true
      on_rule(rule)
      return rule
    end
    named[give] = ('%s:%d: rule "%s" has no body: expected (function(flow) … end) or {…} behind the name'):format(file, line, name)
    return give
  end
end

--- Verdicts: what a rule returns to end the chain. Names of their own, so that they print.
local function verdict(name)
  return setmetatable({}, {
    __tostring = function() return name end,
    __index = function(_, field) error(("%s has no field %s: write `return %s`"):format(name, tostring(field), name), 2) end,
    __newindex = function() error(("%s cannot be changed"):format(name), 2) end,
    __call = function() error(("%s is returned, not called: write `return %s`"):format(name, name), 0) end,
    __metatable = false,
  })
end

definition.drop = verdict("drop")
definition.accept = verdict("accept")

return definition
