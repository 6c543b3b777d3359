-- SPDX-License-Identifier: Apache-2.0
--- Rules as straight-line Lua: what the chain runs for each event.
--
-- Each rule becomes a function of its own: a declaration comparisons and stores, a function a call.
-- One function runs them in order for each event of a batch. Constants (sets, functions, C memory) are
-- locals around a function, never assigned again: LuaJIT takes them into the machine code.
-- Runs of declarations are one call each (flowd.rules.index).
--
-- LuaJIT compiles paths, and a path ends only where a loop is entered that is compiled already.
-- Without one, each outcome of a rule has its own copy of all rules after it. So each rule is called in
-- a loop, which makes one turn, and all these loops are compiled before the first event: `warm` has
-- them turn idly. Then the code grows with the outcomes of each rule, not with their product, and a
-- rule that LuaJIT cannot compile is interpreted alone.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local slice = require("flowd.slice")

local generate = {}

local DROPPED, DECIDED = ffi.C.EVENT_DROPPED, ffi.C.EVENT_DECIDED
-- Rules in one turn of a loop: paths multiply inside, the way from loop to loop costs 3 ns. And about
-- how many constants: a function may refer to 60.
local TURN_RULES, TURN_CONSTANTS = 4, 40
-- Rules that one function calls: they are its locals, of which a trace has room for some 200.
local PIECE_RULES = 50

-- Decided events: no rule runs on them. LuaJIT compiles a loop after 56 turns.
local IDLE_EVENTS = 200
local idle_events = ffi.new("struct flow_event[?]", IDLE_EVENTS)
for i = 0, IDLE_EVENTS - 1 do idle_events[i].flags = DECIDED end

-- ---- the source of one rule ------------------------------------------------------

---@class flowd.rules.Source
local Source = {}
Source.__index = Source

local function new_source() return setmetatable({ lines = {}, names = {}, values = {}, anchors = {} }, Source) end

