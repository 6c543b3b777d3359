-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local context = require("flowd.context")
local dns = require("spec.support.dns")
local loop = require("flowd.loop")
local process = require("spec.support.process")
local resolver = require("flowd.resolver")
local stopwatch = require("spec.support.stopwatch")
local temp = require("spec.support.temp")

local F_GETFD = 1

describe("resolver", function()
  local server, directory, saved

  before_each(function()
    saved = { resolver.resolv_conf, resolver.hosts }
    directory = temp.dir()
    server = dns.open()
    resolver.resolv_conf = server:resolv_conf(directory)
    resolver.hosts = temp.write(directory .. "/hosts", "192.0.2.5 data.example.org data\n2001:db8::5 data.example.org\n")
  end)

  after_each(function()
    resolver.resolv_conf, resolver.hosts = saved[1], saved[2]
    cleanup.all()
  end)

  local function turn_until(what, condition, seconds)
    process.wait_for(what, seconds or 10, function()
      loop.turn()
      server:answer()
      return condition()
    end)
  end

  -- The answer, with a check that nothing came before the call returned.
  local function ask(name, ctx)
    local answer
    resolver.resolve(ctx, name, function(addresses, message)
      assert.is_nil(answer, "answered twice")
      answer = { addresses, message }
    end)
    assert.is_nil(answer, "answered before the call returned")
    turn_until("the answer", function() return answer end)
    return answer[1], answer[2]
  end

  local function sorted(list)
    table.sort(list)
    return list
  end

  it("takes an address as it stands, without asking", function()
    assert.same({ "192.0.2.1" }, (ask("192.0.2.1")))
    assert.same({ "2001:db8::1" }, (ask("2001:DB8:0::1")))
    assert.same({ "2001:db8::1" }, (ask("[2001:db8::1]")))
    assert.same({}, server.questions)
  end)

  it("reads the hosts file, without asking", function()
    assert.same({ "192.0.2.5", "2001:db8::5" }, sorted((ask("data.example.org"))))
    assert.same({ "192.0.2.5" }, (ask("DATA")))
    assert.same({}, server.questions)
  end)

  it("reads the hosts file anew for each question", function()
    assert.same({ "192.0.2.5" }, (ask("data")))
    temp.write(directory .. "/hosts", "192.0.2.6 data\n")
    assert.same({ "192.0.2.6" }, (ask("data")))
  end)

  it("asks the name server for both families, each address told once", function()
    server.names["collector.example.org"] = { "192.0.2.7", "2001:db8::7", "192.0.2.7", "192.0.2.8" }
    assert.same({ "192.0.2.7", "192.0.2.8", "2001:db8::7" }, sorted((ask("collector.example.org"))))
  end)

  it("finds a name that has addresses of one family only", function()
    server.names["six.example.org"] = { "2001:db8::7" }
    assert.same({ "2001:db8::7" }, (ask("six.example.org")))
  end)

  it("tries the search domains", function()
    resolver.resolv_conf = server:resolv_conf(directory, "search example.org\n")
    server.names["collector.example.org"] = { "192.0.2.7" }
    assert.same({ "192.0.2.7" }, (ask("collector")))
  end)

  it("says what is wrong with a name that does not exist", function()
    local addresses, message = ask("nowhere.example.org")
    assert.is_nil(addresses)
    assert.is_string(message)
    assert.is_true(#message > 3)
    server.names["broken.example.org"] = "servfail"
    addresses = ask("broken.example.org")
    assert.is_nil(addresses)
  end)

  it("works without the two files", function()
    resolver.hosts = directory .. "/none"
    server.names["data.example.org"] = { "192.0.2.9" }
    assert.same({ "192.0.2.9" }, (ask("data.example.org")))
    resolver.resolv_conf = directory .. "/none"
    resolver.resolve(nil, "127.0.0.1", function() end)
    loop.turn()
  end)

  it("never blocks while a server is silent, and gives up in the end", function()
    server.names["slow.example.org"] = "silent"
    local answer
    local watch = stopwatch.start()
    resolver.resolve(nil, "slow.example.org", function(addresses, message) answer = { addresses, message } end)
    for _ = 1, 100 do loop.turn() end
    assert.is_true(watch:seconds() < 0.5)
    assert.is_nil(answer)
    turn_until("the end of patience", function() return answer end, 30)
    assert.is_nil(answer[1])
    assert.is_string(answer[2])
  end)

  it("never calls back once the question is closed, whatever is on its way", function()
    server.names["collector.example.org"] = { "192.0.2.7", "2001:db8::7" }
    server.names["slow.example.org"] = "silent"
    local called = 0
    local function count() called = called + 1 end
    for i = 1, 300 do
      local name = ({ "collector.example.org", "slow.example.org", "data", "192.0.2.1", "nowhere.example.org" })[i % 5 + 1]
      local query = resolver.resolve(nil, name, count)
      for _ = 1, i % 4 do
        loop.turn()
        server:answer()
      end
      local before = called
      query:close()
      query:close()
      for _ = 1, 2 do
        loop.turn()
        server:answer()
      end
      assert.equal(before, called)
      if i % 50 == 0 then collectgarbage() end
    end
    assert.is_true(called > 0)
    -- What was cancelled is gone: nothing is left open.
    local last
    resolver.resolve(nil, "data", function(addresses) last = addresses end)
    turn_until("the last", function() return last end)
  end)

  it("leaves no descriptor open", function()
    -- Those that were not there before, whatever other specs left that goes meanwhile.
    local before = {}
    local function opened()
      local n = 0
      for fd = 0, 255 do
        if ffi.C.fcntl(fd, F_GETFD) < 0 then before[fd] = nil elseif not before[fd] then n = n + 1 end
      end
      return n
    end
    for fd = 0, 255 do before[fd] = ffi.C.fcntl(fd, F_GETFD) >= 0 end
    server.names["collector.example.org"] = { "192.0.2.7" }
    for _ = 1, 20 do ask("collector.example.org") end
    assert.equal(0, opened())
    -- Nor does a question that is closed wait for its answer.
    server.names["slow.example.org"] = "silent"
    local query = resolver.resolve(nil, "slow.example.org", function() end)
    loop.turn()
    assert.is_true(opened() > 0)
    query:close()
    turn_until("its end", function() return opened() == 0 end, 0.9)
  end)

  it("ends with its plugin", function()
    server.names["collector.example.org"] = { "192.0.2.7" }
    local ctx = context.new({ name = "test", kind = "plugin", options = {} })
    local called = false
    ctx:resolve("collector.example.org", function() called = true end)
    ctx:resolve("192.0.2.1", function() called = true end)
    ctx:close()
    for _ = 1, 20 do
      loop.turn()
      server:answer()
    end
    assert.is_false(called)
  end)

  describe("following a name", function()
    local ctx, seen, failures
    local function follow(name, interval)
      ctx = context.new({ name = "test", kind = "plugin", options = {} })
      seen, failures = {}, {}
      cleanup.add(function() ctx:close() end)
      return resolver.follow(ctx, name, { interval = interval,
        on_addresses = function(addresses) seen[#seen + 1] = table.concat(sorted(addresses), " ") end,
        on_failure = function(message) failures[#failures + 1] = message end })
    end

    it("tells an address at once and asks nobody", function()
      local handle = follow("192.0.2.1", 0.01)
      assert.same({ "192.0.2.1" }, seen)
      handle:again()
      for _ = 1, 10 do loop.turn() end
      assert.same({ "192.0.2.1" }, seen)
      handle:close()
    end)

    it("asks again every interval and tells what changed", function()
      server.names["collector.example.org"] = { "192.0.2.7" }
      follow("collector.example.org", 0.05)
      turn_until("an answer", function() return #seen >= 2 end)
      server.names["collector.example.org"] = { "192.0.2.8" }
      turn_until("the new address", function() return seen[#seen] == "192.0.2.8" end)
    end)

    it("asks again after a failure, and after one more", function()
      local start = process.now()
      follow("late.example.org", 300)
      turn_until("two failures", function() return #failures == 2 end)
      assert.is_true(process.now() - start >= 1, "the second question came after less than a second")
      server.names["late.example.org"] = { "192.0.2.7" }
      turn_until("an answer", function() return #seen == 1 end)
      assert.is_true(process.now() - start >= 3, "the pause did not grow")
    end)

    it("takes a name without addresses for a failure", function()
      server.names["empty.example.org"] = {}
      follow("empty.example.org", 300)
      turn_until("the failure", function() return #failures == 1 end)
      assert.same({}, seen)
    end)

    it("asks nothing any more once closed", function()
      server.names["collector.example.org"] = { "192.0.2.7" }
      local handle = follow("collector.example.org", 0.01)
      turn_until("an answer", function() return #seen >= 1 end)
      handle:close()
      local before = #seen
      for _ = 1, 20 do
        loop.turn()
        server:answer()
      end
      assert.equal(before, #seen)
    end)
  end)

  it("needs no name server for the clock to go on", function()
    -- The loop's own time stays right while questions are out.
    server.names["slow.example.org"] = "silent"
    local query = resolver.resolve(nil, "slow.example.org", function() end)
    local fired
    loop.after(0.01, function() fired = api.clock_monotonic_ns() end)
    turn_until("the timer", function() return fired end, 2)
    query:close()
  end)
end)
