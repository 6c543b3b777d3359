-- SPDX-License-Identifier: Apache-2.0
-- Rules that changed, over flows that are open, in the real daemon with real packets.
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local flow_lines = require("spec.support.flow_lines")
local marking = require("spec.support.marking")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local unbroken = require("spec.support.unbroken")

local available, reason = netns.available()
if available then available, reason = marking.available() end

local SEMANTIC = 0x3FEFC
local CMS_DATA_CHALLENGE = tonumber(require("flowd.api").label_encode(3, 4, 0))

local function rules(set) return ('rule "site" { match = { dst_port = 6000 }, set = { %s } },'):format(set) end

local function reload(d, config, text)
  local _, before = d:log():gsub("is in use: ", "")
  daemon.write_config(d.dir, config, text)
  d:signal("HUP")
  process.wait_for("the reload", 20, function() return select(2, d:log():gsub("is in use: ", "")) > before end)
end

describe("flowd-lua reapply", function()
  if not available then
    it("changes marks in place", function() pending(reason) end)
    return
  end
  after_each(cleanup.all)

  it("changes the label of an open flow's packets in place, without one that has none, and tells how many flows", function()
    local a, b = netns.pair()
    a:sysctl("net.ipv6.auto_flowlabels", 0)
    local config = { backends = { marker = { interfaces = { "eth0" } } } }
    local d = daemon.start({ namespace = a, config = config, rules = rules("activity = 2"), log_level = "info" })
    d:write(unbroken.line("start", a, b) .. flow_lines.lines("start", a.address, b.address, "lhcb 1", 1, 200))
    d:wait_for_counter("flowd_marker_flows", 201)
    local stream = unbroken.start(a, b)
    stream:pass(200)
    local first = stream:packets()[1].flow_label
    reload(d, config, rules('experiment = "cms", activity = "Data Challenge"'))
    stream:pass(200)
    -- A decision holds until somebody asks for another one.
    for _, packet in ipairs(stream:packets()) do assert.equal(first, packet.flow_label) end
    local dry = d:command("reapply", "--dry")
    assert.matches("^reapply %(dry: nothing was changed%): 201 open flows: 200 unchanged, 1 with another tag, 0 with another "
      .. "route, 0 ended", dry.stdout, 1, false)
    stream:pass(100)
    for _, packet in ipairs(stream:packets()) do assert.equal(first, packet.flow_label) end
    local result = d:command("reapply")
    assert.equal(0, result.code, result.stderr)
    assert.matches("^reapply: 201 open flows: 200 unchanged, 1 with another tag, 0 with another route, 0 ended "
      .. "%(0 dropped, 0 without experiment%)", result.stdout)
    stream:pass(200)
    local changed_at
    local packets = stream:packets()
    local last = packets[#packets].flow_label
    assert.equal(CMS_DATA_CHALLENGE, bit.band(last, SEMANTIC))
    -- The same five bits of its own.
    assert.equal(bit.band(first, 0xC0103), bit.band(last, 0xC0103))
    for i, packet in ipairs(packets) do
      if not changed_at and packet.flow_label == last then changed_at = i end
      assert.equal(changed_at and last or first, packet.flow_label)
    end
    assert.equal(0, stream.seen:dropped())
    assert.equal(1, d:counter('flowd_flows_reapplied_total{result="changed"}'))
    d:write(unbroken.line("end", a, b))
    d:wait_for_counter("flowd_flows_ended_total", 1)
    assert.same({ code = 0 }, d:stop())
  end)
end)
