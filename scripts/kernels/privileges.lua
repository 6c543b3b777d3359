-- SPDX-License-Identifier: Apache-2.0
--- The daemon as an ordinary user, on every kernel: checks for checks.lua.
local marked = require("scripts.kernels.marked")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local topology = require("scripts.kernels.topology")

local privileges = {}

local USER = "54321" -- nobody's
-- CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39, as /proc shows them.
local ALL, WITHOUT_PERFMON = "000000c000001000", "0000008000001000"
local LIMIT_KIB = 64

local function field(d, name)
  return (temp.read(("/proc/%d/status"):format(d.pid)):match("\n" .. name .. ":[ \t]*([^\n]*)"))
end

local function expect(what, want, got)
  if got ~= want then error(("%s is %s, not %s"):format(what, tostring(got), want), 0) end
end

local function expect_ordinary(d, capabilities)
  expect("the user", USER, field(d, "Uid"):match("^%d+"))
  for _, set in ipairs({ "CapEff", "CapPrm", "CapAmb" }) do expect(set, capabilities, field(d, set)) end
end

-- A directory that the user can go through, but not write to.
local function open_dir()
  local dir = temp.dir()
  process.must({ "chmod", "0755", dir })
  return dir
end

-- The same, and the daemon's own directories in it are the user's.
local function own_dir()
  local dir = open_dir()
  for _, name in ipairs({ "run", "lib", "cache" }) do
    process.must({ "mkdir", dir .. "/" .. name })
    process.must({ "chown", ("%s:%s"):format(USER, USER), dir .. "/" .. name })
  end
  return dir
end

-- Words before a command: it is started as the user, with these capabilities alone, and may lock memory. By path:
-- busybox has a setpriv of its own.
local function as_user(list)
  local set = "-all"
  for _, name in ipairs(list) do set = set .. ",+" .. name end
  return { "sh", "-c", 'ulimit -l unlimited 2>/dev/null; exec "$@"', "sh", "/usr/bin/setpriv", "--reuid", USER,
    "--regid", USER, "--clear-groups", "--inh-caps", set, "--ambient-caps", set }
end

-- Marks flows, and again after it has replaced itself; returns the packets.
local function marks(t, d, capabilities)
  expect_ordinary(d, capabilities)
  marked.tell(d, t, "start", { marked.TCP_FLOW, marked.UDP_FLOW }, 2)
  local packets = marked.tcp(t, 50000)
  d:signal("USR2")
  process.wait_for(function() return "the new image:\n" .. d:log() end, 40, function()
    return select(2, d:log():gsub("is ready", "")) == 2
  end)
  expect_ordinary(d, capabilities)
  packets = packets + marked.udp(t)
  marked.tell(d, t, "end", { marked.TCP_FLOW, marked.UDP_FLOW }, 0)
  local status = d:stop()
  if status.code ~= 0 then error(("the daemon ended with status %s"):format(tostring(status.code or status.signal)), 0) end
  return packets
end

-- Root becomes the user. Tables of older kernels count as locked memory.
local function dropped(context)
  local t = topology.veth()
  local d = marked.daemon(t, { dir = open_dir(), config = { user = USER, group = USER },
    prefix = { "sh", "-c", ('ulimit -l %d; exec "$@"'):format(LIMIT_KIB), "sh" } })
  local limit = temp.read(("/proc/%d/limits"):format(d.pid)):match("Max locked memory%s+(%S+)")
  expect("the limit of locked memory", context.counts_memory and "unlimited" or tostring(LIMIT_KIB * 1024), limit)
  return ("%d packets%s"):format(marks(t, d, ALL), context.counts_memory and "; RLIMIT_MEMLOCK raised" or "")
end

local function ambient()
  local t = topology.veth()
  local d = marked.daemon(t, { dir = own_dir(), prefix = as_user({ "net_admin", "bpf", "perfmon" }) })
  return ("%d packets"):format(marks(t, d, ALL))
end

local function without_perfmon(context)
  local t = topology.veth()
  local d = marked.daemon(t, { dir = own_dir(), prefix = as_user({ "net_admin", "bpf" }) })
  if context.needs_perfmon then
    d:expect("backend 'marker' did not start: [^\n]*: needs CAP_PERFMON %(", 5)
    expect_ordinary(d, WITHOUT_PERFMON)
    expect("the daemon's status", 0, d:stop().code)
    return "refused: needs it, and says so", "fallback"
  end
  d:expect("without CAP_PERFMON the kernel takes only a slower program", 5)
  return ("%d packets, by a slower program"):format(marks(t, d, WITHOUT_PERFMON)), "fallback"
end

--- Names and functions, in order.
privileges.checks = {
  { "`user`: root becomes an ordinary user", dropped },
  { "started as an ordinary user, with three capabilities", ambient },
  { "without CAP_PERFMON", without_perfmon },
}

return privileges
