-- SPDX-License-Identifier: Apache-2.0
--- A plugin or backend is stopped while the others run, because of what it did; it is there again after a reload or
--- restart.
local counters = require("flowd.counters")
local failures = require("flowd.failures")
local log = require("flowd.log")
local loop = require("flowd.loop")
local plugins = require("flowd.plugins")

local discard = {}

local function take(list, wanted)
  for i, entry in ipairs(list) do
    if entry.name == wanted.name and entry.instance == wanted.instance then return table.remove(list, i) end
  end
end

local function stop(daemon, entry, why)
  -- Stopped by something else meanwhile?
  if not take(daemon.instances, entry) then return end
  if entry.kind == "backend" then
    take(daemon.backends, entry)
    daemon:connect()
  end
  plugins.stop(entry.instance)
  -- What its file holds goes too.
  daemon.config.modules[entry.kind .. "s"][entry.name] = nil
  log.error("%s '%s' is stopped: %s; it is there again after a reload or restart", entry.kind, entry.name, why)
  daemon.failed[#daemon.failed + 1] = { kind = entry.kind, name = entry.name, message = "switched off: " .. why }
  failures.write(daemon.values.runtime_dir, daemon.failed)
  counters.get("flowd_modules_failed", { kind = entry.kind, name = entry.name }).value = 1
  daemon.off[entry.kind .. " " .. entry.name] = why
  daemon:keep_configuration()
end

--- For memory. Called from within the plugin or backend: it is stopped in the loop's next turn.
---@param daemon table flowd.daemon's
---@param kind "plugin"|"backend"
---@param name string
---@param why string
function discard.hoarder(daemon, kind, name, why)
  for _, entry in ipairs(daemon.instances) do
    if entry.kind == kind and entry.name == name and not entry.leaving then
      entry.leaving = true
      local counter = counters.get("flowd_memory_off_total", { kind = kind, name = name })
      counter.value = counter.value + 1
      loop.after(0, function()
        stop(daemon, entry, why)
        entry = nil
        collectgarbage()
        collectgarbage()
      end)
      return
    end
  end
end

return discard
