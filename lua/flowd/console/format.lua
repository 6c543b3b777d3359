-- SPDX-License-Identifier: Apache-2.0
--- Values as people and programs read them. Runs in slices and may be left anywhere: nothing here is compiled,
--- and what is long is written piece by piece.
jit.off(true, true)

local ffi = require("ffi")
local slice = require("flowd.slice")

slice.may_be_left()

local sort = slice.library.table.sort

local format = {}

local DEPTH_MAX = 8
local ENTRIES_MAX = 200 -- of one table, for people
local KEYS_MAX = 10000 -- out of which these are the first

local metatable_of, text_of = debug.getmetatable, require("flowd.console.callbacks").tostring

---@class flowd.console.View how the console's own objects show themselves
---@field text? fun(object: table, write: fun(text: string), width: integer, view: flowd.console.View) for people
---@field plain? fun(object: table): any what they are in JSON and inside of other tables
---@field rows? boolean a list also when it is empty
---@field keys? string[] all that there may be, in order

-- In metatables, which nobody else sees: a table beside the objects would grow with them, and cost the collector
-- a look at each of its entries in one go.
local VIEW = {}

--- A metatable of objects that show themselves.
---@param view flowd.console.View
---@return table
function format.class(view) return { __metatable = false, [VIEW] = view } end

--- Have a table show itself.
---@generic T: table
---@param object T
---@param view flowd.console.View
---@return T
function format.view(object, view) return setmetatable(object, format.class(view)) end

---@return flowd.console.View|nil
function format.view_of(object)
  local meta = type(object) == "table" and metatable_of(object)
  return meta and rawget(meta, VIEW) or nil
end
local view_of = format.view_of

local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\" }

local TEXT_SHOWN = 2000 -- octets of a text inside of something

