-- SPDX-License-Identifier: Apache-2.0
--- Reads annotation files of the Lua language server (conf/annotations): what is documented, in order.
local annotations = {}

---@class flowd.Annotation
---@field kind "section"|"prose"|"class"|"function"|"value"
---@field name? string of the section, class, function or value
---@field text? string prose, or its documentation
---@field fields? { name: string, optional: boolean, type: string, text: string }[] of a class
---@field params? { name: string, optional: boolean, type: string, text: string }[] of a function
---@field returns? string what it returns, in words
---@field class? string of a method: the class
---@field call? string of a function: as it is written, with its arguments

-- "string? the name" as type and text: a type ends at a blank outside of brackets, unless | or , stands there.
local function split_type(text)
  local depth, at = 0, 1
  while at <= #text do
    local c = text:sub(at, at)
    if c == '"' then
      at = text:find('"', at + 1, true) or #text
    elseif c:find("[%(%[{<]") then
      depth = depth + 1
    elseif c:find("[%)%]}>]") then
      depth = depth - 1
    elseif c == " " and depth == 0 and not text:sub(at - 1, at - 1):find("[|,:]") then
      break
    end
    at = at + 1
  end
  return text:sub(1, at - 1), (text:sub(at + 1):gsub("^%s+", ""))
end

local function named(text)
  local name, rest = text:match("^(%S+)%s+(.*)$")
  local kind, words = split_type(rest or "")
  name = name or text
  return { name = name:match("^(.-)%??$"), optional = name:find("?", 1, true) ~= nil, type = kind, text = words }
end

local function new_block() return { doc = {}, params = {}, fields = {} } end

local readers = {
  class = function(block, rest) block.class = rest:match("^[%w_.]+") end,
  field = function(block, rest) block.fields[#block.fields + 1] = named(rest) end,
  param = function(block, rest) block.params[#block.params + 1] = named(rest) end,
  ["return"] = function(block, rest)
    local _, words = split_type(rest)
    block.returns = words
  end,
}

--- Read the text of an annotation file.
---@param text string
---@return flowd.Annotation[]
function annotations.read(text)
  local list, block, prose, classes = {}, new_block(), nil, {}
  local function add(entry) list[#list + 1] = entry end
  local function end_prose()
    if prose then add({ kind = "prose", text = table.concat(prose, "\n") }) end
    prose = nil
  end
  local function end_class()
    if block.class then add({ kind = "class", name = block.class, text = table.concat(block.doc, " "), fields = block.fields }) end
  end
  for line in (text .. "\n"):gmatch("(.-)\n") do
    local section = line:match("^%-%- == (.-) ==$")
    local tag, rest = line:match("^%-%-%-@(%w+)%s*(.*)$")
    local name, arguments = line:match("^function ([%w_.:]+)(%b()) end$")
    local variable = line:match("^local ([%w_]+) = {}$")
    local value = line:match("^([%w_.]+) = ")
    if section then
      end_prose()
      add({ kind = "section", name = section })
      prose = {}
    elseif tag then
      if readers[tag] then readers[tag](block, rest) end
    elseif line:find("^%-%-%-") then
      block.doc[#block.doc + 1] = line:match("^%-%-%- ?(.*)$")
    elseif line:find("^%-%-") then
      if prose then prose[#prose + 1] = line:match("^%-%- ?(.*)$") end
    elseif name then
      local owner, method = name:match("^(.-):(.*)$")
      add({ kind = "function", name = method or name, class = owner and classes[owner], call = name .. arguments,
        text = table.concat(block.doc, " "), params = block.params, returns = block.returns })
      block = new_block()
    elseif variable then
      end_class()
      classes[variable] = block.class
      block = new_block()
    elseif value then
      end_class()
      if not block.class then add({ kind = "value", name = value, text = table.concat(block.doc, " ") }) end
      block = new_block()
    elseif line == "" then
      if prose and #prose > 0 then
        end_prose()
      end
      end_class()
      block = new_block()
    end
  end
  end_prose()
  return list
end

return annotations
