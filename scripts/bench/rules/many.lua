-- SPDX-License-Identifier: Apache-2.0
--- A thousand declared rules of mixed fields, ten functions between them, one of which asks a map of 100,000
-- prefixes; and events, half of which match only near the end.
local many = {}

local RULES, FUNCTIONS, LATE = 1000, 10, 950 -- rules from LATE on are the end
local PREFIXES = 100000

local experiments = { "atlas", "cms", "lhcb", "alice" }

-- Rule number i, an effect, and how an event must be to match it.
local function declared(i, random)
  local kind, name = i % 5, experiments[1 + i % 4]
  local effect = i % 40 == 7 and "drop = true" or i % 9 == 0 and 'route = "marker"'
    or i % 7 == 0 and ("set = { experiment = %q }"):format(name) or ("set = { activity = %d }"):format(1 + i % 63)
  if i >= LATE then
    return ('match = { dst = "2001:db8:ffff:%x::/64", protocol = "tcp" }, %s'):format(i, effect)
  elseif kind == 0 then
    return ('match = { dst = { "2001:db8:%x::/48", "192.0.2.%d" }, protocol = "tcp" }, %s'):format(i, i % 256, effect)
  elseif kind == 1 then
    local port = 10000 + i * 20
    return ('match = { src_port = { %d, "%d-%d" }, plugin = "pipe" }, %s'):format(port, port + 5, port + 9, effect)
  elseif kind == 2 then
    return ('match = { dst_port = %d, experiment = %q }, %s'):format(1024 + i, name, effect)
  elseif kind == 3 then
    return ('match = { application = "app%d*", state = "start" }, %s'):format(i, effect)
  end
  return ('match = { src = "2001:db8:a:%x::/64", dst_port = "40000-%d" }, %s'):format(i, 50000 + random(10000), effect)
end

local functions = {
  'if flow.src:within(site) and flow.dst:within(site) then return drop end',
  'if flow.dst:is_private() then return drop end',
  'if flow.experiment == 0 then flow:tag(ends:find(flow.dst)) end',
  'if flow.src_port == 1094 and flow.dst_port == 1094 then flow.activity = 8 end',
  'if flow.experiment == 2 and flow.activity == 0 and flow.src_port == 8444 then flow.activity = 9 end',
  'if flow.experiment > 400 then return drop end',
  'if flow.protocol == "udp" and flow.dst_port == 33434 then return drop end',
  'if flow.state == "end" and flow.start_time > flow.time then return drop end',
  'if flow.family == 4 then flow:route("firefly") end',
  'if flow.experiment == 0 then flow.experiment = 1 end',
}

--- The text of the policy.
---@param random fun(n: integer): integer 0..n-1
function many.policy(random)
  local lines = {
    'local site = flowd.prefixes{ "2001:db8:1::/48", "192.0.2.0/24" }', "local entries = {}",
    ('for i = 0, %d do entries[("2a00:%%x:%%x::/48"):format(i / 256, i %% 256)] = i %% 2 == 0 and "atlas" or "cms" end')
      :format(PREFIXES - 1),
    "local ends = flowd.map.prefixes(entries)",
  }
  for i = 1, RULES do
    lines[#lines + 1] = ('rule "declared %d" { %s }'):format(i, declared(i, random))
    if i % (RULES / FUNCTIONS) == 50 then
      local n = (i - 50) / (RULES / FUNCTIONS) + 1
      lines[#lines + 1] = ('rule "function %d" (function(flow) %s end)'):format(n, functions[n])
    end
  end
  return table.concat(lines, "\n")
end

--- An event's addresses and ports, by chance; half of them match only near the end.
---@return table src, dst, src_port, dst_port, experiment, application
function many.event(random)
  local i = 1 + random(LATE - 1)
  local event = {
    src = ("2001:db8:1:%x::%x"):format(random(6), random(64)), src_port = 1094, dst_port = 60000 + random(5000),
    dst = ("2a00:%x:%x:%x::1"):format(random(390), random(256), random(65536)), experiment = random(5), application = "",
  }
  if random(2) == 0 then
    event.dst, event.experiment = ("2001:db8:ffff:%x::%x"):format(LATE + random(RULES - LATE), random(65536)), random(3)
  elseif i % 5 == 0 then
    event.dst = ("2001:db8:%x::%x"):format(i, random(65536))
  elseif i % 5 == 1 then
    event.src_port = 10000 + i * 20
  elseif i % 5 == 2 then
    event.dst_port, event.experiment = 1024 + i, ({ 2, 3, 4, 5 })[1 + i % 4]
  elseif i % 5 == 3 then
    event.application = ("app%d.%d"):format(i, random(100))
  else
    event.src, event.dst_port = ("2001:db8:a:%x::%x"):format(i, random(64)), 40000 + random(9000)
  end
  return event
end

return many
