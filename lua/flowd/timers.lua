-- SPDX-License-Identifier: Apache-2.0
--- Timers of a site's policy: flowd.every(seconds, function), flowd.after(seconds, function).
--
-- Made while the configuration loads they start when it is in use; made later (by a timer, or a rule) they
-- start at once. They end with their policy: a reload makes them anew. One that raises is logged and
-- counted; one that raises FAILURES_MAX times in a row, or never returns, is switched off.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local dry = require("flowd.dry")
local log = require("flowd.log")
local loop = require("flowd.loop")
local protected = require("flowd.protect").call
local show = require("flowd.show")

local timers = {}

local FAILURES_MAX = 5
local TIMERS_MAX = 1000
local SECONDS_MIN, SECONDS_MAX = 0.01, 1e8
local OWNERS = ffi.C.HEAP_OWNER_MODULES - ffi.C.HEAP_OWNER_TIMERS - 1

local TIMER = ffi.C.STATE_RUNNING_TIMER

---@class flowd.Timer
---@field stop fun(self: flowd.Timer) never again
local Timer = {}
Timer.__index = { stop = function(self) timers.stop(self) end }
Timer.__newindex = function() error("a timer cannot be changed", 2) end
Timer.__metatable = false
Timer.__tostring = function() return "timer" end

-- Timer -> what is behind it.
local data = setmetatable({}, { __mode = "k" })
local live = {} -- set of all that are not over
local waiting = {} -- made before the policy is in use
local active = false
local count = 0
-- What to do when memory was refused: on_refusal of timers.start().
local react = function() return false, false end
local numbers = 0
local off_names = {}

local say = log.limited(5, 60)

local function drop(entry)
  if entry.handle then entry.handle:close() end
  entry.handle = nil
  if live[entry] then
    live[entry] = nil
    count = count - 1
  end
end

--- End a timer.
function timers.stop(timer)
  local entry = data[timer]
  if entry and not dry.on then drop(entry) end
end

-- Memory that it holds is given back as soon as nobody else holds it.
local function switch_off(entry, why)
  drop(entry)
  entry.fn = nil
  off_names[entry.name] = true
  counters.get("flowd_script_off", { kind = "timer", name = entry.name }).value = 1
  log.error("timer %s is switched off: %s; it is on again after a reload or restart", entry.name, why)
end

local function failed(entry, message, switched_off)
  entry.errors.value = entry.errors.value + 1
  entry.failures = entry.failures + 1
  say("error", "timer %s failed: %s", entry.name, message)
  if switched_off then return end
  if entry.failures >= FAILURES_MAX then switch_off(entry, ("it failed %d times in a row"):format(FAILURES_MAX)) end
end

local function call(entry)
  local mark = api.watchdog_enter(TIMER, entry.owner, entry.name)
  local ok, message = protected(entry.fn)
  api.watchdog_leave(mark)
  return ok, message
end

local function fire(entry)
  if entry.once then drop(entry) end
  local ok, message = call(entry)
  if ok then
    entry.failures = 0
    return
  end
  local switched_off, again = react(message, entry.owner)
  -- Others had taken the memory.
  if again and entry.fn then ok, message = call(entry) end
  if not ok then failed(entry, message, switched_off) end
end

local function start(entry)
  if not live[entry] then return end
  if off_names[entry.name] then
    drop(entry)
    return
  end
  entry.handle = loop[entry.once and "after" or "every"](entry.seconds, function() fire(entry) end)
end

local function maker(word, once)
  return function(seconds, fn)
    if type(seconds) ~= "number" or not (seconds >= SECONDS_MIN and seconds <= SECONDS_MAX) then
      error(("flowd.%s: expected seconds, a number from %g to %g; got %s"):format(word, SECONDS_MIN, SECONDS_MAX,
        show(seconds)), 2)
    end
    if type(fn) ~= "function" then error(("flowd.%s: expected a function; got %s"):format(word, show(fn)), 2) end
    if count >= TIMERS_MAX then error(("flowd.%s: there are %d timers already"):format(word, count), 2) end
    local at = debug.getinfo(2, "Sl")
    local name = ("%s:%d"):format(at.source:sub(2), at.currentline)
    numbers = numbers % OWNERS + 1
    local entry = {
      seconds = seconds, fn = fn, once = once, name = name, failures = 0, owner = ffi.C.HEAP_OWNER_TIMERS + numbers,
      errors = counters.get("flowd_timer_errors_total", { timer = name }),
    }
    count, live[entry] = count + 1, true
    if dry.on then dry.note(drop, entry) end
    local timer = setmetatable({}, Timer)
    data[timer] = entry
    if active then start(entry) else waiting[#waiting + 1] = entry end
    return timer
  end
end

--- flowd.every(seconds, fn): every so many seconds.
timers.every = maker("every", false)

--- flowd.after(seconds, fn): once.
timers.after = maker("after", true)

--- What was made so far belongs to a configuration that is not used.
function timers.forget()
  for _, entry in ipairs(waiting) do drop(entry) end
  waiting = {}
end

--- The policy is in use.
---@param off table<string, string> what is switched off: "timer FILE:LINE"
---@param on_refusal fun(message: string, owner: integer): boolean, boolean is told each error: memory may be short;
---   returns whether something was switched off, and whether it is worth another try
function timers.start(off, on_refusal)
  active, react = true, on_refusal
  local names = {}
  for name in pairs(off) do
    local timer = name:match("^timer (.*)$")
    if timer then names[timer] = true end
  end
  off_names = names
  local list = waiting
  waiting = {}
  for _, entry in ipairs(list) do start(entry) end
end

--- The timer that holds most memory, and how to switch it off.
---@param used_by fun(owner: integer): number
---@return number used
---@return (fun(why: string))|nil switch
---@return string|nil name
function timers.largest(used_by)
  local most, worst = 0, nil
  for entry in pairs(live) do
    local used = used_by(entry.owner)
    if used > most then most, worst = used, entry end
  end
  return most, worst and function(why) switch_off(worst, why) end or nil, worst and worst.name
end

return timers
