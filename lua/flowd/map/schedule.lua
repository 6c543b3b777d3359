-- SPDX-License-Identifier: Apache-2.0
--- Tags by day of the week and time of day: "mon-fri 08:00-18:00", "sat sun", "22:00-06:00", "always".
--- Of several that hold, the one that holds for the fewest minutes of the week gives the tag.
local ffi = require("ffi")
local api = require("flowd.api")
local numbers = require("flowd.numbers")
local show = require("flowd.show")
local suggest = require("flowd.suggest")

local error, type = error, type
local clock, find_in_week = api.clock_realtime_us, api.week_map_find

local DAY, WEEK = 1440, ffi.C.WEEK_MINUTES
local MAPS_MAX = 4096
local ZONES = "/usr/share/zoneinfo/"
local numbered = numbers.new("struct week_map *", MAPS_MAX, ffi.new("struct week_map"))
local maps = numbered.pointers

local schedule = {
  kind = "schedule", example = '{ ["mon-fri 08:00-18:00"] = "atlas", ["always"] = "cms", … }',
  columns = "WHEN,TAG or WHEN,EXPERIMENT,ACTIVITY", settings = { zone = true },
}

local days = { mon = 0, tue = 1, wed = 2, thu = 3, fri = 4, sat = 5, sun = 6 }
local day_names = { "mon", "tue", "wed", "thu", "fri", "sat", "sun", "always" }

-- ---- reading -----------------------------------------------------------------------

-- "Monday" is as good as "mon".
local function day_of(word)
  local short = word:sub(1, 3)
  local full = { mon = "monday", tue = "tuesday", wed = "wednesday", thu = "thursday", fri = "friday", sat = "saturday", sun = "sunday" }
  if #word >= 3 and days[short] and full[short]:sub(1, #word) == word then return days[short] end
  local hint = suggest.hint(word, day_names)
  return nil, ("unknown day %q%s"):format(word, hint ~= "" and hint or '; expected one of mon to sun, days such as "mon-fri", or "always"')
end

-- Adds the days of "mon-fri" or "sat" to a set.
local function add_days(set, word)
  local from, to = word:match("^(%a+)%-(%a+)$")
  local first, message = day_of(from or word)
  if not first then return message end
  local last
  last, message = day_of(to or word)
  if not last then return message end
  local day = first
  set[day] = true
  while day ~= last do
    day = (day + 1) % 7
    set[day] = true
  end
end

-- "08:00-18:00" as minutes of the day.
local function times_of(word)
  local h1, m1, h2, m2 = word:match("^(%d%d?):(%d%d)%-(%d%d?):(%d%d)$")
  local from, to = tonumber(h1) and h1 * 60 + m1, tonumber(h2) and h2 * 60 + m2
  if not from or tonumber(m1) > 59 or tonumber(m2) > 59 or from >= DAY or to > DAY then
    return nil, ("expected a time such as 08:00-18:00, from 00:00 to 24:00; got %q"):format(word)
  end
  if from == to then return nil, ("the time %q has no length: for the whole day leave it out"):format(word) end
  return from, to
end

-- The set of days, and the lists of times, of an entry's key.
local function read(key)
  if type(key) ~= "string" or not key:find("%S") then
    return nil, ('expected a time such as "mon-fri 08:00-18:00"; got %s'):format(show(key))
  end
  local set, times = {}, {}
  for word in key:lower():gsub("%s*%-%s*", "-"):gmatch("[^%s,]+") do
    local message
    if word:find("%d") then
      local from, to = times_of(word)
      if from then times[#times + 1] = { from, to } else message = to end
    elseif word == "always" then
      message = add_days(set, "mon-sun")
    else
      message = add_days(set, word)
    end
    if message then return nil, ("%q: %s"):format(key, message) end
  end
  if next(set) == nil then add_days(set, "mon-sun") end
  if #times == 0 then times[1] = { 0, DAY } end
  return set, times
end

-- A zone as the environment variable TZ has it.
local function zone_of(zone)
  if zone == nil or zone == "local" then return "" end
  if type(zone) == "string" then
    local sign, hours, minutes = zone:match("^([+-])(%d%d):?(%d%d)$")
    if sign and tonumber(hours) <= 14 and tonumber(minutes) < 60 then
      -- There, west is positive.
      return ("<%s%s%s>%s%s:%s"):format(sign, hours, minutes, sign == "+" and "-" or "+", hours, minutes)
    end
    if zone == "UTC" then return "UTC0" end
    if #zone < ffi.C.WEEK_ZONE_SIZE - 1 and zone:find("^%a[%w_+-]*[%w_+-/]*$") and not zone:find("//", 1, true)
      and tonumber(api.trust_file_owner(ZONES .. zone)) >= 0 then
      return ":" .. zone
    end
  end
  return nil, ('zone: expected "local", "UTC", a difference such as "+02:00", or a name below %s such as "Europe/Zurich"; got %s')
    :format(ZONES, show(zone))
end

-- ---- making ------------------------------------------------------------------------

local Builder = {}
Builder.__index = Builder

function schedule.new(settings)
  local zone, message = zone_of(settings.zone)
  return zone and setmetatable({ zone = zone, spans = {} }, Builder), message
end

function Builder:add(key, tag, position)
  local set, times = read(key)
  if not set then return times end
  local minutes, count = {}, 0
  for day = 0, 6 do
    for _, span in ipairs(set[day] and times or {}) do
      local from, to = span[1], span[2]
      -- Over midnight, it belongs to the day on which it starts.
      if to < from then to = to + DAY end
      for minute = from, to - 1 do
        local at = (day * DAY + minute) % WEEK
        if not minutes[at] then minutes[at], count = true, count + 1 end
      end
    end
  end
  self.spans[#self.spans + 1] = { key = key, tag = tag, minutes = minutes, count = count, position = position, order = #self.spans }
end

function Builder:finish()
  table.sort(self.spans, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.order < b.order
  end)
  local week, owner, problems = ffi.new("struct week_map", { quarter = -1 }), {}, {}
  for _, span in ipairs(self.spans) do
    local clash
    for minute in pairs(span.minutes) do
      local other = owner[minute]
      if other and other.count == span.count and other.tag ~= span.tag then clash = other end
      owner[minute], week.value[minute] = span, span.tag
    end
    if clash then
      problems[#problems + 1] = { ("%q and %q hold at the same time, for equally long, with different values")
        :format(clash.key, span.key), span.position }
    end
  end
  if #problems > 0 then return nil, problems end
  ffi.copy(week.zone, self.zone)
  local number, message = numbered:take(week)
  if not number then return nil, { { "schedules: " .. message } } end
  return number, week
end

-- The time of a flow, a time in seconds, or now.
function schedule.find(number, key)
  local time
  if key == nil then
    time = tonumber(clock()) / 1e6
  elseif type(key) == "number" then
    time = key
  elseif type(key) == "table" then
    time = key.time
  end
  if type(time) ~= "number" or not (time >= 0 and time < 2 ^ 40) then
    error(("find: expected a flow, seconds of UNIX time or nothing, for now; got %s"):format(show(key)), 3)
  elseif not (number >= 0 and number < MAPS_MAX) then
    error("this map was changed", 3)
  end
  local tag = find_in_week(maps[number], time)
  if tag ~= 0 then return tag end
  return nil
end

return schedule
