-- SPDX-License-Identifier: Apache-2.0
--- The rules of site.lua as one function over the batch, written by hand: no view, no containment, no
--- counters. What bench/rules compares with.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local addresses = require("flowd.addresses")

local band, bor = bit.band, bit.bor
local find = api.prefix_map_find
local DROPPED, DECIDED = ffi.C.EVENT_DROPPED, ffi.C.EVENT_DECIDED
local TCP, UDP = ffi.C.FLOW_TCP, ffi.C.FLOW_UDP

local anchors = {}

local function set(list)
  local pointer, anchor = addresses.build_set(list)
  anchors[#anchors + 1] = assert(anchor)
  return pointer
end

local function map(entries)
  local pointer, anchor = addresses.build_map(entries)
  anchors[#anchors + 1] = assert(anchor)
  return pointer
end

local site = set({ "2001:db8:1::/48", "192.0.2.0/24" })
local quarantine = set({ "2001:db8:8001::/48", "2001:db8:8002::/48", "198.51.100.128/25" })
local partners = set({ "2001:db8:100::/40", "2001:db8:200::/40", "198.51.100.0/24" })
local private = set({ "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10",
  "fc00::/7", "fe80::/10", "::1/128" })
local servers = map({ { "2001:db8:1:1::/64", 128 }, { "2001:db8:1:2::/64", 192 }, { "2001:db8:1:3::/64", 256 },
  { "2001:db8:1:1::10/124", 154 }, { "192.0.2.0/26", 128 }, { "192.0.2.64/26", 192 } })

local inline = { anchors = anchors }

-- pipe, http: ids of the plugins. lhcb, alice, input: ids of the registry.
function inline.make(pipe, http, lhcb, alice, input)
  return function(events, count)
    for i = 0, count - 1 do
      local e = events[i]
      local key = e.key
      local dropped = false
      if band(e.flags, bor(DROPPED, DECIDED)) ~= 0 then goto next end
      if find(site, key.src) ~= 0 and find(site, key.dst) ~= 0 then dropped = true goto done end
      if find(quarantine, key.dst) ~= 0 then dropped = true goto done end
      if find(private, key.dst) ~= 0 then dropped = true goto done end
      if e.experiment == 0 and (key.dst_port == 9 or key.dst_port == 7 or key.dst_port >= 5201 and key.dst_port <= 5299) then
        e.experiment, e.activity = 1, 2
      end
      if e.experiment == 0 then
        local tag = find(servers, key.src)
        if tag ~= 0 then e.experiment, e.activity = bit.rshift(tag, 6), band(tag, 63) end
      end
      if e.experiment == 0 then
        local port = key.src_port
        if port == 2811 then
          e.experiment, e.activity = 3, 0
        elseif port == 8443 then
          e.experiment, e.activity = lhcb, 0
        elseif port >= 50000 and port <= 51000 then
          e.experiment, e.activity = alice, 0
        end
      end
      if key.protocol == TCP and e.source == pipe and e.experiment == 0
        and (key.src_port == 1094 or key.src_port >= 20000 and key.src_port <= 25000) and find(partners, key.dst) ~= 0 then
        e.experiment, e.activity = 2, input
      end
      if key.src_port == 1094 and key.dst_port == 1094 then e.activity = 8 end
      if key.protocol == UDP and key.dst_port >= 33434 and key.dst_port <= 33534 then dropped = true goto done end
      if e.experiment == 3 and e.activity == 3 then e.activity = 4 end
      if e.experiment == 2 and e.activity == 0 and key.src_port == 8444 then e.activity = 9 end
      if e.experiment > 100 then dropped = true goto done end
      if e.experiment == lhcb then e.route = 1 end
      if key.family == 4 then e.route = 2 end
      if find(partners, key.dst) ~= 0 and key.protocol == TCP then e.route = 3 end
      if key.protocol == TCP and key.dst_port >= 1 and key.dst_port <= 1023 then e.activity = 1 end
      if e.experiment == 0 and key.src_port >= 50000 and key.src_port <= 51000 then e.experiment = alice end
      if e.state == 3 and e.start_us > e.time_us then dropped = true goto done end
      if e.source == http and (key.src_port == 80 or key.src_port == 443 or key.src_port == 8080 or key.src_port == 8443) then
        e.activity = 3
      end
      if e.experiment == 0 then e.experiment = 1 end
      ::done::
      if dropped then e.flags = bor(e.flags, DROPPED) end
      ::next::
    end
  end
end

return inline
