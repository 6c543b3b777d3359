-- SPDX-License-Identifier: Apache-2.0
--- The value in front of the last dot of a line, so that its fields can be shown: `flows{limit=1}[1].`, `x.y.`,
--- `flow(1).`. Nothing of it runs but commands that only ask, with arguments that stand there. May be left anywhere.
jit.off(true, true)

local commands = require("flowd.console.commands")

require("flowd.slice").may_be_left()

local value = {}

local closing = { ["("] = ")", ["{"] = "}", ["["] = "]" }
local opening = { [")"] = "(", ["}"] = "{", ["]"] = "[" }
local constant = { ["nil"] = true, ["true"] = true, ["false"] = true }

-- The end of the text in quotes or long brackets that begins at `at`; nil: it has none.
local function text_end(line, at)
  local quote = line:match("^[\"']", at)
  if quote then
    local position = at + 1
    while position <= #line do
      local c = line:sub(position, position)
      if c == quote then return position end
      position = position + (c == "\\" and 2 or 1)
    end
    return nil
  end
  local level = line:match("^%[(=*)%[", at)
  return level and select(2, line:find("]" .. level .. "]", at, true))
end

local function next_token(line, at)
  local last = select(2, line:find("^[%a_][%w_]*", at))
  if last then return "name", last end
  last = select(2, line:find("^%.?%d[%w.]*", at))
  if last then return "number", last end
  if line:find("^[\"']", at) or line:find("^%[=*%[", at) then return "text", text_end(line, at) end
  if line:find("^%-%-", at) then return "comment", nil end
  last = select(2, line:find("^%.%.%.?", at)) or select(2, line:find("^[=~<>]=", at))
  return "sign", last or at
end

--- Take a line of Lua apart.
---@param line string
---@return { kind: "name"|"number"|"text"|"sign", text: string, first: integer, last: integer }[]|nil tokens nil: it ends in
---   a text or comment
function value.tokens(line)
  local tokens, at = {}, 1
  while true do
    at = line:find("%S", at)
    if not at then return tokens end
    local kind, last = next_token(line, at)
    if not last then return nil end
    tokens[#tokens + 1] = { kind = kind, text = line:sub(at, last), first = at, last = last }
    at = last + 1
  end
end

local function is(token, text) return token ~= nil and token.kind == "sign" and token.text == text end

-- Where the bracket is that belongs to the closing one at `i`.
local function opened(tokens, i)
  local depth, wanted = 0, opening[tokens[i].text]
  for n = i, 1, -1 do
    local t = tokens[n]
    if t.kind == "sign" and opening[t.text] then depth = depth + 1 end
    if t.kind == "sign" and closing[t.text] then depth = depth - 1 end
    if depth == 0 then return t.text == wanted and n or nil end
  end
  return nil
end

---@class flowd.console.Prefix what stands in front of the last dot
---@field name string the name that it begins with
---@field path (string|number)[] fields, from left to right
---@field first integer|nil of the tokens of the arguments, if the name is called
---@field last integer|nil
---@field tokens table
---@field line string

-- The prefix that ends with the token at `i`.
local function prefix(tokens, i, line)
  local out = { path = {}, tokens = tokens, line = line }
  while tokens[i] do
    local t, before = tokens[i], tokens[i - 1]
    local call = t.kind == "text" or is(t, ")") or is(t, "}")
    if out.first and t.kind ~= "name" then return nil end
    if t.kind == "name" then
      if not is(before, ".") then
        out.name = t.text
        return not is(before, ":") and out or nil
      end
      -- Only what a command gives is called for: x.y() is somebody's function.
      if out.first then return nil end
      table.insert(out.path, 1, t.text)
      i = i - 2
    elseif call then
      local first = t.kind == "text" and i or opened(tokens, i)
      if not first then return nil end
      out.first, out.last = first, i
      i = first - 1
    elseif is(t, "]") and i >= 3 and is(tokens[i - 2], "[") and (before.kind == "number" or before.kind == "text") then
      local chunk = load("return " .. before.text, "=key", "t", {})
      if not chunk then return nil end
      table.insert(out.path, 1, (chunk()))
      i = i - 3
    else
      return nil
    end
  end
  return nil
end

--- What stands in front of the cursor, when that is a field of something.
---@param line string up to the cursor
---@return string|nil word of the field; nil: it is none
---@return flowd.console.Prefix|nil
function value.in_front(line)
  local tokens = value.tokens(line)
  if not tokens then return nil end
  local count, word = #tokens, ""
  local last = tokens[count]
  if last and last.kind == "name" and last.last == #line then word, count = last.text, count - 1 end
  if not is(tokens[count], ".") and not is(tokens[count], ":") then return nil end
  return word, prefix(tokens, count - 1, line)
end

-- What a name stands for, without running anything.
local function find(env, name)
  for _, layer in ipairs(debug.getmetatable(env).__layers) do
    local found = rawget(layer, name)
    if found ~= nil then return found end
  end
  return nil
end

local function query(fn)
  local command = type(fn) == "function" and commands.of(fn)
  return command and command.query
end

-- What a call may use: constants, commands that only ask, values that were assigned. nil: there is something else.
local function names_of(at, env)
  local names = {}
  for i = at.first, at.last do
    local t = at.tokens[i]
    local field = is(at.tokens[i - 1], ".") or is(at.tokens[i + 1], "=")
    if is(t, ":") then return nil end
    if t.kind == "name" and not constant[t.text] and not field then
      local found = find(env, t.text)
      if not query(found) and type(found) ~= "string" and type(found) ~= "number" then return nil end
      names[t.text] = found
    end
  end
  return names
end

--- Get the value. Commands that only ask run for it: call it where they may.
---@param at flowd.console.Prefix
---@param env table of the session
---@return any value nil: there is none, or it would have to be computed
function value.get(at, env)
  local found = find(env, at.name)
  if at.first then
    local names = query(found) and names_of(at, env)
    if not names then return nil end
    names[at.name] = found
    local text = at.line:sub(at.tokens[at.first].first, at.tokens[at.last].last)
    local chunk = load(("return (%s %s)"):format(at.name, text), "=completion", "t", names)
    if not chunk then return nil end
    jit.off(chunk, true)
    local ok, result = pcall(chunk)
    found = ok and result or nil
  end
  for _, key in ipairs(at.path) do
    if type(found) ~= "table" then return nil end
    found = rawget(found, key)
  end
  return found
end

return value
