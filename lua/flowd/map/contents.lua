-- SPDX-License-Identifier: Apache-2.0
--- What a map holds: read from a table, or from a CSV or Lua file, into the builder of its kind.
--
-- A line of a CSV file is a key and a tag, or a key, an experiment and an activity, as the kind has it
-- (`columns`). Fields may stand in double quotes; a line that starts with # is a comment, and a first
-- line that calls its columns "tag" or "experiment" is a heading.
local show = require("flowd.show")

local find, sub, byte = string.find, string.sub, string.byte

local contents = {}

local PROBLEMS_MAX = 20
local ROWS_PER_TURN = 256
local ANY_TAG = 64 -- stands for a tag that is wrong

--- Collects what is wrong: each problem once, the first ones only.
local Problems = {}
Problems.__index = Problems

function contents.problems() return setmetatable({ list = {}, more = 0 }, Problems) end

function Problems:add(where, message)
  if #self.list < PROBLEMS_MAX then self.list[#self.list + 1] = where .. message else self.more = self.more + 1 end
end

function Problems:any() return #self.list > 0 end

function Problems:take()
  if self.more > 0 then self.list[#self.list + 1] = ("%s and %d more like it"):format(self.list[#self.list]:match("^[^:]*:"), self.more) end
  return self.list
end

-- ---- tables ------------------------------------------------------------------------

-- Sorted, so that messages come in the same order each time.
local function sorted_entries(values)
  local entries = {}
  for key, value in pairs(values) do entries[#entries + 1] = { key, value } end
  table.sort(entries, function(a, b)
    local left, right = a[1], b[1]
    if type(left) == type(right) and type(left) == "number" then return left < right end
    if type(left) ~= type(right) then return type(left) < type(right) end
    return tostring(left) < tostring(right)
  end)
  return entries
end

--- Fill a builder from a table.
---@param builder table
---@param values table
---@param resolve fun(value: any, activity: any): integer?, string?
---@param problems table
---@param where fun(key: any): string what stands before a message about an entry
function contents.from_table(builder, values, resolve, problems, where)
  local entries = sorted_entries(values)
  for i = 1, #entries do
    local key, value = entries[i][1], entries[i][2]
    local message
    if builder.entry then
      message = builder:entry(key, value, resolve, i)
      if message then message = ("[%s]: %s"):format(show(key), message) end
    else
      local tag, refusal = resolve(value)
      -- A wrong key says more than a wrong value, as of a list where names were expected.
      message = builder:add(key, tag or ANY_TAG, i)
      if not tag and not message then message = ("[%s]: %s"):format(show(key), refusal) end
    end
    if message then problems:add(where(key), message) end
  end
  return function(position) return where(position and entries[position][1]) end
end

-- ---- CSV ---------------------------------------------------------------------------

local BLANK, TAB, CR, QUOTE, HASH = 32, 9, 13, 34, 35

local function trim(text)
  local first, last = 1, #text
  while first <= last do
    local c = byte(text, first)
    if c ~= BLANK and c ~= TAB then break end
    first = first + 1
  end
  while last >= first do
    local c = byte(text, last)
    if c ~= BLANK and c ~= TAB and c ~= CR then break end
    last = last - 1
  end
  if first == 1 and last == #text then return text end
  return sub(text, first, last)
end

-- A quoted field that starts at `at` (its quote): text and where the next field starts; nil: no end.
local function quoted(line, at)
  local parts, from = {}, at + 1
  while true do
    local stop = find(line, '"', from, true)
    if not stop then return nil end
    parts[#parts + 1] = sub(line, from, stop - 1)
    if byte(line, stop + 1) ~= QUOTE then
      local comma = find(line, ",", stop, true)
      if trim(sub(line, stop + 1, (comma or #line + 1) - 1)) ~= "" then return nil end
      return table.concat(parts), comma and comma + 1
    end
    parts[#parts + 1] = '"'
    from = stop + 2
  end
end

--- The fields of a line; nil and a message.
---@param line string
---@return string[]? fields, string? message
function contents.fields(line)
  local fields, at, count = {}, 1, 0
  if not find(line, '"', 1, true) then
    while at do
      local comma = find(line, ",", at, true)
      count = count + 1
      fields[count], at = trim(sub(line, at, (comma or #line + 1) - 1)), comma and comma + 1
    end
    return fields
  end
  while at do
    local rest = find(line, "[^ \t]", at) or at
    if byte(line, rest) == QUOTE then
      local text, following = quoted(line, rest)
      if not text then return nil, "a field in quotes has no end, or something stands behind it" end
      fields[#fields + 1], at = text, following
    else
      local comma = find(line, ",", at, true)
      fields[#fields + 1] = trim(sub(line, at, (comma or #line + 1) - 1))
      at = comma and comma + 1
    end
  end
  return fields
end

local headings = { tag = true, experiment = true, activity = true, weight = true }

local function is_heading(fields)
  local last = fields[#fields]
  return last and headings[last:lower()] ~= nil
end

-- Spreadsheets like to separate by ";" or tabs.
local function wrong_count(columns, fields, line)
  local other = #fields == 1 and line:match("[;\t]")
  return ("expected %s; got %d field%s: %s%s"):format(columns, #fields, #fields == 1 and "" or "s", show(trim(line)),
    other and (" — fields are separated by commas, not by %s"):format(other == ";" and '";"' or "tabs") or "")
end

local function put_row(builder, line, resolve, number, columns, first)
  local fields, message = contents.fields(line)
  if not fields then return message end
  if first and is_heading(fields) then return nil end
  if builder.row then return builder:row(fields, resolve, number) end
  if #fields < 2 or #fields > 3 then return wrong_count(columns, fields, line) end
  local tag, refusal = resolve(fields[2], fields[3])
  if not tag then return refusal end
  return builder:add(fields[1], tag, number)
end

--- Fill a builder from the text of a CSV file.
---@param builder table
---@param text string
---@param resolve fun(value: any, activity: any): integer?, string?
---@param problems table
---@param path string
---@param columns string what a line is, for messages
---@param pause fun() is called now and then
function contents.from_csv(builder, text, resolve, problems, path, columns, pause)
  local number, at, first, size = 0, 1, true, #text
  if sub(text, 1, 3) == "\239\187\191" then at = 4 end
  while at <= size do
    local stop = find(text, "\n", at, true) or size + 1
    local line = sub(text, at, stop - 1)
    number, at = number + 1, stop + 1
    local start = byte(line, 1)
    if start ~= HASH and start ~= nil and trim(line) ~= "" then
      local message = put_row(builder, line, resolve, number, columns, first)
      first = false
      if message then problems:add(("%s:%d: "):format(path, number), message) end
      if message == "not enough memory" then break end
    end
    if number % ROWS_PER_TURN == 0 then pause() end
  end
  return function(position) return position and ("%s:%d: "):format(path, position) or path .. ": " end
end

return contents
