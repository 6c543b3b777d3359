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

return {
  summary = "show what the rules would make of a flow, rule by rule, and why",
  arguments = {
    { name = "FLOW", many = true, doc = "tcp|udp SOURCE PORT DESTINATION PORT [EXPERIMENT ACTIVITY] [KEY=VALUE ...]" },
  },
  doc = [[
Runs the rules of the configuration dry on a flow that you describe, as in

explain tcp 2001:db8::1 1094 2001:db8::2 40000 atlas 0 plugin=pipe

and tells of each rule whether it matched, which condition did not hold (what the flow says, what the rule expects), what it
changed, and how long it took; then where the flow would go. Nothing is sent, marked or counted, and no daemon is needed
or disturbed: the rules are read from the configuration's files, with --conf those of any other configuration.

start, ongoing or end may stand first. Keys are state, plugin, experiment, activity, application, time (UTC), start_time,
bytes_sent and bytes_received. A value with blanks stands in double quotes; in names _ stands for a blank.]],
  options = {
    { name = "--json", doc = "The report as one JSON object." },
    { name = "--brief", doc = "Leave out rules that did nothing." },
  },
  run = function(arguments, options)
    local _, builder = cli.load_policy(options)
    local report, message = builder.policy:call("flowd.policy_explain.run", table.concat(arguments, " "))
    builder:close()
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
