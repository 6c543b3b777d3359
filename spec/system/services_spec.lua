-- SPDX-License-Identifier: Apache-2.0
-- A site's own plugin with the daemon's services, in the real daemon.
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local process = require("spec.support.process")
local services = require("spec.support.services")
local temp = require("spec.support.temp")

local SECONDS = os.getenv("ASAN_OPTIONS") and 60 or 20

local web = [[
return {
  name = "web", doc = "d", schema = { path = require("flowd.schema").path{ required = true, doc = "d" } },
  start = function(self, ctx)
    ctx.http.serve{ path = self.options.path, mode = "0600", on_request = function(request)
      if request.path == "/hang" then
        ctx.sleep(0.01)
        local x = 0
        while true do x = x + 1 end
      end
      if request.path == "/raise" then error("oh") end
      ctx.emit{ state = "start", protocol = "tcp", src = "::1", src_port = 1, dst = "::1", dst_port = tonumber(request.body),
        experiment = "atlas", activity = 1 }
      return 202, "taken\n"
    end }
  end,
}
]]

describe("a site's own plugin", function()
  local dir, d
  before_each(function()
    dir = temp.dir()
    process.must({ "mkdir", dir .. "/plugins" })
    temp.write(dir .. "/plugins/web.lua", web)
    d = daemon.start({ dir = dir, config = {
      plugin_dirs = { dir .. "/plugins" }, backends = {},
      plugins = { web = { path = dir .. "/web" }, pipe = { paths = { dir .. "/run/np" } } },
    } })
  end)
  after_each(cleanup.all)

  local function post(path, body)
    local ctx = services.context()
    local stream, answer
    ctx:connect({ path = dir .. "/web", on_data = function(_, text) answer = (answer or "") .. text end,
      on_end = function(_, message) answer = answer or message or "" end }, function(made) stream = made end)
    services.turn_until("the connection", function() return stream end)
    stream:write(("POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s"):format(path, #body, body))
    services.turn_until("the answer", function() return answer end, SECONDS)
    ctx:close()
    return answer
  end

  it("serves HTTP and emits what it is told; an error in it is counted and it goes on", function()
    assert.matches("^HTTP/1.1 202 Accepted\r\n", post("/", "77"))
    d:wait_for_counter("flowd_flows_open", 1)
    assert.matches("^HTTP/1.1 500 ", post("/raise", ""))
    assert.equal(1, d:counter('flowd_callback_errors_total{kind="plugin",name="web"}'))
    assert.matches("plugin web: a callback raised: .-web.lua:10: oh", d:log())
    assert.matches("^HTTP/1.1 202 ", post("/", "78"))
    d:wait_for_counter("flowd_flows_open", 2)
    assert.same({ code = 0 }, d:stop())
    assert.is_false(temp.exists(dir .. "/web"))
  end)

  it("that hangs in a task is named and switched off, and everything else goes on", function()
    assert.matches("^HTTP/1.1 202 ", post("/", "77"))
    d:wait_for_counter("flowd_flows_open", 1)
    post("/hang", "")
    d:expect("plugin 'web' never returned: .-is ready: ", SECONDS)
    d:write("start tcp ::1 5 ::1 6 atlas 1\n")
    d:wait_for_counter("flowd_flows_open", 2)
    assert.equal(1, d:counter('flowd_scripts_hung_total{kind="plugin",name="web"}'))
    assert.matches("plugin web did not start: switched off: it never returned", d:command("stats").stdout)
    assert.same({ code = 0 }, d:stop())
  end)
end)
