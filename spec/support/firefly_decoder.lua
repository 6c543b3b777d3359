-- SPDX-License-Identifier: Apache-2.0
--- Takes a firefly of ours apart, by the documents and not by our encoder: the header by
-- the grammar of RFC 5424, the JSON with dkjson and against the public schema.
local json_schema = require("spec.support.json_schema")

local decoder = {}

local schema = json_schema.load("spec/data/firefly-schema-v1.0.0.json")

local function is_utf8(text)
  local i = 1
  while i <= #text do
    local a, b, c, d = text:byte(i, i + 3)
    local function tail(x, low, high) return x and x >= (low or 0x80) and x <= (high or 0xBF) end
    if a < 0x80 then
      i = i + 1
    elseif a >= 0xC2 and a <= 0xDF and tail(b) then
      i = i + 2
    elseif a >= 0xE0 and a <= 0xEF and tail(b, a == 0xE0 and 0xA0 or nil, a == 0xED and 0x9F or nil) and tail(c) then
      i = i + 3
    elseif a >= 0xF0 and a <= 0xF4 and tail(b, a == 0xF0 and 0x90 or nil, a == 0xF4 and 0x8F or nil) and tail(c)
      and tail(d) then
      i = i + 4
    else
      return false
    end
  end
  return true
end
decoder.is_utf8 = is_utf8

--- The header's parts, or nil and which rule of RFC 5424, 6 it breaks.
---@param text string
---@return table|nil header { priority, version, time, hostname, app, procid, msgid, data }, string|nil message
---@return string|nil rest what follows the header
function decoder.header(text)
  local priority, rest = text:match("^<(%d%d?%d?)>(.*)$")
  if not priority then return nil, "no PRI" end
  if tonumber(priority) > 191 or (#priority > 1 and priority:sub(1, 1) == "0") then return nil, "PRIVAL" end
  local version
  version, rest = rest:match("^([1-9]%d?%d?) (.*)$")
  if not version then return nil, "VERSION" end
  local fields = {}
  for i, name in ipairs({ "time", "hostname", "app", "procid", "msgid" }) do
    local field
    field, rest = rest:match("^([!-~]+) (.*)$")
    if not field then return nil, name .. ": not PRINTUSASCII and a blank" end
    if #field > ({ 32, 255, 48, 128, 32 })[i] then return nil, name .. " is too long" end
    fields[name] = field
  end
  if not fields.time:find("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%d%d%d%d%+00:00$") then
    return nil, "TIMESTAMP: " .. fields.time
  end
  fields.data, rest = rest:match("^(%-) (.*)$")
  if not fields.data then return nil, "STRUCTURED-DATA" end
  fields.priority, fields.version = tonumber(priority), tonumber(version)
  return fields, nil, rest
end

--- Decode a datagram that has a header.
---@param text string
---@return table|nil firefly { header =, json = (text), message = (decoded) }
---@return string|nil message what is wrong with it
function decoder.decode(text)
  local header, message, rest = decoder.header(text)
  if not header then return nil, "header: " .. message end
  local firefly, problem = decoder.decode_json(rest)
  if not firefly then return nil, problem end
  firefly.header = header
  return firefly
end

--- Decode a datagram without header.
---@param text string
---@return table|nil firefly, string|nil message
function decoder.decode_json(text)
  if text:find("[%z\1-\31\127]") then return nil, "a control character" end
  if not is_utf8(text) then return nil, "not UTF-8" end
  if text:sub(1, 1) ~= "{" then return nil, "does not begin with the object" end
  local message, problem = json_schema.decode(text)
  if message == nil then return nil, "JSON: " .. problem end
  problem = json_schema.check(schema, message)
  if problem then return nil, "schema: " .. problem end
  return { json = text:match("^(.-) *$"), message = message }
end

return decoder
