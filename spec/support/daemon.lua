-- SPDX-License-Identifier: Apache-2.0
--- The real daemon, with a directory of its own, in a namespace or not.
---
---     local d = daemon.start({ namespace = a, config = {
---       backends = { marker = { interfaces = { "eth0" } } },
---     }, rules = [[ rule "drop udp" (function(flow) if flow.protocol == "udp" then return drop end end) ]] })
---     d:write("start tcp 2001:db8:1::1 5000 2001:db8:1::2 5001 atlas 1\n")
---     d:wait_for_counter("flowd_flows_open", 1, 5)
---     assert.equal(0, d:stop().code)
local ffi = require("ffi")
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
long readlink(const char *, char *, size_t);
]])
local C = ffi.C

local O_WRONLY, O_NONBLOCK, O_CLOEXEC = 1, 0x800, 0x80000
local F_SETFL = 4
local EINTR = 4

local daemon = {}
local methods = {}
local meta = { __index = methods }

--- The binary under test: the one that runs the tests, or $FLOWD_BIN.
---@return string absolute path
function daemon.binary()
  local named = os.getenv("FLOWD_BIN")
  if named then return (process.must({ "realpath", named }):gsub("\n", "")) end
  local buffer = ffi.new("char[4096]")
  return ffi.string(buffer, tonumber(C.readlink("/proc/self/exe", buffer, 4096)))
end

--- A copy of it that every user can run, wherever it lies itself; it goes when the test is over.
---@return string path
function daemon.public_binary()
  local dir = temp.dir()
  process.must({ "chmod", "0755", dir })
  process.must({ "install", "-m", "0755", daemon.binary(), dir .. "/flowd-lua" })
  return dir .. "/flowd-lua"
end

local raw = {}

--- Lua source to be written into a configuration as it stands.
---@param source string
function daemon.raw(source) return setmetatable({ source = source }, raw) end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(x, y)
    if type(x) == type(y) then return x < y end
    return type(x) == "number"
  end)
  return keys
end

