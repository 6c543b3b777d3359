-- SPDX-License-Identifier: Apache-2.0
-- Everything that can be wrong with the registry's server, told to the running daemon and to `registry --update`: the one in
-- use stays in use, on disk too, and the log says what is wrong.
local certificates = require("spec.support.certificates")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

local function experiment(name, id, more)
  return ('{"expName":"%s","expId":%s,"activities":[{"activityName":"default","activityId":1}%s]}'):format(name, id, more or "")
end

local function published(...) return ('{"version":1,"experiments":[%s]}'):format(table.concat({ ... }, ",")) end

local GOOD = published(experiment("atlas", 2), experiment("newcomer", 77))

describe("a registry's server that fails", function()
  local ctx, dir, ca, cert, server, port
  before_each(function()
    ctx, dir, server, port = services.context(), temp.dir(), nil, nil
    ca = certificates.authority(dir, "ca")
    cert = ca:issue("server", "IP:0:0:0:0:0:0:0:1")
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function tls(certificate) return { certificate = certificate.file, key = certificate.key } end

  -- Another server in the place of the one before.
  local function serve(answer, certificate)
    if server then ctx:release(server) end
    server = ctx.http.serve({ port = port, tls = tls(certificate or cert), on_request = answer })
    port = server.port
  end

  -- One that says these octets, and then does `after`.
  local function say(text, after)
    ctx:release(server)
    local answered = {}
    server = ctx:listen({ port = port, tls = tls(cert), on_connection = function() end, on_data = function(stream)
      if answered[stream] then return end
      answered[stream] = true
      stream:write(text)
      if after then after(stream) end
    end })
  end

  local function good() return 200, GOOD end
  local function body(text)
    return function() serve(function() return 200, text end) end
  end

  -- What is wrong, and what is said of it.
  local function cases()
    local other = certificates.authority(dir, "other")
    return {
      { "another host's certificate", function() serve(good, ca:issue("named", "DNS:other.example.org")) end,
        "TLS: the certificate is for another host (IP address mismatch)" },
      { "an expired certificate", function() serve(good, ca:issue("old", "IP:0:0:0:0:0:0:0:1", true)) end,
        "TLS: the certificate is not accepted: certificate has expired" },
      { "a certificate of nobody known", function() serve(good, other:issue("strange", "IP:0:0:0:0:0:0:0:1")) end,
        "TLS: the certificate is not accepted: unable to get local issuer certificate "
          .. "(registry.ca names the certificate of its authority)" },
      { "no TLS", function()
        ctx:release(server)
        server = ctx.http.serve({ port = port, on_request = good })
      end, "no complete answer within 1 s", 1 },
      { "an error", function() serve(function() return 503 end) end, "the server answers 503 Service Unavailable" },
      { "redirects in a ring", function()
        serve(function() return 302, "", { Location = ("https://[::1]:%d/api.json"):format(port) } end)
      end, "more than 5 redirects" },
      { "a redirect away from https", function()
        serve(function() return 301, "", { Location = "http://[::1]:1/api.json" } end)
      end, "redirected from https to http://[::1]:1/api.json: not followed" },
      { "a truncated answer", function()
        say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" .. GOOD, function(stream) stream:finish() end)
      end, "the answer is cut off: " },
      { "an answer that says it is too long", function() say("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n") end,
        "a body of 99999999 octets: expected at most 4194304" },
      { "an endless answer", function()
        local text = (" "):rep(500000)
        say("HTTP/1.1 200 OK\r\n\r\n", function(stream) ctx:every(0.01, function() stream:write(text) end) end)
      end, "a body of more than 4194304 octets" },
      { "a slow answer", function()
        say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", function(stream)
          ctx:every(0.05, function() stream:write("x") end)
        end)
      end, "no complete answer within 1 s", 1 },
      { "no HTTP", function() say("SSH-2.0-x\r\n\r\n") end, 'not an HTTP answer: it begins with "SSH-2.0-x"' },
      { "no JSON", body("<html>maintenance</html>"), "not JSON" },
      { "half of the JSON", body(GOOD:sub(1, 100)), "not JSON" },
      { "nothing", body(""), "not JSON" },
      { "another kind of JSON", body('{"version":1}'), "experiments: expected a list" },
      { "another version", body('{"version":2,"experiments":[]}'), "version: expected 1, got 2" },
      { "no experiment", body(published()), "experiments: expected at least one" },
      { "an id twice", body(published(experiment("atlas", 2), experiment("cms", 2))),
        'experiment 2: id 2 is both "atlas" and "cms"' },
      { "a name twice", body(published(experiment("atlas", 2), experiment("Atlas", 3))), 'the name "Atlas" has two ids, 2 and 3' },
      { "an id out of range", body(published(experiment("atlas", 512))), "experiment 1, id: expected an id from 1 to 511, got 512" },
      { "an id that is no number", body(published(experiment("atlas", '"2"'))), "experiment 1, id: expected an id from 1 to 511, got 2" },
      { "an activity's id out of range", body(published(experiment("atlas", 2, ',{"activityName":"x","activityId":64}'))),
        "experiment atlas, activity 2, id: expected an id from 1 to 63, got 64" },
      { "no server", function()
        ctx:release(server)
        server = nil
      end, "Connection refused" },
    }
  end

  local function config(refresh, timeout)
    return { registry = { url = ("https://[::1]:%d/api.json"):format(port), ca = ca.file, timeout = timeout or 30, refresh = refresh },
      backends = {} }
  end

  local function cache_path() return (process.must({ "sh", "-c", "ls " .. dir .. "/cache/registry-*.json" }):gsub("\n", "")) end

  local function run(...)
    local child = process.start({ daemon.binary(), "--conf", dir .. "/conf.lua", ... })
    services.turn_until("the end of it", function() return not child:running() end)
    local status = child:wait(5)
    local out, err = child:stdout(), child:stderr()
    child:stop()
    return status.code, out, err
  end

  local function count(d, result) return d:counter(('flowd_registry_updates_total{result="%s"}'):format(result)) end

  it("changes nothing for the running daemon, nor for the next start, and is told", function()
    serve(good)
    local d = daemon.start({ dir = dir, config = config(3600), log_level = "info" })
    services.turn_until("the first registry", function() return d:log():find("2 experiments from", 1, true) end)
    local path, failures, open = cache_path(), 0, 0
    for i, case in ipairs(cases()) do
      local what, go_wrong, expected = case[1], case[2], case[3]
      go_wrong()
      -- Another interval has it ask when the last answer is older.
      temp.write(path .. ".note", '{"fetched":1}')
      daemon.write_config(dir, config(3600 + i, case[4]))
      d:signal("HUP")
      failures = failures + 1
      services.turn_until(what, function() return count(d, "failed") == failures end)
      local line = d:log():match("\nwarn  registry: ([^\n]*): the one in use stays in use\n$")
      assert.matches(expected, line or d:log(), 1, true)
      assert.matches(("^https?://%%[::1%%]:%d/api.json:"):format(port), line, what)
      open = open + 1
      d:write(("start tcp ::1 %d ::1 2 newcomer default\n"):format(open))
      d:wait_for_counter("flowd_flows_open", open)
      assert.equal(GOOD, temp.read(path), what)
    end
    assert.equal(0, d:counter("flowd_lines_refused_total"))
    -- It works again.
    serve(function() return 200, published(experiment("atlas", 2), experiment("newcomer", 78)) end)
    temp.write(path .. ".note", '{"fetched":1}')
    daemon.write_config(dir, config(7200))
    d:signal("HUP")
    services.turn_until("the new registry", function() return count(d, "new") == 2 end)
    assert.matches("78  newcomer", d:command("registry").stdout)
    assert.same({ code = 0 }, d:stop())
  end)

  it("is told by registry --update, with status 1", function()
    process.must({ "mkdir", dir .. "/cache" })
    serve(good)
    daemon.write_config(dir, config(3600))
    assert.equal(0, (run("registry", "--update")))
    local path = cache_path()
    for _, case in ipairs(cases()) do
      case[2]()
      daemon.write_config(dir, config(3600, case[4]))
      local status, out, err = run("registry", "--update")
      assert.same({ 1, "" }, { status, out }, case[1])
      assert.matches(case[3], err, 1, true)
      assert.matches(("^flowd%%-lua: https?://%%[::1%%]:%d/api.json:[^\n]*\n$"):format(port), err, case[1])
      assert.equal(GOOD, temp.read(path), case[1])
    end
  end)

  it("does not keep the daemon from starting, and is asked again later", function()
    serve(good)
    say("", function() end)
    local d = daemon.start({ dir = dir, config = config(3600, 1), log_level = "info" })
    d:write("start tcp ::1 1 ::1 2 atlas default\n")
    d:wait_for_counter("flowd_flows_open", 1)
    services.turn_until("the failure", function() return count(d, "failed") == 1 end)
    assert.matches("no complete answer within 1 s: the one in use stays in use", d:log(), 1, true)
    assert.same({ code = 0 }, d:stop())
  end)

  it("is reached through a proxy by CONNECT; one that refuses is told", function()
    serve(good)
    local through, seen = services.proxy(ctx)
    local none = { "no_proxy", "NO_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" }
    local function environment(to)
      local env = { https_proxy = ("http://[::1]:%d"):format(to.port) }
      for _, name in ipairs(none) do env[name] = false end
      return env
    end
    local d = daemon.start({ dir = dir, config = config(3600), log_level = "info", env = environment(through) })
    services.turn_until("the registry", function() return d:log():find("2 experiments from", 1, true) end)
    assert.matches(("^CONNECT %%[::1%%]:%d HTTP/1.1"):format(port), seen[1])
    assert.same({ code = 0 }, d:stop())
    temp.write(cache_path() .. ".note", '{"fetched":1}')
    local refusing = services.proxy(ctx, "403 Forbidden")
    d = daemon.start({ dir = dir, config = config(3600), log_level = "info", env = environment(refusing), again = true })
    services.turn_until("the refusal", function() return count(d, "failed") == 1 end)
    assert.matches(("registry: https://[::1]:%d/api.json: proxy ::1:%d: it refuses: 403 Forbidden (https_proxy and no_proxy are the "
      .. "daemon's environment): the one in use stays in use"):format(port, refusing.port), d:log(), 1, true)
    d:write("start tcp ::1 1 ::1 2 newcomer default\n")
    d:wait_for_counter("flowd_flows_open", 1)
    assert.same({ code = 0 }, d:stop())
  end)
end)

