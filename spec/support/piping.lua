-- SPDX-License-Identifier: Apache-2.0
--- The pipe plugin with its context, loop and state file; only the pipeline is the test's own.
---
---     local p = piping.new()
---     p:start({ mode = "0622" })
---     piping.write_once(p.path, piping.lines(1, 3))
---     p:expect({ 1, 2, 3 })
local api = require("flowd.api")
local ffi = require("ffi")
local bit = require("bit")
local context = require("flowd.context")
local loop = require("flowd.loop")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")
local pipe = require("plugins.pipe")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
int mkfifo(const char *path, unsigned int mode);
]])
local C = ffi.C

local O_WRONLY, O_NONBLOCK, O_CLOEXEC = 1, 0x800, 0x80000

local piping = {}
local Piping = {}
Piping.__index = Piping

--- A line of a flow whose source port is `port`.
---@param port integer
---@param ending? string default a newline
function piping.line(port, ending)
  return ("start tcp 192.0.2.1 %d 198.51.100.7 443 2 16%s"):format(port, ending or "\n")
end

function piping.lines(first, last)
  local all = {}
  for port = first, last do all[#all + 1] = piping.line(port) end
  return table.concat(all)
end

--- What expect() takes for lines(first, last).
function piping.numbers(first, last)
  local all = {}
  for n = first, last do all[#all + 1] = n end
  return all
end

--- Open for writing as other software does, but not blocking.
---@return integer descriptor -1: nobody reads it
function piping.open(path) return C.open(path, bit.bor(O_WRONLY, O_NONBLOCK, O_CLOEXEC)) end

--- A writer: fd, put(text), close().
function piping.open_writer(path)
  local fd = piping.open(path)
  assert(fd >= 0, path .. ": " .. process.errno_text())
  local writer = { fd = fd }
  local token = cleanup.add(function() C.close(fd) end)
  function writer.put(text) assert(tonumber(C.write(fd, text, #text)) == #text) end
  function writer.close()
    cleanup.forget(token)
    C.close(fd)
  end
  return writer
end

function piping.write_once(path, text)
  local writer = piping.open_writer(path)
  writer.put(text)
  writer.close()
end

function Piping:open_state()
  local message = ffi.new("char[512]")
  self.state = api.state_open(self.dir .. "/state", 1000, message, 512)
  assert(self.state ~= nil, ffi.string(message))
end

--- A directory with a state file, the path of a pipe, and nothing started yet. Until cleanup.all().
---@return table piping dir, path, state; ctx once started; ports (of the events that came, in order), sources (set of
---  their source ids), run_batch (may be exchanged)
function piping.new()
  local self = setmetatable({ dir = temp.dir(), ports = {}, sources = {} }, Piping)
  self.path = self.dir .. "/np"
  local level = api.log_get_level()
  api.log_setup(5, false)
  self:open_state()
  self.run_batch = function(b)
    for i = 0, b.count - 1 do
      self.ports[#self.ports + 1] = b.event[i].key.src_port
      self.sources[b.event[i].source] = true
    end
  end
  cleanup.add(function()
    self:stop()
    api.state_close(self.state, true)
    api.log_setup(level, false)
  end)
  return self
end

--- Start the plugin.
---@param options? table its options; default of `paths`: the path
---@return table|nil instance
---@return string|nil message
function Piping:start(options)
  options = options or {}
  options.paths = options.paths or { self.path }
  local completed, errors = schema.validate(pipe.schema, options)
  assert(#errors == 0, errors[1] and errors[1].message)
  self.ctx = context.new({
    name = "pipe", kind = "plugin", options = completed, batch = ffi.new("struct flow_batch"), state = self.state, source_id = 9,
    run_batch = function(b) return self.run_batch(b) end,
  })
  local message
  self.instance, message = plugins.start(pipe, self.ctx)
  return self.instance, message
end

function Piping:stop()
  if self.instance then plugins.stop(self.instance) end
  self.instance = nil
end

--- The state file as a killed process left it, and the plugin on it.
function Piping:take_over()
  self:open_state()
  self:start()
end

--- A counter's value.
function Piping:value(name, labels) return tonumber(self.ctx:counter(name, labels).value) end

function Piping:refused(reason) return self:value("flowd_lines_refused_total", { plugin = "pipe", reason = reason }) end

--- Turn the loop until something holds.
function Piping:turn_until(what, condition)
  process.wait_for(what, 5, function()
    loop.turn()
    return condition(self)
  end)
end

--- Turn the loop until as many events have come: exactly those of these ports, in this order?
---@param expected integer[]
function Piping:expect(expected)
  local ok, message = pcall(self.turn_until, self, "events", function() return #self.ports >= #expected end)
  if not ok and #self.ports == 0 then error(message) end
  local come, wanted = table.concat(self.ports, " "), table.concat(expected, " ")
  if come ~= wanted then error(("expected events of the ports %s; there came %s"):format(wanted, come), 2) end
end

return piping
