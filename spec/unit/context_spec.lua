-- SPDX-License-Identifier: Apache-2.0
local context = require("flowd.context")
local loop = require("flowd.loop")

describe("a plugin's context", function()
  local ctx

  before_each(function() ctx = context.new({ name = "mine", kind = "plugin" }) end)
  after_each(function() ctx:close() end)

  it("calls back after a time, until the plugin stops", function()
    local calls = 0
    ctx:after(0, function() calls = calls + 1 end)
    ctx:every(0, function() calls = calls + 10 end)
    loop.turn()
    assert.is_true(calls >= 11)
    ctx:close()
    local before = calls
    loop.turn()
    loop.turn()
    assert.equal(before, calls)
  end)

  it("forgets a timer that has fired", function()
    ctx:after(0, function() end)
    loop.turn()
    assert.is_nil(next(ctx.handles))
  end)

  it("closes what it was given to own, once", function()
    local closed = 0
    local handle = ctx:own({ close = function() closed = closed + 1 end })
    ctx:release(handle)
    ctx:close()
    assert.equal(1, closed)
  end)

  it("opens nothing for a plugin that was stopped", function()
    ctx:close()
    local closed = false
    assert.has_error(function() ctx:own({ close = function() closed = true end }) end,
      "this plugin was stopped: it cannot open anything any more")
    assert.is_true(closed)
  end)

  it("hands out counters by name and labels", function()
    local c = ctx:counter("flowd_modules_failed", { kind = "plugin", name = "context_spec" })
    c.value = c.value + 3
    assert.equal(3, tonumber(ctx:counter("flowd_modules_failed", { kind = "plugin", name = "context_spec" }).value))
  end)
end)
