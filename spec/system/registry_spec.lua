-- SPDX-License-Identifier: Apache-2.0
-- The registry from an HTTPS URL, in the real daemon.
local certificates = require("spec.support.certificates")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

local function published(experiments)
  local list = {}
  for i, e in ipairs(experiments) do
    list[i] = ('{"expName":"%s","expId":%d,"activities":[{"activityName":"default","activityId":1}]}'):format(e[1], e[2])
  end
  return ('{"version":1,"modified":"2026-01-01T00:00:00Z","experiments":[%s]}'):format(table.concat(list, ","))
end

local both = published({ { "atlas", 2 }, { "newcomer", 77 } })

describe("the registry from a URL", function()
  local ctx, dir, ca, server, answer, requests
  before_each(function()
    ctx, dir, requests = services.context(), temp.dir(), {}
    ca = certificates.authority(dir, "ca")
    local cert = ca:issue("server", "IP:0:0:0:0:0:0:0:1")
    server = ctx.http.serve({ tls = { certificate = cert.file, key = cert.key }, on_request = function(request)
      requests[#requests + 1] = request
      return answer(request)
    end })
  end)
  after_each(function()
    ctx:close()
    cleanup.all()
  end)

  local function settings(more)
    local all = { url = ("https://[::1]:%d/api.json"):format(server.port), ca = ca.file, timeout = 30 }
    for key, value in pairs(more or {}) do all[key] = value end
    return all
  end

  local function start(more, options)
    options = options or {}
    options.config = { registry = settings(more), backends = {} }
    options.dir, options.log_level = options.dir or dir, "info"
    return daemon.start(options)
  end

  local function expect(d, text)
    return services.turn_until(text, function() return d:log():find(text, 1, true) end)
  end

  local function cached()
    local name = process.must({ "sh", "-c", "ls " .. dir .. "/cache/registry-*.json 2>/dev/null || true" }):gsub("\n", "")
    return name ~= "" and temp.read(name) or nil, name
  end

  it("is fetched, used and kept; the start does not wait for it", function()
    local wait = true
    answer = function()
      while wait do ctx.sleep(0.01) end
      return 200, both, { ETag = '"one"' }
    end
    local d = start()
    services.turn_until("the request", function() return requests[1] end)
    d:write("start tcp ::1 1 ::1 2 newcomer 1\n")
    d:wait_for_counter("flowd_lines_refused_total", 1)
    wait = false
    expect(d, "registry: 2 experiments from https://")
    d:write("start tcp ::1 1 ::1 2 newcomer default\n")
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal(1, d:counter('flowd_registry_updates_total{result="new"}'))
    assert.equal(both, cached())
    assert.matches("77  newcomer", d:command("registry").stdout)
    -- Asked again: nothing new.
    answer = function(request)
      if request.headers["if-none-match"] == '"one"' then return 304 end
      return 500
    end
    local _, path = cached()
    local note = temp.read(path .. ".note")
    temp.write(path .. ".note", (note:gsub('"fetched":%d+', '"fetched":1')))
    daemon.write_config(dir, { registry = settings({ refresh = 3600 }), backends = {} })
    d:signal("HUP")
    services.turn_until("the second request", function() return requests[2] end)
    services.turn_until("the count", function()
      return d:counter('flowd_registry_updates_total{result="unchanged"}') == 1
    end)
    assert.same({ code = 0 }, d:stop())
    -- The server is gone: what was kept is there from the start, and nobody is asked before its time.
    ctx:release(server)
    d = start()
    d:write("start tcp ::1 1 ::1 2 newcomer default\n")
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal(0, d:counter("flowd_registry_updates_total"))
    assert.same({ code = 0 }, d:stop())
  end)

  it("that is no registry is not taken", function()
    answer = function() return 200, '{"version":1,"experiments":[{"expName":"x","expId":4711,"activities":[]}]}' end
    local d = start()
    expect(d, "registry: https://")
    assert.matches("registry: https://%[::1%]:%d+/api.json: experiment 1, id: expected an id from 1 to 511, got 4711: "
      .. "the one in use stays in use", d:log())
    assert.equal(1, d:counter('flowd_registry_updates_total{result="failed"}'))
    assert.is_nil((cached()))
    assert.same({ code = 0 }, d:stop())
  end)

  it("that the configuration cannot be loaded with is not taken, nor kept for the next start", function()
    answer = function() return 200, both end
    local rules = 'rule "cms" { set = { experiment = "cms" } }'
    local d = start({}, { rules = rules })
    expect(d, "registry: the configuration cannot be loaded with the new one: the one in use stays in use")
    assert.matches('unknown experiment "cms"', d:log())
    assert.equal(1, d:counter('flowd_registry_updates_total{result="refused"}'))
    assert.is_nil((cached()))
    assert.same({ code = 0 }, d:stop())
  end)

  it("takes effect in rules and maps", function()
    answer = function() return 200, published({ { "atlas", 2 }, { "cms", 99 } }) end
    local d = start({}, { rules = [[
      rule "by name" (function(flow) if flow.dst_port == 5 then flow.experiment = "cms" end end)
    ]] })
    expect(d, "registry: 2 experiments from https://")
    d:write("start tcp ::1 1 ::1 5 0 0\n")
    d:wait_for_counter("flowd_flows_open", 1)
    daemon.write_config(dir, { registry = settings(), backends = {}, log = { level = "debug" } })
    assert.equal(0, d:counter("flowd_rule_errors_total"))
    assert.equal(0, d:counter("flowd_registry_unknown_total"))
    assert.same({ code = 0 }, d:stop())
  end)

  it("counts tags that it does not know, and with strict takes them away", function()
    answer = function() return 500 end
    local d = start()
    d:write("start tcp ::1 1 ::1 2 500 1\nstart tcp ::1 1 ::1 3 2 60\nstart tcp ::1 1 ::1 4 2 1\n")
    d:wait_for_counter("flowd_flows_open", 3)
    assert.equal(1, d:counter('flowd_registry_unknown_total{what="experiment"}'))
    assert.equal(1, d:counter('flowd_registry_unknown_total{what="activity"}'))
    assert.equal(0, d:counter("flowd_events_unmapped_total"))
    assert.same({ code = 0 }, d:stop())
    d = start({ strict = true })
    d:write("start tcp ::1 1 ::1 2 500 1\nstart tcp ::1 1 ::1 3 2 60\nstart tcp ::1 1 ::1 4 2 1\n")
    d:wait_for_counter("flowd_flows_open", 1)
    assert.equal(2, d:counter("flowd_registry_unknown_total"))
    assert.equal(2, d:counter("flowd_events_unmapped_total"))
    assert.same({ code = 0 }, d:stop())
  end)

  -- registry --update, while our server answers.
  local function update()
    local child = process.start({ daemon.binary(), "--conf", dir .. "/conf.lua", "registry", "--update" })
    services.turn_until("the end of it", function() return not child:running() end)
    local status = child:wait(5)
    local out, err = child:stdout(), child:stderr()
    child:stop()
    return status.code, out, err
  end

  it("is fetched by hand with registry --update", function()
    process.must({ "mkdir", dir .. "/cache" })
    daemon.write_config(dir, { registry = settings() })
    answer = function(request)
      if request.headers["if-none-match"] == '"e"' then return 304 end
      return 200, both, { ETag = '"e"' }
    end
    assert.same({ 0, "2 experiments, as of 2026-01-01T00:00:00Z; a running daemon takes them at the next reload\n", "" },
      { update() })
    assert.equal(both, cached())
    assert.same({ 0, "unchanged\n", "" }, { update() })
    answer = function() return 404 end
    local status, _, message = update()
    assert.equal(1, status)
    assert.matches("^flowd%-lua: https://%[::1%]:%d+/api.json: the server answers 404 Not Found\n$", message)
    -- Unknown to the system's authorities.
    daemon.write_config(dir, { registry = settings({ ca = "" }) })
    status, _, message = update()
    assert.equal(1, status)
    assert.matches("TLS: the certificate is not accepted: unable to get local issuer certificate", message)
    assert.equal(both, cached())
    daemon.write_config(dir, {})
    assert.same({ 1, "", "flowd-lua: registry.url is not set: there is nowhere to fetch it from\n" }, { update() })
  end)
end)