describe("the registry on disk", function()
  after_each(cleanup.all)

  it("is the one before or the new one, whenever its writer is killed; what is said about it is about it", function()
    local dir = temp.dir()
    local path, script = dir .. "/registry.json", temp.write(dir .. "/store.lua", [[
      local cache = require("flowd.registry_cache")
      local texts = { a = ("a"):rep(2000000), b = ("b"):rep(3000000) }
      assert(cache.store(arg[1], texts.a, { etag = "a" }))
      io.stderr:write("kept\n")
      while true do
        for _, name in ipairs(arg[2] == "again" and { "b", "a" } or {}) do assert(cache.store(arg[1], texts[name], { etag = name })) end
      end
    ]])
    local seen, noted = {}, 0
    for round = 1, 40 do
      local child = process.start({ daemon.binary(), "lua", script, path, round > 1 and "again" or "once" })
      child:expect("kept\n", 10)
      -- Not for the sake of the time: each round is killed elsewhere, the first one when it has nothing more to do.
      local until_ = process.now() + round * 0.0007
      while process.now() < until_ do end
      child:signal("KILL")
      child:wait(5)
      child:stop()
      local text = temp.read(path)
      local name = text:sub(1, 1)
      assert.equal(#text, (name == "a" and 2000000 or 3000000))
      seen[name] = true
      local note = temp.exists(path .. ".note") and temp.read(path .. ".note")
      if note then
        assert.equal(('{"etag":"%s"}\n'):format(name), note)
        noted = noted + 1
      end
    end
    assert.same({ a = true, b = true }, seen)
    assert.is_true(noted > 0)
  end)
end)
