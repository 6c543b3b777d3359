-- SPDX-License-Identifier: Apache-2.0
--- The registry that was fetched last, on disk: the text as it was published, and beside it what the server said
--- about it.
local ffi = require("ffi")
local api = require("flowd.api")
local json = require("flowd.json")
local parser = require("flowd.json_parser")
local registry = require("flowd.registry")

local cache = {}

local FILE_MAX = 4 * 1024 * 1024

--- Where the registry of the configured URL is kept; nil: there is no URL, or no directory.
---@param values table the configuration's
---@return string|nil path
function cache.path(values)
  local settings = values.registry
  if not settings or (settings.url or "") == "" or (values.cache_dir or "") == "" then return nil end
  return ("%s/registry-%s.json"):format(values.cache_dir, registry.fingerprint(settings.url))
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read(FILE_MAX + 1)
  file:close()
  return text and #text <= FILE_MAX and text or nil
end

--- The kept text.
---@param path string what path() gave
---@return string|nil
function cache.text(path) return read(path) end

--- The kept registry of a configuration; nil: there is none that is of use.
---@param values table
---@return flowd.Registry|nil
function cache.load(values)
  local path = cache.path(values)
  local text = path and read(path)
  return text and registry.parse(text, path) or nil
end

---@class flowd.RegistryNote
---@field etag string|nil
---@field last_modified string|nil
---@field fetched number|nil seconds of UNIX time

--- What is known about the kept text; an empty table when there is none.
---@param path string
---@return flowd.RegistryNote
function cache.note(path)
  local text = read(path .. ".note")
  local note = text and read(path) and parser.decode(text)
  return type(note) == "table" and note or {}
end

local function write(path, text)
  local status = api.save_file_replace(path, text, #text, 420) -- 0644
  if status == 0 then return true end
  return nil, ("%s: %s"):format(path, ffi.string(api.error_text(status)))
end

--- Keep a text instead of the one before; nil: none at all.
---@param path string
---@param text string|nil
---@param note flowd.RegistryNote
---@return boolean|nil ok
---@return string|nil message
function cache.store(path, text, note)
  if not text then
    os.remove(path)
    os.remove(path .. ".note")
    return true
  end
  -- The note last: a text that it does not belong to would otherwise be taken for the newest.
  os.remove(path .. ".note")
  local ok, message = write(path, text)
  if ok then ok, message = write(path .. ".note", json.encode(note) .. "\n") end
  return ok, message
end

--- The text is still the newest.
---@param path string
---@param note flowd.RegistryNote
function cache.renew(path, note) write(path .. ".note", json.encode(note) .. "\n") end

return cache
