-- SPDX-License-Identifier: Apache-2.0
local certificates = require("spec.support.certificates")
local cleanup = require("spec.support.cleanup")
local loop = require("flowd.loop")
local module_memory = require("flowd.module_memory")
local policy = require("spec.support.policy")
local process = require("spec.support.process")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

describe("connections of a plugin", function()
  local ctx, dir
  before_each(function()
    ctx = services.context()
    dir = temp.dir()
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function echo(options)
    local all = { on_connection = function() end, on_data = function(stream, text) stream:write(text:upper()) end }
    for key, value in pairs(options or {}) do all[key] = value end
    return ctx:listen(all)
  end

  local function ask(options, text)
    return services.run(ctx, function()
      local stream, message = ctx.connect(options)
      if not stream then return nil, message end
      assert(stream:write(text))
      local answer, why = stream:read()
      stream:close()
      return answer, why
    end)
  end

  it("go there and back by TCP", function()
    local server = echo()
    assert.is_true(server.port > 0)
    assert.equal("HELLO", (ask({ host = "::1", port = server.port }, "hello")))
    services.turn_until("the server's end", function() return server.count == 0 end)
  end)

  it("go there and back by IPv4 to a server of every address", function()
    local peer
    local server = echo({ address = "::", on_connection = function(stream) peer = stream.peer_address end })
    assert.equal("HELLO", (ask({ host = "127.0.0.1", port = server.port }, "hello")))
    assert.equal("127.0.0.1", peer)
  end)

  it("go there and back by a Unix socket, which has its mode and goes with the plugin", function()
    local path = dir .. "/s"
    echo({ path = path, mode = "0600" })
    assert.equal("HELLO", (ask({ path = path }, "hello")))
    assert.equal("600\n", process.must({ "stat", "-c", "%a", path }))
    ctx:close()
    assert.is_false(temp.exists(path))
  end)

  it("replace the Unix socket of a dead process, and nothing else", function()
    local path = dir .. "/s"
    local old = services.context()
    old:listen({ path = path, on_connection = function() end })
    local _, message = pcall(echo, { path = path })
    assert.matches("s: cannot listen: Address already in use", message)
    process.must({ "cp", "-a", path, dir .. "/left" })
    echo({ path = dir .. "/left" })
    old:close()
    temp.write(dir .. "/file", "precious")
    local ok
    ok, message = pcall(echo, { path = dir .. "/file" })
    assert.is_false(ok)
    assert.matches("File exists", message)
    assert.equal("precious", temp.read(dir .. "/file"))
  end)

  it("that cannot be made say where and why", function()
    local server = echo()
    local port = server.port
    ctx:release(server)
    local _, message = ask({ host = "::1", port = port }, "x")
    assert.equal(("[::1]:%d: ::1: Connection refused"):format(port), message)
    _, message = ask({ path = dir .. "/none" }, "x")
    assert.equal(dir .. "/none: No such file or directory", message)
    assert.has_error(function() ctx:connect({ host = "::1", port = 0 }, function() end) end,
      "connect: expected port to be an integer from 1 to 65535, got 0")
  end)

  it("give lines, also those that come in pieces, without carriage return, and the last one without end", function()
    local lines, ended = {}, false
    local server = ctx:listen({
      on_connection = function() end,
      on_line = function(_, line) lines[#lines + 1] = line end,
      on_end = function(_, message) ended = message or true end,
    })
    services.run(ctx, function()
      local stream = assert(ctx.connect({ host = "::1", port = server.port }))
      for _, piece in ipairs({ "one\r\ntw", "o\n", "\nlast" }) do
        stream:write(piece)
        stream:flush()
        ctx.sleep(0.01)
      end
      stream:finish()
    end)
    services.turn_until("the end", function() return ended end)
    assert.same({ "one", "two", "", "last" }, lines)
    assert.is_true(ended)
  end)

  it("with a line that is too long end with a message", function()
    local problem
    local server = ctx:listen({
      line_max = 10, on_connection = function() end, on_line = function() end,
      on_end = function(_, message) problem = message end,
    })
    services.run(ctx, function()
      local stream = assert(ctx.connect({ host = "::1", port = server.port }))
      stream:write("0123456789\n01234567890\n")
      stream:flush()
    end)
    services.turn_until("the refusal", function() return problem end)
    assert.equal("a line of more than 10 octets", problem)
  end)

  it("refuse to write what does not fit, and count it", function()
    local server = ctx:listen({ on_connection = function(stream) stream:pause() end })
    local accepted = 0
    local message
    services.run(ctx, function()
      local stream = assert(ctx.connect({ host = "::1", port = server.port, output_max = 100000 }))
      local text = ("x"):rep(50000)
      for _ = 1, 1000 do
        local ok
        ok, message = stream:write(text)
        if not ok then break end
        accepted = accepted + 1
        if stream:queued() < 50000 then ctx.sleep(0) end
      end
      stream:close()
    end)
    assert.is_true(accepted < 1000)
    assert.matches("^50000 octets do not fit: the peer has not taken %d+ octets yet$", message)
    assert.equal(1, services.counter(ctx, "flowd_writes_refused_total"))
  end)

  describe("whose owner may hold little memory", function()
    before_each(function() module_memory.set_limit(4) end)
    after_each(function() module_memory.set_limit(65536) end)

    local function held() return module_memory.used_by(ctx.kind, ctx.name) end

    it("refuse to write what it may not hold, tell and count it, and give back what is taken or thrown away", function()
      local other = services.context()
      local slow
      local server = other:listen({ on_connection = function(stream)
        slow = slow or stream
        stream:pause()
      end, on_data = function() end })
      local text, message = ("x"):rep(500000), nil
      local stream = services.run(ctx, function() return ctx.connect({ host = "::1", port = server.port, output_max = 2 ^ 30 }) end)
      local idle = held()
      local lines = policy.logged(function()
        services.turn_until("a refusal", function()
          local ok
          ok, message = stream:write(text)
          return not ok
        end)
      end)
      assert.matches("^not enough memory: it holds [%d.]+ MB of the 4 MB that memory_limit allows, of which connections may fill "
        .. "all but one part in 8$", message)
      assert.matches("^error plugin " .. ctx.name .. ": a connection: not enough memory: ", lines[1])
      assert.equal(1, services.counter(ctx, "flowd_memory_refused_total"))
      assert.equal(1, services.counter(ctx, "flowd_writes_refused_total"))
      assert.is_true(held() > 2.9 and stream:queued() > 2.9e6)
      -- Others have their own.
      local second = services.run(other, function() return other.connect({ host = "::1", port = server.port }) end)
      assert.is_true(second:write(text))
      slow:resume()
      services.turn_until("the peer to take it", function() return stream:queued() == 0 end)
      assert.is_true(held() < idle + 0.5, held())
      for _ = 1, 3 do assert.is_true(stream:write(text)) end
      assert.is_true(held() > idle + 1, held())
      stream:close()
      assert.is_true(held() < idle + 0.5, held())
      other:close()
    end)

    it("end when more comes than it may hold, and are told of", function()
      local other = services.context()
      local ended, messages = 0, {}
      local server = ctx:listen({ on_connection = function() end, on_end = function(_, message)
        ended = ended + 1
        messages[message] = true
      end })
      local text = ("x"):rep(60000)
      -- Nobody reads: each holds up to 64 KiB.
      local logged = policy.logged(function()
        for _ = 1, 90 do
          local stream = services.run(other, function() return other.connect({ host = "::1", port = server.port }) end)
          stream:write(text)
        end
        services.turn_until("an end", function() return ended > 0 end)
      end)
      assert.matches("^not enough memory: it holds 3%.%d MB", (next(messages)))
      assert.matches(ctx.name .. ": a connection: not enough memory", logged[1])
      assert.equal(ended, services.counter(ctx, "flowd_memory_refused_total"))
      assert.is_true(ended < 60, ended)
      other:close()
    end)

    it("count with TLS, too", function()
      local ca = certificates.authority(dir, "ca")
      local cert = ca:issue("server", "IP:0:0:0:0:0:0:0:1")
      local server = ctx:listen({ tls = { certificate = cert.file, key = cert.key },
        on_connection = function(stream) stream:pause() end })
      local other = services.context()
      local stream = assert(services.run(other, function()
        return other.connect({ host = "::1", port = server.port, output_max = 2 ^ 30, tls = { ca = ca.file } })
      end))
      local text, message = ("x"):rep(500000), nil
      services.turn_until("a refusal", function()
        local ok
        ok, message = stream:write(text)
        return not ok
      end)
      assert.matches("^not enough memory", message)
      local before = module_memory.used_by(other.kind, other.name)
      stream:close()
      assert.is_true(module_memory.used_by(other.kind, other.name) < before - 2.9)
      other:close()
    end)
  end)

  it("do not read more than their buffer while they are paused", function()
    local got, served = 0, nil
    local server = ctx:listen({
      on_connection = function(stream)
        served = stream
        stream:pause()
      end,
      on_data = function(_, text) got = got + #text end,
    })
    local client
    ctx:connect({ host = "::1", port = server.port, output_max = 16777216 }, function(stream) client = stream end)
    services.turn_until("the connection", function() return client and served end)
    assert(client:write(("x"):rep(16000000)))
    for _ = 1, 50 do loop.turn() end
    assert.equal(0, got)
    assert.is_true(client:queued() > 0)
    served:resume()
    services.turn_until("all of it", function() return got == 16000000 end)
  end)

  it("finish when everything was sent", function()
    local server = ctx:listen({ on_connection = function(stream)
      stream:write(("x"):rep(1000000))
      stream:finish()
    end })
    local total, message = services.run(ctx, function()
      local stream = assert(ctx.connect({ host = "::1", port = server.port }))
      local size = 0
      while true do
        local text, why = stream:read()
        if not text then return size, why end
        size = size + #text
      end
    end)
    assert.equal(1000000, total)
    assert.is_nil(message)
    services.turn_until("the server's end", function() return server.count == 0 end)
  end)

  it("beyond max_connections are closed at once and counted", function()
    local server = echo({ max_connections = 1 })
    assert.equal("A", (services.run(ctx, function()
      local first = assert(ctx.connect({ host = "::1", port = server.port }))
      local second = assert(ctx.connect({ host = "::1", port = server.port }))
      assert.is_nil((second:read()))
      first:write("a")
      return first:read()
    end)))
    assert.equal(1, services.counter(ctx, "flowd_connections_refused_total", { reason = "too_many" }))
  end)

  it("call nobody back after the plugin has stopped", function()
    local calls = 0
    local server = echo({ on_data = function() calls = calls + 1 end })
    local other = services.context()
    local client
    other:connect({ host = "::1", port = server.port }, function(stream) client = stream end)
    services.turn_until("the connection", function() return client and server.count == 1 end)
    client:write("late")
    other:connect({ host = "::1", port = server.port }, function() calls = calls + 1 end)
    client:flush(function() ctx:close() end)
    other:after(0, function()
      ctx:close()
      other:close()
    end)
    for _ = 1, 20 do loop.turn() end
    assert.equal(0, calls)
    assert.same({}, other.handles)
  end)

  it("whose callbacks raise go on, and the errors are counted", function()
    local server = ctx:listen({
      on_connection = function() end,
      on_line = function(stream, line)
        if line == "bad" then error("oh") end
        stream:write(line .. "\n")
      end,
    })
    assert.equal("good\n", (ask({ host = "::1", port = server.port }, "bad\ngood\n")))
    assert.equal(1, services.counter(ctx, "flowd_callback_errors_total"))
  end)

  describe("with TLS", function()
    local ca, cert
    before_each(function()
      ca = certificates.authority(dir, "ca")
      cert = ca:issue("server", "DNS:localhost,IP:0:0:0:0:0:0:0:1")
    end)

    local function serve(certificate, extra)
      local settings = { certificate = certificate.file, key = certificate.key }
      for key, value in pairs(extra or {}) do settings[key] = value end
      return echo({ tls = settings })
    end

    local function try(server, settings)
      settings.ca = settings.ca or ca.file
      return ask({ host = "::1", port = server.port, tls = settings }, "hello")
    end

    it("go there and back, verified by address and by name", function()
      local server = serve(cert)
      assert.equal("HELLO", (try(server, {})))
      assert.equal("HELLO", (try(server, { host = "localhost" })))
    end)

    it("refuse a certificate of another host", function()
      local server = serve(cert)
      local _, message = try(server, { host = "other.example.org" })
      assert.matches("^%[::1%]:%d+: TLS: the certificate is for another host %(hostname mismatch%)$", message)
      server = serve(ca:issue("named", "DNS:localhost"))
      _, message = try(server, {})
      assert.matches("TLS: the certificate is for another host %(IP address mismatch%)", message)
    end)

    it("refuse a certificate that has expired, and one of nobody we know", function()
      local _, message = try(serve(ca:issue("old", "IP:0:0:0:0:0:0:0:1", true)), {})
      assert.matches("TLS: the certificate is not accepted: certificate has expired", message)
      local stranger = certificates.authority(dir, "stranger")
      _, message = try(serve(stranger:issue("unknown", "IP:0:0:0:0:0:0:0:1")), {})
      assert.matches("TLS: the certificate is not accepted: unable to get local issuer certificate", message)
    end)

    it("trust a directory of certificates", function()
      process.must({ "mkdir", dir .. "/trusted" })
      process.must({ "cp", ca.file, dir .. "/trusted/ca.pem" })
      process.must({ "openssl", "rehash", dir .. "/trusted" })
      assert.equal("HELLO", (try(serve(cert), { ca = dir .. "/trusted" })))
    end)

    it("let in clients with a certificate only, when the server wants one", function()
      local server = serve(cert, { client_ca = ca.file })
      local client = ca:issue("client", "DNS:client")
      assert.equal("HELLO", (try(server, { certificate = client.file, key = client.key })))
      local answer, message = try(server, {})
      assert.is_nil(answer)
      assert.matches("certificate required", message)
      services.turn_until("the counter", function()
        return services.counter(ctx, "flowd_connections_refused_total", { reason = "tls" }) == 1
      end)
    end)

    it("name the file that cannot be used", function()
      local _, message = pcall(serve, { file = dir .. "/none.pem", key = cert.key })
      assert.equal(("certificate %s/none.pem: No such file or directory"):format(dir), message)
      _, message = pcall(serve, { file = cert.file, key = ca.key })
      assert.equal(("key %s: key values mismatch"):format(ca.key), message)
      _, message = try(serve(cert), { ca = dir .. "/none.pem" })
      assert.matches("certificates to trust, .*/none%.pem: No such file or directory", message)
    end)

    it("tell a cut connection from one that ended", function()
      local finish, arrived
      local server = ctx:listen({
        tls = { certificate = cert.file, key = cert.key },
        on_connection = function(stream)
          stream:write("part")
          if finish then stream:finish() end
        end,
      })
      local function read_all(port)
        return services.run(ctx, function()
          local stream = assert(ctx.connect({ host = "::1", port = port, tls = { ca = ca.file } }))
          local all = ""
          while true do
            local more, why = stream:read()
            if not more then return all, why end
            all = all .. more
            arrived = true
          end
        end)
      end
      finish = true
      assert.same({ "part" }, { read_all(server.port) })
      finish, arrived = false, false
      -- In between: hands everything on, and then ends the connection by itself.
      local between = ctx:listen({ on_connection = function(outside)
        local inside
        outside:pause()
        ctx.connect({ host = "::1", port = server.port, on_data = function(_, text) outside:write(text) end },
          function(stream)
            inside = stream
            outside:resume()
          end)
        outside.on_data = function(_, text)
          inside:write(text)
          ctx:every(0.01, function()
            if arrived then outside:finish() end
          end)
        end
      end })
      local text, message = read_all(between.port)
      assert.equal("part", text)
      assert.matches("unexpected eof while reading", message)
    end)
  end)
end)
