-- SPDX-License-Identifier: Apache-2.0
--- Flows between two namespaces (netns.pair), by socat.
local udp = require("spec.support.udp")

local traffic = {}

local function finish(client, server)
  return function()
    local status = client:wait(30)
    if status.code ~= 0 then error("the sender failed: " .. client:output(), 2) end
    if server and server:wait(30).code ~= 0 then error("the receiver failed: " .. server:output(), 2) end
  end
end

local function zeros(octets) return ("OPEN:/dev/zero,readbytes=%d"):format(octets) end

--- Send over TCP from a's src_port to b's dst_port.
---@param a table namespace with .address
---@param b table
---@param src_port integer
---@param dst_port integer
---@param octets integer|nil default 2,000,000
---@return fun() wait until everything has arrived; an error if it does not
function traffic.tcp(a, b, src_port, dst_port, octets)
  local server = b:start({ "socat", "-d", "-d", "-b", "1048576", "-u", ("TCP6-LISTEN:%d,reuseaddr"):format(dst_port),
    "OPEN:/dev/null" })
  server:expect("listening on", 10)
  local client = a:start({ "socat", "-b", "1048576", "-u", zeros(octets or 2000000),
    ("TCP6:[%s]:%d,sourceport=%d,reuseaddr"):format(b.address, dst_port, src_port) })
  return finish(client, server)
end

--- Send datagrams of 1,000 octets. Their receiver stays until the test is over.
---@param a table
---@param b table
---@param src_port integer
---@param dst_port integer
---@param count integer|nil default 100
---@return fun() wait until everything is sent
function traffic.udp(a, b, src_port, dst_port, count)
  udp.open(b, b.address, dst_port)
  return finish(a:start({ "socat", "-b", "1000", "-u", zeros(1000 * (count or 100)),
    ("UDP6:[%s]:%d,sourceport=%d"):format(b.address, dst_port, src_port) }))
end

return traffic
