-- SPDX-License-Identifier: Apache-2.0
--- What the time goes to, rule by rule, from a sample of the events (src/rule_clock.h); and which rules take so
--- much of it that somebody should know.
--
-- Of each window a rule's share is told: the part of all time, also of that in which there was nothing to do.
-- So a rule is slow only while the daemon has much to do because of it.
local ffi = require("ffi")
local jit = require("jit")
local api = require("flowd.api")
local counters = require("flowd.counters")
local jit_options = require("flowd.jit_options")
local log = require("flowd.log")
local call_as = require("flowd.protect").call_as
local run = require("flowd.rule_clock_core").run
local cell = require("flowd.view").cell

local timing = {}

-- How long a window is, at least; the first one, so that there is something to show soon. Specs make them shorter.
timing.window_ns, timing.first_ns = 5e9, 1e9
-- A rule is named when it was measured so often, and once in so many seconds.
local CALLS_MIN, SILENCE = 4, 300
-- What was measured before weighs as much as so many events, in the time for one.
local KEPT = 20

-- Behind a call of C, so that who calls it is compiled and it is not.
local function judge(self)
  local ok, message = call_as(0, self.judge, self)
  if not ok then log.error("rules: internal error: %s", message) end
end

local now = api.clock_monotonic_ns
local begin, finish, sampled = api.rule_clock_begin, api.rule_clock_end, api.rule_clock_sampled

---@class flowd.rules.Timing
---@field percent number rules with a larger share are named
local Timing = {}
Timing.__index = Timing

-- The address of a clock as C functions of Lua take it.
local function address_of(clock) return tonumber(ffi.cast("uintptr_t", clock)) end

local function new_clock(steps, lap)
  local clock = ffi.gc(api.rule_clock_new(steps, lap), api.rule_clock_free)
  if clock == nil then error("rules: out of memory", 0) end
  return clock
end

