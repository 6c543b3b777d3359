-- SPDX-License-Identifier: Apache-2.0
--- Policy states: values across, calls both ways, memory that is limited and given back.
local loop = require("flowd.loop")
local policy_state = require("flowd.policy_state")

local MIB = 2 ^ 20

-- A module of functions for the specs, inside a state: p:call("spec.NAME", …).
local function state(text, options)
  local p = policy_state.new(options)
  p:call("spec.support.policy_module.load", text or "return {}")
  return p
end

local echo = "return { echo = function(...) return ... end }"

local function resident()
  local file = assert(io.open("/proc/self/statm"))
  local pages = tonumber(file:read("*a"):match("^%d+ (%d+)"))
  file:close()
  return pages * 4096
end

describe("a policy state", function()
  local p
  after_each(function()
    if p then p:close() end
    for name in pairs(policy_state.host) do
      if name:find("^spec_") then policy_state.host[name] = nil end
    end
  end)

  it("copies plain values both ways", function()
    p = state(echo)
    local values = { 1, -0.5, "text\0with\nall", true, false, { 1, 2, { deep = { "er" } }, [7.5] = "half" }, {}, "" }
    assert.same({ unpack(values) }, { p:call("spec_module.echo", unpack(values)) })
    assert.equal(0, select("#", p:call("spec_module.echo")))
    assert.equal(3, select("#", p:call("spec_module.echo", nil, nil, nil)))
    assert.is_true(p:call("spec_module.echo", 1e308 * 10) == math.huge)
    local big, unsigned = p:call("spec_module.echo", -9223372036854775807LL, 18446744073709551615ULL)
    assert.is_true(big == -9223372036854775807LL)
    assert.is_true(unsigned == 18446744073709551615ULL)
  end)

  it("copies: what is changed on one side stays as it was on the other", function()
    p = state("local kept return { keep = function(t) kept = t return t end, read = function() return kept.a end }")
    local mine = { a = 1 }
    local back = p:call("spec_module.keep", mine)
    mine.a, back.a = 2, 3
    assert.equal(1, p:call("spec_module.read"))
  end)

  it("refuses what is not plain, and says where it is", function()
    p = state("return { give = function() return { list = { 1, print } } end, echo = function(...) return ... end }")
    assert.error_matches(function() p:call("spec_module.echo", { a = { print } }) end,
      "argument 2.a%[1%]: expected nil, a boolean, number, string, 64%-bit integer or a table of these; got a function")
    assert.error_matches(function() p:call("spec_module.give") end, "result 1.list%[2%]: expected .*; got a function")
    local circle = {}
    circle.around = { circle }
    assert.error_matches(function() p:call("spec_module.echo", circle) end, "around%[1%]: this table holds itself")
    assert.error_matches(function() p:call("spec_module.echo", setmetatable({}, {})) end, "this one has a metatable")
    assert.error_matches(function() p:call("spec_module.echo", require("ffi").new("int[3]")) end, "got a cdata")
    local deep = {}
    for _ = 1, 100 do deep = { deep } end
    assert.error_matches(function() p:call("spec_module.echo", deep) end, "too deep")
    -- A table in two places is no circle.
    local shared = { 1 }
    assert.same({ { 1 }, { 1 } }, p:call("spec_module.echo", { shared, shared }))
  end)

  it("gives errors of what it runs to the caller, with their place", function()
    p = state("return { fail = function() error('oh') end, odd = function() error({}) end }")
    local ok, message = pcall(p.call, p, "spec_module.fail")
    assert.is_false(ok)
    assert.matches("^spec_module:1: oh\nstack traceback:", message)
    assert.matches("^error object is no string %(a table%)\nstack traceback:", select(2, pcall(p.call, p, "spec_module.odd")))
    assert.matches("there is no function spec_module.none", select(2, pcall(p.call, p, "spec_module.none")))
    assert.matches("there is no function nothing", select(2, pcall(p.call, p, "nothing")))
  end)

  it("calls the main state, which may call it again", function()
    p = state([[ local host = require("flowd.host")
      return { down = function(n) return n == 0 and { 0 } or host.call("spec_down", n - 1) end,
        none = function() return host.call("spec_none") end } ]])
    function policy_state.host.spec_down(n)
      local list = p:call("spec_module.down", n)
      list[#list + 1] = n
      return list
    end
    assert.same({ 0, 0, 1, 2, 3, 4 }, p:call("spec_module.down", 5))
    local ok, message = pcall(p.call, p, "spec_module.none")
    assert.is_false(ok)
    assert.matches("host: there is no function spec_none", message)
  end)

  it("cannot be closed from within, nor used when closed", function()
    p = state("return { leave = function() return require('flowd.host').call('spec_close') end }")
    function policy_state.host.spec_close() p.handle:close() end
    assert.error_matches(function() p:call("spec_module.leave") end, "cannot be closed from within")
    p:close()
    p:close()
    assert.error_matches(function() p:call("spec_module.leave") end, "closed")
  end)

  it("turns allocating without end into an error, and goes on", function()
    p = state([[ return {
      tables = function() local t = {} while true do t[#t + 1] = { #t } end end,
      strings = function() local t = {} for i = 1, math.huge do t[i] = ("x"):rep(1000) .. i end end,
      rep = function() return #("x"):rep(1e9) end,
      closures = function() local f for i = 1, math.huge do local g = f f = function() return g, i end end end,
      concat = function() local s = "x" while true do s = s .. s end end,
      buffer = function() local t = {} for i = 1, 1e6 do t[i] = "0123456789abcdef" end return #table.concat(t) end,
      well = function() local t = {} for i = 1, 1e5 do t[i] = i end return #t end } ]], { limit = 16 * MIB })
    for _ = 1, 3 do
      for _, name in ipairs({ "tables", "strings", "rep", "closures", "concat", "buffer" }) do
        local ok, message = pcall(p.call, p, "spec.support.policy_module.limited", "spec_module." .. name)
        assert.is_false(ok, name)
        assert.matches("not enough memory", message)
        assert.equal(1e5, p:call("spec_module.well"))
        p:call("spec.support.policy_module.collect")
        assert.is_true(p:memory() < 4 * MIB, ("%s: %d octets are still in use"):format(name, (p:memory())))
      end
    end
  end)

  it("gives all its memory back when it is closed", function()
    local function round()
      p = state("local t = {} return { fill = function() for i = 1, 1e5 do t[i] = { tostring(i) } end return #t end }")
      assert.equal(1e5, p:call("spec_module.fill"))
      local used, mapped = p:memory()
      assert.is_true(used > 8 * MIB)
      assert.is_true(mapped >= used)
      p:close()
      collectgarbage()
    end
    for _ = 1, 5 do round() end
    local before = resident()
    for _ = 1, 20 do round() end
    assert.is_true(resident() - before < 4 * MIB, ("grew by %d KiB"):format((resident() - before) / 1024))
  end)

  it("is given back a little at a time when it is retired, its C memory too; its timers end at once", function()
    local function round()
      local ticked
      function policy_state.host.spec_tick() ticked = true end
      p = state([[ local addresses, loop, host = require("flowd.addresses"), require("flowd.loop"), require("flowd.host")
        local t, sets = {}, {}
        return { fill = function()
          for i = 1, 1e5 do t[i] = { tostring(i) } end
          for i = 1, 200 do sets[i] = addresses.prefixes({ ("2001:db8:%x::/48"):format(i) }) end
          loop.every(0.001, function() host.call("spec_tick") end)
          return #t
        end } ]])
      assert.equal(1e5, p:call("spec_module.fill"))
      while not ticked do loop.turn(0.01) end
      local handle, turns = p.handle, 0
      p:retire()
      assert.error_matches(function() p:call("spec_module.fill") end, "closed")
      ticked = false
      -- It goes on in turns of the loop; 16 MB are not given back in one of 2 ms.
      while not handle:close_some(0) do
        loop.turn(0.01)
        turns = turns + 1
      end
      assert.is_true(turns > 1)
      assert.is_false(ticked)
      p:close()
      p = nil
    end
    for _ = 1, 5 do round() end
    local before = resident()
    for _ = 1, 20 do round() end
    -- A sanitizer keeps some of what C frees.
    local most = (os.getenv("ASAN_OPTIONS") and 16 or 4) * MIB
    assert.is_true(resident() - before < most, ("grew by %d KiB"):format((resident() - before) / 1024))
  end)

  it("runs what the C collector closes: memory of C primitives", function()
    p = state([[ local addresses = require("flowd.addresses")
      local sets = {} return { sets = function() for i = 1, 100 do
        sets[i] = addresses.prefixes({ ("2001:db8:%x::/48"):format(i) }) end return #sets end } ]])
    assert.equal(100, p:call("spec_module.sets"))
    p:close()
  end)
end)
