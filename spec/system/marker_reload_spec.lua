-- SPDX-License-Identifier: Apache-2.0
-- SIGHUP with other options for the marker: no packet goes unmarked meanwhile.
local bpf = require("spec.support.bpf")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local restarts = require("spec.support.restarts")

local available, reason = netns.available()
if available then available, reason = marking.available() end

describe("a marker whose options change", function()
  if not available then
    it("marks on", function() pending(reason) end)
    return
  end
  after_each(cleanup.all)

  local function reload(scene, options)
    local _, before = scene.d:log():gsub("is in use", "")
    scene.backends.marker = options
    daemon.write_config(scene.dir, { backends = scene.backends })
    scene.d:signal("HUP")
    process.wait_for("the reload", 10, function()
      local _, count = scene.d:log():gsub("is in use", "")
      return count > before
    end)
  end

  local function attached(scene, device)
    local result = {}
    if bpf.has_tcx() then
      for _ in ipairs(scene.a:enter(bpf.egress_programs, device)) do result[#result + 1] = "tcx" end
    end
    if scene.a:tc("filter show dev " .. device .. " egress"):find("bpf") then result[#result + 1] = "clsact" end
    return result
  end

  it("marks every packet of a stream, whatever interfaces come and go and by whatever method", function()
    local scene = restarts.new({ marked = true })
    local label = scene.a:tc("qdisc show")
    local tcx = bpf.has_tcx()
    local default = tcx and "tcx" or "clsact"
    for _ = 1, 3 do
      reload(scene, { interfaces = { "eth1" } })
      assert.same({}, attached(scene, "eth0"))
      assert.same({ default }, attached(scene, "eth1"))
      reload(scene, { interfaces = { "eth0", "eth1" }, method = "clsact" })
      assert.same({ "clsact" }, attached(scene, "eth0"))
      assert.same({ "clsact" }, attached(scene, "eth1"))
      if tcx then
        reload(scene, { interfaces = { "eth1" }, method = "tcx" })
        assert.same({ "tcx" }, attached(scene, "eth1"))
        assert.same({}, attached(scene, "eth0"))
      end
      reload(scene, { interfaces = { "eth0", "eth1" } })
      scene:pass(20)
    end
    scene:check_stream()
    scene.d:expect("backend 'marker' goes on with its new options")
    assert.equal(label, scene.a:tc("qdisc show"))
    -- What was changed is what the next process finds.
    scene:kill()
    scene:pass(20)
    scene:start()
    scene:pass(20)
    scene:check_stream()
    assert.same({ code = 0 }, scene.d:stop())
    assert.same({}, attached(scene, "eth1"))
  end)

  it("goes on with the method that works when the new one does not", function()
    if not bpf.has_tcx() then return pending("the kernel has one method only") end
    local scene = restarts.new({ marked = true })
    -- Another kind of qdisc is where ours would go.
    scene.a:tc("qdisc add dev eth1 ingress")
    reload(scene, { interfaces = { "eth0", "eth1" }, method = "clsact" })
    scene.d:expect("it is marked as before %(tcx%)")
    scene:pass(20)
    scene:check_stream()
    assert.same({ code = 0 }, scene.d:stop())
  end)
end)
