-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local certificates = require("spec.support.certificates")
local cleanup = require("spec.support.cleanup")
local dns = require("spec.support.dns")
local http = require("flowd.net.http")
local loop = require("flowd.loop")
local process = require("spec.support.process")
local resolver = require("flowd.resolver")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

ffi.cdef("int unsetenv(const char *); int setenv(const char *, const char *, int);")

describe("HTTP of a plugin", function()
  local ctx
  before_each(function()
    for _, name in ipairs({ "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY" }) do
      local before = os.getenv(name)
      ffi.C.unsetenv(name)
      if before then cleanup.add(function() ffi.C.setenv(name, before, 1) end) end
    end
    ctx = services.context()
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function set_environment(name, value)
    ffi.C.setenv(name, value, 1)
    cleanup.add(function() ffi.C.unsetenv(name) end)
  end

  local function get(url, options)
    return services.run(ctx, function() return ctx.http.get(url, options) end)
  end

  local function url(server, path, scheme) return ("%s://[::1]:%d%s"):format(scheme or "http", server.port, path or "/") end

  -- A server that answers everything with these octets, and then does `after`.
  local function raw(text, after)
    local answered = {}
    local server = ctx:listen({
      on_connection = function() end,
      on_data = function(stream)
        if answered[stream] then return end
        answered[stream] = true
        stream:write(text)
        if after then after(stream) end
      end,
    })
    return server
  end
  local function finish(stream) stream:finish() end

  describe("client", function()
    it("gets what a server of ours answers, headers included", function()
      local seen
      local server = ctx.http.serve({ on_request = function(request)
        seen = request
        return 201, "made", { ["X-Thing"] = "a" }
      end })
      local response = assert(get(url(server, "/p/q?r=s"), { headers = { ["X-Mine"] = "b" } }))
      assert.equal(201, response.status)
      assert.equal("Created", response.reason)
      assert.equal("made", response.body)
      assert.equal("a", response.headers["x-thing"])
      assert.equal("/p/q", seen.path)
      assert.equal("r=s", seen.query)
      assert.equal("b", seen.headers["x-mine"])
      assert.equal(("[::1]:%d"):format(server.port), seen.headers.host)
      assert.equal("::1", seen.peer_address)
      assert.equal(1, services.counter(ctx, "flowd_http_requests_total", { result = "2xx" }))
    end)

    it("posts a body", function()
      local server = ctx.http.serve({ on_request = function(request) return 200, request.method .. request.body end })
      local body = ("x"):rep(300000)
      assert.equal("POST" .. body, services.run(ctx, function() return ctx.http.post(url(server), body).body end))
    end)

    it("uses a connection again, and takes a new one when the server has closed it", function()
      local connections = 0
      local server = ctx.http.serve({ idle_timeout = 0.2, on_request = function() return 200, "x" end })
      local adopt = server.listener.options.on_connection
      server.listener.options.on_connection = function(made)
        connections = connections + 1
        adopt(made)
      end
      for _ = 1, 3 do assert(get(url(server))) end
      assert.equal(1, connections)
      services.turn_until("the server's end of it", function() return not next(server.connections) end)
      assert(get(url(server)))
      assert.equal(2, connections)
    end)

    it("asks once more when a kept connection is closed under the request", function()
      local count = 0
      local server = ctx:listen({
        on_connection = function() end,
        on_data = function(stream)
          count = count + 1
          if count == 2 then return stream:close() end
          stream:write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" .. count)
        end,
      })
      assert.equal("1", get(url(server)).body)
      assert.equal("3", get(url(server)).body)
    end)

    it("follows redirects, up to a number, and never from https to http", function()
      local server
      server = ctx.http.serve({ on_request = function(request)
        if request.path == "/end" then return 200, request.method .. " " .. (request.headers.authorization or "none") end
        if request.path == "/loop" then return 302, "", { Location = "loop" } end
        if request.path == "/away" then return 307, "", { Location = ("http://localhost:%d/end"):format(server.port) } end
        return 303, "", { Location = "/end" }
      end, address = "::" })
      local options = { headers = { Authorization = "secret" } }
      local response = services.run(ctx, function() return ctx.http.post(url(server, "/a"), "body", options) end)
      assert.equal("GET secret", response.body)
      assert.equal(url(server, "/end"), response.url)
      -- Elsewhere nobody learns our secrets.
      assert.equal("GET none", get(url(server, "/away"), options).body)
      assert.equal(303, get(url(server, "/a"), { redirects = 0 }).status)
      assert.matches("more than 5 redirects$", select(2, get(url(server, "/loop"))))
      assert.matches("more than 2 redirects$", select(2, get(url(server, "/loop"), { redirects = 2 })))
    end)

    it("tells an answer that is cut off", function()
      local server = raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", finish)
      assert.equal(url(server) .. ": the answer is cut off: 5 of 100 octets came", select(2, get(url(server))))
      server = raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", finish)
      assert.equal(url(server) .. ": the answer is cut off after 5 octets", select(2, get(url(server))))
      assert.equal(2, services.counter(ctx, "flowd_http_requests_total", { result = "failed" }))
    end)

    it("gives up an endless answer at its limit", function()
      local function on(stream)
        stream.on_drained = function() stream:write(("x"):rep(10000)) end
        stream:flush(function() stream.on_drained() end)
      end
      local server = raw("HTTP/1.1 200 OK\r\n\r\n", on)
      assert.equal(url(server) .. ": a body of more than 50000 octets", select(2, get(url(server), { limit = 50000 })))
      server = raw("HTTP/1.1 200 OK\r\n", function(stream)
        stream:write(("X: y\r\n"):rep(10000))
      end)
      assert.equal(url(server) .. ": headers of more than 32768 octets", select(2, get(url(server))))
      server = raw("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
      assert.equal(url(server) .. ": a body of 999999999 octets: expected at most 1048576", select(2, get(url(server))))
    end)

    it("gives up a slow answer at its time limit, however often an octet comes", function()
      local server = raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", function(stream)
        ctx:every(0.02, function() stream:write("x") end)
      end)
      local before = process.now()
      assert.equal(url(server) .. ": no complete answer within 0.3 s", select(2, get(url(server), { timeout = 0.3 })))
      assert.is_true(process.now() - before >= 0.3)
    end)

    it("says what is no URL, no HTTP and no server", function()
      assert.equal('ftp://x: "ftp://x": expected a URL that begins with https:// or http://', select(2, get("ftp://x")))
      local server = raw("SSH-2.0-x\r\n\r\n")
      assert.equal(url(server) .. ': not an HTTP answer: it begins with "SSH-2.0-x"', select(2, get(url(server))))
      local port = server.port
      ctx:release(server)
      assert.equal(("http://[::1]:%d/: [::1]:%d: ::1: Connection refused"):format(port, port),
        select(2, get(("http://[::1]:%d/"):format(port))))
    end)

    it("calls nobody back after the plugin has stopped", function()
      local calls, asked = 0, 0
      local other = services.context()
      -- It stops while an answer is on its way, and a question to a name server that says nothing.
      local server = other.http.serve({ on_request = function()
        asked = asked + 1
        ctx:close()
        return 200
      end })
      local saved = resolver.resolv_conf
      cleanup.add(function() resolver.resolv_conf = saved end)
      resolver.resolv_conf = dns.open():resolv_conf(temp.dir())
      ctx.http.get("http://nowhere.invalid/", function() calls = calls + 1 end)
      ctx.http.get(url(server), function() calls = calls + 1 end)
      local handle = ctx.http.get(url(server), function() calls = calls + 1 end)
      ctx:release(handle)
      services.turn_until("the request", function() return asked > 0 end)
      for _ = 1, 20 do loop.turn() end
      other:close()
      assert.equal(1, asked)
      assert.equal(0, calls)
      assert.same({}, ctx.handles)
    end)
  end)

  describe("client through TLS", function()
    local dir, ca, cert
    before_each(function()
      dir = temp.dir()
      ca = certificates.authority(dir, "ca")
      cert = ca:issue("server", "DNS:localhost,IP:0:0:0:0:0:0:0:1")
    end)

    local function serve(certificate, on_request)
      return ctx.http.serve({ tls = { certificate = certificate.file, key = certificate.key },
        on_request = on_request or function() return 200, "secret" end })
    end

    it("verifies the server", function()
      local server = serve(cert)
      assert.equal("secret", get(url(server, "/", "https"), { ca = ca.file }).body)
      assert.matches("TLS: the certificate is not accepted: unable to get local issuer certificate",
        select(2, get(url(server, "/", "https"))))
      local named = serve(ca:issue("named", "DNS:other.example.org"))
      assert.matches("TLS: the certificate is for another host %(IP address mismatch%)",
        select(2, get(url(named, "/", "https"), { ca = ca.file })))
      local old = serve(ca:issue("old", "IP:0:0:0:0:0:0:0:1", true))
      assert.matches("certificate has expired", select(2, get(url(old, "/", "https"), { ca = ca.file })))
    end)

    it("is not led from https to http", function()
      local plain = ctx.http.serve({ on_request = function() return 200, "plain" end })
      local server = serve(cert, function() return 302, "", { Location = url(plain) } end)
      assert.matches("redirected from https to http://%[::1%]:%d+/: not followed$",
        select(2, get(url(server, "/", "https"), { ca = ca.file })))
    end)

    local function proxy(status) return services.proxy(ctx, status) end

    it("goes through a proxy by CONNECT, and verifies the server all the same", function()
      local server = serve(cert)
      local through, seen = proxy()
      set_environment("https_proxy", ("http://me:p%%40ss@[::1]:%d"):format(through.port))
      assert.equal("secret", get(url(server, "/", "https"), { ca = ca.file }).body)
      assert.equal(1, #seen)
      assert.matches("\r\nProxy%-Authorization: Basic bWU6cEBzcw==\r\n", seen[1])
      assert.matches("unable to get local issuer", select(2, get(url(server, "/", "https"))))
      -- Hosts that are named are asked directly.
      set_environment("no_proxy", "example.org,[::1]")
      assert.equal("secret", get(url(server, "/x", "https"), { ca = ca.file, timeout = 5 }).body)
      assert.equal(2, #seen)
    end)

    it("says what a proxy refuses", function()
      local server = serve(cert)
      local through = proxy("407 Proxy Authentication Required")
      assert.matches("proxy ::1:%d+: it refuses: 407 Proxy Authentication Required$",
        select(2, get(url(server, "/", "https"), { ca = ca.file, proxy = ("http://[::1]:%d"):format(through.port) })))
    end)

    it("asks a proxy for http with the whole URL", function()
      local through, seen = proxy()
      set_environment("http_proxy", ("[::1]:%d"):format(through.port))
      assert.equal("proxy", get("http://www.example.org/x?y").body)
      assert.matches("^GET http://www.example.org/x%?y HTTP/1.1\r\nHost: www.example.org\r\n", seen[1])
    end)
  end)

  it("knows whom no_proxy means", function()
    assert.is_true(http.bypasses("*", "a", 443))
    assert.is_true(http.bypasses("b, example.org", "www.Example.org", 443))
    assert.is_true(http.bypasses(".example.org", "example.org", 443))
    assert.is_true(http.bypasses("localhost:8080", "localhost", 8080))
    assert.is_false(http.bypasses("localhost:8080", "localhost", 443))
    assert.is_false(http.bypasses("example.org", "badexample.org", 443))
    assert.is_true(http.bypasses("192.0.2.1,::1", "::1", 443))
  end)

  describe("server", function()
    -- What comes back for octets that are sent as they are.
    local function talk(server, text, wait)
      return services.run(ctx, function()
        local stream = assert(ctx.connect(server.path and { path = server.path } or { host = "::1", port = server.port }))
        stream:write(text)
        local all = ""
        while true do
          local more = stream:read()
          if not more then return all end
          all = all .. more
          if wait and all:find(wait) then
            stream:close()
            return all
          end
        end
      end)
    end

    local function echo(options)
      local all = { on_request = function(request) return 200, request.method .. request.path end }
      for key, value in pairs(options or {}) do all[key] = value end
      return ctx.http.serve(all)
    end

    it("answers requests that come together in their order, also very many", function()
      local n = 1000
      local texts = {}
      for i = 1, n do texts[i] = ("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(i) end
      local answer = talk(echo(), table.concat(texts), "GET/" .. n)
      local i = 0
      for path in answer:gmatch("\r\n\r\nGET/(%d+)") do
        i = i + 1
        assert.equal(i, tonumber(path))
      end
      assert.equal(n, i)
    end)

    it("closes when the client wants it, and after HTTP/1.0", function()
      local server = echo()
      assert.matches("\r\nConnection: close\r\n.*GET/$", talk(server, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
      assert.matches("GET/$", talk(server, "GET / HTTP/1.0\r\n\r\n"))
    end)

    it("answers HEAD without a body", function()
      assert.matches("Content%-Length: 5\r\nConnection: close\r\n\r\n$",
        talk(echo(), "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    end)

    it("asks for a body that waits to be asked for", function()
      local answer = talk(echo({ on_request = function(request) return 200, request.body end }),
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n", "100 Continue\r\n\r\n")
      assert.equal("HTTP/1.1 100 Continue\r\n\r\n", answer)
    end)

    it("refuses what is no request, too large or without Host, and closes", function()
      local server = echo({ body_max = 100, head_max = 200 })
      assert.matches("^HTTP/1.1 400 Bad Request\r\n.*not a request line\n$", talk(server, "hello\r\n\r\n"))
      assert.matches("^HTTP/1.1 400 .*expected a Host header\n$", talk(server, "GET / HTTP/1.1\r\n\r\n"))
      assert.matches("^HTTP/1.1 413 Content Too Large\r\n", talk(server, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n"))
      assert.matches("^HTTP/1.1 431 ", talk(server, "GET / HTTP/1.1\r\nX: " .. ("x"):rep(300)))
      assert.equal(4, services.counter(ctx, "flowd_http_served_total", { result = "4xx" }))
    end)

    it("gives up a request that does not arrive in time, however often an octet comes", function()
      local server = echo({ request_timeout = 0.3 })
      local stream
      ctx.connect({ host = "::1", port = server.port }, function(made) stream = made end)
      services.turn_until("the connection", function() return stream end)
      ctx:every(0.02, function() stream:write("G") end)
      local answer
      stream:read(function(text) answer = text end)
      services.turn_until("the answer", function() return answer end)
      assert.matches("^HTTP/1.1 408 Request Timeout\r\n", answer)
      assert.equal(1, services.counter(ctx, "flowd_http_served_total", { result = "timeout" }))
    end)

    it("lets a handler wait, and answers when it does not come to an end", function()
      local server = echo({ answer_timeout = 0.3, on_request = function(request)
        if request.path == "/slow" then ctx.sleep(0.1) return 200, "slow" end
        ctx.sleep(100)
      end })
      assert.equal("slow", get(url(server, "/slow")).body)
      assert.equal(503, get(url(server, "/never")).status)
    end)

    it("answers 500 when its handler raises, and counts that", function()
      local server = echo({ on_request = function() error("oh") end })
      local response = get(url(server))
      assert.equal(500, response.status)
      assert.equal("internal error\n", response.body)
      assert.equal(1, services.counter(ctx, "flowd_callback_errors_total"))
    end)

    it("answers 500 when its handler gives headers that cannot be", function()
      local server = echo({ on_request = function() return 200, "x", { ["X-Bad"] = "a\r\nSet-Cookie: b" } end })
      local response = get(url(server))
      assert.equal(500, response.status)
      assert.is_nil(response.headers["set-cookie"])
      assert.equal(1, services.counter(ctx, "flowd_callback_errors_total"))
      assert.equal(500, get(url(server)).status)
    end)

    it("tells a handler that answers too late", function()
      local kept
      local server = echo({ on_request = function(_, response) kept = response end })
      local other = services.context()
      other.http.get(url(server), function() end)
      services.turn_until("the request", function() return kept end)
      other:close()
      services.turn_until("the client's end", function()
        -- The stream is paused while the handler works: the end is noticed with the answer at the latest.
        return kept.closed or kept:send(200, "late")
      end)
      assert.same({ nil, "the client has gone, or was answered already" }, { kept:send(200, "late") })
    end)

    it("listens on a Unix socket", function()
      local path = temp.dir() .. "/http"
      echo({ path = path })
      assert.matches("GET/x$", talk({ path = path }, "GET /x HTTP/1.0\r\n\r\n"))
    end)

    it("stops with the plugin, whatever is going on", function()
      local server = echo({ on_request = function() ctx.sleep(100) end })
      local other = services.context()
      local message
      other.http.get(url(server), function(_, why) message = why end)
      services.turn_until("the request", function() return next(server.connections) and next(server.connections).response end)
      ctx:close()
      services.turn_until("the client's end", function() return message end)
      assert.matches("the connection was closed without an answer$", message)
      assert.same({}, ctx.handles)
      other:close()
    end)
  end)
end)
