-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local random_lua = require("spec.support.random_lua")
local slice = require("flowd.slice")
local slice_core = require("flowd.slice_core")

local MS = 1e6

local function elapsed_ms(fn)
  local before = api.clock_monotonic_ns()
  fn()
  return tonumber(api.clock_monotonic_ns() - before) / 1e6
end

-- Steps until the end; the number of steps, and what the last one returned.
local function run(s, budget)
  local steps = 0
  while true do
    steps = steps + 1
    local r = { s:step(budget or MS) }
    if r[1] ~= "more" then return steps, unpack(r) end
    if steps >= 20000 then error("does not end; it is at " .. s:cancel()) end
  end
end

local function endless(fn, steps)
  local s = slice.new(fn)
  local worst = math.huge
  for _ = 1, steps or 5 do
    -- The least of some: the machine may be busy with others.
    worst = math.min(worst, elapsed_ms(function() assert.equal("more", (s:step(MS))) end))
  end
  assert.is_true(worst < 20, ("a step of 1 ms took %.1f ms at best"):format(worst))
  return s
end

describe("slice", function()
  it("hands arguments in and results out", function()
    assert.same({ "done", 1, nil, 3 }, { slice.new(function(...) return ... end, 1, nil, 3):step(MS) })
    assert.same({ "done" }, { slice.new(function() end):step(MS) })
  end)

  it("leaves an endless loop when its time is spent, and goes on with it", function()
    local n = 0
    local s = endless(function() while true do n = n + 1 end end)
    local before = n
    s:step(MS)
    assert.is_true(n > before)
  end)

  it("leaves loops with an empty body, recursion, metamethods, pcall, xpcall and iterators", function()
    endless(function() while true do end end)
    endless(function() repeat until false end)
    endless(function() for _ = 1, math.huge do end end)
    endless(function() local function f() return f() end return f() end)
    endless(function() while true do pcall(function() while true do end end) end end)
    endless(function() while true do pcall(error, "again") end end)
    endless(function() xpcall(function() while true do end end, tostring) end)
    endless(function() local t = setmetatable({}, { __index = function() while true do end end }) return t.x end)
    endless(function() return setmetatable({}, { __concat = function() while true do end end }) .. "" end)
    endless(function()
      local meta = { __eq = function() while true do end end }
      return setmetatable({}, meta) == setmetatable({}, meta)
    end)
    endless(function() return tostring(setmetatable({}, { __tostring = function() while true do end end })) end)
    endless(function() for _ in function() while true do end end do return end end) -- luacheck: ignore 512
    endless(function() while true do string.find("abc", "b") end end)
  end)

  it("computes the same in slices as in one go, whatever is live where it is left", function()
    local function work()
      local sum, t = 0, {}
      for i = 1, 60000 do
        local s = setmetatable({ i }, { __add = function(a, b) return a[1] + b end, __index = function(_, k) return #k end })
        local ok, v = pcall(function(...) return select("#", ...) + s.abc end, i, i, i)
        assert(ok)
        t[i % 100 + 1] = ("%d:%d"):format(i, v)
        sum = sum + (s + v)
      end
      return sum, table.concat(t, ",")
    end
    local sum, text = work()
    local steps, what, sliced_sum, sliced_text = run(slice.new(work), 0.05 * MS)
    assert.equal("done", what)
    assert.equal(sum, sliced_sum)
    assert.equal(text, sliced_text)
    assert.is_true(steps > 10)
  end)

  it("is not compiled away by machine code that was there before", function()
    local function count(n) local s = 0 for i = 1, n do s = s + i % 3 end return s end
    for _ = 1, 200 do count(200) end -- compiled by now
    endless(function() while true do count(10) end end)
  end)

  it("hands on what coroutine.yield is given, and to it what the next step is given", function()
    local s = slice.new(function(a)
      local b = coroutine.yield("first", a)
      for _ = 1, 300000 do local _ = {} end
      return b
    end, 7)
    assert.same({ "more", "first", 7 }, { s:step(MS) })
    assert.same({ "more" }, { s:step(0, "answer") })
    local _, what, b = run(s)
    assert.same({ "done", "answer" }, { what, b })
  end)

  it("tells an error with its traceback, and ends", function()
    local s = slice.new(function() local t = nil; return t.x end)
    local what, message, trace = s:step(MS)
    assert.equal("error", what)
    assert.matches("slice_spec.lua:%d+: attempt to index", message)
    assert.matches("^stack traceback:\n.*slice_spec.lua", trace)
    assert.has_error(function() s:step(MS) end, "this slice has ended")
    local object = {}
    local _, value = slice.new(function() error(object) end):step(MS)
    assert.equal(object, value)
  end)

  it("tells where it was when it is cancelled, and never goes on", function()
    local s = endless(function() while true do end end)
    assert.matches("slice_spec.lua", s:cancel())
    assert.has_error(function() s:step(MS) end, "this slice has ended")
  end)

  it("ends with an error what cannot be left, also when it catches errors", function()
    -- Not string.gsub: in this process it may be slice.library's.
    local stuck = {
      function() table.sort({ 1, 2, 3 }, function() while true do end end) end,
      function() table.sort({ 1, 2, 3 }, function() while true do pcall(function() while true do end end) end end) end,
      function() coroutine.wrap(function() while true do end end)() end,
    }
    for i, fn in ipairs(stuck) do
      local what, message = select(2, run(slice.new(fn)))
      assert.equal("error", what, i)
      assert.matches("takes too long where it cannot be interrupted", message)
    end
  end)

  it("takes its hook away after the step", function()
    local s = endless(function() while true do end end)
    assert.is_nil((debug.gethook()))
    local fired = 0
    local function turn() for _ = 1, 1e5 do fired = fired + 0 end end
    jit.off(turn)
    debug.sethook(function() fired = fired + 1 end, "", 1000)
    s:step(MS)
    turn()
    debug.sethook()
    assert.is_true(fired > 0)
  end)

  it("steps inside steps", function()
    local inner_steps
    local outer = slice.new(function()
      local inner = slice.new(function() for _ = 1, 200000 do local _ = {} end return "inner" end)
      inner_steps = 0
      while true do
        inner_steps = inner_steps + 1
        local what, value = inner:step(0.2 * MS)
        if what == "done" then return value end
      end
    end)
    local _, what, value = run(outer, 0.5 * MS)
    assert.same({ "done", "inner" }, { what, value })
    assert.is_true(inner_steps > 1)
  end)
end)

describe("slice.library", function()
  local sort, gsub = slice.library.table.sort, slice.library.string.gsub

  it("sorts as table.sort does", function()
    math.randomseed(7)
    for n = 0, 60 do
      local a, b = {}, {}
      for i = 1, n do a[i] = math.random(1, 20) b[i] = a[i] end
      table.sort(a)
      sort(b)
      assert.same(a, b)
      table.sort(a, function(x, y) return x > y end)
      sort(b, function(x, y) return x > y end)
      assert.same(a, b)
    end
    assert.has_error(function() sort(1) end, "bad argument #1 to 'sort' (table expected, got number)")
    assert.has_error(function() sort({ 1, "a" }) end)
  end)

  it("replaces as string.gsub does", function()
    local function replace(...)
      local list = { ... }
      for i, v in ipairs(list) do list[i] = tostring(v) end
      return "<" .. table.concat(list, "|") .. ">"
    end
    for _, text in ipairs({ "", "a", "hello world", "aXbXc", "THE (quick) fox", "\0a\0" }) do
      local patterns = { "", "a", ".", ".*", "x*", "^h", "^", "$", "%w+", "(%w)(%w*)", "()", "%f[%w]%w+", "[^X]*", "X?", "%b()", "o",
        "%z" }
      for _, pattern in ipairs(patterns) do
        for _, max in ipairs({ false, 0, 1, 2 }) do
          max = max or nil
          assert.same({ string.gsub(text, pattern, replace, max) }, { gsub(text, pattern, replace, max) },
            ("%q %q %s"):format(text, pattern, tostring(max)))
        end
      end
      local t = setmetatable({}, { __index = function(_, k) if #k > 2 then return #k end end })
      assert.same({ string.gsub(text, "%w+", t) }, { gsub(text, "%w+", t) })
    end
    local long = ("hello aXb "):rep(1000)
    for _, pattern in ipairs({ "o", "()", "(%w)X(%w)", "%w+", "^h", "x*", "(l)(l)", "nothing" }) do
      for _, by in ipairs({ "", "plain", "<%0>", "%1", "%%%1", "a%b", { o = "0", a = 1, l = false, hello = "bye" } }) do
        for _, max in ipairs({ false, 3, 5000 }) do
          assert.same({ string.gsub(long, pattern, by, max or nil) }, { gsub(long, pattern, by, max or nil) }, pattern)
        end
      end
    end
    assert.has_error(function() gsub(long, "(o)", "%2") end, "invalid capture index")
    assert.same({ "b", 1 }, { gsub("a", "a", "b") })
    assert.same({ "b", 1 }, { gsub("a", "a", { a = "b" }) })
    assert.has_error(function() gsub("a", "a", function() return {} end) end, "invalid replacement value (a table)")
  end)

  it("is left in the middle of a comparison or replacement", function()
    endless(function() sort({ 1, 2, 3 }, function() while true do end end) end)
    endless(function() gsub("aaa", "a", function() while true do end end) end)
  end)

  it("ends also with a comparison that contradicts itself", function()
    local list = {}
    for i = 1, 200 do list[i] = i end
    sort(list, function() return true end)
    assert.equal(200, #list)
  end)
end)

-- What runs between two steps: other Lua, the collector.
local function disturb()
  local list = {}
  for i = 1, 20 do list[i] = { i } end
  local _ = { unpack(list) }
  _ = select("#", unpack(list)) + #table.concat({ 1, 2, 3 })
  collectgarbage("step", 1)
end

describe("a slice that is left at every instruction", function()
  local before
  setup(function() before = slice_core.count(1) end)
  teardown(function() slice_core.count(before) end)

  local function in_steps(fn)
    local steps, s = 0, slice.new(fn)
    while true do
      local what, value = s:step(0)
      if what ~= "more" then return what, value, steps end
      steps = steps + 1
      disturb()
    end
  end

  it("comes to the same, whatever the program", function()
    local seed = tonumber(os.getenv("FUZZ_SEED")) or os.time()
    math.randomseed(seed)
    local total = 0
    for round = 1, tonumber(os.getenv("SLICE_PROGRAMS")) or 150 do
      local source = random_lua.program()
      local program = assert(loadstring(source, "=program"))
      local ok, wanted = pcall(program)
      local what, value, steps = in_steps(program)
      assert.is_true(steps > 10)
      total = total + steps
      if what ~= (ok and "done" or "error") or value ~= wanted then
        error(("FUZZ_SEED=%d, program %d:\n%s\nwanted %s\ngot %s %s"):format(seed, round, source, tostring(wanted), what,
          tostring(value)))
      end
    end
    assert.is_true(total > 20000)
  end)

  it("comes to the same with machine code, too", function()
    local function inner(i) return i % 7, i % 3, i end
    local function outer(n)
      local sum = 0
      for i = 1, n do
        local a, b, c = inner(i)
        sum = sum + a * b + c
      end
      return sum, n
    end
    local wanted = outer(20000)
    local what, value = in_steps(function()
      local function last(...) return (select(select("#", ...), ...)) end
      local sum = 0
      for i = 1, 30 do sum = sum + last(inner(outer(100 + i))) end
      local got, n = outer(20000)
      return ("%d %d %d"):format(sum, got, n)
    end)
    assert.same({ "done", ("%d %d %d"):format((function()
      local sum = 0
      for i = 1, 30 do sum = sum + outer(100 + i) end
      return sum
    end)(), wanted, 20000) }, { what, value })
  end)
end)

describe("a slice among others", function()
  local before
  setup(function() before = slice_core.count(1) end)
  teardown(function() slice_core.count(before) end)

  -- As a file of the framework.
  local function framework(name, text)
    return assert(loadstring(text, "@lua/flowd/" .. name))({ slice = slice })
  end
  local SUM = "return function(n) local s = 0 for i = 1, n do s = s + i end return s end"

  local function steps_of(fn)
    local s, steps = slice.among(fn), 0
    while true do
      steps = steps + 1
      local what, value = s:step(0)
      if what ~= "more" then return steps, what, value end
    end
  end

  it("is left in what was typed, and not inside the framework's functions", function()
    local sum = framework("one.lua", SUM)
    assert.is_true((steps_of(loadstring(SUM:gsub("^return function", "return (function") .. ")(100)", "=console"))) > 200)
    local steps, what, value = steps_of(function() return sum(100) end)
    assert.same({ "done", 5050 }, { what, value })
    assert.is_true(steps < 10, steps)
  end)

  it("is left inside those whose files say so, unless others called them", function()
    local sum = framework("two.lua", "(...).slice.may_be_left() " .. SUM)
    assert.is_true((steps_of(function() return sum(100) end)) > 200)
    local around = framework("three.lua", "return function(fn, n) local s = fn(n) return s end")
    local steps, what, value = steps_of(function() return around(sum, 100) end)
    assert.same({ "done", 5050 }, { what, value })
    assert.is_true(steps < 20, steps)
  end)

  it("is left where such a function says, when its time is spent", function()
    local pausing = framework("four.lua",
      "local slice = (...).slice return function(n) local s = 0 for i = 1, n do slice.pause() s = s + i end return s end")
    local steps, what, value = steps_of(function() return pausing(100) end)
    assert.same({ "done", 5050 }, { what, value })
    assert.is_true(steps > 100 and steps < 115, steps)
    assert.equal(1, (select(2, pcall(function()
      local s = slice.among(function() return pausing(100) end)
      return s:step(10 * 1e9) == "done" and 1
    end))))
    -- And outside of slices it does nothing.
    assert.equal(5050, pausing(100))
  end)
end)
