-- SPDX-License-Identifier: Apache-2.0
--- Rules as straight-line Lua: what the chain runs for each event.
--
-- A declaration becomes comparisons and stores, a function a call; both stand one after the
-- other in their order. Constants (sets, functions) are locals around the generated function,
-- never assigned again, so that LuaJIT takes them into the machine code. A function may refer to
-- 60 of them: long chains are cut into pieces.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")

local generate = {}

-- Constants that a piece may have, besides the ones that all pieces share.
local PIECE_CONSTANTS = 40
local DROPPED = ffi.C.EVENT_DROPPED

-- ---- constants -----------------------------------------------------------------

local Piece = {}
Piece.__index = Piece

local function new_piece() return setmetatable({ lines = {}, names = {}, values = {}, anchors = {} }, Piece) end

-- A local of the piece that holds `value`.
function Piece:constant(prefix, value)
  local name = ("%s%d"):format(prefix, #self.names + 1)
  self.names[#self.names + 1], self.values[#self.values + 1] = name, value
  return name
end

function Piece:add(format, ...) self.lines[#self.lines + 1] = format:format(...) end

-- ---- tests ---------------------------------------------------------------------

local function any_of(expression, numbers)
  local parts = {}
  for i, number in ipairs(numbers) do parts[i] = ("%s == %d"):format(expression, number) end
  return #parts == 1 and parts[1] or "(" .. table.concat(parts, " or ") .. ")"
end

-- A bit for each of 65,536 numbers.
local function bitmap(piece, fill)
  local words = ffi.new("uint32_t[2048]")
  fill(function(number)
    local word = bit.rshift(number, 5)
    words[word] = bit.bor(words[word], bit.lshift(1, bit.band(number, 31)))
  end)
  piece.anchors[#piece.anchors + 1] = words
  return piece:constant("bits", ffi.cast("const uint32_t *", words))
end

local function port_test(piece, field, ranges)
  if #ranges <= 2 then
    local parts = {}
    for i, range in ipairs(ranges) do
      parts[i] = range[1] == range[2] and ("key.%s == %d"):format(field, range[1])
        or ("key.%s >= %d and key.%s <= %d"):format(field, range[1], field, range[2])
    end
    return #parts == 1 and parts[1] or ("(%s or %s)"):format(parts[1], parts[2])
  end
  local name = bitmap(piece, function(set)
    for _, range in ipairs(ranges) do
      for port = range[1], range[2] do set(port) end
    end
  end)
  return ("band(rshift(%s[rshift(key.%s, 5)], band(key.%s, 31)), 1) ~= 0"):format(name, field, field)
end

local function address_test(piece, field, set)
  piece.anchors[#piece.anchors + 1] = set.anchor
  return ("find(%s, key.%s) ~= 0"):format(piece:constant("set", set.pointer), field)
end

local function activity_test(piece, test)
  local parts = {}
  if #test.any > 0 then parts[1] = any_of("e.activity", test.any) end
  if #test.named > 0 then
    local name = bitmap(piece, function(set)
      for _, pair in ipairs(test.named) do set(pair[1] * 64 + pair[2]) end
    end)
    parts[#parts + 1] = ("band(rshift(%s[e.experiment * 2 + rshift(e.activity, 5)], band(e.activity, 31)), 1) ~= 0"):format(name)
  end
  return #parts == 1 and parts[1] or "(" .. table.concat(parts, " or ") .. ")"
end

local function application_test(piece, test)
  local exact, starts = test.exact, test.starts
  local function matches(e)
    local text = ffi.string(e.application)
    if exact[text] then return true end
    for i = 1, #starts do
      if text:sub(1, #starts[i]) == starts[i] then return true end
    end
    return false
  end
  return piece:constant("application", matches) .. "(e)"
end

-- Cheapest first.
local tests = {
  { "protocol", function(_, _, test) return any_of("key.protocol", test) end },
  { "family", function(_, _, test) return any_of("key.family", test) end },
  { "state", function(_, _, test) return any_of("e.state", test) end },
  { "plugin", function(_, _, test) return any_of("e.source", test) end },
  { "experiment", function(_, _, test) return any_of("e.experiment", test) end },
  { "activity", function(piece, _, test) return activity_test(piece, test) end },
  { "src_port", port_test },
  { "dst_port", port_test },
  { "src", address_test },
  { "dst", address_test },
  { "application", function(piece, _, test) return application_test(piece, test) end },
}

-- The tests and effects of a declaration.
local function add_declaration(piece, number, d)
  local conditions = {}
  for _, test in ipairs(tests) do
    local field, make = test[1], test[2]
    if d.tests[field] then conditions[#conditions + 1] = make(piece, field, d.tests[field]) end
  end
  -- Making a string can fail for want of memory: the chain must know where.
  if d.tests.application then piece:add("e.cursor = %d", number) end
  if #conditions > 0 then piece:add("if %s then", table.concat(conditions, " and ")) else piece:add("do") end
  piece:add("hits[%d].value = hits[%d].value + 1", number, number)
  piece:add("e.rule = %d", number)
  if d.experiment then piece:add("e.experiment = %d", d.experiment) end
  if d.activity then piece:add("e.activity = %d", d.activity) end
  if d.route then piece:add("e.route = %d", bit.tobit(d.route)) end
  if d.application then
    local text = ffi.new("char[?]", ffi.C.FLOW_APPLICATION_SIZE, d.application)
    piece.anchors[#piece.anchors + 1] = text
    piece:add("copy(e.application, %s, %d)", piece:constant("text", ffi.cast("const char *", text)),
      ffi.C.FLOW_APPLICATION_SIZE)
  end
  if d.verdict == "drop" then piece:add("e.flags = bor(e.flags, %d)", DROPPED) end
  if d.verdict then piece:add("do return true end") end
  piece:add("end")
end

local function add_function(piece, number, fn)
  piece:add("do e.cursor = %d", number)
  -- Should it never return, the next process finds its number here.
  piece:add("note.number = %d", number)
  piece:add("local verdict = %s(flow)", piece:constant("rule", fn))
  piece:add("if verdict then return stop(e, %d, verdict) end end", number)
end

-- ---- pieces --------------------------------------------------------------------

local HEAD = [[
local shared, constants = ...
local flow, stop, hits, find, copy = shared.flow, shared.stop, shared.hits, shared.find, shared.copy
local band, bor, rshift = shared.band, shared.bor, shared.rshift
local note = shared.note
]]

-- Two functions of a piece: all its rules, and those from a number on.
local function load_piece(piece, shared)
  local source = { HEAD }
  if #piece.names > 0 then
    source[#source + 1] = ("local %s = unpack(constants)\n"):format(table.concat(piece.names, ", "))
  end
  local function add(parameters, lines)
    source[#source + 1] = ("(function(%s)\nlocal key = e.key\n%s\nend)"):format(parameters, table.concat(lines, "\n"))
  end
  source[#source + 1] = "return "
  add("e", piece.lines)
  source[#source + 1] = ", "
  add("e, from", piece.guarded)
  local chunk = assert(loadstring(table.concat(source), "=rules"))
  local environment = setfenv(chunk, { unpack = unpack })
  return environment(shared, piece.values)
end

-- Rules in pieces of at most PIECE_CONSTANTS constants each.
local function make_pieces(rules)
  local pieces, piece = {}, nil
  for number, rule in ipairs(rules) do
    if not rule.off then
      if not piece or #piece.names > PIECE_CONSTANTS or #piece.lines > 400 then
        piece = new_piece()
        piece.guarded = {}
        pieces[#pieces + 1] = piece
      end
      local first = #piece.lines + 1
      if rule.fn then add_function(piece, number, rule.fn) else add_declaration(piece, number, rule.declaration) end
      local body = table.concat(piece.lines, "\n", first)
      piece.guarded[#piece.guarded + 1] = ("if from <= %d then\n%s\nend"):format(number, body)
    end
  end
  return pieces
end

local LOOP = [[
local shared, pieces = ...
local at, band, decided = shared.at, shared.band, shared.decided
local NAMES = unpack(pieces)
return function(first, last)
  for i = first, last do
    local e = at(i)
    if band(e.flags, decided) == 0 then
      e.cursor, e.undo_cursor = 0, 0
      CALLS
    end
  end
end
]]

-- Calls one after the other until one returns true. Nested or'd: no branch more than needed.
local function load_loop(shared, functions)
  local names, calls = {}, {}
  for i = 1, #functions do
    names[i] = "piece" .. i
    calls[i] = ("piece%d(e)"):format(i)
  end
  local source = LOOP:gsub("NAMES", table.concat(names, ", "))
    :gsub("CALLS", #calls == 1 and calls[1] or "local _ = " .. table.concat(calls, " or "))
  local chunk = setfenv(assert(loadstring(source, "=rules")), { unpack = unpack })
  return chunk(shared, functions)
end

--- Compile rules.
---@param rules table[] { fn | declaration, off }
---@param shared { flow: flowd.Flow, at: function, stop: function, hits: ffi.cdata*, note: ffi.cdata* }
---@return fun(first: integer, last: integer) loop runs all rules on each event not yet decided
---@return fun(e: ffi.cdata*, from: integer) rest runs the rules from a number on, on one event
---@return any anchors keep them as long as the functions
function generate.compile(rules, shared)
  local all = {
    find = api.prefix_map_find, copy = ffi.copy, band = bit.band, bor = bit.bor, rshift = bit.rshift,
    decided = bit.bor(ffi.C.EVENT_DECIDED, DROPPED),
  }
  for name, value in pairs(shared) do all[name] = value end
  local pieces = make_pieces(rules)
  if #pieces == 0 then return function() end, function() end, pieces end
  local whole, rests = {}, {}
  for i, piece in ipairs(pieces) do whole[i], rests[i] = load_piece(piece, all) end
  local function rest(e, from)
    for i = 1, #rests do
      if rests[i](e, from) then return end
    end
  end
  return load_loop(all, whole), rest, pieces
end

return generate
