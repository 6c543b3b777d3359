-- SPDX-License-Identifier: Apache-2.0
--- The running daemon: builds its parts from the configuration, runs the loop, ends in order.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")
local loop = require("flowd.loop")
local log = require("flowd.log")
local console = require("flowd.console.service")
local context = require("flowd.context")
local counters = require("flowd.counters")
local discard = require("flowd.discard")
local emit = require("flowd.emit")
local ending = require("flowd.ending")
local fifo_stream = require("flowd.fifo_stream")
local failures = require("flowd.failures")
local flow_log = require("flowd.flow_log")
local flow_line = require("flowd.flow_line")
local known_tags = require("flowd.known_tags")
local module_memory = require("flowd.module_memory")
local notify = require("flowd.notify")
local pages = require("flowd.pages")
local pins = require("flowd.pins")
local pipeline = require("flowd.pipeline")
local plugins = require("flowd.plugins")
local policy_state = require("flowd.policy_state")
local privileges = require("flowd.privileges")
local registry_updates = require("flowd.registry_updates")
local reapply = require("flowd.reapply")
local reload = require("flowd.reload")
local rule_names = require("flowd.rule_names")
local snapshot = require("flowd.snapshot")
local sockets = require("flowd.sockets")
local stats = require("flowd.stats")
local upgrade = require("flowd.upgrade")
local watch = require("flowd.watch")

local SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM = 1, 2, 10, 12, 15

local Daemon = {}
Daemon.__index = Daemon

local daemon = {}

local ERROR_SIZE = 512

-- A start-up failure that the operator can act on: one line, no traceback.
local function refuse(format, ...) error({ refusal = format:format(...) }, 0) end

