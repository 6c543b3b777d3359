-- SPDX-License-Identifier: Apache-2.0
--- `require` of configuration and rule files: Lua files below the configuration's directory, in the same
--- sandbox, each loaded once. Nothing else can be reached by it.
local api = require("flowd.api")
local source_lines = require("flowd.source_lines")
local watch = require("flowd.watch")

local helpers = {}

local ENOENT = 2

-- "lists.servers" or "lists/servers" as a path: letters, digits, _ and - only, so that nothing leads up.
local function relative(name)
  local parts = {}
  for part in (name:gsub("/", ".") .. "."):gmatch("([^.]*)%.") do
    if not part:find("^[%w_][%w_-]*$") then return nil end
    parts[#parts + 1] = part
  end
  return table.concat(parts, "/") .. ".lua"
end

-- The text of a file that stands below the directory; nil and a message.
local function read(files, path)
  if not files.kept then
    local below = api.file_is_below(path, files.directory)
    if below == -ENOENT then return nil, ("there is no file %s"):format(path) end
    if below ~= 1 then
      return nil, ("%s leads to a file that is not below the configuration's directory, %s"):format(path, files.directory)
    end
  end
  return files.read(path)
end

--- The function `require` for a sandbox.
---@param box flowd.Sandbox
---@param files flowd.policy.Files
---@return fun(name: string): any
function helpers.require(box, files)
  local loaded, loading = {}, {}
  return function(name)
    local path = type(name) == "string" and relative(name)
    if not path then
      error(('require: expected the name of a file below the configuration\'s directory, as "lists.servers" for lists/servers.lua; got %s')
        :format(type(name) == "string" and ("%q"):format(name) or type(name)), 2)
    end
    if loaded[path] ~= nil then return loaded[path] end
    if loading[path] then error(("require %q: it is being loaded: files require each other in a circle"):format(name), 2) end
    local full = files.directory == "." and path or files.directory .. "/" .. path
    local text, message = read(files, full)
    if not text then error(("require %q: %s"):format(name, message), 2) end
    local chunk
    chunk, message = box:load_text(text, "@" .. full)
    if not chunk then error(source_lines.whole_path(message, full), 0) end
    loading[path] = true
    local mark = watch.enter("file", full)
    local ok, value = pcall(chunk)
    watch.leave(mark)
    loading[path] = nil
    if not ok then error(type(value) == "string" and source_lines.whole_path(value, full) or value, 0) end
    if value == nil then value = true end
    loaded[path] = value
    return value
  end
end

return helpers
