-- SPDX-License-Identifier: Apache-2.0
--- A new configuration for the running daemon: all of it, or, on any error, nothing.
--
-- The new configuration is loaded into a policy state of its own, a slice in each turn of the loop, while events
-- go on through the old one. Then, between two batches, the two are exchanged. What the new one says about a
-- plugin or backend in the same words, with the same code, keeps running, with its pipes, sockets and marks.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local log = require("flowd.log")
local loop = require("flowd.loop")
local plugins = require("flowd.plugins")
local policy_config = require("flowd.policy_config")
local privileges = require("flowd.privileges")
local snapshot = require("flowd.snapshot")
local watch = require("flowd.watch")

local reload = {}

-- What is taken when the process starts.
reload.at_start = { "runtime_dir", "state_dir", "cache_dir", "pid_file", "max_flows", "user", "group" }

-- Of a turn of the loop, for loading.
local SLICE_NS = 2e6
-- Entries of flowd.state of a turn, and turns: rules that change more than that meanwhile make events wait.
local ENTRIES, TURNS, ALL = 250, 20000, 2 ^ 31

local kind_of = { plugin = "plugins", backend = "backends" }

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function same_module(old, new, kind, name)
  local was, is = old.modules[kind][name], new.modules[kind][name]
  if not was or not is then return false end
  local text = plugins.source(was)
  return text == plugins.source(is) and (text ~= nil or was == is)
end

-- Does an instance run as the new configuration wants it?
local function unchanged(old, new, kind, name)
  return same_module(old, new, kind, name) and same(old.values[kind][name], new.values[kind][name])
end

-- One that can takes its new options while it runs.
local function change(daemon, new, entry)
  local kind, instance = kind_of[entry.kind], entry.instance
  local options = new.values[kind][entry.name]
  if not instance.change or not options or not same_module(daemon.config, new, kind, entry.name) then return false end
  local ok, changed = pcall(watch.call, entry.kind, entry.name, instance.change, instance, options)
  if not ok then log.error("reload: %s '%s': %s", entry.kind, entry.name, tostring(changed)) end
  if not ok or not changed then return false end
  instance.options, instance.ctx.options = options, options
  log.info("reload: %s '%s' goes on with its new options", entry.kind, entry.name)
  return true
end

local function stop(daemon, entry)
  log.info("reload: %s '%s' is stopped", entry.kind, entry.name)
  plugins.stop(entry.instance)
  for i, other in ipairs(daemon.instances) do
    if other == entry then
      table.remove(daemon.instances, i)
      break
    end
  end
end

