-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")
local registry = require("flowd.registry")

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
    { name = "--file", value = "FILE", doc = "A registry in the published form (api.json) instead of the configured one." },
  },
  run = function(arguments, options)
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