-- What measuring one step takes: of a function that does next to nothing, compiled, as rules are.
local function calibrate()
  local functions, best = {}, math.huge
  local function idle() return cell.live and nil end
  for i = 1, 64 do functions[i] = idle end
  local clock = new_clock(#functions, 0)
  for _ = 1, 16 do
    local before = now()
    run(functions, address_of(clock))
    best = math.min(best, tonumber(now() - before) / #functions)
  end
  return best
end

local lap

-- The time that a rule takes as a counter, of whole microseconds; and the rest.
local function new_total(name) return { counter = counters.get("flowd_rule_microseconds_total", { rule = name }), ns = 0 } end

--- For a chain: follow() is to be called before it runs.
---@param rules flowd.ChainRule[]
---@param index flowd.rules.Index
---@param percent number
---@return flowd.rules.Timing
function timing.new(rules, index, percent)
  local together = index.count > 0 and new_total("declared rules, together")
  local self = setmetatable({ rules = rules, percent = percent, totals = {}, first = ffi.new("uint32_t[1]") }, Timing)
  for number, rule in ipairs(rules) do
    self.totals[number] = index.places[number] and together or new_total(rule.name)
  end
  return self
end

--- What the chain runs now.
---@param compiled flowd.rules.Compiled
function Timing:follow(compiled)
  local functions = {}
  for i, step in ipairs(compiled.steps) do functions[i] = step.run end
  self.steps, self.functions, self.next_event = compiled.steps, functions, compiled.next_event
  self.clock = new_clock(#functions, lap or 0)
  self.clock.length = timing.first_ns
  self.address = address_of(self.clock)
end

--- Before a batch. Returns how many events are to be measured, and the first of them.
---@param count integer
---@return integer count
---@return integer first
function Timing:begin(count)
  local clock = self.clock
  local events = begin(clock, count, self.first)
  if clock.over then judge(self) end
  return events, self.first[0]
end

--- The events of the sample.
---@param events ffi.cdata* struct flow_event *
---@param first integer
---@param last integer
function Timing:run(events, first, last)
  local next_event, functions, address = self.next_event, self.functions, self.address
  if not lap then
    lap = calibrate()
    self.clock.lap = lap
  end
  self.compiling = jit_options.compiling
  for i = first, last do
    if next_event(events, i) then run(functions, address) end
  end
  self.good = self.compiling == jit_options.compiling
end

--- The rule that ran has failed.
function Timing:stop() api.rule_clock_stop(self.clock) end

--- The sample is taken.
---@param begin_ns integer what looking up took for the batch
---@param events integer of the sample
---@param count integer of the batch
function Timing:sampled(begin_ns, events, count)
  -- After an error it is not known whether something was compiled.
  sampled(self.clock, self.good or self.compiling == jit_options.compiling, begin_ns, events, count)
  self.good = false
end

--- Behind a batch.
---@param count integer
function Timing:finish(count)
  local clock = self.clock
  finish(clock, count)
  if clock.over then judge(self) end
end

--- What is told of the rules is to be of now.
function Timing:update()
  if api.rule_clock_check(self.clock) then judge(self) end
end

-- ---- the window -----------------------------------------------------------------------

-- How many declared rules indexes answer.
local function count_indexed(steps)
  local count = 0
  for _, step in ipairs(steps) do
    if step.unit.index then count = count + step.unit.last - step.unit.first + 1 end
  end
  return count
end

-- fn(rule, ns, most, calls): what each rule took of the sample, the most at a time. Declared rules that are
-- answered together have equal parts. Returns the sum.
function Timing:each(fn)
  local clock, steps, total = self.clock, self.steps, 0
  local indexed = count_indexed(steps)
  local each_begin = indexed > 0 and tonumber(clock.begin) / indexed or 0
  for i = 1, #steps do
    local unit, measured = steps[i].unit, clock.window[i - 1]
    local count = unit.last - unit.first + 1
    local ns, calls = tonumber(measured.ns) / count, tonumber(measured.calls)
    local most = tonumber(measured.most) / count
    if unit.index then ns = ns + each_begin end
    for number = unit.first, unit.last do
      total = total + ns
      if fn then fn(self.rules[number], ns, most, calls) end
    end
  end
  return total
end

local function duration(ns)
  if ns < 1e3 then return ("%.0f ns"):format(ns) end
  if ns < 1e6 then return ("%.1f us"):format(ns / 1e3) end
  return ("%.1f ms"):format(ns / 1e6)
end

-- Name a rule.
function Timing:name(rule)
  local counter = counters.get("flowd_rule_slow_total", { rule = rule.name })
  counter.value = counter.value + 1
  rule.say_slow = rule.say_slow or log.limited(1, SILENCE)
  rule.say_slow("warn", '%s:%d: rule "%s" is slow: it takes %.0f %% of the daemon\'s time, %s for each event that it sees '
    .. "(slow_rule_percent is %g)", rule.file, rule.line, rule.name, rule.share * 100, duration(rule.event_ns), self.percent)
end

-- A window is over: what it says of each rule.
function Timing:judge()
  local clock = self.clock
  -- No sample, or none that was good: it goes on, and what is known stays.
  if clock.events > 0 and clock.sampled == 0 then
    clock.length, clock.over = clock.length + timing.window_ns, false
    return
  end
  local length = math.max(tonumber(clock.ended - clock.began), tonumber(clock.length))
  local spent, total = tonumber(clock.spent), self:each()
  local events, measured = tonumber(clock.events), math.max(tonumber(clock.sampled), 1)
  -- So often the sample stands for all. Step by step is slower than at a stretch; and something else than the sample
  -- may have taken time.
  local function times(out) return math.min((spent - out) / math.max(total - out, 1), events / measured) end
  local all = times(0)
  self:each(function(rule, ns, most, calls)
    rule.share = ns * all / length
    if calls == 0 then return end
    local sum = self.totals[rule.number]
    local us = math.floor((sum.ns + ns * all) / 1000)
    sum.counter.value, sum.ns = sum.counter.value + us, sum.ns + ns * all - us * 1000
    -- Whoever was held up once, by another program, is not slow for it.
    if calls >= CALLS_MIN then ns, calls = ns - most, calls - 1 else most = 0 end
    local weight = rule.event_ns and calls / (calls + KEPT) or 1
    rule.event_ns = (rule.event_ns or 0) * (1 - weight) + ns / calls * math.min(all * measured / math.max(events, 1), 1) * weight
    if calls >= CALLS_MIN - 1 and ns * times(most) / length * 100 >= self.percent then self:name(rule) end
  end)
  clock.length = timing.window_ns
  api.rule_clock_restart(clock)
end
-- Now and then: no trace of it is wanted.
for _, name in ipairs({ "judge", "each", "name" }) do jit.off(Timing[name], true) end

return timing
