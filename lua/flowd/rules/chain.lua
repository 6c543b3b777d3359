-- SPDX-License-Identifier: Apache-2.0
--- Compiled rules, and what happens when one raises.
--
-- One protected call runs a whole batch. Before each rule its number is written into the event;
-- after an error the chain takes back what that rule changed and goes on behind it.
local bit = require("bit")
local ffi = require("ffi")
local jit = require("jit")
local api = require("flowd.api")
local counters = require("flowd.counters")
local definition = require("flowd.rules.definition")
local dry = require("flowd.dry")
local generate = require("flowd.rules.generate")
local rule_index = require("flowd.rules.index")
local timing = require("flowd.rules.timing")
local jit_options = require("flowd.jit_options")
local log = require("flowd.log")
local memory_guard = require("flowd.memory_guard")
local protected = require("flowd.protect").call_rules
local slice = require("flowd.slice")
local view = require("flowd.view")

local DROPPED = ffi.C.EVENT_DROPPED
local now = api.clock_monotonic_ns
local drop, accept = definition.drop, definition.accept
local act, cell = view.act, view.cell
local off_gauge = counters.get("flowd_rules_off")

---@class flowd.Chain
---@field rules flowd.ChainRule[]
local Chain = {}
Chain.__index = Chain

---@class flowd.ChainRule
---@field number integer
---@field name string
---@field file string
---@field line integer
---@field off boolean switched off, because it kept failing or by hand
---@field hits integer events on which it acted
---@field errors integer events on which it raised
---@field share? number part of the daemon's time that it took, 0..1, see flowd.rules.timing; nil: not measured
---@field event_ns? number nanoseconds for each event that came to it
local ChainRule = {}

local chain = {}

-- The note of a chain that no daemon runs.
local nowhere = ffi.new("struct state_running")

function ChainRule.__index(rule, field)
  if field == "hits" then return tonumber(rule.hits_counter.value) end
  if field == "errors" then return tonumber(rule.errors_counter.value) end
  return nil
end

-- What a rule returned ends the chain for this event.
local function stop(verdict)
  local e = cell.event
  if verdict == accept then
    act(e)
    return
  elseif verdict == drop then
    act(e)
    e.flags = bit.bor(e.flags, DROPPED)
    return
  end
  error(("a rule returns drop, accept or nothing; this one returned %s"):format(
    type(verdict) == "string" and ("%q"):format(verdict) or tostring(verdict)), 0)
end

