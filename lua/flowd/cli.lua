-- SPDX-License-Identifier: Apache-2.0
--- The command line. One table says what commands and options there are: this parser, the help
-- and the manual are all made from it.
--
-- An option is { name = "--conf", short = "-c"?, value = "FILE"?, choices = {…}?, doc = "…" }; one without `value`
-- is a switch. A command is a module flowd.commands.NAME that returns
--   summary    one line
--   doc        paragraphs for the manual
--   arguments  list of { name = "NAME", optional = true?, many = true? (the last one: any number of words), doc = "…" }
--   options    list of options of its own
--   raw        true: what follows the command is not parsed, but handed on as it is
--   run        function(arguments, options, argv) -> exit status (0 done, 1 failed, 2 wrongly used)
-- Options may stand before or after the command; `options.log_level` is the value of --log-level.
local api = require("flowd.api")
local log = require("flowd.log")
local suggest = require("flowd.suggest")

local cli = {}

cli.default_conf = "/etc/flowd-lua/conf.lua"

--- Options of every command.
cli.options = {
  { name = "--conf", value = "FILE", doc = "The configuration file; by default " .. cli.default_conf .. "." },
  {
    name = "--log-level", value = "LEVEL", choices = { "trace", "debug", "info", "warn", "error" },
    doc = "The least urgent messages that are logged: trace, debug, info, warn or error. Overrides the configuration.",
  },
  { name = "--log-time", doc = "Start each log line with the time (UTC). Overrides the configuration." },
  {
    name = "--lua-path", value = "DIRECTORY",
    doc = "Take Lua modules from files below this directory before those inside the binary. For development.",
  },
  { name = "--help", short = "-h", doc = "Show help, for the command if there is one, and exit." },
  { name = "--version", doc = "Show the version and exit." },
}

--- Names of the commands, in the order of the help.
cli.commands = { "run", "check", "explain", "reapply", "conf", "console", "eval", "stats", "marker", "registry", "lua", "version", "help" }

--- Other names of commands.
cli.aliases = { repl = "console" }

--- A command's module, or nil.
---@param name string
---@return table|nil
function cli.command(name)
  for _, known in ipairs(cli.commands) do
    if known == name then return require("flowd.commands." .. name) end
  end
  return nil
end

local function usage_error(format, ...)
  error({ usage = format:format(...) }, 0)
end

