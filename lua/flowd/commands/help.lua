-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")
local suggest = require("flowd.suggest")

local help = {
  summary = "show help",
  doc = "Lists the commands and options, or shows those of one command.",
  arguments = { { name = "COMMAND", optional = true, doc = "The command to explain." } },
}

--- "registry [NAME]"
local function synopsis(name)
  local words = { name }
  for _, argument in ipairs(cli.command(name).arguments or {}) do
    local word = argument.name .. (argument.many and "..." or "")
    words[#words + 1] = argument.optional and "[" .. word .. "]" or word
  end
  return table.concat(words, " ")
end

-- Break text at blanks to lines of at most `width` characters.
local function wrap(text, width)
  local lines, line = {}, ""
  for word in text:gmatch("%S+") do
    if line ~= "" and #line + 1 + #word > width then
      lines[#lines + 1], line = line, ""
    end
    line = line == "" and word or line .. " " .. word
  end
  lines[#lines + 1] = line
  return lines
end

local function print_rows(rows)
  local width = 0
  for _, row in ipairs(rows) do width = math.max(width, #row[1]) end
  for _, row in ipairs(rows) do
    local lines = wrap(row[2], 76 - width)
    for i, line in ipairs(lines) do
      print(("  %-" .. width .. "s  %s"):format(i == 1 and row[1] or "", line))
    end
  end
end

local function option_rows(list)
  local rows = {}
  for _, option in ipairs(list) do
    local head = (option.short and option.short .. ", " or "") .. option.name .. (option.value and " " .. option.value or "")
    rows[#rows + 1] = { head, option.doc }
  end
  return rows
end

local function show_command(name)
  local command = cli.command(name)
  print(("usage: flowd-lua [options] %s\n"):format(synopsis(name)))
  for paragraph in (command.doc .. "\n\n"):gmatch("(.-)\n\n+") do
    for _, line in ipairs(wrap(paragraph, 78)) do print(line) end
  end
  if command.arguments and #command.arguments > 0 then
    local rows = {}
    for _, argument in ipairs(command.arguments) do rows[#rows + 1] = { argument.name, argument.doc } end
    print("\narguments:")
    print_rows(rows)
  end
  if command.options and #command.options > 0 then
    print("\noptions:")
    print_rows(option_rows(command.options))
  end
  print("\noptions of every command:")
  print_rows(option_rows(cli.options))
end

local function show_all()
  print("usage: flowd-lua [options] COMMAND [arguments]\n")
  print("Marks network flows with their experiment and activity (SciTags) and reports them with fireflies.\n")
  print("commands:")
  local rows = {}
  for _, name in ipairs(cli.commands) do rows[#rows + 1] = { synopsis(name), cli.command(name).summary } end
  print_rows(rows)
  print("\noptions, before or after the command:")
  print_rows(option_rows(cli.options))
  print("\nflowd-lua help COMMAND explains a command; see also flowd-lua(8) and flowd-lua.conf(5).")
end

function help.run(arguments)
  local name = arguments[1]
  if name and not cli.command(name) then
    error({ usage = ('help: unknown command "%s"%s'):format(name, suggest.hint(name, cli.commands)) }, 0)
  end
  if name then show_command(name) else show_all() end
  return 0
end

return help
