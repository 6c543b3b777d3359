-- SPDX-License-Identifier: Apache-2.0
local cleanup = require("spec.support.cleanup")
local loop = require("flowd.loop")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

describe("datagrams of a plugin", function()
  local ctx, dir
  before_each(function()
    ctx = services.context()
    dir = temp.dir()
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function dropped(reason) return services.counter(ctx, "flowd_datagrams_dropped_total", { reason = reason }) end

  it("go there and back by UDP, with the sender's address", function()
    local server = ctx:udp({ address = "::1", on_datagram = function(socket, text, address, port)
      socket:send(text:upper(), address, port)
    end })
    local got
    local client = ctx:udp({ to_address = "::1", to_port = server.port, on_datagram = function(_, text, address, port)
      got = { text, address, port }
    end })
    assert.is_true(client:send("hello"))
    services.turn_until("the answer", function() return got end)
    assert.same({ "HELLO", "::1", server.port }, got)
    assert.equal(2, services.counter(ctx, "flowd_datagrams_received_total"))
    assert.equal(2, services.counter(ctx, "flowd_datagrams_sent_total"))
  end)

  it("come by IPv4, and leave that way, on a socket of both families", function()
    local from
    local server = ctx:udp({ on_datagram = function(socket, text, address, port)
      from = address
      socket:send(text, address, port)
    end })
    local got
    local client = ctx:udp({ address = "127.0.0.1", on_datagram = function(_, text) got = text end })
    client:send("x", "127.0.0.1", server.port)
    services.turn_until("the answer", function() return got end)
    assert.equal("127.0.0.1", from)
  end)

  it("come in the order in which they were sent, many at a time", function()
    local texts = {}
    local server = ctx:udp({ address = "::1", on_datagram = function(_, text) texts[#texts + 1] = tonumber(text) end })
    local client = ctx:udp({ address = "::1" })
    for i = 1, 200 do client:send(tostring(i), "::1", server.port) end
    services.turn_until("all of them", function() return #texts == 200 end)
    for i = 1, 200 do assert.equal(i, texts[i]) end
  end)

  it("that are too long are dropped and counted, empty ones are not", function()
    local texts = {}
    local server = ctx:udp({ address = "::1", size = 10, on_datagram = function(_, text) texts[#texts + 1] = text end })
    local client = ctx:udp({ address = "::1" })
    for _, text in ipairs({ "0123456789", "01234567890", "", "end" }) do client:send(text, "::1", server.port) end
    services.turn_until("the last one", function() return texts[#texts] == "end" end)
    assert.same({ "0123456789", "", "end" }, texts)
    assert.equal(1, dropped("too_long"))
  end)

  it("that the system dropped are counted", function()
    local count = 0
    local server = ctx:udp({ address = "::1", on_datagram = function() count = count + 1 end })
    local client = ctx:udp({ address = "::1" })
    local text = ("x"):rep(8000)
    for _ = 1, 2000 do client:send(text, "::1", server.port) end
    services.turn_until("what fitted", function() return count > 0 and server.ctx end)
    for _ = 1, 20 do loop.turn() end
    client:send("end", "::1", server.port)
    services.turn_until("the count", function() return dropped("system_queue_full") > 0 end)
    for _ = 1, 20 do loop.turn() end
    assert.equal(2001, count + dropped("system_queue_full"))
  end)

  it("go by Unix sockets; a reader that is slow fills a bounded queue, which drops its oldest", function()
    local path = dir .. "/s"
    local texts, slow = {}, ctx:unix_datagrams({ path = path })
    local sender = ctx:unix_datagrams({ to = path, queue = 5 })
    local sent = 0
    while sender:queued() < 5 do
      sent = sent + 1
      assert.is_true(sender:send(tostring(sent)))
    end
    sender:send("one more")
    assert.equal(5, sender:queued())
    assert.equal(1, dropped("queue_full"))
    -- The reader goes away: what waited is given up one by one, and said.
    ctx:release(slow)
    ctx:unix_datagrams({ path = path, on_datagram = function(_, text) texts[#texts + 1] = text end })
    services.turn_until("what waited", function() return #texts == 5 end)
    assert.equal("one more", texts[5])
    assert.equal(tostring(sent), texts[4])
  end)

  it("that cannot be sent say why, and are counted", function()
    local sender = ctx:unix_datagrams({ to = dir .. "/none" })
    assert.same({ nil, "No such file or directory" }, { sender:send("x") })
    local udp = ctx:udp({ address = "::1" })
    assert.same({ nil, "Message too long" }, { udp:send(("x"):rep(70000), "::1", 9) })
    assert.equal(2, dropped("unsendable"))
    assert.has_error(function() udp:send("x", "nowhere", 9) end, 'send: expected an address, got "nowhere"')
  end)

  it("reach nobody after the plugin has stopped", function()
    local calls = 0
    local server = ctx:udp({ address = "::1", on_datagram = function() calls = calls + 1 end })
    local other = services.context()
    other:udp({ address = "::1" }):send("late", "::1", server.port)
    ctx:close()
    for _ = 1, 20 do loop.turn() end
    other:close()
    assert.equal(0, calls)
    assert.same({ nil, "the socket is closed" }, { server:send("x", "::1", 9) })
  end)
end)