-- A local around the function that holds `value`.
function Source:constant(prefix, value)
  local name = ("%s%d"):format(prefix, #self.names + 1)
  self.names[#self.names + 1], self.values[#self.values + 1] = name, value
  return name
end

function Source:add(format, ...) self.lines[#self.lines + 1] = format:format(...) end

-- ---- tests ---------------------------------------------------------------------

local function any_of(expression, numbers)
  local parts = {}
  for i, number in ipairs(numbers) do parts[i] = ("%s == %d"):format(expression, number) end
  return #parts == 1 and parts[1] or "(" .. table.concat(parts, " or ") .. ")"
end

-- A bit for each of 65,536 numbers.
local function bitmap(source, fill)
  local words = ffi.new("uint32_t[2048]")
  fill(function(number)
    local word = bit.rshift(number, 5)
    words[word] = bit.bor(words[word], bit.lshift(1, bit.band(number, 31)))
  end)
  source.anchors[#source.anchors + 1] = words
  return source:constant("bits", ffi.cast("const uint32_t *", words))
end

local function port_test(source, field, ranges)
  if #ranges <= 2 then
    local parts = {}
    for i, range in ipairs(ranges) do
      parts[i] = range[1] == range[2] and ("key.%s == %d"):format(field, range[1])
        or ("key.%s >= %d and key.%s <= %d"):format(field, range[1], field, range[2])
    end
    return #parts == 1 and parts[1] or ("(%s or %s)"):format(parts[1], parts[2])
  end
  local name = bitmap(source, function(set)
    for _, range in ipairs(ranges) do
      for port = range[1], range[2] do set(port) end
    end
  end)
  return ("band(rshift(%s[rshift(key.%s, 5)], band(key.%s, 31)), 1) ~= 0"):format(name, field, field)
end

local function address_test(source, field, set)
  source.anchors[#source.anchors + 1] = set.anchor
  return ("find(%s, key.%s) ~= 0"):format(source:constant("set", set.pointer), field)
end

local function activity_test(source, test)
  local parts = {}
  if #test.any > 0 then parts[1] = any_of("e.activity", test.any) end
  if #test.named > 0 then
    local name = bitmap(source, function(set)
      for _, pair in ipairs(test.named) do set(pair[1] * 64 + pair[2]) end
    end)
    parts[#parts + 1] = ("band(rshift(%s[e.experiment * 2 + rshift(e.activity, 5)], band(e.activity, 31)), 1) ~= 0"):format(name)
  end
  return #parts == 1 and parts[1] or "(" .. table.concat(parts, " or ") .. ")"
end

local function application_test(source, test)
  local exact, starts = test.exact, test.starts
  local function matches(e)
    local text = ffi.string(e.application)
    if exact[text] then return true end
    for i = 1, #starts do
      if text:sub(1, #starts[i]) == starts[i] then return true end
    end
    return false
  end
  return source:constant("application", matches) .. "(e)"
end

-- `known`: what must hold for there to be a value.
local function amount_test(expression, known)
  return function(_, _, ranges)
    local parts = {}
    for i, range in ipairs(ranges) do
      parts[i] = range[2] == math.huge and ("%s >= %.0fULL"):format(expression, range[1])
        or ("%s >= %.0fULL and %s <= %.0fULL"):format(expression, range[1], expression, range[2])
    end
    return ("%s(%s)"):format(known and known .. " and " or "", table.concat(parts, " or "))
  end
end

local HAS_BYTES = ("band(e.flags, %d) ~= 0"):format(ffi.C.EVENT_HAS_BYTES)
local IS_END = ("e.state == %d"):format(tonumber(ffi.C.FLOW_END))
local LASTED = "(e.time_us > e.start_us and e.time_us - e.start_us or 0ULL)"
local function never() return "false" end

-- Cheapest first.
local tests = {
  { "protocol", function(_, _, test) return any_of("key.protocol", test) end },
  { "family", function(_, _, test) return any_of("key.family", test) end },
  { "state", function(_, _, test) return any_of("e.state", test) end },
  { "plugin", function(_, _, test) return any_of("e.source", test) end },
  { "experiment", function(_, _, test) return any_of("e.experiment", test) end },
  { "activity", function(source, _, test) return activity_test(source, test) end },
  { "src_port", port_test },
  { "dst_port", port_test },
  { "time", amount_test("e.time_us") },
  { "start_time", amount_test("e.start_us") },
  { "end_time", amount_test("e.time_us", IS_END) },
  { "duration", amount_test(LASTED) },
  { "bytes_sent", amount_test("e.bytes_sent", HAS_BYTES) },
  { "bytes_received", amount_test("e.bytes_received", HAS_BYTES) },
  { "uid", never }, { "user", never }, { "pid", never }, { "comm", never }, { "cgroup", never },
  { "src", address_test },
  { "dst", address_test },
  { "application", function(source, _, test) return application_test(source, test) end },
}

-- The tests and effects of a declaration.
local function add_declaration(source, number, d)
  local conditions = {}
  for _, test in ipairs(tests) do
    local field, make = test[1], test[2]
    if d.tests[field] then conditions[#conditions + 1] = make(source, field, d.tests[field]) end
  end
  source:add("local e = cell.event")
  source:add("local key = e.key")
  -- Making a string can fail for want of memory: the chain must know where.
  if d.tests.application then source:add("e.cursor = %d", number) end
  if #conditions > 0 then source:add("if %s then", table.concat(conditions, " and ")) else source:add("do") end
  source:add("hits[%d].value = hits[%d].value + 1", number, number)
  source:add("e.rule = %d", number)
  if d.experiment then source:add("e.experiment = %d", d.experiment) end
  if d.activity then source:add("e.activity = %d", d.activity) end
  if d.experiment or d.activity or d.application then source:add("e.runs = %d", ffi.C.RULE_RUNS_ALL) end
  if d.route then source:add("e.route = %d", bit.tobit(d.route)) end
  if d.application then
    local text = ffi.new("char[?]", ffi.C.FLOW_APPLICATION_SIZE, d.application)
    source.anchors[#source.anchors + 1] = text
    source:add("copy(e.application, %s, %d)", source:constant("text", ffi.cast("const char *", text)),
      ffi.C.FLOW_APPLICATION_SIZE)
  end
  if d.verdict == "drop" then source:add("e.flags = bor(e.flags, %d)", DROPPED) end
  if d.verdict then source:add("do return true end") end
  source:add("end")
end

local function add_function(source, number, fn)
  source:add("cell.event.cursor = %d", number)
  -- Should it never return, the next process finds its number here; and memory is limited for it, and not for what
  -- comes before and behind.
  source:add("note.number = %d", number)
  source:add("local verdict = %s(flow)", source:constant("rule", fn))
  source:add("if verdict then stop(verdict) end")
  source:add("note.number = 0")
  source:add("if verdict then return true end")
end

-- ---- functions -------------------------------------------------------------------

-- A function for each unit, and one that calls them in order. What a unit's function returns: nil, the next
-- one's turn; true, a verdict.
local UNITS = [[
local shared, constants = ...
local cell, flow, stop, note = shared.cell, shared.flow, shared.stop, shared.note
local hits, find, copy, run_index = shared.hits, shared.find, shared.copy, shared.run_index
local band, bor, rshift = shared.band, shared.bor, shared.rshift
CONSTANTS
FUNCTIONS
return function() return (CALLS) end, NAMES]]

-- Source lines of one unit's function.
local function add_unit(source, unit, rules)
  if unit.index then
    source:add("if band(cell.event.runs, %d) ~= 0 and run_index(%s, cell.event, %d, %d) ~= 0 then return true end",
      bit.lshift(1, unit.run), source:constant("index", unit.index), unit.from, unit.to)
    return
  end
  local number, rule = unit.first, rules[unit.first]
  if rule.fn then add_function(source, number, rule.fn) else add_declaration(source, number, rule.declaration) end
end

-- Functions of up to TURN_RULES units each. Steps, in order, get what each unit alone is.
local function load_units(units, rules, shared, anchors, steps)
  local functions, source, group = {}, nil, {}
  local function load_group()
    local names, bodies = {}, {}
    for i, lines in ipairs(group) do
      names[i] = "unit" .. i
      bodies[i] = ("local function unit%d()\n%s\nend"):format(i, table.concat(lines, "\n"))
    end
    local text = UNITS:gsub("%u%u%u%u+", {
      CONSTANTS = #source.names > 0 and ("local %s = unpack(constants)"):format(table.concat(source.names, ", ")) or "",
      FUNCTIONS = table.concat(bodies, "\n"), CALLS = table.concat(names, "() or ") .. "()", NAMES = table.concat(names, ", "),
    })
    local loaded = { setfenv(assert(loadstring(text, "=rules")), { unpack = unpack })(shared, source.values) }
    functions[#functions + 1], anchors[#anchors + 1] = loaded[1], source.anchors
    for i = 1, #group do steps[#steps - #group + i].run = loaded[i + 1] end
    group = {}
    slice.pause()
  end
  for _, unit in ipairs(units) do
    if unit.index or not rules[unit.first].off then
      if #group == 0 then source = new_source() end
      source.lines = {}
      add_unit(source, unit, rules)
      group[#group + 1] = source.lines
      steps[#steps + 1] = { unit = unit }
      if #group == TURN_RULES or #source.names > TURN_CONSTANTS then load_group() end
    end
  end
  if #group > 0 then load_group() end
  return functions
end

-- The loop around a call: 256 turns when idle. The idle turn calls nothing: a function that is called so
-- often may be compiled by itself, before the loop is.
local TURN = [[
  do
    local over
    repeat
      over = nil
      if cell.live then
        over = %s()
      else
        cell.turn = cell.turn + 1
        if band(cell.turn, 255) ~= 0 then over = false end
      end
    until over ~= false
    if over then goto done end
  end]]

-- Calls of rules, or of pieces (which have loops of their own), that are locals; to be followed by a
-- label `done`.
local function calls(names, pieces)
  local lines = {}
  for i, name in ipairs(names) do lines[i] = (pieces and "  if %s() then goto done end" or TURN):format(name) end
  return table.concat(lines, "\n")
end

local PIECE = [[
local shared, rules = ...
local cell, band = shared.cell, shared.band
local NAMES = unpack(rules)
return function()
  local NAMES = NAMES
  CALLS
  do return false end
  ::done::
  return true
end]]

-- `next_event` is a local like the rules: a function that refers to nothing outside itself is cheaper
-- to come back to, from one loop's code to the next.
local LOOP = [[
local shared, rules = ...
local cell, band, decided, error, note = shared.cell, shared.band, shared.decided, shared.error, shared.note
local NAMES = unpack(rules)
-- No local for the event: where rules are called it would have to be an object.
local function next_event(events, i)
  cell.event = events + i
  if band(cell.event.flags, decided) ~= 0 then return false end
  -- To a rule that kept it to itself, or for machine code. Now is the time to see who has it.
  if cell.refused then error("memory was refused", 0) end
  cell.event.cursor, cell.event.undo_cursor = 0, 0
  -- Rules that are slow for each of many events do return.
  note.heartbeat = note.heartbeat + 1
  return true
end
return function(events, first, last)
  local next_event, NAMES = next_event, NAMES
  for i = first, last do
    if next_event(events, i) then
      CALLS
    end
    ::done::
  end
end, next_event]]

-- A function that calls others in order.
local function load_calls(template, functions, pieces, ...)
  local names = {}
  for i = 1, #functions do names[i] = "rule" .. i end
  local text = template:gsub("%u%u%u+", { NAMES = table.concat(names, ", "), CALLS = calls(names, pieces) })
  local chunk = setfenv(assert(loadstring(text, "=rules")), { unpack = unpack })
  return chunk(...)
end

-- At most PIECE_RULES functions that do the same as all of `functions`; whether they are pieces. All pieces go to `made`.
local function gather(functions, shared, made)
  local gathered = false
  while #functions > PIECE_RULES do
    local pieces = {}
    for from = 1, #functions, PIECE_RULES do
      local part = { unpack(functions, from, math.min(from + PIECE_RULES - 1, #functions)) }
      pieces[#pieces + 1] = load_calls(PIECE, part, gathered, shared, part)
      made[#made + 1] = pieces[#pieces]
      slice.pause()
    end
    functions, gathered = pieces, true
  end
  return functions, gathered
end

---@class flowd.rules.Step a unit that is on
---@field unit flowd.rules.Unit
---@field run fun(): boolean? runs it on the event in the cell; true: a verdict

---@class flowd.rules.Compiled
---@field loop fun(events: ffi.cdata*, first: integer, last: integer) runs all rules on the undecided events
---@field rest fun(from: integer) runs the rules from a number on, on the event in the cell
---@field warm fun()[] each has LuaJIT compile some of the loops, in this order; runs no rule
---@field next_event fun(events: ffi.cdata*, i: integer): boolean puts an event into the cell; false: it is decided
---@field steps flowd.rules.Step[] the same as loop, one by one
---@field anchors any keep them as long as the functions

--- Compile rules.
---@param rules table[] { fn | declaration, off }
---@param shared table of the view: flow, cell; stop(verdict); hits; note
---@param units flowd.rules.Unit[] the rules as they are run
---@return flowd.rules.Compiled
function generate.compile(rules, shared, units)
  local all = {
    find = api.prefix_map_find, run_index = api.rule_index_run, copy = ffi.copy, band = bit.band, bor = bit.bor, rshift = bit.rshift,
    decided = bit.bor(DECIDED, DROPPED), error = error,
  }
  for name, value in pairs(shared) do all[name] = value end
  local anchors, steps = {}, {}
  local functions = load_units(units, rules, all, anchors, steps)
  if #steps == 0 then
    local function nothing() end
    return { loop = nothing, rest = nothing, warm = {}, next_event = nothing, steps = steps, anchors = anchors }
  end
  local warm = {}
  local gathered, pieces = gather(functions, all, warm)
  local loop, next_event = load_calls(LOOP, gathered, pieces, all, gathered)
  -- Needed only behind an error.
  local function rest(from)
    for _, step in ipairs(steps) do
      local unit = step.unit
      if unit.last >= from and unit.index then
        if api.rule_index_run(unit.index, all.cell.event, unit.from + math.max(from - unit.first, 0), unit.to) ~= 0 then return end
      elseif unit.first >= from and step.run() then
        return
      end
    end
  end
  local function idle(fn, ...)
    local cell = all.cell
    cell.live = false
    fn(...)
    cell.live = true
    cell.event = nil
  end
  for i, piece in ipairs(warm) do warm[i] = function() idle(piece) end end
  warm[#warm + 1] = function()
    -- An undecided event for the rules' loops, decided ones for the loop over events.
    idle_events[0].flags = 0
    idle(loop, idle_events + 0, 0, IDLE_EVENTS - 1)
  end
  return { loop = loop, rest = rest, warm = warm, next_event = next_event, steps = steps, anchors = anchors }
end

return generate
