-- SPDX-License-Identifier: Apache-2.0
--- flowd-lua-console(7): from the same table as help() at the prompt.
local commands = require("flowd.console.commands")

local man_console = {}

local function write_command(page, command)
  page:macro("Ss " .. command.name)
  page:literal(command.usage)
  page:text(command.summary:sub(1, 1):upper() .. command.summary:sub(2) .. ".")
  page:text(command.doc)
  if command.arguments then
    local names = {}
    for name in pairs(command.arguments) do names[#names + 1] = name end
    table.sort(names)
    page:macro("Bl -tag -width Ds")
    for _, name in ipairs(names) do
      page:item("Va", name)
      page:text(command.arguments[name])
    end
    page:macro("El")
  end
  if command.changes then page:text("It changes something: not for those who may only ask, and logged with the user.") end
  page:text("Example:")
  page:literal(command.example)
end

--- The page.
---@param page table of flowd.man
---@return string
function man_console.write(page)
  page:macro("Sh NAME")
  page:macro("Nm flowd-lua-console")
  page:macro("Nd the Lua prompt into the running daemon")
  page:macro("Sh SYNOPSIS")
  page:macro("Nm flowd-lua console")
  page:macro("Nm flowd-lua eval")
  page:macro("Ar CODE")
  page:macro("Sh DESCRIPTION")
  page:text([[What is typed is Lua. It runs in the daemon, in the environment of its policy: whatever rule files may use is there,
and nothing more; besides there are the commands below. The value of an expression is shown. What is assigned to a name
stays until the client leaves or the configuration is loaded anew; _ is the last result.

An expression never keeps events waiting: it is interpreted, and left after a millisecond or two, wherever it is, so that events
are handled; then it goes on. A single call of a C function, such as string.find with a hard pattern, cannot be left; one
that takes longer than half a second is treated as any script that never returns is. What is done in one go may not be so
large that events wait: a list has at most 65,536 entries at the prompt, another table 32,768, a text 65,536 octets, within()
takes a list of at most 1,000 prefixes. LuaJIT keeps all texts in one table, which grows in one go: when clients hold more than
2 MB, there may be 65,536 different texts, those of rules and their data included. All clients together may hold an eighth of
memory_limit; when that is not enough, names that were assigned by the one who holds most are let go, and it is told so. A
command takes texts of at most 4,096 octets and 2,000 values: what is larger belongs into files.

At a terminal an unfinished line goes on on the next one. The Tab key completes commands, their named arguments, names of
experiments, rules, plugins and backends, and fields: of tables, and of what a command that only asks returns, as in
flow(1). or flows{limit=1}[1]. (it is asked then; nothing else is ever run to complete a line). The history has what was
entered, several lines that belong together as one; Ctrl-R searches it. Ctrl-C gives a line up, or interrupts what runs and
tells where it was. Ctrl-D leaves, as do the words exit and quit.
~/.editrc can bind other keys, see editrc(5).]])
  page:macro("Sh WHO MAY")
  page:text([[Root, the user that the daemon runs as, and the members of the group that the option console.group names. Members of
console.readonly_group may ask, but not change anything: of flowd they have prefixes and address only. The kernel tells the daemon
who is at the other end of the socket. Each change is logged with the user.]])
  page:macro("Sh COMMANDS")
  for _, command in ipairs(commands.list) do write_command(page, command) end
  page:macro("Sh PROTOCOL")
  page:text([[Programs had better use flowd-lua eval --json. The socket is a Unix stream socket. A frame is a head of eight octets
and a body: the length of the body (four octets, the most significant first), the version (1), the type, the status (0 in
requests), 0. A request's body has at most 65536 octets.

Requests: type 1, evaluate: options (format=json, width=COLUMNS) separated by blanks, a newline, Lua; type 2, complete: the same with a
line up to the cursor; type 3, interrupt what runs. Replies: type 17, output, any number of them (status 1: for people,
where the result is JSON); type 18, the end, whose status is 0 done, 1 error, 2 unfinished, 3 interrupted, 4 refused, 5 malformed,
6 too many clients, and whose body says why.

A client that does not read for as long as the option console.patience says is dropped.]])
  page:macro("Sh FILES")
  page:macro("Bl -tag -width Ds")
  page:item("Pa", "/run/flowd-lua/console")
  page:text("The socket, unless console.path or runtime_dir say otherwise.")
  page:item("Pa", "~/.local/state/flowd-lua/console_history")
  page:text("What was typed; below XDG_STATE_HOME when that is set.")
  page:macro("El")
  page:macro("Sh SEE ALSO")
  page:macro("Xr flowd-lua.conf 5 ,")
  page:macro("Xr flowd-lua 8")
  return page:done()
end

return man_console
