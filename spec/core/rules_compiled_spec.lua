-- SPDX-License-Identifier: Apache-2.0
--- Rules after LuaJIT has compiled them: that it does, that it is right, and what it does not lose.
local jit = require("jit")
local jit_options = require("flowd.jit_options")
local support = require("spec.support.policy")

local traces_of = support.traces_of

local typical = [[
  local site = flowd.prefixes{ "2001:db8:1::/48", "192.0.2.0/24" }
  local servers = flowd.map.prefixes{ ["2001:db8:1:1::/64"] = "atlas", ["2001:db8:1:2::/64"] = "cms/Data Challenge" }
  local doors = flowd.map.ports{ [2811] = "cms", ["50000-51000"] = "alice" }
  rule "inside" (function(flow) if flow.src:within(site) and flow.dst:within(site) then return drop end end)
  rule "private" (function(flow) if flow.dst:is_private() then return drop end end)
  rule "servers" (function(flow) if flow.experiment == 0 then flow:tag(servers:find(flow.src)) end end)
  rule "doors" (function(flow) if flow.experiment == 0 then flow:tag(doors:find(flow.src_port)) end end)
  rule "declared" { match = { src_port = { 1, 3, 5, 7, "9-1000" }, protocol = "tcp" }, set = { activity = 5 } }
  rule "text" (function(flow) if flow.dst:within("2001:db8:7::/48") then flow:tag("lhcb") end end)
  rule "route" (function(flow) if flow.protocol == "udp" then flow:route("marker", "firefly") end end)
  rule "ids" (function(flow) if flow.experiment > 100 then return drop end end)
  rule "default" (function(flow) if flow.experiment == 0 then flow.experiment = "default" return accept end end)
]]

local function events()
  local list = {}
  for i = 1, 1000 do
    list[i] = { src = ("2001:db8:%d:%d::%x"):format(i % 3, i % 4, i), dst = ("2001:db8:%d::%x"):format(i % 11, i),
      src_port = i % 7 == 0 and 2811 or i % 5 == 0 and 50000 + i or i, dst_port = 40000 + i,
      protocol = i % 9 == 0 and "udp" or "tcp", experiment = i % 2 == 0 and 0 or i % 13 == 0 and 200 or 2 }
  end
  return list
end

-- The same, one event a batch, each by a chain that nothing has compiled.
local function interpreted(text, list)
  jit.off()
  local chain = support.chain(text)
  local results = {}
  for i, fields in ipairs(list) do results[i] = support.run(chain, fields) end
  jit.on()
  return results
end

describe("compiled rules", function()
  it("decide what interpreted ones decide", function()
    local list = events()
    local expected = interpreted(typical, list)
    local chain = support.chain(typical)
    for _ = 1, 60 do
      local batch = support.batch(list)
      chain:run(batch)
      assert.same(expected, support.results(batch))
    end
  end)

  it("are compiled without an aborted trace", function()
    local list, batches = events(), {}
    for i = 1, 60 do batches[i] = support.batch(list) end
    local chain = support.chain(typical)
    chain:run(batches[60])
    local started, aborted = traces_of(function()
      for i = 1, 59 do chain:run(batches[i]) end
    end)
    assert.same({}, aborted)
    assert.is_true(started > 0)
  end)

  -- Sixteen rules with two outcomes each: 65,536 ways through them.
  local function independent()
    local text, list = { "local band = bit.band" }, {}
    for i = 1, 16 do
      text[#text + 1] = ('rule "%d" (function(flow) if band(flow.dst_port, %d) ~= 0 then flow.activity = %d end end)')
        :format(i, 2 ^ (i - 1), i)
    end
    for i = 1, 1000 do list[i] = { dst_port = 1 + i * 40503 % 65535 } end
    return table.concat(text, "\n"), list
  end

  local function count_traces(chain, list)
    local batches = {}
    for i = 1, 60 do batches[i] = support.batch(list) end
    -- What happens once is not what is looked for.
    chain:run(batches[60])
    local started, aborted = traces_of(function()
      for i = 1, 59 do chain:run(batches[i]) end
    end)
    assert.same({}, aborted)
    return started
  end

  it("grow with the outcomes of each rule, not with their product", function()
    local text, list = independent()
    local chain = support.chain(text)
    local started = count_traces(chain, list)
    assert.is_true(started < 150, started .. " traces")
    assert.same(interpreted(text, list), support.results((function()
      local batch = support.batch(list)
      chain:run(batch)
      return batch
    end)()))
  end)

  it("are compiled again, as well, when LuaJIT has thrown everything away", function()
    local text, list = independent()
    local chain = support.chain(text)
    chain:run(support.batch(list))
    local generation = jit_options.generation
    jit.flush()
    assert.equal(generation + 1, jit_options.generation)
    local started = count_traces(chain, list)
    assert.is_true(started < 150, started .. " traces")
  end)

  it("are right where one cannot be compiled", function()
    -- LuaJIT compiles no code that makes functions.
    local text = [[
      rule "before" (function(flow) flow.activity = 1 end)
      rule "cannot" (function(flow)
        local f = function() return flow.dst_port end
        if f() > 40500 then flow.experiment = 3 end
      end)
      rule "after" (function(flow) if flow.experiment == 3 then flow.application = "after" end end)
    ]] .. typical
    local list = events()
    local expected = interpreted(text, list)
    local chain = support.chain(text)
    for _ = 1, 30 do
      local batch = support.batch(list)
      chain:run(batch)
      assert.same(expected, support.results(batch))
    end
  end)
end)
