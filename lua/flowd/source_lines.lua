-- SPDX-License-Identifier: Apache-2.0
--- Which line of a configuration file says what: maps a path such as
-- {"plugins", "pipe", "paths", 1} to the line of the source where it is written.
--
-- A table does not remember where it came from, so the source is read a second time: enough of
-- Lua's grammar to follow table constructors, from `return { … }` and from top-level variables
-- and assignments (`local conf = {}`, `conf.plugins = { … }`). What is computed otherwise is
-- given the line of the nearest table around it.
local source_lines = {}

-- -- tokens ------------------------------------------------------------------------------

-- The end of a long bracket that opens at `pos`, or nil when there is none.
local function long_bracket_end(text, pos)
  local level = text:match("^%[(=*)%[", pos)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", pos, true)
  return last or #text
end

local function string_end(text, pos)
  local quote = text:sub(pos, pos)
  local i = pos + 1
  while i <= #text do
    local c = text:sub(i, i)
    if c == "\\" then
      i = i + 1
    elseif c == quote or c == "\n" then
      return i
    end
    i = i + 1
  end
  return #text
end

local function literal(text)
  local chunk = loadstring("return " .. text)
  local ok, value = pcall(chunk or error)
  return ok and value or nil
end

-- { kind = "name" | "string" | "number" | "op", text =, value =, line = }
local function tokenize(text)
  local tokens, line, pos = {}, 1, 1
  if text:sub(1, 1) == "#" then pos = text:find("\n", 1, true) or #text + 1 end
  local function add(kind, last, value)
    local piece = text:sub(pos, last)
    tokens[#tokens + 1] = { kind = kind, text = piece, value = value, line = line }
    for _ in piece:gmatch("\n") do line = line + 1 end
    pos = last + 1
  end
  while pos <= #text do
    local c = text:sub(pos, pos)
    if c == "\n" then
      line, pos = line + 1, pos + 1
    elseif c:find("%s") then
      pos = pos + 1
    elseif text:find("^%-%-", pos) then
      local last = long_bracket_end(text, pos + 2) or (text:find("\n", pos, true) or #text + 1) - 1
      for _ in text:sub(pos, last):gmatch("\n") do line = line + 1 end
      pos = last + 1
    elseif c:find("[%a_]") then
      local _, last = text:find("^[%w_]+", pos)
      add("name", last)
    elseif c:find("%d") or text:find("^%.%d", pos) then
      local _, last = text:find("^[%w_.]+", pos)
      add("number", last, tonumber(text:sub(pos, last)))
    elseif c == '"' or c == "'" then
      local last = string_end(text, pos)
      add("string", last, literal(text:sub(pos, last)))
    elseif c == "[" and long_bracket_end(text, pos) then
      local last = long_bracket_end(text, pos)
      add("string", last, literal(text:sub(pos, last)))
    else
      local _, last = text:find("^[=~<>]=", pos)
      add("op", last or pos)
    end
  end
  tokens[#tokens + 1] = { kind = "end", text = "", line = line }
  return tokens
end

-- -- structure ---------------------------------------------------------------------------

local Reader = {}
Reader.__index = Reader

local opens = { ["("] = true, ["{"] = true, ["["] = true, ["function"] = true, ["do"] = true, ["if"] = true,
  ["repeat"] = true }
local closes = { [")"] = true, ["}"] = true, ["]"] = true, ["end"] = true, ["until"] = true }

function Reader:peek(offset) return self.tokens[math.min(self.pos + (offset or 0), #self.tokens)] end

function Reader:is(text, offset)
  local token = self:peek(offset)
  return token.text == text and token.kind ~= "string"
end

function Reader:at_end() return self:peek().kind == "end" end

-- Words that begin a statement: an expression has ended before them.
local statement = { ["local"] = true, ["return"] = true, ["if"] = true, ["for"] = true, ["while"] = true,
  ["do"] = true, ["repeat"] = true, ["break"] = true }

-- Skip to the end of an expression. Returns the node of the last table constructor at its top level.
function Reader:expression()
  local depth, node, first = 0, nil, self.pos
  while not self:at_end() do
    local token = self:peek()
    local word = token.kind == "name" or token.kind == "op"
    if depth == 0 and word then
      if self:is("{") then
        node = self:table()
        token = nil
      elseif token.text == "," or token.text == ";" or closes[token.text] or statement[token.text] then
        break
      elseif token.kind == "name" and token.text ~= "function" and self.pos > first and self:starts_statement() then
        break
      end
    end
    if token then
      if word and opens[token.text] then depth = depth + 1 end
      if word and closes[token.text] then depth = depth - 1 end
      self.pos = self.pos + 1
    end
  end
  return node or self:variable(first)
end

-- `name` or `name.field` alone, from token `first` to here, stands for what it was given.
function Reader:variable(first)
  if self.pos == first then return nil end
  local node = self.tokens[first].kind == "name" and self.variables[self.tokens[first].text]
  for i = first + 1, self.pos - 1, 2 do
    local name = self.tokens[i + 1]
    if not node or i + 1 >= self.pos or self.tokens[i].text ~= "." or name.kind ~= "name" then return nil end
    node = node.children[name.text]
  end
  return node or nil
end

-- Is the name here the first word of an assignment or call, not a part of the expression before it?
function Reader:starts_statement()
  local before = self.tokens[self.pos - 1]
  if before.kind == "op" then return before.text == ")" or before.text == "}" or before.text == "]" end
  return before.kind ~= "name" or not ({ ["and"] = true, ["or"] = true, ["not"] = true })[before.text]
    and not ({ ["and"] = true, ["or"] = true })[self:peek().text]
end

-- A table constructor: { line, children = { [key] = node } }.
function Reader:table()
  local node = { line = self:peek().line, children = {} }
  local position = 0
  self.pos = self.pos + 1
  while not self:at_end() and not self:is("}") do
    local first = self:peek()
    local key
    if first.kind == "name" and self:is("=", 1) then
      key = first.text
      self.pos = self.pos + 2
    elseif self:is("[") then
      local inner = self:peek(1)
      if (inner.kind == "string" or inner.kind == "number") and self:is("]", 2) then key = inner.value end
      self.pos = self.pos + 1
      self:expression()
      self.pos = self.pos + 2
    else
      position = position + 1
      key = position
    end
    local before = self.pos
    local child = self:expression()
    if key ~= nil then
      node.children[key] = { line = first.line, children = child and child.children or {} }
    end
    if self:is(",") or self:is(";") then self.pos = self.pos + 1 end
    -- Not Lua: the compiler will say so.
    if self.pos == before then self.pos = self.pos + 1 end
  end
  self.pos = self.pos + 1
  return node
end

-- `a.b.c = value` at the top level.
function Reader:assignment()
  local line = self:peek().line
  local names = { self:peek().text }
  self.pos = self.pos + 1
  while self:is(".") and self:peek(1).kind == "name" do
    names[#names + 1] = self:peek(1).text
    self.pos = self.pos + 2
  end
  if not self:is("=") then return end
  self.pos = self.pos + 1
  local value = self:expression()
  local node = self.variables
  if #names == 1 then
    node[names[1]] = { line = line, children = value and value.children or {} }
    return
  end
  node = node[names[1]]
  for i = 2, #names - 1 do node = node and node.children[names[i]] end
  if node then node.children[names[#names]] = { line = line, children = value and value.children or {} } end
end

function Reader:chunk()
  local depth = 0
  while not self:at_end() do
    local token = self:peek()
    local word = token.kind == "name" or token.kind == "op"
    local before = self.pos
    if depth == 0 and self:is("return") then
      self.pos = self.pos + 1
      local root = self:expression()
      return { line = token.line, children = root and root.children or {} }
    elseif depth == 0 and token.kind == "name" and not opens[token.text] and token.text ~= "local" then
      self:assignment()
    end
    if self.pos == before then
      if word and opens[token.text] then depth = depth + 1 end
      if word and closes[token.text] then depth = depth - 1 end
      self.pos = self.pos + 1
    end
  end
  return { line = 1, children = {} }
end

---@class flowd.SourceLines
local Lines = {}
Lines.__index = Lines

--- The line where a path is written, or that of the nearest table around it.
---@param keys (string|number)[]
---@return integer line, boolean exact false when a table around it had to do
function Lines:find(keys)
  local node = self.root
  for _, key in ipairs(keys) do
    local child = node.children[key]
    if not child then return node.line, false end
    node = child
  end
  return node.line, true
end

--- Read a source.
---@param text string
---@return flowd.SourceLines
function source_lines.read(text)
  local reader = setmetatable({ tokens = tokenize(text), pos = 1, variables = {} }, Reader)
  return setmetatable({ root = reader:chunk() }, Lines)
end

--- Lua shortens a long name of a file in its messages: "...site/conf.lua:3: oh". The message with the whole.
---@param message string
---@param path string of the file that it may start with
---@return string
function source_lines.whole_path(message, path)
  local short = debug.getinfo(loadstring("", "@" .. path), "S").short_src
  if message:sub(1, #short + 1) == short .. ":" then return path .. message:sub(#short + 1) end
  return message
end

return source_lines