--- Compile rules into a chain.
---@param rules table[] { name, file, line, fn | declaration }
---@param options table registry, backends, source_name; note: struct state_running *, told the
---   running rule's number; failures_max, failures_window: a rule that raises on so
---   many of so many events is switched off; slow_percent: of the daemon's time, rules that take more are named,
---   0 or nil: time is not measured
---@return flowd.Chain
function chain.new(rules, options)
  local self = setmetatable({
    rules = {}, seen = 0, version = 0, failures_max = options.failures_max or 20, failures_window = options.failures_window or 1000,
  }, Chain)
  self.hits = ffi.new("struct counter *[?]", #rules + 1)
  for number, rule in ipairs(rules) do
    slice.pause()
    local entry = setmetatable({
      number = number, name = rule.name, file = rule.file, line = rule.line, fn = rule.fn, declaration = rule.declaration, off = false,
      hits_counter = counters.get("flowd_rule_hits_total", { rule = rule.name }),
      errors_counter = counters.get("flowd_rule_errors_total", { rule = rule.name }),
    }, ChainRule)
    self.rules[number] = entry
    self.hits[number] = entry.hits_counter
  end
  -- As a pointer LuaJIT makes it a constant of the machine code; self.hits keeps it alive.
  local hits = ffi.cast("struct counter **", self.hits)
  self.binding = view.binding({
    registry = options.registry, backends = options.backends, source_name = options.source_name,
    source_id = options.source_id, hits = hits,
  })
  self.shared = {
    note = options.note or ffi.cast("struct state_running *", nowhere),
    flow = view.flow, cell = cell, hits = hits, stop = stop,
  }
  self.index = rule_index.new(self.rules, self.hits)
  local percent = options.slow_percent or 0
  if percent > 0 then self.timing = timing.new(self.rules, self.index, percent) end
  self:compile(true)
  return self
end

-- warm: have LuaJIT compile its loops, too, not only when it is needed. In a slice others have their turn meanwhile.
function Chain:compile(warm)
  local compiled, version, generation
  repeat
    version, generation = self.version, nil
    compiled = generate.compile(self.rules, self.shared, self.index.units)
    if warm then generation = self:warm(compiled) end
    -- A rule may have been switched off meanwhile.
  until version == self.version
  self.compiled, self.prepared = compiled, generation
  if self.timing then self.timing:follow(compiled) end
end

-- Have LuaJIT compile loops of rules. Behind a call of C: were a caller being compiled at this moment, it would get no
-- further than here. Returns since when it knows them.
function Chain:warm(compiled)
  local generation = jit_options.generation
  for _, fn in ipairs(compiled.warm) do
    jit_options.count_anew()
    assert(protected(fn))
    slice.pause()
  end
  return generation
end

-- At first, and again when LuaJIT has thrown them away.
function Chain:prepare() self.prepared = self:warm(self.compiled) end

-- The chain that ran last.
local current

function Chain:become_current()
  view.bind(self.binding)
  current = self
  self.index:show()
  self:count_off()
end

function Chain:count_off()
  local off = 0
  for _, rule in ipairs(self.rules) do
    if rule.off then off = off + 1 end
  end
  off_gauge.value = off
end

-- After an error: blame the rule, undo what it did. Returns where to go on. A rule that found no memory because others
-- had taken it is run again, once.
function Chain:contain(message)
  local e, note = cell.event, self.shared.note
  local index = tonumber(e - self.events)
  local number = tonumber(note.number)
  local rule = self.rules[number]
  note.number = 0
  -- First: what is said below takes memory, too.
  local switched_off, again
  if rule and not self.trial then switched_off, again = memory_guard.react(self, message, number) end
  if not rule and cell.refused then
    -- The event has not begun.
    if not self.trial then memory_guard.watch(self) end
    cell.refused = false
    e.cursor, e.undo_cursor = 0, 0
    return index, 1
  elseif not rule then
    -- No rule was running: nothing to blame but this code. The event goes on as it is.
    log.error("rules: internal error on %s: %s", view.describe(e), message)
    return index, #self.rules + 1
  end
  if self.timing then self.timing:stop() end
  view.undo()
  e.cursor = 0
  if self.trial then return index, number + 1 end
  local now_at = (self.seen + index) * #self.rules + number
  if again and self.again ~= now_at then
    self.again = now_at
    return index, number
  end
  rule.errors_counter.value = rule.errors_counter.value + 1
  rule.log = rule.log or log.limited(5, 60)
  rule.log("error", '%s:%d: rule "%s" failed on %s: %s', rule.file, rule.line, rule.name, view.describe(e), message)
  if not switched_off then self:judge(rule, self.seen + index) end
  return index, number + 1
end

-- Switch a rule off that keeps failing.
function Chain:judge(rule, event)
  local failures = rule.failures or { next = 1 }
  rule.failures = failures
  failures[failures.next] = event
  failures.next = failures.next % self.failures_max + 1
  local oldest = failures[failures.next]
  if rule.off or not oldest or event - oldest >= self.failures_window then return end
  self:switch(rule, false)
  log.error('%s:%d: rule "%s" is switched off: it failed on %d of the last %d events; it is on again after a reload or restart',
    rule.file, rule.line, rule.name, self.failures_max, event - oldest + 1)
end

-- Called now and then: no trace of it is wanted.
jit.off(Chain.count_off)

--- Switch a rule off for good: what it holds is let go.
---@param rule flowd.ChainRule
function Chain:discard(rule)
  self:switch(rule, false)
  rule.fn = nil
  self.version = self.version + 1
  if self.on_discard then self.on_discard(rule) end
  self:compile()
  -- Machine code holds what it refers to.
  jit.flush()
end

--- Switch a rule on or off.
---@param rule flowd.ChainRule
---@param on boolean
---@param warm? boolean it takes its time, at once instead of before the next event: for slices
function Chain:switch(rule, on, warm)
  rule.off = not on
  counters.get("flowd_script_off", { kind = "rule", name = rule.name }).value = on and 0 or 1
  rule.failures = nil
  self.version = self.version + 1
  if not self.index:switch(rule.number, on) then self:compile(warm) end
  if current == self then self:count_off() end
end

-- The stack down to the rule's function: what called that is the same each time.
local function trim(message)
  -- Behind `return f()` nothing is left of the line: what called the rule is no help, the rule's own place stands before it.
  message = tostring(message):gsub("^rules:%d+: ", ""):gsub("^lua/flowd/rules/chain%.lua:%d+: ", "")
  -- The last one: the message is the script's, and may be long.
  local said, stack = message:match("^(.*)(\nstack traceback:.*)$")
  if not said then return message end
  stack = stack:gsub("\n%s*=?rules:%d.*$", ""):gsub("\t", "  ")
  local _, lines = stack:gsub("\n", "")
  return said .. (lines > 2 and stack or "")
end

--- Before rules are run one by one.
function Chain:enter()
  if current ~= self then self:become_current() end
end

---@param number integer
function Chain:count_hit(number) self.hits[number].value = self.hits[number].value + 1 end

local function traceback(message) return debug.traceback(tostring(message), 2) end

local function call_and_stop(fn)
  local verdict = fn(view.flow)
  if verdict then stop(verdict) end
  return verdict
end

--- Call one rule's function on one event, behind enter().
---@param rule flowd.ChainRule
---@param e ffi.cdata* struct flow_event *
---@param live boolean count hits and errors
---@return boolean ok
---@return boolean|string acted or, if it failed, the message
---@return "drop"|"accept"|nil verdict
function Chain:call(rule, e, live)
  local hits, errors = rule.hits_counter.value, rule.errors_counter
  e.cursor, e.undo_cursor = rule.number, 0
  self.shared.note.number = rule.number
  cell.event = e
  local ok, verdict = xpcall(call_and_stop, traceback, rule.fn)
  self.shared.note.number = 0
  local acted = e.undo_cursor == rule.number
  if not ok then view.undo() end
  cell.event = nil
  if not live then
    rule.hits_counter.value = hits
  elseif not ok then
    errors.value = errors.value + 1
  end
  if not ok then return false, trim(verdict) end
  return true, acted, verdict and tostring(verdict) or nil
end

-- The rest of an event's rules, then the events after it.
local function run_rest(self, index, from, last)
  cell.event = self.events + index
  self.compiled.rest(from)
  self.compiled.loop(self.events, index + 1, last)
end

-- Behind an error.
function Chain:go_on(message, last)
  local index, from = self:contain(trim(message))
  return protected(run_rest, self, index, from, last)
end

-- Some events of the batch are measured, step by step.
local function run_parts(self, last, first, count)
  local events, loop = self.events, self.compiled.loop
  loop(events, 0, first - 1)
  self.timing:run(events, first, first + count - 1)
  loop(events, first + count, last)
end

local function run_sampled(self, count, last, sample, first)
  local before = now()
  self.index:begin(self.events, count)
  local begin = now() - before
  local ok, message = protected(run_parts, self, last, first, sample)
  while not ok do ok, message = self:go_on(message, last) end
  self.timing:sampled(begin, sample, count)
end

-- All events; a sample of them is measured.
function Chain:run_timed(count, last)
  local sample, first = self.timing:begin(count)
  if sample == 0 then
    self.index:begin(self.events, count)
    return protected(self.compiled.loop, self.events, 0, last)
  end
  return protected(run_sampled, self, count, last, sample, first)
end
--- Bring the rules' `share` and `event_ns` up to date.
function Chain:update_times()
  if self.timing then self.timing:update() end
end

--- Run the rules on every event of the batch that has no decision yet.
---@param batch ffi.cdata* struct flow_batch *
function Chain:run(batch)
  local count = batch.count
  if count == 0 or #self.rules == 0 then return end
  if current ~= self then self:become_current() end
  if self.prepared ~= jit_options.generation then self:prepare() end
  local last = count - 1
  self.events = ffi.cast("struct flow_event *", batch.event)
  local timed = self.timing
  local ok, message
  if timed then
    ok, message = self:run_timed(count, last)
  else
    self.index:begin(self.events, count)
    ok, message = protected(self.compiled.loop, self.events, 0, last)
  end
  while not ok do ok, message = self:go_on(message, last) end
  if timed then timed:finish(count) end
  cell.event = nil
  self.seen = self.seen + count
end

--- The same on trial: what the events become, and nothing else. No hit, no error is counted.
---@param batch ffi.cdata* struct flow_batch *
function Chain:try(batch)
  local hits = {}
  for number, rule in ipairs(self.rules) do hits[number] = rule.hits_counter.value end
  self.trial = true
  local ok, message = dry.run(self.run, self, batch)
  self.trial = false
  for number, value in ipairs(hits) do self.hits[number].value = value end
  if not ok then log.error("rules: internal error: %s", message) end
end

return chain
