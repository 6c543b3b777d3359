-- SPDX-License-Identifier: Apache-2.0
--- Every counter, as text, JSON or in Prometheus' text format. Read from the state file
--- without asking the daemon: it works whatever the daemon is doing, and after it was killed.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local failures = require("flowd.failures")
local json = require("flowd.json")
local paths = require("flowd.paths")

local stats = {}

local ERROR_SIZE = 512

local unescapes = { ["\\\\"] = "\\", ['\\"'] = '"', ["\\n"] = "\n" }

-- Where the quoted value that begins at `i` ends: the position of its closing quote.
local function closing_quote(series, i)
  while true do
    local at = series:find('[\\"]', i)
    if not at or series:sub(at, at) == '"' then return at end
    i = at + 2
  end
end

local function parse_labels(series)
  local labels, i = {}, (series:find("{", 1, true) or #series) + 1
  while true do
    local _, quote, key = series:find('^([%w_]+)="', i)
    local last = quote and closing_quote(series, quote + 1)
    if not last then return labels end
    labels[key] = series:sub(quote + 1, last - 1):gsub("\\.", unescapes)
    i = last + 2
  end
end

local function digits(value) return (tostring(value):gsub("ULL$", "")) end

local function sorted(list)
  -- By base name first: "a_total{…}" belongs next to "a_total", before "a_total_other".
  table.sort(list, function(a, b)
    if a.base ~= b.base then return a.base < b.base end
    return a.name < b.name
  end)
  return list
end

local function record(name, counter)
  return { name = name, base = counters.base(name), value = counter.value + 0ULL, total = counter.kind == 0 }
end

local function read_counters(view)
  local list = {}
  for i = 0, ffi.C.COUNTERS_MAX - 1 do
    local c = api.state_counter(view, i)
    if c ~= nil then list[#list + 1] = record(ffi.string(c.name), c) end
  end
  return sorted(list)
end

local function read_state(view, path)
  local h = api.state_header(view)
  return { path = path, running = api.state_owned(view), pid = h.pid, flows_max = h.flows_max,
    failed = failures.read(paths.directory_of(path)),
    started = os.date("!%Y-%m-%dT%H:%M:%SZ", tonumber(h.opened_us / 1000000)), adoptions = h.adoptions }
end

local function text_lines(list)
  local width, lines = 0, {}
  for _, c in ipairs(list) do width = math.max(width, #digits(c.value)) end
  for i, c in ipairs(list) do lines[i] = ("%" .. width .. "s  %s"):format(digits(c.value), c.name) end
  return lines
end

local formats = {}

function formats.text(state, list)
  local owner = state.running and ("running with pid %d since %s"):format(state.pid, state.started)
    or state.pid == 0 and "ended, its flows are kept for the next start"
    or ("not running: pid %d, started %s, was killed"):format(state.pid, state.started)
  local lines = { ("flowd-lua %s (%s)\n"):format(owner, state.path) }
  for _, entry in ipairs(state.failed) do
    lines[#lines + 1] = ("%s %s did not start: %s\n"):format(entry.kind, entry.name, entry.message)
  end
  return table.concat(lines) .. table.concat(text_lines(list), "\n") .. "\n"
end

function formats.json(state, list)
  local out = json.array({})
  for i, c in ipairs(list) do
    out[i] = { name = c.base, labels = parse_labels(c.name), value = c.value, type = c.total and "counter" or "gauge" }
  end
  return json.encode({ state = state, counters = out }) .. "\n"
end

--- Text exposition format 0.0.4. It has one HELP and TYPE a base name, before its first series.
function formats.prometheus(_, list)
  local lines, last = {}, nil
  for _, c in ipairs(list) do
    if c.base ~= last then
      last = c.base
      local help = counters.help[c.base] or "Not documented."
      lines[#lines + 1] = ("# HELP %s %s"):format(c.base, help:gsub("\\", "\\\\"):gsub("\n", "\\n"))
      lines[#lines + 1] = ("# TYPE %s %s"):format(c.base, c.total and "counter" or "gauge")
    end
    lines[#lines + 1] = ("%s %s"):format(c.name, digits(c.value))
  end
  return table.concat(lines, "\n") .. "\n"
end

--- The counters of a state file, live or left behind.
---@param path string the state file
---@param format "text"|"json"|"prometheus"
---@return string|nil text
---@return string|nil message why not
function stats.render(path, format)
  local write = formats[format]
  if not write then return nil, ("unknown format %q: expected text, json or prometheus"):format(tostring(format)) end
  local message = ffi.new("char[?]", ERROR_SIZE)
  local view = api.state_view(path, message, ERROR_SIZE)
  if view == nil then return nil, ffi.string(message) end
  local ok, text = pcall(function() return write(read_state(view, path), read_counters(view)) end)
  api.state_close(view, false)
  if not ok then return nil, text end
  return text
end

--- Write them to standard output.
---@param path string
---@param format "text"|"json"|"prometheus"
---@return boolean|nil ok
---@return string|nil message why not
function stats.print(path, format)
  local text, message = stats.render(path, format)
  if not text then return nil, message end
  local ok, reason = io.stdout:write(text)
  if ok then ok, reason = io.stdout:flush() end
  if not ok then return nil, "standard output: " .. reason end
  return true
end

--- This process's own counters, a line each, for the log.
---@return string[]
function stats.lines()
  local list = {}
  for name, counter in counters.each() do list[#list + 1] = record(name, counter) end
  return text_lines(sorted(list))
end

return stats