local function sorted_names(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  return names
end

function Daemon:prepare_directories()
  local values = self.values
  local message = ffi.new("char[?]", ERROR_SIZE)
  for _, field in ipairs({ "runtime_dir", "state_dir", "cache_dir" }) do
    if api.process_prepare_directory(values[field], message, ERROR_SIZE) ~= 0 then
      refuse("%s: %s", field, ffi.string(message))
    end
  end
end

function Daemon:open_state()
  local values = self.values
  local message = ffi.new("char[?]", ERROR_SIZE)
  local path = values.runtime_dir .. "/state"
  self.state = api.state_open(path, values.max_flows, message, ERROR_SIZE)
  if self.state == nil then refuse("%s", ffi.string(message)) end
  self.table = api.flow_table_open(self.state)
  if self.table == nil then refuse("%s: flow table: not enough memory for max_flows = %d", path, values.max_flows) end
  self:start_watchdog()
end

-- A script hung in the process before us: switch it off. The list goes on to the next process, should
-- another one hang, and ends with what an operator does: a reload, a restart.
function Daemon:blame(kind, number, name, reason)
  local did = reason == ffi.C.STATE_REASON_MEMORY and "took far more memory than memory_limit allows" or "never returned"
  local why = "it " .. did
  if kind == "rule" then
    local rule = self.config.rules[number]
    if not rule then
      log.error("a rule %s; which one is not known: rule number %d of %d", did, number, #self.config.rules)
      return
    end
    name = rule.name
    log.error('%s:%d: rule "%s" %s: the process was replaced, the rule is switched off until a reload or restart',
      rule.file, rule.line, name, did)
  elseif kind == "file" then
    log.error("%s: never came to its end while it was loaded: the process was replaced, the configuration before it goes on",
      name)
  elseif kind == "console" then
    log.error("console: what %s typed %s: the process was replaced", name, did)
  elseif kind == "timer" then
    log.error("timer %s %s: the process was replaced, the timer is switched off until a reload or restart", name, did)
  else
    log.error("%s '%s' %s: the process was replaced, the %s is switched off until a reload or restart", kind, name, did,
      kind)
  end
  local counter = counters.get("flowd_scripts_hung_total", { kind = kind, name = name })
  counter.value = counter.value + 1
  if kind == "file" then return end
  self.off[kind .. " " .. name] = why
  -- It, and not the input that it was given.
  api.state_input_forgive(self.state)
end

function Daemon:start_watchdog()
  local note = api.state_running(self.state)
  local kind = watch.word(note.kind)
  self.note = note
  self.off = self.kept and self.kept.off or {}
  if self.kept and kind then
    self.hung_us = note.entered_us
    self:blame(kind, note.number, ffi.string(note.name), note.reason)
  end
  note.kind, note.number, note.crashes, note.reason = 0, 0, 0, 0
  self:keep_configuration()
  module_memory.start(function(...) discard.hoarder(self, ...) end)
  local status = api.watchdog_start(note)
  if status < 0 then refuse("the watchdog of scripts cannot be started: %s", ffi.string(api.error_text(status))) end
end

-- What runs now is what the process after a hang runs.
---@param written integer|nil what snapshot.write() gave for it
function Daemon:keep_configuration(written)
  local sources = self.config.sources
  sources.off = self.off
  for _, name in ipairs(reload.at_start) do sources.fixed[name] = self.values[name] end
  snapshot.offer(written or snapshot.write(sources))
  local count = 0
  for _ in pairs(self.off) do count = count + 1 end
  counters.get("flowd_scripts_off").value = count
end

function Daemon:write_pid_file()
  local path = self.values.pid_file
  if path == "" then return end
  local message = ffi.new("char[?]", ERROR_SIZE)
  if api.process_write_pid_file(path, message, ERROR_SIZE) ~= 0 then refuse("pid_file: %s", ffi.string(message)) end
  self.pid_file = path
end

-- One instance of a plugin or backend; nil when it failed, which is fatal only when required.
function Daemon:start_instance(kind, name, route_bit)
  local section = self.config.values[kind][name]
  local module = self.config.modules[kind][name]
  local what = kind == "plugins" and "plugin" or "backend"
  local ctx = context.new({
    name = name, kind = what, options = section, route_bit = route_bit,
    batch = self.batch, state = self.state, registry = self.registry, max_flows = self.values.max_flows,
    runtime_dir = self.values.runtime_dir, state_dir = self.values.state_dir,
    source_id = api.state_name_id(self.state, name),
    run_batch = self.run_batch,
    put = self.put,
  })
  local instance, message
  local why = self.off[what .. " " .. name]
  if why then
    message = "switched off: " .. why
  else
    instance, message = plugins.start(module, ctx)
  end
  if instance then
    self.instances[#self.instances + 1] = { kind = what, name = name, instance = instance }
    return instance
  end
  if section.required and not why and not self.started then refuse("%s '%s' is required and did not start: %s", what, name, message) end
  log.error("%s '%s' did not start: %s", what, name, message)
  self.failed[#self.failed + 1] = { kind = what, name = name, message = message }
  failures.write(self.values.runtime_dir, self.failed)
  counters.get("flowd_modules_failed", { kind = what, name = name }).value = 1
  return nil
end

-- Bits of the backends of a configuration, by name; nil and what is wrong.
function Daemon:backend_bits(config)
  local bits = {}
  for _, name in ipairs(sorted_names(config.values.backends)) do
    -- The state file keeps the bits: routes of flows that were open before mean the same.
    local position = api.state_backend_bit(self.state, name)
    if position < 0 then
      return nil, ("backends: '%s' is one too many: a state file knows at most %d names of backends"):format(name,
        ffi.C.FLOW_BACKENDS_MAX)
    end
    -- A rule may name a backend that failed: its events are then simply nobody's.
    bits[name] = bit.lshift(1, position)
  end
  return bits
end

-- running: instances by name that are kept.
function Daemon:start_backends(bits, running)
  self.backends, self.bits = {}, bits
  for _, name in ipairs(sorted_names(self.values.backends)) do
    local instance = running[name] or self:start_instance("backends", name, bits[name])
    if instance then
      self.backends[#self.backends + 1] = { name = name, bit = bits[name], instance = instance }
    end
  end
end

function Daemon:start_plugins(running)
  for _, name in ipairs(sorted_names(self.values.plugins)) do
    if not running[name] then self:start_instance("plugins", name) end
  end
end

local function address(pointer) return tonumber(ffi.cast("intptr_t", pointer)) end

-- What the rules of a configuration are compiled with, in its policy state.
function Daemon:rules_options(bits)
  return { state = address(self.state), table = address(self.table), note = address(self.note), bits = bits }
end

local no_rules = { run = function() end, try = function() end }

-- From now on events go this way.
function Daemon:use_policy(policy, rules)
  policy:call("flowd.policy_load.activate", self.off)
  self.policy, self.rules, self.pipeline = policy, rules, nil
  self.rule_names = self.rule_names or rule_names.open(self.values.runtime_dir .. "/rules")
  local names = {}
  for number, rule in ipairs(self.config.rules) do names[number] = rule.name end
  self.rule_names:use(names, self.table)
  self:connect()
end

-- The way of events, from the rules to the backends that run.
function Daemon:connect()
  local before = self.pipeline
  self.pipeline = pipeline.new({
    table = self.table, batch = self.batch, chain = before and before.chain or self.rules > 0 and self.policy or no_rules,
    backends = self.backends, observe = flow_log.new(self.registry, self.bits),
  })
end

-- A configuration's values and names, for everything that is made from now on and for what goes on.
function Daemon:use(config)
  self.config, self.values, self.registry = config, config.values, config.registry
  flow_line.use_registry(self.registry)
  failures.clear(self.values.runtime_dir)
  known_tags.use_registry(self.registry, self.values.registry.strict)
  module_memory.set_limit(self.values.memory_limit)
  if self.registry_updates then self.registry_updates:configure() end
  self.put_event, self.flush_emitted = emit.inbox(self.registry, self.run_batch)
  for _, entry in ipairs(self.instances) do entry.instance.ctx.registry = self.registry end
end

-- Flows that were open before: backends that keep something for them set it up again, those excepted
-- that ran all the time.
function Daemon:adopt_flows(running)
  local from = 0
  while from ~= ffi.C.FLOW_SLOT_NONE do
    from = api.flow_table_list(self.table, from, self.batch)
    for _, backend in ipairs(self.backends) do
      if self.batch.count > 0 and backend.instance.adopt and not running[backend.name] then
        watch.call("backend", backend.name, function()
          backend.instance:adopt(self.batch.event, self.batch.count)
          if backend.instance.flush then backend.instance:flush() end
        end)
      end
    end
  end
  self.batch.count = 0
  for _, backend in ipairs(self.backends) do
    if backend.instance.adopt_end and not running[backend.name] then
      watch.call("backend", backend.name, backend.instance.adopt_end, backend.instance)
    end
  end
end

-- The kernel takes its time over attaching: it begins as soon as the interfaces are known. Not with the
-- privileges of a user that we leave.
local function attach_early(values)
  if values.user ~= "" or api.privileges_uid() ~= 0 then return end
  for name, options in pairs(values.backends) do
    if (options.use or name) == "marker" and options.method ~= "clsact" then
      api.marker_early_attach(pins.directory(values.runtime_dir), table.concat(options.interfaces, " "))
    end
  end
end

function Daemon:build()
  local config = self.config
  attach_early(self.values)
  local problem = privileges.take(config)
  if problem then refuse("%s", problem) end
  self:prepare_directories()
  self:open_state()
  self:write_pid_file()
  self.batch = pages.new("struct flow_batch")
  self.run_batch = function(batch) return self.pipeline:run(batch) end
  self.put = function(source_id, event) return self.put_event(source_id, event) end
  self:use(config)
  local bits, message = self:backend_bits(config)
  if not bits then refuse("%s", message) end
  -- Backends first: a plugin may deliver events from the moment it starts.
  self:start_backends(bits, {})
  api.marker_early_end()
  local rules, problems = self.builder:now("flowd.policy_load.compile", self:rules_options(bits))
  if not rules then refuse("%s", table.concat(problems, "; ")) end
  self.builder.policy:call("flowd.policy_load.warm")
  self:use_policy(self.builder.policy, rules)
  if api.flow_table_count(self.table) > 0 then jit.on() end
  self:adopt_flows({})
  self:start_plugins({})
  -- The input that was left is through: flows that had ended before are not needed any more.
  api.flow_table_settle(self.table)
  self.sockets = sockets.open({
    table = self.table, batch = self.batch, pipeline = function() return self.pipeline end,
    -- Of a process that replaced itself no end can have been missed: its pipes stayed open.
    adopted = api.state_header(self.state).adoptions > 0 and not api.handover_resumed(),
  })
  self.console = console.start(self)
  self.started = true
  local unclaimed = api.handover_close_rest()
  fifo_stream.discard_prepared()
  if unclaimed > 0 then log.warn("%d descriptors of the process before this one were not needed any more", unclaimed) end
end

--- Take the configuration that stands in the files now, when all of it has been loaded.
---@param done? fun(ok: boolean, errors: string[]?) is told when that is done
function Daemon:reload(done)
  notify(("RELOADING=1\nMONOTONIC_USEC=%d\nSTATUS=reloading"):format(tonumber(api.clock_monotonic_ns() / 1000)))
  reload.start(self, function(ok, errors)
    notify("READY=1\nSTATUS=" .. (ok and "running" or "running; the last reload was refused"))
    if done then done(ok, errors) end
  end)
end

function Daemon:watch_signals()
  local function stop(name)
    return function()
      log.info("%s: ending", name)
      loop.stop()
    end
  end
  self.signals = {
    loop.signal(SIGTERM, stop("SIGTERM")),
    loop.signal(SIGINT, stop("SIGINT")),
    loop.signal(SIGUSR1, function()
      for _, line in ipairs(stats.lines(self.state)) do log.info("%s", line) end
    end),
    loop.signal(SIGUSR2, function() upgrade.start(self) end),
    loop.signal(SIGHUP, function() self:reload() end),
  }
end

-- The service manager's watchdog hears of us from the loop: while it turns.
function Daemon:feed_watchdog()
  local interval_us = tonumber(api.notify_watchdog_us())
  if interval_us == 0 then return end
  self.feeder = loop.every(interval_us / 2e6, function() notify("WATCHDOG=1") end)
end

-- Names of what runs, for the log.
function Daemon:running(kind)
  local names = {}
  for _, entry in ipairs(self.instances) do
    if entry.kind == kind then names[#names + 1] = entry.name end
  end
  return #names > 0 and table.concat(names, ", ") or "none"
end

--- Run the daemon until a signal ends it.
---@param config flowd.Config
---@param builder flowd.PolicyBuilder what loaded it
---@param kept flowd.Snapshot? what the process before us left when a script hung in it
---@return integer status of the process
function daemon.run(config, builder, kept)
  local self = setmetatable({
    config = config, builder = builder, kept = kept, values = config.values, instances = {}, failed = {},
  }, Daemon)
  -- Values of the first start, whatever a reload said since.
  for name, value in pairs(kept and kept.fixed or {}) do
    if type(config.values[name]) == "number" then value = tonumber(value) end
    config.values[name] = value
  end
  local ends = ending.under_way()
  local ok, message = xpcall(self.build, function(err)
    if type(err) == "table" and err.refusal then return err.refusal end
    return debug.traceback(tostring(err), 2)
  end, self)
  if not ok then
    log.error("%s", message)
    for i = #self.instances, 1, -1 do plugins.stop(self.instances[i].instance) end
    ending.release(self)
    return 1
  end
  self:watch_signals()
  self.registry_updates = registry_updates.start(self)
  self:feed_watchdog()
  for name, fn in pairs(reapply.hosts(self)) do policy_state.host[name] = fn end
  policy_state.host.map_files_changed = function(texts)
    for path, text in pairs(texts) do self.config.sources.files[path] = text end
    self:keep_configuration()
  end
  api.pages_give_back()
  log.info("flowd-lua %s is ready: plugins %s; backends %s; %d rules%s", _flowd.version, self:running("plugin"),
    self:running("backend"), self.rules,
    #self.failed > 0 and ("; %d of its parts did not start"):format(#self.failed) or "")
  if self.hung_us then
    local us = api.clock_realtime_us() - self.hung_us
    counters.get("flowd_hang_microseconds").value = us
    log.info("events are handled again, %.2f s after the script that hung was entered", tonumber(us) / 1e6)
  end
  notify("READY=1\nSTATUS=" .. (#self.failed > 0 and "some parts did not start" or "running"))
  collectgarbage("restart")
  jit.on()
  if not ends then loop.run() end
  if self.values.on_stop == "keep" then return ending.leave(self) end
  return ending.stop(self)
end

return daemon
