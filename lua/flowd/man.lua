-- SPDX-License-Identifier: Apache-2.0
--- The manual pages flowd-lua(8), flowd-lua.conf(5) and flowd-lua-rules(7), in mdoc(7): from the command table of
-- flowd.cli, the options of flowd.options and the schema of every built-in plugin and backend.
local cli = require("flowd.cli")
local config_print = require("flowd.config_print")
local man_rules = require("flowd.man_rules")
local options = require("flowd.options")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")

local man = {}

-- -- mdoc ------------------------------------------------------------------------------

local function utf8_escape(sequence)
  local first = sequence:byte()
  local code = first >= 0xF0 and first - 0xF0 or first >= 0xE0 and first - 0xE0 or first - 0xC0
  for i = 2, #sequence do code = code * 64 + sequence:byte(i) - 0x80 end
  return ("\\[u%04X]"):format(code)
end

-- Text that stands for itself, whatever it holds.
local function escape(text)
  return (text:gsub("\\", "\\e"):gsub("[\194-\244][\128-\191]+", utf8_escape):gsub("%-%-", "\\-\\-")
    -- Lua's functions are no C functions, which mandoc would like to be marked as such.
    :gsub("(%w)%(%)", "%1\\&()"))
end

-- A word as the argument of a macro.
local function argument(text)
  text = escape(text)
  if text:find('[%s"]') or text == "" then text = '"' .. text:gsub('"', '""') .. '"' end
  -- Punctuation alone would be set apart.
  if text:find("^[%.,:;%(%)%[%]%?!|]$") then text = "\\&" .. text end
  return text
end

local Page = {}
Page.__index = Page

local function new_page(title, section, date)
  local page = setmetatable({ lines = {} }, Page)
  page:macro(("Dd %s"):format(date))
  page:macro(("Dt %s %d"):format(title:upper(), section))
  page:macro("Os")
  return page
end

