-- SPDX-License-Identifier: Apache-2.0
--- The console's commands. This list is the source of help(), of completion and of flowd-lua-console(7).
--
-- A command is { name, usage, summary, doc, example, changes, asks, query, run }: `changes` says that it changes something,
-- which a client with read access may not, unless asks(...) says that with these arguments it does not; `query` that it
-- has no effect at all, so that completion may run it; run(session, ...) returns values, which are shown. Their files may
-- be left anywhere.
jit.off(true, true)

local arguments = require("flowd.console.arguments")
local format = require("flowd.console.format")
local suggest = require("flowd.suggest")

require("flowd.slice").may_be_left()

local commands = {}

---@class flowd.console.Command
---@field name string
---@field usage string how it is called
---@field summary string one line
---@field doc string paragraphs
---@field example string something to type that works as it stands
---@field changes boolean? true: it changes something
---@field asks? fun(...): boolean with these arguments it does not
---@field query boolean? true: it returns something, soon, and nothing else comes of it
---@field anything boolean? true: its arguments are not looked at by functions that cannot be left
---@field arguments table<string, string>? named arguments and what each means
---@field run fun(session: flowd.console.Session, ...): ...

--- All of them, in the order of the manual.
---@type flowd.console.Command[]
commands.list = {}

local by_name = {}

local groups = { "flows", "rules", "daemon" }

local function add(command)
  commands.list[#commands.list + 1] = command
  by_name[command.name] = command
end

---@param name string
---@return flowd.console.Command|nil
function commands.find(name) return by_name[name] end

---@return string[]
function commands.names()
  local names = {}
  for i, command in ipairs(commands.list) do names[i] = command.name end
  return names
end

-- The functions that were made for sessions, so that help(flows) knows which one it is.
local made = setmetatable({}, { __mode = "k" })

--- Which command a function is.
---@param fn function
---@return flowd.console.Command|nil
function commands.of(fn) return made[fn] end

--- A check for named arguments: unknown ones are errors.
---@param command flowd.console.Command|string
---@param given any
---@param called? string name for messages, if another
function commands.check_arguments(command, given, called)
  if type(command) == "string" then command = by_name[command] end
  called = called or command.name
  if type(given) ~= "table" then
    error(("%s: expected a table, as in %s; got %s"):format(called, command.usage, type(given)), 0)
  end
  local names = {}
  for name in pairs(command.arguments) do names[#names + 1] = name end
  table.sort(names)
  for key in pairs(given) do
    if not command.arguments[key] then
      error(("%s: there is no argument %s%s"):format(called, tostring(key),
        type(key) == "string" and suggest.hint(key, names) or "; they have names, as in " .. command.usage), 0)
    end
  end
end

--- The commands as functions of one session.
---@param session flowd.console.Session
---@return table<string, function>
function commands.bind(session)
  local out = {}
  for _, command in ipairs(commands.list) do
    local function call(...)
      if not command.anything then arguments.check(command.name, ...) end
      if command.changes and not (command.asks and command.asks(...)) then session:may_change(command.name) end
      return command.run(session, ...)
    end
    made[call] = command
    out[command.name] = call
  end
  return out
end

local function wrap(text, width, indent)
  local lines, line = {}, ""
  for word in text:gmatch("%S+") do
    if #line + #word + 1 > width - #indent and line ~= "" then
      lines[#lines + 1] = indent .. line
      line = word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = indent .. line
  return table.concat(lines, "\n")
end

local function show_command(command, write, width)
  write(command.usage .. "\n")
  write(wrap(command.summary, width, "  ") .. "\n\n")
  for paragraph in (command.doc .. "\n\n"):gmatch("(.-)\n\n+") do write(wrap(paragraph, width, "") .. "\n\n") end
  if command.arguments then
    local names = {}
    for name in pairs(command.arguments) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do
      write("  " .. name .. "\n" .. wrap(command.arguments[name], width, "      ") .. "\n")
    end
    write("\n")
  end
  write("Example: " .. command.example .. "\n")
  if command.changes then write("Not for those who may only ask (console.readonly_group); logged.\n") end
end

local function show_all(write, width)
  local longest = 0
  for _, command in ipairs(commands.list) do longest = math.max(longest, #command.usage) end
  for _, command in ipairs(commands.list) do
    write(("%-" .. longest .. "s  %s\n"):format(command.usage, command.summary))
  end
  write("\n" .. wrap([[Anything else is Lua: 1 + 1, #flows{}, for _, f in ipairs(flows{}) do print(f.src) end. What is assigned
to a name stays until you leave; _ is the last result. help(NAME) tells more.]], width, "") .. "\n")
end

add({
  name = "help", usage = "help([NAME])", summary = "what there is, or what one command does", query = true,
  doc = "Without a name it lists all commands. A name may be given as text or as the command itself.",
  example = "help(flows)",
  run = function(_, name)
    local command = made[name] or by_name[name]
    if name ~= nil and not command then
      error(("help: there is no command %s%s"):format(tostring(name),
        type(name) == "string" and suggest.hint(name, commands.names()) or ""), 0)
    end
    return format.view({}, {
      text = function(_, write, width)
        if command then show_command(command, write, width) else show_all(write, width) end
      end,
      plain = function()
        local out = {}
        for i, c in ipairs(command and { command } or commands.list) do
          out[i] = { name = c.name, usage = c.usage, summary = c.summary, doc = c.doc, example = c.example,
            changes = c.changes or false }
        end
        return out
      end,
    })
  end,
})

add({
  name = "print", usage = "print(…)", summary = "writes values in a line, as Lua does",
  doc = "Values are separated by tabs. With eval --json the text goes to standard error.",
  example = 'print("flows:", #flows{})', anything = true,
  run = function(session, ...)
    local parts = {}
    for i = 1, select("#", ...) do
      local value = select(i, ...)
      parts[i] = type(value) == "string" and value or format.line(value, math.huge)
    end
    session:say(table.concat(parts, "\t") .. "\n")
  end,
})

for _, group in ipairs(groups) do
  for _, command in ipairs(require("flowd.console.commands_" .. group)) do add(command) end
end

return commands