local quote
function quote(text)
  if #text > TEXT_SHOWN then
    -- Not in the middle of a character.
    local head = text:sub(1, TEXT_SHOWN):gsub("[\192-\255][\128-\191]*$", "")
    return ("%s… and %d octets more"):format(quote(head), #text - #head)
  end
  return '"' .. text:gsub('[%c"\\\127]', function(c) return escapes[c] or ("\\%03d"):format(c:byte()) end) .. '"'
end
format.quote = quote

--- A text that came from somewhere: no control characters reach the terminal.
function format.clean(text)
  return (text:gsub("[%z\1-\8\11-\31\127]", function(c) return ("\\%03d"):format(c:byte()) end))
end

local function number(n)
  if n == math.floor(n) and math.abs(n) < 1e15 then return ("%d"):format(n) end
  return ("%.14g"):format(n)
end

local function is_integer64(value)
  return type(value) == "cdata" and (ffi.istype("int64_t", value) or ffi.istype("uint64_t", value))
end

local function custom_text(value)
  if view_of(value) then return nil end
  local meta = metatable_of(value)
  if not meta or not rawget(meta, "__tostring") then return nil end
  local text = text_of(value)
  return type(text) == "string" and text or "(a table whose __tostring gives no text)"
end

local function scalar(value)
  local kind = type(value)
  if kind == "number" then return number(value) end
  if kind == "string" then return quote(value) end
  if kind == "nil" or kind == "boolean" then return tostring(value) end
  if is_integer64(value) then return (tostring(value):gsub("U?LL$", "")) end
  if kind == "function" then return "function" end
  if kind == "table" then return custom_text(value) end
  return tostring(value)
end

local FEW = 500 -- keys that are sorted in one go

-- Keys in an order that people expect: 1, 2, 3, then numbers, then names. At most `max` of them; and how many
-- there are.
local function sorted_keys(t, max)
  local keys, count, names = {}, 0, true
  for key in next, t do
    count = count + 1
    if count <= max then
      keys[count] = key
      names = names and type(key) == "string"
    end
  end
  if names and count <= FEW then
    table.sort(keys)
    return keys, count
  end
  local rank = { number = 1, string = 2 }
  sort(keys, function(a, b)
    local x, y = rank[type(a)] or 3, rank[type(b)] or 3
    if x ~= y then return x < y end
    if x == 3 then return tostring(a) < tostring(b) end
    return a < b
  end)
  return keys, count
end

local function key_text(key)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") then return key end
  return "[" .. (scalar(key) or "table") .. "]"
end

local render

local function render_table(value, room, depth, above)
  if above[value] then return "(a table that contains itself)" end
  if depth > DEPTH_MAX then return "{…}" end
  above[value] = true
  local keys, count = sorted_keys(value, KEYS_MAX)
  local items, length = {}, 2
  for position, key in ipairs(keys) do
    if position > ENTRIES_MAX or length > room then break end
    local text = render(value[key], room - length, depth + 1, above)
    if not text then
      length = math.huge
      break
    end
    if key ~= position then text = key_text(key) .. " = " .. text end
    items[position] = text
    length = length + #text + 2
  end
  above[value] = nil
  if length > room then return nil end
  if count > #items then items[#items + 1] = ("… and %d more"):format(count - #items) end
  if #items == 0 then return "{}" end
  return "{ " .. table.concat(items, ", ") .. " }"
end

-- A value in one line, of at most so many octets, if it is a table; nil: it takes more.
function render(value, room, depth, above)
  local text = scalar(value)
  if not text then
    local view = view_of(value)
    if view and view.plain then value = view.plain(value) end
    text = type(value) ~= "table" and scalar(value) or render_table(value, room, depth, above)
  end
  return text and (room == math.huge or not text:find("\n", 1, true)) and text or nil
end

local write_value

local function write_entries(value, write, width, indent, depth, above)
  local keys, count = sorted_keys(value, KEYS_MAX)
  local inner = indent .. "  "
  above[value] = true
  write("{\n")
  for position, key in ipairs(keys) do
    if position > ENTRIES_MAX then break end
    write(key == position and inner or inner .. key_text(key) .. " = ")
    write_value(value[key], write, width, inner, depth + 1, above)
    write(position < count and ",\n" or "\n")
  end
  if count > ENTRIES_MAX then write(("%s… and %d more\n"):format(inner, count - ENTRIES_MAX)) end
  write(indent .. "}")
  above[value] = nil
end

-- In one line if it fits, and entry by entry: no text is made of all of it.
function write_value(value, write, width, indent, depth, above)
  local text = scalar(value) or render(value, width - #indent - 2, depth, above)
  if text then return write(text) end
  local view = view_of(value)
  if view and view.plain then value = view.plain(value) end
  write_entries(value, write, width, indent, depth, above)
end

--- Write one value for people. Text stands as it is.
---@param value any
---@param write fun(text: string)
---@param width integer columns of the terminal
function format.text(value, write, width)
  local view = format.view_of(value)
  if view and view.text then
    view.text(value, write, width, view)
    return
  end
  if type(value) == "string" then
    write(value)
    if value:sub(-1) ~= "\n" then write("\n") end
    return
  end
  write_value(value, write, width, "", 1, {})
  write("\n")
end

--- One value in one line, cut to `width` characters.
function format.line(value, width)
  local text = type(value) == "string" and value or render(value, math.huge, 1, {})
  text = text:gsub("\n", " ")
  if #text > width then text = text:sub(1, math.max(width - 1, 1)) .. "…" end
  return text
end

-- ---- JSON --------------------------------------------------------------------------

local encode

local PIECE = 256 -- octets of a text that are written in one go

local function encode_string(text, write)
  if #text <= PIECE then return write(format.json_string(text)) end
  write('"')
  local from = 1
  while from <= #text do
    local last = math.min(from + PIECE - 1, #text)
    -- Not in the middle of a character.
    for back = 0, 3 do
      if not text:find("^[\128-\191]", last - back + 1) then
        last = last - back
        break
      end
    end
    write(format.json_string(text:sub(from, last)):sub(2, -2))
    from = last + 1
  end
  write('"')
end

local function encode_list(value, write, above)
  write("[")
  for i = 1, #value do
    if i > 1 then write(",") end
    encode(value[i], write, above)
  end
  write("]")
end

-- Has it entries from 1 on, and nothing else? Not those that are none: they are objects.
local function is_list(value)
  local count, entries = #value, 0
  if count == 0 then return false end
  for _ in next, value do entries = entries + 1 end
  return entries == count
end

local function encode_object(value, write, above, keys)
  local first = true
  for _, key in ipairs(keys or (sorted_keys(value, math.huge))) do
    local item = value[key]
    if item ~= nil then
      write(first and "{" or ",")
      encode_string(tostring(key), write)
      write(":")
      encode(item, write, above)
      first = false
    end
  end
  write(first and "{}" or "}")
end

local json_module
--- A JSON string.
function format.json_string(text)
  json_module = json_module or require("flowd.json")
  return json_module.encode(text)
end

function encode(value, write, above)
  local view = format.view_of(value)
  if view and view.plain then value = view.plain(value) end
  local kind = type(value)
  if kind == "table" then
    local text = not view and custom_text(value)
    if text then return encode_string(text, write) end
    if above[value] then error("a table that contains itself cannot be written as JSON", 0) end
    above[value] = true
    if view and view.rows or is_list(value) then
      encode_list(value, write, above)
    else
      encode_object(value, write, above, view and view.keys)
    end
    above[value] = nil
  elseif kind == "nil" then
    write("null")
  elseif kind == "number" then
    write((value ~= value or math.abs(value) == math.huge) and "null" or number(value))
  elseif kind == "boolean" or is_integer64(value) then
    write(scalar(value))
  else
    encode_string(kind == "string" and value or kind == "function" and kind or tostring(value), write)
  end
end

--- Write one value as JSON, without a line break behind it. What JSON cannot say is text; numbers that are
--- none are null.
---@param value any
---@param write fun(text: string)
function format.json(value, write) encode(value, write, {}) end

-- ---- tables in columns ---------------------------------------------------------------

-- Characters, not octets: UTF-8 continuation octets have no width.
local function columns_of(text)
  local _, more = text:gsub("[\128-\191]", "")
  return #text - more
end

local function fit(text, width, right)
  local length = columns_of(text)
  if length > width then
    -- The ends of addresses tell more than their middle.
    if width < 5 or text:find("[\128-\255]") then return text:sub(1, width) end
    local head = math.floor((width - 1) / 2)
    return text:sub(1, head) .. "…" .. text:sub(-(width - 1 - head))
  end
  local fill = (" "):rep(width - length)
  return right and fill .. text or text .. fill
end

-- How wide the columns are that fit the terminal, and which are shown.
local function measure(columns, rows, first, last, width, widths, shown)
  for i, column in ipairs(columns) do
    widths[i] = math.max(widths[i] or 0, columns_of(column.title))
    local widest = 0
    for n = first, last do widest = math.max(widest, columns_of(rows[n][i])) end
    widths[i] = math.max(widths[i], widest)
    shown[i] = widest > 0 or not column.optional
  end
  local function total()
    local sum = -2
    for i in ipairs(columns) do if shown[i] then sum = sum + widths[i] + 2 end end
    return sum
  end
  while total() > width do
    local victim
    for i, column in ipairs(columns) do
      if shown[i] and column.spare and (not victim or column.spare < columns[victim].spare) then victim = i end
    end
    if not victim then break end
    shown[victim] = false
  end
  while total() > width do
    local widest
    for i in ipairs(columns) do
      if shown[i] and widths[i] > 8 and (not widest or widths[i] > widths[widest]) then widest = i end
    end
    if not widest then break end
    widths[widest] = widths[widest] - 1
  end
end

local BLOCK = 500 -- rows that are measured together, below a title

--- Rows in columns that fit the terminal. When they do not, columns with the lowest `spare` go first, then the
--- widest are shortened.
---@param columns { title: string, right: boolean?, spare: integer?, optional: boolean? }[] spare: 1 goes first; nil:
---   never. optional: left out where it is empty
---@param count integer of rows
---@param row fun(n: integer): string[] asked once for each, in order
---@param write fun(text: string)
---@param width integer
function format.columns(columns, count, row, write, width)
  local widths, shown = {}, {}
  local function line(cells, title)
    local out = {}
    for i, column in ipairs(columns) do
      if shown[i] then out[#out + 1] = fit(title and cells[i].title or cells[i], widths[i], column.right) end
    end
    write((table.concat(out, "  "):gsub("%s+$", "")) .. "\n")
  end
  for first = 1, count, BLOCK do
    local rows, last = {}, math.min(first + BLOCK - 1, count)
    for n = first, last do rows[n] = row(n) end
    measure(columns, rows, first, last, width, widths, shown)
    line(columns, true)
    for n = first, last do line(rows[n]) end
  end
end

return format
