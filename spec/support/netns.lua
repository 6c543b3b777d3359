-- SPDX-License-Identifier: Apache-2.0
--- Network namespaces for tests.
---
---     local a, b = netns.pair()                -- joined by a veth pair, eth0 in each
---     a:start{ "iperf3", "-c", b.address }     -- a child in it (process.lua)
---     b:enter(function() ... sockets ... end)  -- this process in it, for one call
---
--- A namespace has no name in /run/netns: it lives as long as this process or a child in it
--- does, and the kernel takes it down with all its devices however the test ends.
--- `nsenter --net=PATH` works with ns.path (and, unlike `ip netns exec`, keeps bpffs in view).
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")

ffi.cdef([[
int unshare(int);
int geteuid(void);
int socket(int, int, int);
int ioctl(int, unsigned long, ...);
struct lab_interface_request { char name[16]; uint16_t word; uint8_t octet[22]; };
]])
local C = ffi.C

local O_RDONLY_CLOEXEC = 0x80000
local CLONE_NEWNET = 0x40000000
local AF_INET, SOCK_DGRAM = 2, 2
local SIOCSIFFLAGS, SIOCGIFHWADDR, IFF_UP = 0x8914, 0x8927, 1

local netns = {}
local methods = {}
local meta = { __index = methods }

local function open_current()
  local fd = C.open("/proc/self/ns/net", bit.bor(O_RDONLY_CLOEXEC))
  if fd < 0 then error("open /proc/self/ns/net: " .. process.errno_text()) end
  return fd
end

local function set(fd)
  if C.setns(fd, CLONE_NEWNET) ~= 0 then error("setns: " .. process.errno_text()) end
end

-- netdevice(7), in the namespace that this process is in.
local function ask_interface(request, name, word)
  local fd = C.socket(AF_INET, SOCK_DGRAM, 0)
  local argument = ffi.new("struct lab_interface_request", name, word)
  local r = C.ioctl(fd, request, argument)
  local message = process.errno_text()
  C.close(fd)
  if r ~= 0 then error(("interface %s: %s"):format(name, message)) end
  return argument
end

--- Can namespaces be made here?
---@return boolean, string|nil reason
function netns.available()
  if C.geteuid() ~= 0 then return false, "network namespaces need root" end
  return true
end

--- A new, empty namespace with `lo` up.
---@param label string|nil shown in messages
---@return table ns with .fd and .path
function netns.new(label)
  local home = open_current()
  if C.unshare(CLONE_NEWNET) ~= 0 then
    local message = process.errno_text()
    C.close(home)
    error("cannot make a network namespace: " .. message, 2)
  end
  local fd = open_current()
  local ok, message = pcall(ask_interface, SIOCSIFFLAGS, "lo", IFF_UP)
  set(home)
  C.close(home)
  if not ok then error(message, 0) end
  local self = setmetatable({ fd = fd, label = label or "ns", path = ("/proc/%d/fd/%d"):format(C.getpid(), fd) }, meta)
  self.token = cleanup.add(function() self:close() end)
  -- No router solicitations, no duplicate address detection: what is captured is the test's own.
  self:sysctl("net.ipv6.conf.all.accept_dad", 0)
  self:sysctl("net.ipv6.conf.default.accept_dad", 0)
  self:sysctl("net.ipv6.conf.default.router_solicitations", 0)
  return self
end

--- Let go of it. It disappears with the last process that runs in it.
function methods:close()
  if self.fd then
    C.close(self.fd)
    self.fd = nil
    cleanup.forget(self.token)
  end
end

--- Call fn(...) with this process in the namespace. A socket opened there stays there.
---@param fn fun(...): any
---@return any ... what fn returns
function methods:enter(fn, ...)
  local home = open_current()
  set(self.fd)
  local function back(ok, ...)
    set(home)
    C.close(home)
    if not ok then error((...), 0) end
    return ...
  end
  return back(pcall(fn, ...))
end

--- process.start / run / must, in the namespace.
---@param options table
function methods:start(options)
  options.namespace = self
  return process.start(options)
