-- SPDX-License-Identifier: Apache-2.0
--- What rules were called, while flows are open that they decided.
--
-- A flow keeps the number of the rule that decided, and the number of the list of rules in which that is its
-- (flow_slot.rules). Lists have numbers of their own; the last ones are kept here, and in a file for the process that
-- follows: after a reload, a crash or a restart that left flows open the console still knows their rules.
local api = require("flowd.api")
local log = require("flowd.log")

local rule_names = {}

local LISTS_MAX = 16
local NUMBER_MAX = 65535

---@class flowd.RuleNames
---@field path string
---@field lists { number: integer, names: string[], text: string? }[] the oldest first; text: as in the file
local RuleNames = {}
RuleNames.__index = RuleNames

-- "NUMBER COUNT", and each name in a line, escaped.
local function encode(list)
  local lines = { ("%d %d"):format(list.number, #list.names) }
  for _, name in ipairs(list.names) do
    lines[#lines + 1] = name:find("[%c%%]") and name:gsub("[%c%%]", function(c) return ("%%%02x"):format(c:byte()) end) or name
  end
  return table.concat(lines, "\n") .. "\n"
end

-- What can be read of it.
local function decode(text)
  local lists, left = {}, 0
  for line in text:gmatch("([^\n]*)\n") do
    if left > 0 then
      local names = lists[#lists].names
      names[#names + 1] = (line:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
      left = left - 1
    else
      local number, count = line:match("^(%d+) (%d+)$")
      if not number or tonumber(number) < 1 or tonumber(number) > NUMBER_MAX then break end
      lists[#lists + 1] = { number = tonumber(number), names = {} }
      left = tonumber(count)
    end
  end
  if left > 0 then lists[#lists] = nil end
  return lists
end

--- What the process before left, if anything.
---@param path string
---@return flowd.RuleNames
function rule_names.open(path)
  local file = io.open(path)
  local text = file and file:read("*a") or ""
  if file then file:close() end
  return setmetatable({ path = path, lists = decode(text) }, RuleNames)
end

function RuleNames:save()
  local new, texts = self.path .. ".new", {}
  for i, list in ipairs(self.lists) do
    list.text = list.text or encode(list)
    texts[i] = list.text
  end
  local file, message = io.open(new, "w")
  local ok = file
  if file then
    ok, message = file:write(table.concat(texts))
    file:close()
    if ok then ok, message = os.rename(new, self.path) end
  end
  if not ok then log.warn("the names of rules cannot be kept: %s: after a restart those of open flows are not known", message) end
end

local function equal(a, b)
  if #a ~= #b then return false end
  for i, name in ipairs(a) do
    if name ~= b[i] then return false end
  end
  return true
end

--- From now on these are the rules.
---@param names string[]
---@param flow_table ffi.cdata* struct flow_table *
function RuleNames:use(names, flow_table)
  local lists = self.lists
  local last = lists[#lists]
  if not last or not equal(last.names, names) then
    -- The number of a list that nobody knows any more may be on flows still.
    local number = last and last.number % NUMBER_MAX + 1 or tonumber(api.clock_realtime_us() / 1000000ULL) % NUMBER_MAX + 1
    lists[#lists + 1] = { number = number, names = names }
    if #lists > LISTS_MAX then table.remove(lists, 1) end
    self:save()
  end
  api.flow_table_set_rules(flow_table, lists[#lists].number)
end

--- What a rule is called.
---@param list integer
---@param number integer
---@return string|nil name
---@return boolean now is it one of today's?
function RuleNames:find(list, number)
  for i = #self.lists, 1, -1 do
    if self.lists[i].number == list then return self.lists[i].names[number], i == #self.lists end
  end
  return nil, false
end

--- All numbers that a name has: list * 65536 + number.
---@param name string
---@return integer[]
function RuleNames:numbers(name)
  local found = {}
  for _, list in ipairs(self.lists) do
    for number, other in ipairs(list.names) do
      if other == name then found[#found + 1] = list.number * 65536 + number end
    end
  end
  return found
end

--- No flow is left.
function RuleNames:remove() os.remove(self.path) end

return rule_names
