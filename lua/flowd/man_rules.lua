-- SPDX-License-Identifier: Apache-2.0
--- flowd-lua-rules(7): from the annotations of what rules can use (conf/annotations/rules.lua).
local annotations = require("flowd.man_annotations")

local man_rules = {}

local function ended(text) return text:find("[.?!:]$") and text or text .. "." end

local function sentence(text) return ended((text:gsub("^%l", string.upper))) end

-- Paragraphs and, indented by four, examples.
local function write_prose(page, text)
  local words, code = {}, {}
  local first = true
  local function end_words()
    local paragraph = table.concat(words, "\n")
    if paragraph:find("%S") then
      if not first then page:macro("Pp") end
      page:text(paragraph)
      first = false
    end
    words = {}
  end
  local function end_code()
    while code[#code] == "" do code[#code] = nil end
    if #code > 0 then page:literal(table.concat(code, "\n")) end
    code = {}
  end
  for line in (text .. "\n"):gmatch("(.-)\n") do
    local example = line:match("^    (.*)$")
    if example then
      end_words()
      code[#code + 1] = example
    elseif line == "" and #code > 0 then
      code[#code + 1] = ""
    else
      end_code()
      if line == "" then end_words() else words[#words + 1] = line end
    end
  end
  end_words()
  end_code()
end

local function function_text(entry)
  local parts = { entry.text }
  for _, param in ipairs(entry.params) do
    if param.text ~= "" then
      local text = param.text
      -- A parameter that is a table of settings names them itself.
      parts[#parts + 1] = ended(text:find("^%w+:") and text or ("%s: %s"):format(param.name, text))
    end
  end
  if entry.returns and entry.returns ~= "" then
    parts[#parts + 1] = "Returns " .. entry.returns:gsub("^%w+ what", "what"):gsub("^there ", ""):gsub("^tag for", "a tag for") .. "."
  end
  return table.concat(parts, " ")
end

local Writer = {}
Writer.__index = Writer

function Writer:open_list()
  if not self.listing then self.page:macro("Bl -tag -width Ds") end
  self.listing = true
end

function Writer:close_list()
  if self.listing then self.page:macro("El") end
  self.listing = false
end

function Writer:section(entry)
  self:close_list()
  self.page:macro("Sh " .. entry.name)
end

function Writer:prose(entry)
  self:close_list()
  write_prose(self.page, entry.text)
end

function Writer:class(entry)
  if #entry.fields == 0 then return end
  self:close_list()
  self.page:macro("Pp")
  if entry.text ~= "" then self.page:text(entry.text) end
  self:open_list()
  for _, field in ipairs(entry.fields) do
    self.page:item("Va", field.name)
    self.page:text(sentence(field.text))
  end
end

Writer["function"] = function(self, entry)
  self:open_list()
  self.page:item("Li", entry.call)
  self.page:text(function_text(entry))
end

function Writer:value(entry)
  self:open_list()
  self.page:item("Li", entry.name)
  self.page:text(entry.text)
end

--- Write what is annotated.
---@param page table of flowd.man
---@param text string of conf/annotations/rules.lua
function man_rules.write(page, text)
  local writer = setmetatable({ page = page, listing = false }, Writer)
  for _, entry in ipairs(annotations.read(text)) do writer[entry.kind](writer, entry) end
  writer:close_list()
end

return man_rules