-- Every option of every command and the common ones, by name.
local function all_options()
  local by_name, names = {}, {}
  local function add(list)
    for _, option in ipairs(list or {}) do
      if not by_name[option.name] then names[#names + 1] = option.name end
      by_name[option.name] = { option = option }
      if option.short then by_name[option.short] = by_name[option.name] end
    end
  end
  for _, name in ipairs(cli.commands) do add(cli.command(name).options) end
  add(cli.options)
  return by_name, names
end

local function check_value(option, value)
  if not option.choices then return value end
  for _, choice in ipairs(option.choices) do
    if choice == value then return value end
  end
  usage_error('%s: expected one of %s; got "%s"%s', option.name, table.concat(option.choices, ", "), value,
    suggest.hint(value, option.choices))
end

-- An option by name: a common one without a look at the commands, all of which would be loaded.
local function find_option(name)
  for _, option in ipairs(cli.options) do
    if option.name == name or option.short == name then return { option = option } end
  end
  local by_name, names = all_options()
  return by_name[name], names
end

-- One option at argv[i]; returns the index of its last word.
local function parse_option(argv, i, given)
  local word = argv[i]
  local name, value = word:match("^(%-%-[^=]+)=(.*)$")
  name = name or word
  local known, names = find_option(name)
  if not known then usage_error('unknown option "%s"%s', name, suggest.hint(name, names)) end
  local option = known.option
  if not option.value then
    if value then usage_error("%s takes no value", option.name) end
    value = true
  elseif not value then
    i = i + 1
    value = argv[i]
    if not value then usage_error("%s needs a value: %s %s", option.name, option.name, option.value) end
  end
  given[#given + 1] = { option = option, value = value == true or check_value(option, value) }
  return i
end

--- Take a command line apart.
---@param argv string[]
---@return { command: string?, arguments: string[], options: table, rest: string[]? }
function cli.parse(argv)
  local given, words, command = {}, {}, nil
  local i, rest, literal = 1, nil, false
  while argv[i] do
    local word = argv[i]
    if not literal and word == "--" then
      literal = true
    elseif not literal and word:find("^%-.") then
      i = parse_option(argv, i, given)
    elseif command then
      words[#words + 1] = word
    else
      command = cli.aliases[word] or word
      local module = cli.command(command)
      if not module then
        usage_error('unknown command "%s"%s', command, suggest.hint(command, cli.commands))
      end
      if module.raw then
        rest = { unpack(argv, i + 1) }
        break
      end
    end
    i = i + 1
  end
  return { command = command, arguments = words, rest = rest, options = cli.check_options(command, given) }
end

--- The options that were given, as a table; those of another command are refused.
function cli.check_options(command, given)
  local options = {}
  local own = {}
  for _, list in ipairs({ cli.options, command and cli.command(command).options or {} }) do
    for _, option in ipairs(list) do own[option.name] = true end
  end
  for _, g in ipairs(given) do
    if command and not own[g.option.name] then
      usage_error("%s is no option of the command %s", g.option.name, command)
    end
    options[g.option.name:sub(3):gsub("-", "_")] = g.value
  end
  return options
end

local function check_arguments(command, arguments)
  local expected = cli.command(command).arguments or {}
  for position, argument in ipairs(expected) do
    if not arguments[position] and not argument.optional then
      usage_error("%s: missing %s", command, argument.name)
    end
  end
  local last = expected[#expected]
  if #arguments > #expected and not (last and last.many) then
    usage_error('%s: unexpected argument "%s"', command, arguments[#expected + 1])
  end
end

local function dispatch(argv)
  local parsed = cli.parse(argv)
  local options = parsed.options
  log.setup(options.log_level or "info", options.log_time or false)
  if options.version then parsed.command, parsed.arguments = "version", {} end
  if options.help and not parsed.rest then
    parsed.command, parsed.arguments = "help", { parsed.command }
  end
  if not parsed.command then usage_error("no command given") end
  if not parsed.rest then check_arguments(parsed.command, parsed.arguments) end
  return cli.command(parsed.command).run(parsed.rest or parsed.arguments, options)
end

--- Run a command line. Results go to standard output, messages to standard error.
---@param argv table arguments, the program's name at 0
---@return integer status of the process
function cli.main(argv)
  local ok, status = xpcall(dispatch, function(err)
    if type(err) == "table" and (err.usage or err.failure or err.errors) then return err end
    return debug.traceback(tostring(err), 2)
  end, argv)
  if ok then
    status = status or 0
  elseif type(status) == "table" and status.usage then
    io.stderr:write("flowd-lua: ", status.usage, "\nflowd-lua help lists commands and options.\n")
    return 2
  elseif type(status) == "table" and status.errors then
    -- As compilers do, so that editors find the place.
    io.stderr:write(table.concat(status.errors, "\n"), "\n")
    return 1
  elseif type(status) == "table" then
    io.stderr:write("flowd-lua: ", status.failure, "\n")
    return 1
  else
    io.stderr:write("flowd-lua: internal error: ", status, "\n")
    return 1
  end
  -- A full disk or a reader that left must not look like success.
  local written, message = io.stdout:flush()
  if not written and status == 0 then
    io.stderr:write("flowd-lua: standard output: ", tostring(message), "\n")
    return 1
  end
  return status
end

--- For commands: end with a message and status 1.
---@param format string as string.format
function cli.fail(format, ...) error({ failure = format:format(...) }, 0) end

--- For commands: the configuration that the options name, and its rules. All its errors are told, then the
--- command ends with status 1.
---@param options table
---@param kept flowd.Snapshot?
---@return flowd.Config
---@return flowd.PolicyBuilder builder to be closed
function cli.load_policy(options, kept)
  api.watchdog_guard()
  local loaded, errors, builder = require("flowd.policy_config").load(options.conf or cli.default_conf,
    { log_level = options.log_level, log_time = options.log_time, user = options.user }, kept)
  if not loaded then error({ errors = errors }, 0) end
  return loaded, builder
end

--- The same without its rules.
---@param options table
---@return flowd.Config
function cli.load_config(options)
  local loaded, builder = cli.load_policy(options)
  builder:close()
  return loaded
end

return cli
