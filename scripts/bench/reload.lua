-- SPDX-License-Identifier: Apache-2.0
--- The longest pause of events while a configuration with 1,000 rules and a map of 100,000 prefixes is reloaded,
--- by the daemon's own clock: whatever it did before it looked for events again.
package.path = "./?.lua"
local bench = require("scripts.bench.bench")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local temp = require("spec.support.temp")

local RULES, PREFIXES, RELOADS = 1000, 100000, 5
local REQUIRED_MS = 200

local function write_map(path)
  local file = assert(io.open(path, "w"))
  for i = 0, PREFIXES - 1 do
    file:write(("2001:%x:%x::/48,%s\n"):format(0xd00 + math.floor(i / 65536), i % 65536, i % 2 == 0 and "atlas" or "cms/Data Challenge"))
  end
  file:close()
end

local function rules()
  local list = { 'rule "by site" (function(flow) flow:tag(sites:find(flow.dst)) end),' }
  for i = 1, RULES - 1 do
    list[#list + 1] = i % 10 == 0
      and ('rule "fn %d" (function(flow) if flow.dst_port == %d then return drop end end),'):format(i, 10000 + i)
      or ('rule "declared %d" { match = { dst_port = %d, src = "10.%d.%d.0/24" }, set = { activity = 7 } },'):format(i,
        20000 + i, math.floor(i / 256), i % 256)
  end
  return table.concat(list, "\n")
end

local dir = temp.dir()
write_map(dir .. "/sites.csv")
local conf = daemon.write_config(dir, {}, rules())
temp.write(conf, 'local sites = flowd.map.prefixes "sites.csv"\n' .. temp.read(conf))
local d = daemon.start({ dir = dir, conf = conf, log_level = "info", seconds = 60 })

local worst, took = 0, 0
for i = 1, RELOADS do
  d:signal("HUP")
  d:expect(("is in use.-"):rep(i), 60)
  local last
  for total, pause in d:log():gmatch("took (%d+) ms, of which events waited ([%d.]+) ms") do last = { total, pause } end
  took = math.max(took, tonumber(last[1]))
  worst = math.max(worst, tonumber(last[2]))
end
assert(d:stop(60).code == 0)
bench.row("reload, 1,000 rules and a map of 100,000 prefixes: pause", ("%.1f ms"):format(worst),
  ("%d ms in all"):format(took), nil, ("<= %d ms"):format(REQUIRED_MS), worst <= REQUIRED_MS)
cleanup.all()
return 0
