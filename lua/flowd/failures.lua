-- SPDX-License-Identifier: Apache-2.0
--- Which plugins and backends did not start, and why: a file beside the state file, for `stats`.
local ffi = require("ffi")
local api = require("flowd.api")
local json = require("flowd.json")
local log = require("flowd.log")
local parser = require("flowd.json_parser")

local failures = {}

local function path_in(directory) return directory .. "/failed" end

--- Write the list.
---@param directory string runtime_dir
---@param list { kind: string, name: string, message: string }[]
function failures.write(directory, list)
  local copy = json.array({})
  for i, entry in ipairs(list) do copy[i] = { kind = entry.kind, name = entry.name, message = entry.message } end
  local ok, text = pcall(json.encode, copy)
  -- A message may hold octets that are no text.
  if not ok then text = "[]" end
  local status = api.save_file_replace(path_in(directory), text, #text, 420) -- 0644
  if status ~= 0 then log.warn("%s: %s", path_in(directory), ffi.string(api.error_text(status))) end
end

--- Nothing failed, so far.
function failures.clear(directory) os.remove(path_in(directory)) end

--- Read the list; empty when there is none.
---@param directory string runtime_dir
---@return { kind: string, name: string, message: string }[]
function failures.read(directory)
  local file = io.open(path_in(directory), "rb")
  if not file then return json.array({}) end
  local text = file:read(65536)
  file:close()
  local list = text and parser.decode(text)
  return json.array(type(list) == "table" and list or {})
end

return failures