function Page:macro(text) self.lines[#self.lines + 1] = "." .. text end

-- An entry of a list, set in the type of a macro.
function Page:item(macro, text) self:macro(("It %s %s"):format(macro, argument(text))) end

-- A sentence in lines of at most 80 characters.
function Page:wrapped(text)
  local line = ""
  local function finish()
    -- A line that starts with a point or an apostrophe would be a macro.
    self.lines[#self.lines + 1] = (line:find("^[.']") and "\\&" or "") .. line
  end
  for word in text:gmatch("%S+") do
    if line ~= "" and #line + 1 + #word > 78 then
      finish()
      line = word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  finish()
end

-- Sentences, one a line as mdoc wants it; a blank line starts a paragraph.
function Page:text(text)
  local first = true
  for paragraph in (text .. "\n\n"):gmatch("(.-)\n%s*\n+") do
    if paragraph:find("%S") then
      if not first then self:macro("Pp") end
      first = false
      paragraph = paragraph:gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")
      -- The ends of sentences; "e.g." and the like are not followed by a capital letter.
      paragraph = paragraph:gsub("([%.:?!][%)\"]?) (%u)", "%1\n%2")
      for sentence in paragraph:gmatch("[^\n]+") do
        -- A call is no reference to a manual page.
        self:wrapped((escape(sentence):gsub("([%w_])%(%)", "%1(\\&)")))
      end
    end
  end
end

function Page:literal(text)
  self:macro("Bd -literal -offset indent")
  for line in (text .. "\n"):gmatch("(.-)\n") do
    line = escape(line)
    self.lines[#self.lines + 1] = line:find("^[.']") and "\\&" .. line or line
  end
  self:macro("Ed")
end

function Page:done() return table.concat(self.lines, "\n") .. "\n" end

-- -- flowd-lua(8) -------------------------------------------------------------------------

local function option_item(page, option)
  page:macro(("It %sFl %s%s"):format(option.short and ("Fl %s , "):format(option.short:sub(2)) or "",
    "\\-" .. option.name:sub(3), option.value and " Ar " .. option.value or ""))
  page:text(option.doc)
end

local function command_words(name)
  local words = { "Cm " .. name }
  for _, a in ipairs(cli.command(name).arguments or {}) do
    local word = "Ar " .. a.name .. (a.many and " ..." or "")
    words[#words + 1] = a.optional and "Op " .. word or word
  end
  return words
end

local function write_command(page, name)
  local command = cli.command(name)
  page:macro("It Xo")
  for _, words in ipairs(command_words(name)) do page:macro(words) end
  page:macro("Xc")
  page:text(command.doc)
  if command.options and #command.options > 0 then
    page:macro("Bl -tag -width Ds")
    for _, option in ipairs(command.options) do option_item(page, option) end
    page:macro("El")
  end
end

-- What outlives the process, and what does not.
local function survival(page)
  page:macro("Sh WHAT SURVIVES")
  page:text([[Marks are pinned in a BPF file system; open flows, input that was read, and counters are in the state file. A daemon
that is killed, replaces itself (SIGUSR2, a script that hangs) or stops with on_stop = "keep" leaves all of that to
the next start: packets of open flows are marked all the time, flows keep their start time and label, and lines that
were read are processed, at worst once more. None of it survives a reboot.]])
  page:macro("Pp")
  page:text([[Lines that wait in a pipe belong to the kernel, which keeps them for as long as a process has the pipe open. When the
daemon replaces itself it stays open. When it is killed, systemd holds it open for a unit with
FileDescriptorStoreMax=. Without that, what sat in the pipe while nobody held it open is lost, at most 1 MiB; programs
that have the pipe open get EPIPE, those that open it wait for the next start.]])
  page:macro("Pp")
  page:text([[Ends that were missed are found: three seconds after the start of a daemon that took over from a killed one, and again
a minute later, the open TCP flows are ended whose local socket had been seen in the daemon's network namespace and
does not exist any more. A start of an open flow whose socket is gone ends that flow first.
flowd_flows_missed_ends_total counts both.]])
  page:macro("Pp")
  page:text([[Lines that were in hand at a crash go one by one at the next start. The one that is in hand when the daemon dies again
is set aside in a file of state_dir, is logged and counted (flowd_input_set_aside_total), and the daemon goes on
behind it.]])
end

--- flowd-lua(8).
---@param date string as mdoc writes it: "January 2, 2026"
---@return string
function man.daemon(date)
  local page = new_page("flowd-lua", 8, date)
  page:macro("Sh NAME")
  page:macro("Nm flowd-lua")
  page:macro("Nd mark network flows with experiment and activity, and report them")
  page:macro("Sh SYNOPSIS")
  page:macro("Nm")
  page:macro("Op Ar options")
  page:macro("Ar command")
  page:macro("Op Ar arguments")
  page:macro("Sh DESCRIPTION")
  page:macro("Nm")
  page:text([[learns from its plugins which network flows belong to which experiment and activity (SciTags),
lets the rules of the site decide about each, and hands them to its backends: packets get a flow label, collectors
get fireflies.]])
  page:macro("Pp")
  page:text([[Rules, and plugins and backends of a site's own, are Lua. What is configured is described in]])
  page:macro("Xr flowd-lua.conf 5 .")
  page:macro("Sh COMMANDS")
  page:macro("Bl -tag -width Ds")
  for _, name in ipairs(cli.commands) do write_command(page, name) end
  page:macro("El")
  page:macro("Sh OPTIONS")
  page:text("Options stand before or after the command.")
  page:macro("Bl -tag -width Ds")
  for _, option in ipairs(cli.options) do option_item(page, option) end
  page:macro("El")
  page:macro("Sh SIGNALS")
  page:macro("Bl -tag -width Ds")
  page:macro("It Dv SIGTERM , SIGINT")
  page:text([[End all open flows, send their last messages, remove all marks and files, and exit. This takes at most
stop_deadline.]])
  page:macro("It Dv SIGUSR1")
  page:text("Log every counter.")
  page:macro("It Dv SIGHUP")
  page:text([[Load the configuration and its files again. When anything is wrong with them, every error is logged with its file
and line and nothing changes. It is loaded a few milliseconds at a time while events go on; one that takes more CPU time
than load_timeout is given up, and another signal meanwhile begins anew. Then rules are exchanged between two batches
of events, and plugins and
backends whose options changed are stopped and started; the others keep their pipes, sockets and marks, and the
marker takes new options without leaving a packet unmarked.
Directories, pid_file and max_flows are taken at the next restart. Rules, plugins and backends that were switched off,
because they kept failing or never returned, are on again.]])
  page:macro("It Dv SIGUSR2")
  page:text([[Replace the process by the binary that stands at its path now, for an upgrade. That one first checks the
configuration and the state file; if it refuses, the old one goes on and logs why. Process id, pipes, open flows and marks stay.]])
  page:macro("El")
  survival(page)
  page:macro("Sh SCRIPTS THAT NEVER RETURN")
  page:text([[A rule, plugin or backend that uses 0.6 seconds of CPU time without returning, or blocks for 1.2 seconds, does not
stop the daemon: the process is replaced in place, with the same process id, open flows, pipes and unfinished input. The log names the
script, flowd_scripts_hung_total counts it,
flowd_hang_microseconds tells how long events waited, and it stays switched off until a reload or restart. What runs is the
configuration that was accepted before, whatever its files say meanwhile.]])
  page:macro("Sh RULES THAT ARE SLOW")
  page:text([[Of some events the time is measured that each rule takes: of all while there is little to do, of so few when there is
much that it takes less than half a percent of the time. A rule that takes more than slow_rule_percent of the daemon's time is named in
the log, with its share and its time for each event, at most every five minutes, and counted (flowd_rule_slow_total). Its share is of all
time, also of that in which there is nothing to do: at 10 % the daemon does a tenth less than it could. flowd_rule_microseconds_total is
what each rule took, estimated.]])
  page:macro("Sh SCRIPTS AND MEMORY")
  page:text([[Rules, maps, timers and the configuration itself have a Lua state of their own, whose memory memory_limit limits.
A script that asks for more gets the error "not enough memory", and the event goes on as if the rule had not
matched. When that much is really in use, the rule or timer that holds most is switched off, logged and counted
(flowd_memory_off_total), and what it held is freed; it is on again after a reload or restart. While a reload is under way there
are two such states. Memory of C code for maps of prefixes and patterns counts too.

Plugins and backends live in the daemon's own Lua state. Each of them may hold as much as memory_limit says: what asks for more
gets the error, and one that holds it, garbage not counted, is stopped and listed as failed until a reload or
restart. What waits in its connections, to be written or to be read, is its memory too, and may fill seven eighths of it: a write
beyond that is refused, and a connection that receives more is closed; both are logged and counted (flowd_memory_refused_total).
Memory that a plugin takes by FFI calls of C functions is its own affair.

A script that takes memory so slowly that it is not back in time is treated as one that never returns, and so is
one whose compiled code takes twice the limit at once.]])
  page:macro("Sh TIMERS IN CONFIGURATION FILES")
  page:text([[flowd.every(seconds, function) and flowd.after(seconds, function) in a configuration or rule file run a function
every so many seconds, or once, while the configuration is in use. They give an object whose :stop() ends it. A timer that
raises is logged and counted (flowd_timer_errors_total); one that raises five times in a row, or never returns, is switched off.
What is switched off is listed by]])
  page:macro("Nm")
  page:text("stats: flowd_script_off.")
  page:macro("Sh FILES")
  page:macro("Bl -tag -width Ds")
  page:macro("It Pa " .. cli.default_conf)
  page:text("The configuration, unless --conf names another.")
  page:macro("It Pa " .. options.global.state_dir.default .. "/set-aside-*")
  page:text("Lines that the daemon died of twice. They can be written into the pipe again.")
  page:macro("It Pa " .. options.global.runtime_dir.default .. "/state")
  page:text("Open flows and counters of the running daemon, in the configured runtime_dir.")
  page:macro("El")
  page:macro("Sh EXIT STATUS")
  page:macro("Bl -tag -width Ds -compact")
  for _, row in ipairs({ { "0", "Done." }, { "1", "Failed; a message on standard error says why." },
    { "2", "Wrongly used: unknown command, option or argument." } }) do
    page:macro("It " .. row[1])
    page:text(row[2])
  end
  page:macro("El")
  page:macro("Sh EXAMPLES")
  page:text("Check the configuration, then run:")
  page:literal("flowd-lua check && flowd-lua run")
  page:macro("Pp")
  page:text("Announce a flow to the pipe plugin, and its end:")
  page:literal("p=" .. options.global.runtime_dir.default .. "/np\n"
    .. "echo 'start tcp 2001:db8::1 1094 2001:db8::2 40000 atlas data_challenge' > $p\n"
    .. "echo 'end tcp 2001:db8::1 1094 2001:db8::2 40000 atlas data_challenge' > $p")
  page:macro("Sh SEE ALSO")
  page:macro("Xr flowd-lua.conf 5 ,")
  page:macro("Xr flowd-lua-rules 7 ,")
  page:macro("Xr tc 8")
  return page:done()
end

-- -- flowd-lua.conf(5) -------------------------------------------------------------------

local write_fields

local function write_field(page, name, field)
  page:item("Va", name)
  page:text(schema.description(field))
  if field.kind == "table" then
    write_fields(page, field)
    return
  end
  if field.required then
    page:text("Must be given.")
  elseif field.default ~= nil and not (field.kind == "map" or field.kind == "rules") then
    page:text("Default:")
    page:macro("Li " .. argument(config_print.value(field.default)) .. " .")
  end
end

write_fields = function(page, field)
  page:macro("Bl -tag -width Ds")
  for _, entry in ipairs(schema.ordered(field)) do write_field(page, entry.name, entry.field) end
  page:macro("El")
end

local function write_modules(page, kind)
  for _, name in ipairs(plugins.builtin(kind)) do
    local module = assert(plugins.find(kind, name))
    page:macro(("Ss %s %s"):format(kind == "plugins" and "Plugin" or "Backend", name))
    page:text(module.doc)
    write_fields(page, schema.as_field(module.schema))
  end
end

--- flowd-lua.conf(5).
---@param date string as mdoc writes it: "January 2, 2026"
---@return string
function man.configuration(date)
  local page = new_page("flowd-lua.conf", 5, date)
  page:macro("Sh NAME")
  page:macro("Nm flowd-lua.conf")
  page:macro("Nd configuration of flowd-lua")
  page:macro("Sh DESCRIPTION")
  page:text([[The configuration is a Lua file that returns one table. What is left out has its default; everything that
acts is opt-in, so that]])
  page:macro("Li return {}")
  page:text([[is a valid configuration that does nothing.]])
  page:macro("Pp")
  page:text([[Every option is checked before anything starts. An unknown name, a wrong type or a value out of range is an
error that names the file, the line and the option; flowd-lua check tells all of them at once.

The file, and every file of rules, plugins and backends that it names, must belong to root or to the owner of the
configuration file and be writable by nobody else; so must every directory above it, unless its sticky bit is set.
An error names the component of the path that is not so.

Lua in the configuration and in files of rules can compute, but reach nothing outside: there is no io and no os.execute,
and require finds files below the configuration's directory only.
Names of files in the configuration itself are relative to its directory; those of the running daemon, such as
runtime_dir and pipes, to the working directory.]])
  page:macro("Sh OPTIONS")
  write_fields(page, { kind = "table", fields = options.global })
  page:macro("Sh PLUGINS AND BACKENDS")
  page:text("Each has, besides its own, these options:")
  write_fields(page, { kind = "table", fields = options.instance })
  write_modules(page, "plugins")
  write_modules(page, "backends")
  page:macro("Sh RULES")
  page:text([[Rules decide what becomes of a flow. They are functions of the flow or declarations, in the list of rules or in
files that it names:]])
  page:literal([[
rule "inside the site" (function(flow)
  if flow.dst:within("2001:db8:10::/48") then return drop end
end)]])
  page:macro("Pp")
  page:text("Everything that they can use is described in")
  page:macro("Xr flowd-lua-rules 7 .")
  page:macro("Sh FILES")
  page:macro("Bl -tag -width Ds")
  page:macro("It Pa " .. cli.default_conf)
  page:text("Where flowd-lua looks for it.")
  page:macro("El")
  page:macro("Sh EXAMPLES")
  page:text("Mark and report what is announced, and drop what stays inside the site:")
  page:literal([[
return {
  plugins = { pipe = {} },
  backends = {
    marker = { interfaces = { "eth0" } },
    firefly = { collectors = { "collector.example.org" } },
  },
  rules = {
    rule "inside" (function(flow)
      if flow.dst:is_private() then return drop end
    end),
  },
}]])
  page:macro("Sh SEE ALSO")
  page:macro("Xr flowd-lua-rules 7 ,")
  page:macro("Xr flowd-lua 8")
  return page:done()
end

-- A page that is made from annotations; `files`: what it says of FILES, path and text in turn.
local function annotated(name, date, what, annotations, files, see_also)
  local page = new_page(name, 7, date)
  page:macro("Sh NAME")
  page:macro("Nm " .. name)
  page:macro("Nd " .. what)
  man_rules.write(page, annotations)
  if #files > 0 then
    page:macro("Sh FILES")
    page:macro("Bl -tag -width Ds")
    for i = 1, #files, 2 do
      page:macro("It Pa " .. files[i])
      page:text(files[i + 1])
    end
    page:macro("El")
  end
  page:macro("Sh SEE ALSO")
  for _, other in ipairs(see_also) do page:macro("Xr " .. other) end
  return page:done()
end

--- flowd-lua-rules(7).
---@param date string as mdoc writes it: "January 2, 2026"
---@param annotations string text of conf/annotations/rules.lua
---@return string
function man.rules(date, annotations)
  return annotated("flowd-lua-rules", date, "rules of flowd-lua, and all that they can use", annotations, {
    "/usr/share/flowd-lua/cookbook", "Policies to copy, each a file of at most ten lines.",
    "/usr/share/flowd-lua/annotations",
    "For editors with a Lua language server: what completes and checks rules, the configuration, plugins and backends.",
  }, { "flowd-lua.conf 5 ,", "flowd-lua-plugins 7 ,", "flowd-lua 8" })
end

--- flowd-lua-plugins(7).
---@param date string as mdoc writes it: "January 2, 2026"
---@param annotations string text of conf/annotations/plugins.lua
---@return string
function man.plugins(date, annotations)
  return annotated("flowd-lua-plugins", date, "plugins and backends of a site's own for flowd-lua", annotations, {},
    { "flowd-lua.conf 5 ,", "flowd-lua-rules 7 ,", "flowd-lua 8" })
end

--- flowd-lua-console(7).
---@param date string
---@return string
function man.console(date) return require("flowd.man_console").write(new_page("flowd-lua-console", 7, date)) end

return man
