-- SPDX-License-Identifier: Apache-2.0
--- Attempts to leave the sandbox, each in a rule that runs on one event.
local assert = require("luassert")
local support = require("spec.support.policy")

local escape = {}

--- Run statements as a rule: what was logged, and the event afterwards.
---@param statements string
---@return string[] lines, table result
function escape.attempt(statements)
  local chain = support.chain(('local result\nrule "escape" (function(flow)\n%s\nend)'):format(statements))
  local result
  local lines = support.logged(function() result = support.run(chain) end)
  return lines, result
end

--- The rule fails, with that in its message.
---@param statements string
---@param expected string|nil
function escape.fails(statements, expected)
  local lines = escape.attempt(statements)
  assert.equal(1, #lines, statements .. " went through")
  assert.matches(expected or "", lines[1], 1, true)
end

--- Statements that return true: told by way of the flow's activity, 1 for true.
---@param expression string
function escape.holds(expression)
  local lines, result = escape.attempt(("flow.activity = (function() %s end)() and 1 or 2"):format(expression))
  assert.same({}, lines)
  assert.equal(1, result.activity, expression)
end

return escape
