-- SPDX-License-Identifier: Apache-2.0
--- The networks of the matrix. Each function makes one and returns
---   from, to     namespaces that send and receive (`to` is missing where packets go nowhere)
---   device       that the daemon marks, in `from`
---   src, dst     addresses
---   seen         { ns, device } where packets are captured
---   link         name of the device whose Ethernet addresses they carry, nil without
local netns = require("spec.support.netns")

local topology = {}

local VLAN = "link add link eth0 name vlan7 type vlan id 7"
local TUNNEL = "link add tun7 type ip6tnl mode ip6ip6"

-- Labels in packets are the marker's: the kernel makes none of its own.
local function quiet(ns)
  ns:sysctl("net.ipv6.auto_flowlabels", 0)
end

local function veth()
  local a, b = netns.pair()
  quiet(a)
  quiet(b)
  return { from = a, to = b, device = "eth0", src = a.address, dst = b.address, seen = { b, "eth0" } }
end

-- A device on top of the veth pair's ends, with addresses of its own. add: how it is made at each end.
local function upon(name, add, up)
  local t = veth()
  for i, ns in ipairs({ t.from, t.to }) do
    ns:ip_batch({ add[i], ("link set %s addrgenmode none up"):format(name),
      ("addr add 2001:db8:2::%d/64 dev %s nodad"):format(i, name) })
  end
  t.src, t.dst = "2001:db8:2::1", "2001:db8:2::2"
  t.device, t.seen = up and name or "eth0", { t.to, name }
  return t
end

local function with_macs(t)
  t.src_mac = t.from:mac(t.device)
  t.dst_mac = t.to and t.to:mac(t.seen[2]) or t.src_mac
  return t
end

function topology.veth() return with_macs(veth()) end

--- The daemon marks the VLAN device.
function topology.vlan()
  return with_macs(upon("vlan7", { VLAN, VLAN }, true))
end

--- The daemon marks the device below, where the tag stands inside the frame.
function topology.vlan_in_frame()
  return with_macs(upon("vlan7", { VLAN .. " reorder_hdr off", VLAN }, false))
end

--- Packets without Ethernet header.
function topology.tunnel()
  return upon("tun7", { TUNNEL .. " local 2001:db8:1::1 remote 2001:db8:1::2", TUNNEL .. " local 2001:db8:1::2 remote 2001:db8:1::1" },
    true)
end

--- A device that swallows what it gets: seen as it leaves.
function topology.dummy()
  local a = netns.new("a")
  quiet(a)
  a:ip_batch({ "link add dummy7 type dummy", "link set dummy7 addrgenmode none up",
    "addr add 2001:db8:3::1/64 dev dummy7 nodad" })
  return with_macs({ from = a, device = "dummy7", src = "2001:db8:3::1", dst = "2001:db8:3::2", seen = { a, "dummy7" } })
end

return topology
