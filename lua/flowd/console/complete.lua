-- SPDX-License-Identifier: Apache-2.0
--- What may stand at the end of a line: from the names that are there now, the fields of the value in front of
--- a dot, and named arguments and strings of the command whose brackets are open.
jit.off(true, true)

local commands = require("flowd.console.commands")
local environment = require("flowd.console.environment")
local format = require("flowd.console.format")
local place = require("flowd.console.place")
local value = require("flowd.console.value")

require("flowd.slice").may_be_left()

local complete = {}

local CANDIDATES_MAX = 200
local LINE_MAX, WORDS_MAX, FIELDS_MAX = 1000, 200, 10000

local keywords = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil",
  "not", "or", "repeat", "return", "then", "true", "until", "while" }

local function starting(names, word, out)
  local seen = {}
  for _, name in ipairs(names) do
    if name:sub(1, #word) == word and not seen[name] and #out < CANDIDATES_MAX then
      seen[name] = true
      out[#out + 1] = name
    end
  end
  table.sort(out)
  return out
end

-- Names of fields: those that are there, and those that there may be.
local function fields(of, word)
  local names = {}
  if type(of) == "string" then of = string end
  if type(of) ~= "table" then return names end
  local looked_at = 0
  for key in next, of do
    looked_at = looked_at + 1
    if looked_at > FIELDS_MAX then break end
    if type(key) == "string" and #names <= CANDIDATES_MAX and key:sub(1, #word) == word and key:find("^[%a_][%w_]*$") then
      names[#names + 1] = key
    end
  end
  local view = format.view_of(of)
  for _, key in ipairs(view and view.keys or {}) do names[#names + 1] = key end
  return names
end

-- The command whose brackets are open at the end of the line, and what stands in them.
local function open_call(line)
  local depth, position = 0, #line
  while position > 0 do
    local c = line:sub(position, position)
    if c == ")" or c == "}" then depth = depth + 1 end
    if c == "(" or c == "{" then
      local before = line:sub(math.max(position - WORDS_MAX, 1), position - 1)
      -- The braces of a list that is an argument open no call.
      local list = depth == 0 and c == "{" and before:find("=%s*$")
      if depth == 0 and not list then return before:match("([%a_][%w_]*)%s*%(?%s*$"), line:sub(position + 1) end
      if not list then depth = depth - 1 end
    end
    position = position - 1
  end
  return nil
end

local function registry_names()
  local names = {}
  place.registry():each(function(_, name, aid) if not aid then names[#names + 1] = name end end)
  return names
end

-- Activities of the experiment that is named in the same brackets; of all where none is.
local function activity_names(inside)
  local experiment = place.registry():experiment_id(inside:match("experiment%s*=%s*[\"']([^\"']*)[\"']"))
  local names = {}
  place.registry():each(function(eid, _, aid, name)
    if aid and (not experiment or eid == experiment) then names[#names + 1] = name end
  end)
  return names
end

-- Fields to sort by, also in the other direction.
local function sort_names(text)
  local names = require("flowd.console.flow_fields").names()
  if text:sub(1, 1) ~= "-" then return names end
  for i, name in ipairs(names) do names[i] = "-" .. name end
  return names
end

-- A text that begins with a quote: what it may be depends on where it stands.
local function strings(call, inside, text)
  local argument = inside:sub(-WORDS_MAX):match("([%a_][%w_]*)%s*=%s*{?[^{}=]*$")
  local names
  if argument == "experiment" then
    names = registry_names()
  elseif argument == "activity" then
    names = activity_names(inside)
  elseif call == "registry" then
    names = registry_names()
  elseif call == "help" then
    names = commands.names()
  elseif call == "loglevel" then
    names = { "trace", "debug", "info", "warn", "error" }
  elseif call == "enable" or call == "disable" or argument == "before" or argument == "after" or argument == "rule" then
    names = {}
    for _, rule in ipairs(place.chain() and place.chain().rules or {}) do names[#names + 1] = rule.name end
  elseif argument == "plugin" or argument == "backend" then
    names = {}
    for _, m in ipairs(place.call("console_modules", argument)) do names[#names + 1] = m.name end
  elseif argument == "protocol" then
    names = { "tcp", "udp" }
  elseif argument == "sort" then
    names = sort_names(text)
  elseif argument == "by" then
    names = { "experiment", "activity", "plugin", "rule", "protocol", "family", "src_port", "dst_port" }
  elseif argument == "state" then
    names = { "start", "ongoing", "end" }
  end
  return names or {}
end

-- The part of the line that the candidates replace, and these.
local function candidates(session, line)
  local call, inside = open_call(line)
  local text = line:match("[\"']([^\"']*)$")
  local _, quotes = line:gsub("[\"']", "")
  if text and quotes % 2 == 1 then
    return text, starting(strings(call, inside and inside:match("^(.*)[\"']") or "", text), text, {})
  end
  local word, at = value.in_front(line)
  if word then return word, starting(fields(at and value.get(at, session.env), word), word, {}) end
  word = line:sub(-WORDS_MAX):match("[%a_][%w_]*$") or ""
  local names = {}
  local command = call and commands.find(call)
  if command and command.arguments then
    for name in pairs(command.arguments) do names[#names + 1] = name end
    -- At the place of an argument's name nothing else makes sense.
    if inside:match("^%s*[%w_]*$") or inside:match("[,{]%s*[%w_]*$") then
      return word, starting(names, word, {})
    end
  end
  if word == "" and line:find("%S") then return "", {} end
  for _, name in ipairs(environment.names(session.env)) do names[#names + 1] = name end
  for _, name in ipairs(keywords) do names[#names + 1] = name end
  return word, starting(names, word, {})
end

--- Complete the end of a line: the word that is completed and each candidate go to the client, a line each.
---@param session flowd.console.Session
---@param line string up to the cursor
function complete.run(session, line)
  local word, list = candidates(session, line:sub(-LINE_MAX))
  session:write(word .. "\n" .. table.concat(list, "\n"))
end

return complete