local function entries(daemon, kind)
  local list = {}
  for _, entry in ipairs(daemon.instances) do
    if entry.kind == kind then list[#list + 1] = entry end
  end
  return list
end

-- Stop what the new configuration has not, or has otherwise. Returns the names that go on.
local function stop_changed(daemon, new, what)
  local kept = {}
  for _, entry in ipairs(entries(daemon, what)) do
    if unchanged(daemon.config, new, kind_of[what], entry.name) or change(daemon, new, entry) then
      kept[entry.name] = entry.instance
    else
      stop(daemon, entry)
    end
  end
  return kept
end

-- What rules remember, about so many entries. Raises when the new ones have no memory left for it. Returns whether there
-- is more.
local function hand_over_state(daemon, builder, most)
  local pieces, more = daemon.policy:call("flowd.policy_load.export_state", most)
  builder.policy:call("flowd.policy_load.import_state", pieces)
  return more
end

local function apply(daemon, new, builder, bits, rules, kept)
  for _, failed in ipairs(daemon.failed) do
    counters.get("flowd_modules_failed", { kind = failed.kind, name = failed.name }).value = 0
  end
  daemon.failed, daemon.off = {}, {}
  local kept_plugins = stop_changed(daemon, new, "plugin")
  -- What they said at their end was said under the rules from before.
  if daemon.flush_emitted() then hand_over_state(daemon, builder, ALL) end
  local kept_backends = stop_changed(daemon, new, "backend")
  daemon:use(new)
  daemon:start_backends(bits, kept_backends)
  local old = daemon.policy
  daemon:use_policy(builder.policy, rules)
  daemon.builder = builder
  daemon:adopt_flows(kept_backends)
  daemon:start_plugins(kept_plugins)
  log.setup(new.values.log.level, new.values.log.time)
  daemon:keep_configuration(kept)
  daemon.console:use()
  return old
end

local function milliseconds(since) return tonumber(ffi.cast("int64_t", api.clock_monotonic_ns() - since)) / 1e6 end

---@class flowd.Reload
---@field daemon table
---@field builder flowd.PolicyBuilder
---@field longest number milliseconds of the longest pause of events
local Reload = {}
Reload.__index = Reload

-- Events had to wait for this.
function Reload:pause(fn, ...)
  local before = api.clock_monotonic_ns()
  local function passed(...)
    self.longest = math.max(self.longest, milliseconds(before))
    return ...
  end
  return passed(fn(...))
end

function Reload:finish(ok, errors)
  self.daemon.reloading = nil
  local counter = counters.get("flowd_reloads_total", { result = ok and "ok" or "refused" })
  counter.value = counter.value + 1
  self.done(ok, errors)
end

function Reload:refuse(errors)
  self.builder:retire()
  self.daemon.policy:call("flowd.policy_load.end_export")
  for _, message in ipairs(errors) do log.error("%s", message) end
  log.error("reload: %s has %d error%s: the configuration before it goes on", self.builder.path, #errors,
    #errors == 1 and "" or "s")
  self:finish(false, errors)
end

-- In a turn of its own, so that events are handled first.
function Reload:next(fn)
  self.handle = loop.after(0, function()
    local ok, message = xpcall(fn, debug.traceback, self)
    if ok then return end
    if not self.swapping then return self:refuse({ tostring(message) }) end
    log.error("reload: %s", message)
    self.daemon.policy:call("flowd.policy_load.end_export")
    self:finish(false)
  end)
end

-- Slices, until what was begun is done; then fn gets its results.
function Reload:slices(fn)
  self:next(function()
    local function stepped(what, ...)
      if what == "more" then return self:slices(fn) end
      if what == "errors" then return self:refuse(...) end
      local result, errors = ...
      if not result then return self:refuse(errors) end
      self.result = result
      self:next(fn)
    end
    stepped(self:pause(self.builder.step, self.builder, SLICE_NS))
  end)
end

-- Everything that can be wrong is found before anything changes.
function Reload:loaded()
  local new, errors = self:pause(policy_config.complete, self.result)
  if not new then return self:refuse(errors) end
  local bits, message = self.daemon:backend_bits(new)
  if not bits then return self:refuse({ message }) end
  local denied = privileges.denied(new, function(kind, name) return unchanged(self.daemon.config, new, kind, name) end)
  if denied then return self:refuse(denied) end
  self.new, self.bits = new, bits
  self.builder:begin("flowd.policy_load.compile", self.daemon:rules_options(bits))
  self:slices(self.compiled)
end

function Reload:compiled()
  self.rules = self.result
  self:pause(self.builder.policy.call, self.builder.policy, "flowd.policy_load.warm")
  self:next(self.keep)
end

-- For a process that takes over: what is to run from the swap on, with nothing switched off.
local function keep(daemon, new)
  for _, name in ipairs(reload.at_start) do
    if new.values[name] ~= daemon.values[name] then
      log.warn("reload: %s is now %s: it is taken at the next restart", name, tostring(new.values[name]))
      new.values[name] = daemon.values[name]
    end
    new.sources.fixed[name] = new.values[name]
  end
  return snapshot.write(new.sources)
end

function Reload:keep()
  self.kept = self:pause(keep, self.daemon, self.new)
  self.daemon.policy:call("flowd.policy_load.begin_export")
  self.turns = 0
  self:next(self.copy_state)
end

-- False: it was refused.
function Reload:hand_over(most)
  local ok, more = pcall(self.pause, self, hand_over_state, self.daemon, self.builder, most)
  if ok then return true, more end
  self:refuse({ ("%s: what rules remember (flowd.state) cannot be taken over: %s"):format(self.builder.path, more:match("^[^\n]*")) })
  return false
end

function Reload:copy_state()
  local ok, more = self:hand_over(ENTRIES)
  if not ok then return end
  self.turns = self.turns + 1
  self:next(more and self.turns < TURNS and self.copy_state or self.swap)
end

function Reload:swap()
  local daemon = self.daemon
  -- Events that wait were made under the rules from before.
  daemon.flush_emitted()
  if not self:hand_over(ALL) then return end
  self.swapping = true
  local old = self:pause(apply, daemon, self.new, self.builder, self.bits, self.rules, self.kept)
  self:pause(old.retire, old)
  counters.get("flowd_reload_pause_microseconds").value = self.longest * 1000
  log.info("reload: %s is in use: plugins %s; backends %s; %d rules; took %.0f ms, of which events waited %.1f ms at a time",
    self.builder.path, daemon:running("plugin"), daemon:running("backend"), self.rules, milliseconds(self.started),
    self.longest)
  self:finish(true)
end

--- Give up a reload that is under way.
---@param daemon table flowd.daemon's
function reload.cancel(daemon)
  local running = daemon.reloading
  if not running then return end
  daemon.reloading = nil
  if running.handle then running.handle:close() end
  if running.kept and running.kept >= 0 then api.descriptor_close(running.kept) end
  running.builder:retire()
  daemon.policy:call("flowd.policy_load.end_export")
  running.done(false, { "the reload was given up: another one began, or the daemon ends" })
end

--- Begin to load the configuration again. What is wrong with it is logged, and then nothing changes. One that is
--- being loaded is given up: its files may have changed meanwhile.
---@param daemon table flowd.daemon's
---@param done fun(ok: boolean)
function reload.start(daemon, done)
  reload.cancel(daemon)
  local values = daemon.values
  local self = setmetatable({ daemon = daemon, done = done, started = api.clock_monotonic_ns(), longest = 0 }, Reload)
  self.builder = self:pause(policy_config.new, daemon.config.path, daemon.config.overrides, nil,
    { limit = values.memory_limit, seconds = values.load_timeout })
  daemon.reloading = self
  self:pause(self.builder.begin_load, self.builder)
  self:slices(self.loaded)
end

return reload
