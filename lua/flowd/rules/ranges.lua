-- SPDX-License-Identifier: Apache-2.0
--- Ranges of amounts, durations and times, as a rule's match writes them:
--
--     bytes_sent = ">= 10M"    duration = { "..1m", "1h..2h" }    start_time = "2026-03-01..2026-03-31"
--
-- A range is { first, last }, both included; last = math.huge: no end.
local show = require("flowd.show")

local ranges = {}

local amount_units = { [""] = 1, k = 1e3, M = 1e6, G = 1e9, T = 1e12, Ki = 2 ^ 10, Mi = 2 ^ 20, Gi = 2 ^ 30, Ti = 2 ^ 40 }
local second_units = { [""] = 1e6, ms = 1e3, s = 1e6, m = 60e6, h = 3600e6, d = 86400e6 }
local MAX = 2 ^ 53

-- A number with a unit, as the first and last whole number that it means.
local function scaled(units)
  return function(text)
    local digits, unit = text:match("^([%d%.]+)%s*(%a*)$")
    local number, factor = tonumber(digits), units[unit]
    if not number or not factor then return nil end
    local value = math.floor(number * factor + 0.5)
    if value > MAX then return nil end
    return value, value
  end
end

-- Days since 1970 of a date of the Gregorian calendar; nil when there is no such day.
local function day_number(year, month, day)
  local lengths = { 31, year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
  if year < 1970 or month < 1 or month > 12 or day < 1 or day > lengths[month] then return nil end
  local leap_days = math.floor((year - 1) / 4) - math.floor((year - 1) / 100) + math.floor((year - 1) / 400) - 477
  local days = (year - 1970) * 365 + leap_days + day - 1
  for i = 1, month - 1 do days = days + lengths[i] end
  return days
end

-- UTC: a day, a minute, a second, or seconds of UNIX time; each means all of it.
local function time(text)
  local seconds = text:match("^%d+%.?%d*$")
  if seconds then
    local value = math.floor(tonumber(seconds) * 1e6 + 0.5)
    return value, value
  end
  local year, month, day, rest = text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)(.*)$")
  local days = year and day_number(tonumber(year), tonumber(month), tonumber(day))
  if not days then return nil end
  local from = days * 86400e6
  if rest == "" then return from, from + 86400e6 - 1 end
  local hour, minute, second = rest:match("^[T ](%d%d):(%d%d):?(%d?%d?)Z?$")
  hour, minute = tonumber(hour), tonumber(minute)
  if not hour or hour > 23 or minute > 59 or tonumber(second) and tonumber(second) > 59 then return nil end
  from = from + (hour * 60 + minute) * 60e6 + (tonumber(second) or 0) * 1e6
  return from, from + (second == "" and 60e6 or 1e6) - 1
end

local kinds = {
  amount = {
    read = scaled(amount_units), expected = 'a number or a range such as ">= 10M" or "1k..2k" (k, M, G, T; Ki, Mi, Gi, Ti)',
    number = function(value) return value end,
  },
  duration = {
    read = scaled(second_units), expected = 'seconds, or a range such as "> 5m" or "1h..2h" (ms, s, m, h, d)',
    number = function(value) return value * 1e6 end,
  },
  time = {
    read = time, expected = 'a time in UTC such as "2026-03-01" or "2026-03-01T12:30", or a range such as '
      .. '"2026-03-01..2026-03-31" or ">= 2026-03-01"',
    number = function(value) return value * 1e6 end,
  },
}

local function from_text(kind, text)
  local operator, operand = text:match("^%s*([<>]=?)%s*(.-)%s*$")
  if operator then
    local first, last = kind.read(operand)
    if not first then return nil end
    if operator == ">" then return last + 1, math.huge end
    if operator == ">=" then return first, math.huge end
    if operator == "<" then return 0, first - 1 end
    return 0, last
  end
  local left, right = text:match("^%s*(.-)%s*%.%.%s*(.-)%s*$")
  if not left then return kind.read(text:match("^%s*(.-)%s*$")) end
  if left == "" and right == "" then return nil end
  local first, last = 0, math.huge
  if left ~= "" then first = kind.read(left) end
  if right ~= "" then last = select(2, kind.read(right)) end
  return last and first, last
end

--- Read a range.
---@param kind_name "amount"|"duration"|"time" octets, microseconds, microseconds of UNIX time
---@param item any
---@return integer? first
---@return integer|string last or what is wrong
function ranges.read(kind_name, item)
  local kind = kinds[kind_name]
  local first, last
  if type(item) == "number" and item >= 0 and item <= MAX then
    first = math.floor(kind.number(item) + 0.5)
    last = first
  elseif type(item) == "string" then
    first, last = from_text(kind, item)
  end
  if not first then return nil, ("expected %s; got %s"):format(kind.expected, show(item)) end
  if first > last then return nil, ("the range %s ends before it starts"):format(show(item)) end
  return first, last
end

return ranges