--- A table as Lua source.
---@param value any
---@param indent string|nil
---@return string
function daemon.to_lua(value, indent)
  indent = indent or ""
  if getmetatable(value) == raw then return value.source end
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) ~= "table" then return tostring(value) end
  local inner = indent .. "  "
  local lines = {}
  for _, key in ipairs(sorted_keys(value)) do
    local name = type(key) == "string" and (key:match("^[%a_][%w_]*$") and key or ("[%q]"):format(key))
    lines[#lines + 1] = inner .. (name and name .. " = " or "") .. daemon.to_lua(value[key], inner) .. ",\n"
  end
  if #lines == 0 then return "{}" end
  return "{\n" .. table.concat(lines) .. indent .. "}"
end

--- Write a configuration. Directories below `dir` and a pipe `dir`/run/np unless it says otherwise.
---@param dir string
---@param config table|nil
---@param rules string|nil source of the list of rules
---@return string path
function daemon.write_config(dir, config, rules)
  local all = { runtime_dir = dir .. "/run", state_dir = dir .. "/lib", cache_dir = dir .. "/cache",
    plugins = { pipe = { paths = { dir .. "/run/np" } } } }
  for key, value in pairs(config or {}) do all[key] = value end
  if rules then all.rules = daemon.raw("{\n" .. rules .. "\n  }") end
  return temp.write(dir .. "/conf.lua", "return " .. daemon.to_lua(all) .. "\n")
end

--- Start `flowd-lua run`. Options:
---   namespace  where (netns.lua)
---   config     table: what the configuration returns (see write_config); or `conf`, a path
---   rules      Lua source of its list of rules
---   dir        directory to work in (default: a new one)
---   args       more arguments
---   binary     default daemon.binary()
---   prefix     words before the command: a program that executes it
---   log_level  default "debug"
---   again      true: not the first one in its directory
---   seconds    to be ready, default 10; `ready = false`: do not wait
---@param options table
---@return table daemon a child (process.lua) with .dir, .pipe, .conf
function daemon.start(options)
  local dir = options.dir or temp.dir()
  local conf = options.conf or daemon.write_config(dir, options.config, options.rules)
  local command = { namespace = options.namespace, cwd = options.cwd, env = options.env, name = "flowd-lua" }
  for _, word in ipairs(options.prefix or {}) do command[#command + 1] = word end
  for _, word in ipairs({ options.binary or daemon.binary(), "--conf", conf, "--log-level", options.log_level or "debug", "run" }) do
    command[#command + 1] = word
  end
  for _, word in ipairs(options.args or {}) do command[#command + 1] = word end
  -- What it pins outlives it when it is killed: called after its end. (A guest of the kernel matrix goes as a whole.)
  if not options.again and not os.getenv("FLOWD_KERNELS_GUEST") then cleanup.add(function()
    process.run({ daemon.binary(), "--conf", conf, "--log-level", "error", "marker", "clean", "--force",
      namespace = options.namespace })
  end) end
  local self = setmetatable({ child = process.start(command), dir = dir, conf = conf, pipe = dir .. "/run/np",
    runtime_dir = dir .. "/run", namespace = options.namespace }, meta)
  self.pid = self.child.pid
  if options.ready ~= false then self.child:expect("is ready: [^\n]*", options.seconds or 10) end
  return self
end

--- What it logged.
---@return string
function methods:log() return self.child:stderr() end

function methods:running() return self.child:running() end

function methods:signal(name) self.child:signal(name) end

function methods:wait(seconds) return self.child:wait(seconds) end

--- Wait until the log matches a Lua pattern.
function methods:expect(pattern, seconds) return self.child:expect(pattern, seconds) end

--- Write into a pipe of it as other software does: open, write, close.
---@param text string lines, with their newlines
---@param path string|nil default: its first pipe
function methods:write(text, path)
  path = path or self.pipe
  -- No O_CREAT: a pipe that is missing is an error. Not blocking: nor is one without a reader waited for.
  local fd = C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC))
  if fd < 0 then error(("open %s: %s"):format(path, process.errno_text()), 2) end
  C.fcntl(fd, F_SETFL, ffi.cast("int", 0))
  local at = 0
  while at < #text do
    local n = tonumber(C.write(fd, ffi.cast("const char *", text) + at, #text - at))
    if n < 0 and ffi.errno() ~= EINTR then
      C.close(fd)
      error(("write to %s: %s"):format(path, process.errno_text()), 2)
    end
    at = at + math.max(n, 0)
  end
  C.close(fd)
end

--- Run another command of the binary with this configuration.
---@return table result process.run's
function methods:command(...)
  local command = { daemon.binary(), "--conf", self.conf, ... }
  command.namespace = self.namespace
  return process.run(command)
end

--- Every counter, by its series.
---@return table<string, number> for example { ["flowd_flows_open"] = 3, ['flowd_events_total{plugin="pipe"}'] = 8 }
function methods:stats()
  local result = self:command("stats", "--prometheus")
  if result.code ~= 0 then error("flowd-lua stats: " .. result.stderr, 2) end
  local all = {}
  for series, value in result.stdout:gmatch("([^\n#][^\n]-) ([%d.e+-]+)\n") do all[series] = tonumber(value) end
  return all
end

--- One counter; with a base name only, the sum over its labels. 0 when it is not there.
---@param series string
---@return number
function methods:counter(series)
  local sum = 0
  for name, value in pairs(self:stats()) do
    if name == series or name:match("^[^{]*") == series then sum = sum + value end
  end
  return sum
end

--- Wait until a counter has reached a value.
---@param series string
---@param value number
---@param seconds number|nil default 10
function methods:wait_for_counter(series, value, seconds)
  local last
  local ok = pcall(process.wait_for, series, seconds or 10, function()
    last = self:counter(series)
    return last >= value
  end)
  if not ok then
    error(("%s is %s after %g s, expected %g; the log:\n%s"):format(series, tostring(last), seconds or 10, value,
      self:log()), 2)
  end
end

--- Have it end: SIGTERM (or another signal), then wait.
---@param seconds number|nil deadline, default 10
---@param signal string|nil
---@return table status
function methods:stop(seconds, signal)
  self.child:signal(signal or "TERM")
  local status = self.child:wait(seconds or 10)
  self.child:stop()
  return status
end

return daemon
