-- SPDX-License-Identifier: Apache-2.0
--- Commands of the console about the daemon: its counters, plugins, backends, registry, marker, log. May be left
--- anywhere.
jit.off(true, true)

local changes = require("flowd.console.changes")
local counters = require("flowd.counters")
local format = require("flowd.console.format")
local place = require("flowd.console.place")
local slice = require("flowd.slice")

slice.may_be_left()

local function matching(pattern)
  local list = {}
  for name, counter in counters.each() do
    if not pattern or name:find(pattern, 1, true) then
      list[#list + 1] = { name = name, value = tonumber(counter.value), help = counters.help[counters.base(name)] }
    end
  end
  slice.library.table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function show_counters(list, write)
  local width = 1
  for _, c in ipairs(list) do width = math.max(width, #("%d"):format(c.value)) end
  for _, c in ipairs(list) do write(("%" .. width .. "d  %s\n"):format(c.value, format.clean(c.name))) end
end

local function show_modules(list, write, width)
  if #list == 0 then
    write("none is configured\n")
    return
  end
  local function row(i)
    local m = list[i]
    return { m.name, m.state, format.clean(m.message or "") }
  end
  format.columns({ { title = "NAME" }, { title = "STATE" }, { title = "" } }, #list, row, write, width)
end

local function modules(name, kind)
  return {
    name = name, usage = name .. "()",
    summary = ("the %s: running, failed with its reason, or switched off"):format(name),
    doc = ("Lists every one of the %s that the configuration names. The fields of each are name, state (running or "
      .. "failed), message (why it is not running) and options, as they are in effect."):format(name),
    example = name .. "()", query = true,
    run = function()
      return format.view(place.call("console_modules", kind), { text = show_modules, rows = true })
    end,
  }
end

local function show_registry(list, write)
  for _, e in ipairs(list) do
    write(("%s (%d)\n"):format(e.name, e.id))
    for _, a in ipairs(e.activities or {}) do write(("  %s (%d)\n"):format(a.name, a.id)) end
  end
end

local function registry(_, name)
  local registry_now = place.registry()
  local wanted
  if name ~= nil then
    local message
    wanted, message = registry_now:experiment_id(name)
    if not wanted then error("registry: " .. message, 0) end
  end
  local list = {}
  registry_now:each(function(eid, ename, aid, aname)
    if wanted and eid ~= wanted then return end
    if not aid then
      list[#list + 1] = { id = eid, name = ename, activities = wanted and {} or nil }
    elseif wanted then
      local activities = list[#list].activities
      activities[#activities + 1] = { id = aid, name = aname }
    end
  end)
  return format.view(list, { text = show_registry, rows = true })
end

-- What it was when the configuration was loaded.
local configured_level

local levels = { trace = true, debug = true, info = true, warn = true, error = true }

return {
  {
    name = "stats", usage = "stats([TEXT])", summary = "the counters, all or those whose name contains TEXT",
    doc = "Each has the fields name, value and help. Everything that is dropped or refused anywhere has a counter with its reason.",
    example = 'stats("flows")', query = true,
    run = function(_, text)
      if text ~= nil and type(text) ~= "string" then error("stats: expected a part of a counter's name, got " .. type(text), 0) end
      return format.view(matching(text), { text = show_counters, rows = true })
    end,
  },
  modules("plugins", "plugin"),
  modules("backends", "backend"),
  {
    name = "registry", usage = "registry([EXPERIMENT])", summary = "experiments, or the activities of one, with their ids",
    doc = "The experiment is a name or an id. `flowd-lua registry` prints the same.",
    example = 'registry("atlas")', query = true, run = registry,
  },
  {
    name = "marker", usage = "marker()", summary = "what the marker does: interfaces, how it is attached, marks, packets",
    doc = "Fields: flows (marks in the kernel's table), memory (octets of the table), interfaces (name, attached, method) and "
      .. "packets, by what was done with "
      .. "them. `flowd-lua marker flows` lists the marks themselves.",
    example = "marker()", query = true,
    run = function()
      local found = place.call("console_marker")
      if not found then error("marker: the backend 'marker' is not running", 0) end
      found.packets = {}
      for name, counter in counters.each() do
        local labels = name:match("^flowd_marker_packets_total{(.*)}$")
        if labels and counter.value > 0 then found.packets[(labels:gsub('[%w_]+="([^"]*)"', "%1"))] = tonumber(counter.value) end
      end
      return found
    end,
  },
  {
    name = "loglevel", usage = "loglevel([LEVEL])", summary = "the least urgent messages that are logged; or sets it",
    doc = 'LEVEL is "trace", "debug", "info", "warn" or "error". It holds until a reload, which takes that of the configuration.',
    example = 'loglevel("debug")', changes = true, asks = function(level) return level == nil end,
    run = function(session, level)
      if level == nil then return (place.call("console_loglevel")) end
      if not levels[level] then
        error(('loglevel: expected "trace", "debug", "info", "warn" or "error"; got %s'):format(
          type(level) == "string" and format.quote(level) or type(level)), 0)
      end
      local before = place.call("console_loglevel")
      session:change(("loglevel %q, was %q"):format(level, before))
      place.call("console_loglevel", level)
      configured_level = configured_level or before
      changes.set("option log.level", level ~= configured_level
        and ("-- beside rules, not among them:\nlog = { level = %q },"):format(level) or nil)
      return level
    end,
  },
  {
    name = "reload", usage = "reload()", summary = "loads the configuration and its rule files again, as SIGHUP does",
    doc = [[On any error nothing changes, and the error is told with file and line. What was changed here and is not in the
files is gone then: it says so; delta() tells what that is.

What stands behind it on the same line is not run: it belongs to the configuration that is replaced. Names that were
assigned here are gone too.]],
    example = "reload()", changes = true,
    run = function(session)
      session:change("reload")
      coroutine.yield("host", "reload")
    end,
  },
}
