-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")
local explain = require("flowd.explain")
local json = require("flowd.json")

-- Empty lists are lists.
local function mark_lists(report)
  json.array(report.rules)
  for _, rule in ipairs(report.rules) do
    json.array(rule.changes)
    if rule.conditions then json.array(rule.conditions) end
  end
  if report.result.route then json.array(report.result.route) end
  return report
end

-- Ask the running daemon. Returns its report; or nil, what is wrong with the flow; or nil, nil and why it was not asked.
local function ask_daemon(text, options)
  local client = require("flowd.console.client")
  local path = client.path(options)
  local connection, refusal = client.connect(path)
  if not connection then return nil, nil, refusal end
  local out = {}
  local status, message = connection:ask("eval", ("explain(%q)"):format(text), { format = "json" }, function(output, kind)
    if kind ~= 1 then out[#out + 1] = output end
  end)
  connection:close()
  if status == client.status.error then return nil, (message:gsub("^explain: ", "")) end
  if status ~= client.status.ok then return nil, nil, ("%s: %s"):format(path, message ~= "" and message or "refused") end
  local report = require("flowd.json_parser").decode(table.concat(out))
  if type(report) ~= "table" then return nil, nil, path .. ": what it answered is no report" end
  report.of = "the running daemon"
  return report
end

local function ask_files(text, options)
  local config, builder = cli.load_policy(options)
  local report, message = builder.policy:call("flowd.policy_explain.run", text)
  builder:close()
  if report then report.of = config.path end
  return report, message
end

return {
  summary = "show what the rules would make of a flow, rule by rule, and why",
  arguments = {
    { name = "FLOW", many = true, doc = "tcp|udp SOURCE PORT DESTINATION PORT [EXPERIMENT ACTIVITY] [KEY=VALUE ...]" },
  },
  doc = [[
Runs rules dry on a flow that you describe, as in

explain tcp 2001:db8::1 1094 2001:db8::2 40000 atlas 0 plugin=pipe

and tells of each rule whether it matched, which condition did not hold (what the flow says, what the rule expects), what it
changed, and how long it took; then where the flow would go. Nothing is sent, marked or counted, and what rules remember
in flowd.state, the turns of maps and timers are afterwards as they were.

The rules are those of the running daemon, as they are now, asked for through its console. When no daemon answers there, those
in the files of the configuration are taken, and a line says so. With --conf it is the rules of that configuration, whatever runs;
a rule that never returns then ends the command, which names it, with status 1.

start, ongoing or end may stand first. Keys are state, plugin, experiment, activity, application, time (UTC), start_time,
bytes_sent and bytes_received. A value with blanks stands in double quotes; in names _ stands for a blank.]],
  options = {
    { name = "--json", doc = "The report as one JSON object." },
    { name = "--brief", doc = "Leave out rules that did nothing." },
    { name = "--socket", value = "FILE", doc = "The console's socket; by default that of the configuration." },
  },
  run = function(arguments, options)
    local text = table.concat(arguments, " ")
    local report, message, not_asked
    if options.conf and not options.socket then
      report, message = ask_files(text, options)
    else
      report, message, not_asked = ask_daemon(text, options)
      if not_asked then
        if options.socket then cli.fail("explain: %s", not_asked) end
        io.stderr:write(("flowd-lua: explain: %s: what the files of %s say is explained\n"):format(not_asked, cli.default_conf))
        report, message = ask_files(text, options)
      end
    end
    if not report then
      io.stderr:write("flowd-lua: explain: ", message, "\n")
      return 2
    end
    if options.json then
      print(json.encode(mark_lists(report)))
    else
      print(table.concat(explain.format(report, { brief = options.brief }), "\n"))
    end
    return 0
  end,
}
