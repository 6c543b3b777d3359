-- SPDX-License-Identifier: Apache-2.0
--- The console in the daemon: opens its socket, and does what the console's commands need of the daemon.
local ffi = require("ffi")
local api = require("flowd.api")
local log = require("flowd.log")
local policy_state = require("flowd.policy_state")
local server = require("flowd.console.server")

local service = {}

local level_names = { [0] = "trace", "debug", "info", "warn", "error" }

local no_rules = { run = function() end, try = function() end }

local options_at_start = { "enabled", "path", "mode", "group", "readonly_group", "patience" }

---@class flowd.console.Service
---@field daemon table flowd.daemon's
---@field server flowd.console.Server|nil
local Service = {}
Service.__index = Service

-- ---- what commands ask for: plain values in and out ----------------------------------

local function plain(value, depth)
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" then return value end
  if kind ~= "table" or (depth or 0) > 6 then return tostring(value) end
  local out = {}
  for key, item in pairs(value) do out[key] = plain(item, (depth or 0) + 1) end
  return out
end

-- Plugins or backends: those that run, and those that failed.
local function modules(daemon, kind)
  local list, section = {}, kind == "plugin" and "plugins" or "backends"
  for _, entry in ipairs(daemon.instances) do
    if entry.kind == kind then
      list[#list + 1] = { name = entry.name, state = "running", options = plain(daemon.values[section][entry.name]) }
    end
  end
  for _, entry in ipairs(daemon.failed) do
    if entry.kind == kind then list[#list + 1] = { name = entry.name, state = "failed", message = entry.message } end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function marker(daemon)
  for _, entry in ipairs(daemon.instances) do
    if entry.kind == "backend" and entry.instance.console then return plain(entry.instance:console()) end
  end
  return nil
end

local function inject(daemon, event)
  local source = api.state_name_id(daemon.state, "console")
  local ok, message = daemon.put(source, event)
  if not ok then return nil, message end
  daemon.flush_emitted()
  return true
end

function Service:hosts()
  local daemon = self.daemon
  return {
    console_log = function(client, what)
      if self.server then self.server:log_change(client, what) end
    end,
    console_table = function() return tonumber(ffi.cast("intptr_t", daemon.table)) end,
    -- Without rules the policy's state is not entered for events.
    console_rules = function(names)
      self.rules = #names
      self:route_events()
      daemon.rule_names:use(names, daemon.table)
    end,
    console_rule = function(list, number) return daemon.rule_names:find(list, number) end,
    console_rule_numbers = function(name) return daemon.rule_names:numbers(name) end,
    console_tracing = function(on)
      self.tracing = on
      self:route_events()
    end,
    console_switch = function(name, on, user)
      daemon.off["rule " .. name] = not on and "switched off at the console by " .. user or nil
      daemon:keep_configuration()
    end,
    console_modules = function(kind) return modules(daemon, kind) end,
    console_marker = function() return marker(daemon) end,
    console_inject = function(event) return inject(daemon, event) end,
    console_loglevel = function(level)
      if level then api.log_setup(log.level(level), daemon.values.log.time) end
      return level_names[api.log_get_level()]
    end,
  }
end

function Service:route_events()
  local daemon = self.daemon
  daemon.pipeline.chain = (self.rules > 0 or self.tracing) and daemon.policy or no_rules
end

-- ---- life --------------------------------------------------------------------------

local function call_of(daemon)
  local policy = daemon.policy
  return function(...) return policy:call(...) end
end

function Service:open()
  local values = self.daemon.values.console
  if not values.enabled then return end
  local message
  self.server, message = server.open(values, {
    path = values.path ~= "" and values.path or self.daemon.values.runtime_dir .. "/console",
    call = call_of(self.daemon),
    actions = { reload = function(done) self:reload(done) end },
  })
  if not self.server then log.error("console: %s: the daemon goes on without it", message) end
end

-- The reload that a client asked for; what was typed in goes with it.
function Service:reload(done)
  local before = api.counter_get('flowd_reloads_total{result="ok"}').value
  local ok, changes = pcall(self.server.call, "flowd.console.changes.lines")
  self.daemon:reload(function(loaded, errors)
    if not loaded then
      return done(false, "reload: the configuration has errors, the one before goes on:\n"
        .. table.concat(errors or { "see the log" }, "\n"))
    end
    local text = "reloaded"
    if ok and #changes > 0 then
      text = text .. "; gone with it, because it was typed in and is not in the files:\n" .. table.concat(changes, "\n")
    end
    done(api.counter_get('flowd_reloads_total{result="ok"}').value > before, text)
  end)
end

--- Listen, as the configuration says.
---@param daemon table flowd.daemon's
---@return flowd.console.Service
function service.start(daemon)
  local self = setmetatable({ daemon = daemon }, Service)
  for name, fn in pairs(self:hosts()) do policy_state.host[name] = fn end
  self.options, self.rules = daemon.values.console, daemon.rules
  self:open()
  return self
end

--- Another configuration and policy are in use.
function Service:use()
  local before, now = self.options, self.daemon.values.console
  self.options, self.rules, self.tracing = now, self.daemon.rules, false
  for _, name in ipairs(options_at_start) do
    if before[name] ~= now[name] then
      if self.server then self.server:close(true) end
      self.server = nil
      self:open()
      return
    end
  end
  if self.server then self.server:use(call_of(self.daemon)) end
end

--- Leave. remove: the socket too.
---@param remove boolean
function Service:close(remove)
  if self.server then self.server:close(remove) end
  self.server = nil
end

return service
