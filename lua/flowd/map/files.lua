-- SPDX-License-Identifier: Apache-2.0
--- Maps from files: found and read, and read again when they change.
local ffi = require("ffi")
local api = require("flowd.api")
local contents = require("flowd.map.contents")
local counters = require("flowd.counters")
local log = require("flowd.log")
local memory = require("flowd.memory")
local source_lines = require("flowd.source_lines")
local trusted = require("flowd.trusted")
local watch = require("flowd.watch")

local files = {}

---@class flowd.map.Files
---@field directory string what relative names refer to
---@field owner integer uid whose files are trusted, besides root's
---@field load fun(text: string, chunkname: string): function?, string? compiles a Lua file
---@field read? fun(path: string): string?, string? the text when the configuration loads; nil: the trusted file
---@field kept? boolean what `read` gives is what was kept, not what the files say now
---@field inner table[] maps that Lua files make, see flowd.map

-- Object -> { unbound, registry, path }: maps that are in use. What nobody holds any more drops out: the
-- value must not lead to its key.
local watched = setmetatable({}, { __mode = "k" })
-- Path -> { stamp, refused }.
local known = {}

local function path_of(unbound)
  local directory = unbound.files.directory
  if unbound.file:sub(1, 1) == "/" or directory == "." then return unbound.file end
  return directory .. "/" .. unbound.file
end

--- The text of a map's file, when the configuration loads.
---@return string? text, string? message
function files.open(unbound)
  local path = path_of(unbound)
  unbound.path = path
  unbound.stamp = ffi.new("struct file_stamp")
  -- Before reading: what changes meanwhile is read again. What was kept of data is read again in any case; of
  -- a Lua file not before it changes: it may be what hung.
  if not (unbound.files.kept and path:find("%.csv$")) then api.file_stamp_changed(path, unbound.stamp) end
  if unbound.files.read then return unbound.files.read(path) end
  return trusted.read(path, unbound.files.owner)
end

-- Run the Lua file of a map; its table, or nil and a message.
local function run(unbound, text)
  local chunk, message = unbound.files.load(text, "@" .. unbound.path)
  if not chunk then return nil, source_lines.whole_path(message, unbound.path) end
  local mark = watch.enter("file", unbound.path)
  local ok, value = xpcall(chunk, function(err)
    if type(err) ~= "string" then return ("%s: error object is no string (%s)"):format(unbound.path, type(err)) end
    return source_lines.whole_path(err, unbound.path)
  end)
  watch.leave(mark)
  if not ok then return nil, value end
  if type(value) ~= "table" then
    return nil, ("%s: expected the file to return a table; it returned %s"):format(unbound.path,
      value == nil and "nothing" or "a " .. type(value))
  end
  return value
end

--- Fill a builder from the text of a map's file. Returns what tells where an entry is.
function files.read(unbound, builder, text, resolve, problems, pause)
  local path = unbound.path
  if path:find("%.csv$") then
    return contents.from_csv(builder, text, resolve, problems, path, unbound.kind.columns, pause)
  end
  local values, message = run(unbound, text)
  if not values then
    problems:add("", message)
    return function() return path .. ": " end
  end
  local lines
  local function where(key)
    lines = lines or source_lines.read(text)
    return ("%s:%d: "):format(path, lines:find(key ~= nil and { key } or {}))
  end
  return contents.from_table(builder, values, resolve, problems, where)
end

--- From now on the file is looked at.
function files.watch(unbound, registry)
  watched[unbound.object] = { unbound = unbound, registry = registry, path = unbound.path }
  unbound.object = nil
  local entry = known[unbound.path] or {}
  entry.stamp, known[unbound.path] = unbound.stamp, entry
end

local only

--- Look only at the files of one configuration; nil: of all.
---@param wanted? flowd.map.Files
function files.use_only(wanted) only = wanted end

---@return boolean
function files.watching() return next(watched) ~= nil end

-- ---- reading again -----------------------------------------------------------------

local stale = counters.get("flowd_map_files_stale")
local results = {
  ok = counters.get("flowd_map_files_total", { result = "ok" }),
  refused = counters.get("flowd_map_files_total", { result = "refused" }),
}

-- The maps in use by path, and the paths in order.
local function by_path()
  local maps, paths = {}, {}
  for object, entry in pairs(watched) do
    local list = maps[entry.path]
    local wanted = not only or entry.unbound.files == only
    if wanted and not list then
      list = {}
      maps[entry.path], paths[#paths + 1] = list, entry.path
    end
    if wanted then list[#list + 1] = { object = object, unbound = entry.unbound, registry = entry.registry } end
  end
  table.sort(paths)
  return maps, paths
end

local function count_stale()
  local count = 0
  for _, entry in pairs(known) do
    if entry.refused and entry.used then count = count + 1 end
  end
  stale.value = count
end

-- What a file says now, for all maps that are from it: problems, and what puts it into each.
local function read_again(path, entries, fill, pause)
  local text, message = trusted.read(path, entries[1].unbound.files.owner)
  local problems, commits = text and {} or { message }, {}
  for i, entry in ipairs(text and entries or {}) do
    local wrong
    wrong, commits[i] = fill(entry.unbound, entry.object, entry.registry, text, pause)
    for _, problem in ipairs(wrong) do problems[#problems + 1] = problem end
  end
  return text, problems, commits
end

-- A changed file into all maps that are from it.
local function take(path, entries, fill, pause)
  local refusals = memory.refusals()
  local ok, text, problems, commits = pcall(read_again, path, entries, fill, pause)
  if not ok then
    -- From here on it is not the file that asks for memory.
    memory.leave(0)
    problems = { ("%s: %s"):format(path, memory.is_refusal(text) and "not enough memory (memory_limit)" or tostring(text)) }
  end
  -- What there is too much of is not kept until the next one comes.
  if memory.refusals() > refusals then collectgarbage() end
  local result = #problems == 0 and "ok" or "refused"
  results[result].value = results[result].value + 1
  known[path].refused = #problems > 0
  if #problems == 0 then
    for _, commit in ipairs(commits) do commit() end
    log.info("%s changed: it is in use", path)
    return text
  end
  for _, problem in ipairs(problems) do log.error("%s", problem) end
  log.error("%s changed and is wrong: what it said before stays in use", path)
  return nil
end

-- How long a turn may take; nil: as long as it takes.
local deadline

local function pause()
  if deadline and api.clock_monotonic_ns() >= deadline then coroutine.yield() end
end

local function refresh(fill)
  local texts
  local maps, paths = by_path()
  for _, entry in pairs(known) do entry.used = false end
  for _, path in ipairs(paths) do
    known[path].used = true
    if api.file_stamp_changed(path, known[path].stamp) ~= 0 then
      pause()
      texts = texts or {}
      texts[path] = take(path, maps[path], fill, pause)
    end
  end
  count_stale()
  return texts
end

local work

--- See flowd.map.
function files.refresh(budget_ns, fill)
  if not work and not files.watching() then return true end
  deadline = budget_ns and api.clock_monotonic_ns() + budget_ns or nil
  work = work or coroutine.create(refresh)
  memory.watch()
  local before = memory.enter()
  local ok, result = coroutine.resume(work, fill)
  memory.leave(before)
  if not ok then
    local trace = debug.traceback(work, tostring(result))
    work = nil
    error(trace, 0)
  end
  if coroutine.status(work) ~= "dead" then return false end
  work = nil
  return true, result
end

return files
