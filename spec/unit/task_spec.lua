-- SPDX-License-Identifier: Apache-2.0
local loop = require("flowd.loop")
local process = require("spec.support.process")
local services = require("spec.support.services")

describe("straight-line style", function()
  local ctx
  before_each(function() ctx = services.context() end)
  after_each(function() ctx:close() end)

  it("waits without blocking, and several do so at a time", function()
    local order = {}
    local before = process.now()
    for _, seconds in ipairs({ 0.2, 0.1, 0.15 }) do
      ctx.spawn(function()
        ctx.sleep(seconds)
        order[#order + 1] = seconds
      end)
    end
    assert.same({}, order)
    services.turn_until("all of them", function() return #order == 3 end)
    assert.same({ 0.1, 0.15, 0.2 }, order)
    assert.is_true(process.now() - before >= 0.2)
    assert.same({}, ctx.handles)
  end)

  it("gives arguments to the function, and what a callback would get to the caller", function()
    local got
    ctx:spawn(function(host) got = { ctx.resolve(host) } end, "2001:DB8::1")
    services.turn_until("the answer", function() return got end)
    assert.same({ { "2001:db8::1" } }, got)
  end)

  it("runs programs", function()
    local status, output = services.run(ctx, function() return ctx.run({ "/bin/sh", "-c", "echo out; exit 3" }) end)
    assert.same({ 3, "out\n" }, { status, output })
    status, output = services.run(ctx, function() return ctx.run({ "/none" }) end)
    assert.same({ nil, "/none: No such file or directory" }, { status, output })
    assert.equal(-1, (services.run(ctx, function() return ctx.run({ "/bin/sleep", "100" }, { seconds = 0.1 }) end)))
  end)

  it("may wait within pcall and within loops", function()
    local results = {}
    services.run(ctx, function()
      for i = 1, 3 do
        results[i] = { pcall(function()
          ctx.sleep(0.01)
          if i == 2 then error("second", 0) end
          return i
        end) }
      end
    end)
    assert.same({ { true, 1 }, { false, "second" }, { true, 3 } }, results)
  end)

  it("waits for a function to be called", function()
    local wake
    local got
    ctx.spawn(function() got = { ctx.wait(function(w) wake = w end) } end)
    assert.is_nil(got)
    wake("a", nil, "b")
    assert.same({ "a", nil, "b" }, got)
    wake("again")
    assert.same({ "a", nil, "b" }, got)
    assert.equal("at once", services.run(ctx, function() return ctx.wait(function(w) w("at once") end) end))
  end)

  it("outside of a task asks for a callback", function()
    assert.has_error(function() ctx.sleep(1) end, "sleep: expected a callback; only inside of ctx.spawn can it be left out")
    assert.has_error(function() ctx.resolve("::1") end, "resolve: expected a callback; only inside of ctx.spawn can it be left out")
    local message
    coroutine.wrap(function() message = select(2, pcall(ctx.http.get, "http://[::1]/")) end)()
    assert.matches("http: expected a callback", message)
  end)

  it("counts what a task raises, at once or later", function()
    ctx.spawn(function() error("at once") end)
    ctx.spawn(function()
      ctx.sleep(0)
      error({ "no string" })
    end)
    services.turn_until("both", function() return services.counter(ctx, "flowd_callback_errors_total") == 2 end)
    assert.same({}, ctx.handles)
  end)

  it("ends with the plugin: what waits is never resumed", function()
    local calls = 0
    ctx.spawn(function()
      ctx.sleep(0)
      calls = calls + 1
    end)
    local handle = ctx.spawn(function()
      ctx.wait(function(w) ctx.after(0, w) end)
      calls = calls + 1
    end)
    ctx:release(handle)
    ctx:close()
    for _ = 1, 10 do loop.turn() end
    assert.equal(0, calls)
    assert.has_error(function() ctx.spawn(function() calls = calls + 1 end) end)
    assert.equal(0, calls)
  end)
end)
