-- SPDX-License-Identifier: Apache-2.0
--- When scripts have used up their memory: the one that holds most of it is switched off, not the one that
--- happened to ask for the last octet.
local api = require("flowd.api")
local counters = require("flowd.counters")
local log = require("flowd.log")
local memory = require("flowd.memory")
local timers = require("flowd.timers")
local cell = require("flowd.view").cell

local memory_guard = {}

-- So much of the limit in use after a collection is too much, and so much of it makes a culprit; and whoever held
-- so much of what was in use before has itself to blame.
local FULL, CULPRIT, MOST = 0.5, 0.1, 0.5

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

local say = log.limited(5, 60)

local function switch_off(chain, most, rule, limit)
  local timer_most, switch_timer, timer = timers.largest(memory.used_by)
  if math.max(most, timer_most) < CULPRIT * limit then
    say("error", "memory: scripts use %.0f MB of the %.0f MB that memory_limit allows, and no rule or timer holds much of "
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

-- Memory was refused.
local function relieve(chain)
  local limit = memory.limit()
  local done = false
  if memory.used() > FULL * limit then
    -- Twice: what is finalised by the first one is freed by the second. Much is collected for long: that is nobody's hang.
    for _ = 1, 2 do
      api.watchdog_progress()
      collectgarbage()
    end
    api.watchdog_progress()
    if memory.used() > FULL * limit then
      local most, rule = largest(chain)
      done = switch_off(chain, most, rule, limit)
    end
  end
  seen, cell.refused = memory.refusals(), false
  return done
end
jit.off(relieve)

--- A script raised: was memory refused?
---@param chain flowd.Chain
---@param message string
---@param owner integer the script's
---@return boolean off was a script switched off?
---@return boolean innocent is it worth another try: others had filled the memory, with garbage or for good?
function memory_guard.react(chain, message, owner)
  if not memory.is_refusal(message) or memory.refusals() == seen then return false, false end
  local used, held = memory.used(), memory.used_by(owner)
  return relieve(chain), used > FULL * memory.limit() and held < used * MOST
end

--- Behind a batch: was memory refused to a script that did not let its error out, or given to machine code beyond
--- the limit?
---@param chain flowd.Chain
function memory_guard.watch(chain)
  if memory.refusals() ~= seen then relieve(chain) end
end

return memory_guard
