-- SPDX-License-Identifier: Apache-2.0
--- Who runs: told before a script is entered, so that one that never returns has a name (src/watchdog.h).
local ffi = require("ffi")
local api = require("flowd.api")

local enter, leave = api.watchdog_enter, api.watchdog_leave

local watch = {}

local kinds = {
  rule = ffi.C.STATE_RUNNING_RULE, plugin = ffi.C.STATE_RUNNING_PLUGIN, backend = ffi.C.STATE_RUNNING_BACKEND,
  file = ffi.C.STATE_RUNNING_FILE, console = ffi.C.STATE_RUNNING_CONSOLE, timer = ffi.C.STATE_RUNNING_TIMER,
}

local words = {}
for word, kind in pairs(kinds) do words[kind] = word end

--- The word for a kind in a note; nil: nothing was running.
---@param kind integer STATE_RUNNING_*
---@return "rule"|"plugin"|"backend"|"file"|"timer"|nil
function watch.word(kind) return words[kind] end

-- Plugins and backends own memory of the main state (src/heap.h): a number for each that there ever was.
local numbers, numbered = {}, 0
local NUMBERS_MAX = ffi.C.HEAP_OWNERS_MAX - ffi.C.HEAP_OWNER_MODULES - 1

--- The number by which memory of a script of the main state is known; 0: none.
---@param kind string
---@param name string
---@return integer
function watch.number(kind, name)
  if kind ~= "plugin" and kind ~= "backend" then return 0 end
  local key = kind .. " " .. name
  local number = numbers[key]
  if number then return number end
  if numbered == NUMBERS_MAX then return 0 end
  numbered = numbered + 1
  numbers[key] = ffi.C.HEAP_OWNER_MODULES + numbered
  return numbers[key]
end

--- Enter a script by hand; the result goes to watch.leave(), whatever happens.
---@param kind "rule"|"plugin"|"backend"|"file"
---@param name string
---@return integer mark
function watch.enter(kind, name) return enter(kinds[kind] or kinds.plugin, 0, name) end

watch.leave = leave

local function left(mark, ok, ...)
  leave(mark)
  if not ok then error((...), 0) end
  return ...
end

local function keep(err) return type(err) == "string" and debug.traceback(err, 2) or err end

--- The site's own file that is being loaded; nil: none.
---@type string|nil
watch.file = nil

--- Call a function of a file that is being loaded, as watch.call. It may be left and gone on with in slices.
---@param path string
---@param fn function
function watch.load(path, fn, ...)
  local before = watch.file
  watch.file = path
  local mark = watch.enter("file", path)
  return (function(...)
    watch.file = before
    leave(mark)
    return ...
  end)(xpcall(fn, ...))
end

--- Call a function of a script; what it raises goes on, strings with their traceback.
---@param kind "rule"|"plugin"|"backend"|"file"
---@param name string
---@param fn function
function watch.call(kind, name, fn, ...) return left(watch.enter(kind, name), xpcall(fn, keep, ...)) end

--- A function that runs another as that script, for the event loop, which leaves when it raises.
---@param kind "plugin"|"backend"
---@param name string
---@param fn function
---@return function
function watch.callback(kind, name, fn)
  local number = kinds[kind] or kinds.plugin
  return function(...)
    local mark = enter(number, 0, name)
    fn(...)
    leave(mark)
  end
end

return watch