end

---@param options table
function methods:run(options)
  options.namespace = self
  return process.run(options)
end

---@param options table
---@return string stdout
function methods:must(options)
  options.namespace = self
  return process.must(options)
end

local function words(line)
  local list = {}
  for word in line:gmatch("%S+") do list[#list + 1] = word end
  return list
end

--- ns:ip("addr add %s dev eth0", address): one `ip` command; an error if it fails.
---@param format string
---@return string stdout
function methods:ip(format, ...)
  return self:must({ "ip", unpack(words(format:format(...))) })
end

--- Many `ip` commands by one process; an error if one fails.
---@param lines string[] without the word ip
---@return string stdout
function methods:ip_batch(lines)
  return self:must({ "ip", "-batch", "-", input = table.concat(lines, "\n") .. "\n" })
end

--- The Ethernet address of a device.
---@param device string
---@return string for example "02:00:00:00:00:01"
function methods:mac(device)
  return self:enter(function()
    local octets = ask_interface(SIOCGIFHWADDR, device, 0).octet
    return ("%02x:%02x:%02x:%02x:%02x:%02x"):format(octets[0], octets[1], octets[2], octets[3], octets[4], octets[5])
  end)
end

--- ns:tc("qdisc show dev eth0")
---@param format string
---@return string stdout
function methods:tc(format, ...)
  return self:must({ "tc", unpack(words(format:format(...))) })
end

---@param name string for example net.ipv6.conf.all.forwarding
---@param value string|integer
function methods:sysctl(name, value)
  self:enter(function()
    local path = "/proc/sys/" .. name:gsub("%.", "/")
    local file = assert(io.open(path, "w"))
    assert(file:write(tostring(value)))
    assert(file:close())
  end)
end

local function address_command(device, address)
  return ("addr add %s dev %s%s"):format(address, device, address:find(":", 1, true) and " nodad" or "")
end

--- Give a device an address that is usable at once.
---@param device string
---@param address string with prefix length
function methods:add_address(device, address)
  self:ip("%s", address_command(device, address))
end

--- Remove the address given with add_address.
---@param device string
---@param address string with prefix length
function methods:remove_address(device, address)
  self:ip("addr del %s dev %s", address, device)
end

--- Join two namespaces with a veth pair. Both ends are up when this returns.
--- options: mtu (1500); link_local (false: no fe80:: address, so no noise); addresses { of a's end, of b's }, lists
--- with prefix lengths
---@param a table
---@param a_device string
---@param b table
---@param b_device string
---@param options table|nil
function netns.veth(a, a_device, b, b_device, options)
  options = options or {}
  local commands = { { ("link add %s type veth peer name %s netns %s"):format(a_device, b_device, b.path) }, {} }
  for i, device in ipairs({ a_device, b_device }) do
    local list = commands[i]
    list[#list + 1] = ("link set %s mtu %d%s"):format(device, options.mtu or 1500,
      options.link_local and "" or " addrgenmode none")
    list[#list + 1] = ("link set %s up"):format(device)
    for _, address in ipairs((options.addresses or {})[i] or {}) do list[#list + 1] = address_command(device, address) end
  end
  a:ip_batch(commands[1])
  b:ip_batch(commands[2])
end

--- Two namespaces joined by eth0, with a.address, b.address (IPv6) and a.address4, b.address4.
---@param options table|nil as netns.veth, without addresses
---@return table a, table b
function netns.pair(options)
  local a, b = netns.new("a"), netns.new("b")
  local addresses = {}
  for i, ns in ipairs({ a, b }) do
    ns.address, ns.address4 = "2001:db8:1::" .. i, "192.0.2." .. i
    ns.device = "eth0"
    addresses[i] = { ns.address .. "/64", ns.address4 .. "/24" }
  end
  options = options or {}
  netns.veth(a, "eth0", b, "eth0", { mtu = options.mtu, link_local = options.link_local, addresses = addresses })
  return a, b
end

return netns
