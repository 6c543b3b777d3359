-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")
local registry = require("flowd.registry")
local registry_cache = require("flowd.registry_cache")

-- The configured registry; the one inside the binary where there is no configuration.
local function load(options)
  if options.file then
    local loaded, message = registry.load_file(options.file)
    if not loaded then cli.fail("%s", message) end
    return loaded
  end
  local default = io.open(cli.default_conf)
  if default then default:close() end
  if options.conf or default then return cli.load_config(options).registry end
  return registry.load_embedded()
end

-- Fetch the configured URL and keep what it gives, if the configuration works with it.
local function update(options)
  local loop, updates = require("flowd.loop"), require("flowd.registry_updates")
  local values = cli.load_config(options).values
  local path = registry_cache.path(values)
  if values.registry.url == "" then cli.fail("registry.url is not set: there is nowhere to fetch it from") end
  if not path then cli.fail("cache_dir is not set: there is nowhere to keep it") end
  local before, before_note = registry_cache.text(path), registry_cache.note(path)
  local ctx = require("flowd.context").new({ kind = "service", name = "registry" })
  local result, message
  updates.fetch(ctx, values.registry, before_note, function(...)
    result, message = ...
    loop.stop()
  end)
  loop.run()
  ctx:close()
  if not result then cli.fail("%s", message) end
  if not result.text then
    registry_cache.renew(path, result.note)
    print("unchanged")
    return
  end
  local ok, problem = registry_cache.store(path, result.text, result.note)
  if not ok then cli.fail("%s", problem) end
  local works, errors = pcall(cli.load_config, options)
  if not works then
    registry_cache.store(path, before, before_note)
    error(errors, 0)
  end
  print(("%d experiments%s; a running daemon takes them at the next reload"):format(#result.registry.experiments,
    result.registry.modified and ", as of " .. result.registry.modified or ""))
end

local function print_columns(rows)
  local width = 0
  for _, row in ipairs(rows) do width = math.max(width, #row[2]) end
  for _, row in ipairs(rows) do
    print((("%4d  %-" .. width .. "s  %s"):format(row[1], row[2], row[3] or ""):gsub("%s+$", "")))
  end
end

return {
  summary = "list the names and ids of experiments and activities",
  doc = [[
Lists the experiments, or the activities of one.
Names are compared without regard to case, a blank and _ are equal.]],
  arguments = { { name = "EXPERIMENT", optional = true, doc = "Name or id of the experiment whose activities to list." } },
  options = {
    { name = "--update", doc = "Fetch it from registry.url now, and keep it if the configuration works with it." },
    { name = "--file", value = "FILE", doc = "A registry in the published form (api.json) instead of the configured one." },
  },
  run = function(arguments, options)
    if options.update then
      update(options)
      return 0
    end
    local loaded = load(options)
    local rows = {}
    if arguments[1] then
      local id, message = loaded:experiment_id(arguments[1])
      if not id then cli.fail("%s", message) end
      if not loaded.by_id[id] then cli.fail("the registry has no experiment %d", id) end
      for _, activity in ipairs(loaded.by_id[id].list) do rows[#rows + 1] = { activity.id, activity.name } end
    else
      for _, e in ipairs(loaded.experiments) do
        rows[#rows + 1] = { e.id, e.name, ("%d %s"):format(#e.list, #e.list == 1 and "activity" or "activities") }
      end
    end
    print_columns(rows)
    return 0
  end,
}
