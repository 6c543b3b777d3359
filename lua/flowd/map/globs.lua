-- SPDX-License-Identifier: Apache-2.0
--- Map of patterns: * stands for anything, ? for one character, \ takes the next one as it is. The
--- pattern with most characters of its own wins (src/glob_map.h).
local ffi = require("ffi")
local api = require("flowd.api")
local memory = require("flowd.memory")
local numbers = require("flowd.numbers")
local show = require("flowd.show")

local error, type = error, type
local glob_find = api.glob_map_find

local MAPS_MAX = 4096
local EEXIST, EINVAL = 17, 22
local COUNTED_EVERY, NO_MEMORY = 64, "not enough memory"
local numbered = numbers.new("struct glob_map *", MAPS_MAX, ffi.gc(api.glob_map_new(), api.glob_map_free))
local maps = numbered.pointers

local globs = {
  kind = "globs", example = '{ ["xrootd-atlas*"] = "atlas", … }', columns = "PATTERN,TAG or PATTERN,EXPERIMENT,ACTIVITY",
}

local Builder = {}
Builder.__index = Builder

function globs.new()
  local map, account = api.glob_map_new(), memory.account()
  if map == nil then return nil, "out of memory" end
  local function free(dead)
    account:close()
    api.glob_map_free(dead)
  end
  return setmetatable({ map = ffi.gc(map, free), free = free, account = account, count = 0 }, Builder)
end

-- Its memory counts as that of the script which makes it.
local function counted(self) return self.account:grow(tonumber(api.glob_map_memory(self.map))) end

function Builder:add(pattern, tag)
  if type(pattern) ~= "string" then return ('expected a pattern such as "xrootd*"; got %s'):format(show(pattern)) end
  self.count = self.count + 1
  if self.full or self.count % COUNTED_EVERY == 0 and not counted(self) then
    self.full = true
    return NO_MEMORY
  end
  local status = api.glob_map_add(self.map, pattern, #pattern, tag)
  if status == 0 then return nil end
  if status == -EEXIST then return ("pattern %q is there twice, with different values"):format(pattern) end
  if status == -EINVAL then
    return ('pattern %q: expected 1 to %d characters, and one behind each "\\"'):format(pattern, ffi.C.GLOB_PATTERN_MAX)
  end
  return "out of memory"
end

function Builder:finish()
  if not counted(self) then return nil, { { NO_MEMORY } } end
  local number, message = numbered:take(self.map, self.free)
  if not number then return nil, { { "maps of patterns: " .. message } } end
  return number, self.map
end

function globs.find(number, text)
  if text == nil then return nil end
  if type(text) ~= "string" then
    error(("find: expected a text; got %s"):format(show(text)), 3)
  elseif not (number >= 0 and number < MAPS_MAX) then
    error("this map was changed", 3)
  end
  local tag = glob_find(maps[number], text, #text)
  if tag ~= 0 then return tag end
  return nil
end

return globs
