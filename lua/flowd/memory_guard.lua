-- SPDX-License-Identifier: Apache-2.0
--- When scripts have used up their memory: the one that holds most of it is switched off, not the one that
--- happened to ask for the last octet.
local counters = require("flowd.counters")
local log = require("flowd.log")
local memory = require("flowd.memory")
local timers = require("flowd.timers")

local memory_guard = {}

-- After a collection: so much of the limit in use is too much, and so much of it makes a culprit.
local FULL, CULPRIT = 0.5, 0.1

local seen = 0

-- The rule that holds most.
local function largest(chain)
  local most, worst = 0, nil
  for number, rule in ipairs(chain.rules) do
    local used = not rule.off and memory.used_by(number) or 0
    if used > most then most, worst = used, rule end
  end
  return most, worst
end

local function switch_off(chain, most, rule, limit)
  local timer_most, switch_timer, timer = timers.largest(memory.used_by)
  if math.max(most, timer_most) < CULPRIT * limit then
    log.error("memory: scripts use %.0f MB of the %.0f MB that memory_limit allows, and no rule or timer holds much of "
      .. "it: what the configuration itself made is too big", memory.used(), limit)
    return false
  end
  local why = ("it holds %.0f MB of the %.0f MB that memory_limit allows all scripts"):format(math.max(most, timer_most), limit)
  if timer_most > most then
    local counter = counters.get("flowd_memory_off_total", { kind = "timer", name = timer })
    counter.value = counter.value + 1
    switch_timer(why)
  else
    local counter = counters.get("flowd_memory_off_total", { kind = "rule", name = rule.name })
    counter.value = counter.value + 1
    chain:discard(rule)
    log.error('%s:%d: rule "%s" is switched off: %s; it is on again after a reload or restart', rule.file, rule.line,
      rule.name, why)
  end
  collectgarbage()
  return true
end

--- A script raised: was memory refused?
---@param chain flowd.Chain
---@param message string
---@return boolean was a script switched off?
function memory_guard.react(chain, message)
  if not memory.is_refusal(message) or memory.refusals() == seen then return false end
  -- Twice: what is finalised by the first one is freed by the second.
  collectgarbage()
  collectgarbage()
  local limit = memory.limit()
  local done = false
  if memory.used() > FULL * limit then
    local most, rule = largest(chain)
    done = switch_off(chain, most, rule, limit)
  end
  seen = memory.refusals()
  return done
end

return memory_guard
