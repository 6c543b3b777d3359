-- SPDX-License-Identifier: Apache-2.0
--- JSON text (RFC 8259) from Lua values. Reading JSON is C's (flowd.json_parser).
local ffi = require("ffi")

local json = {}

--- Stands for null inside tables.
json.null = setmetatable({}, { __tostring = function() return "null" end })

local array_mark = {}

--- Mark a table as an array; needed for empty ones only: {} is an object.
---@generic T: table
---@param t T
---@return T
function json.array(t) return setmetatable(t, array_mark) end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
  ["\t"] = "\\t" }

local function escape(ch) return escapes[ch] or ("\\u%04x"):format(ch:byte()) end

-- First octet: how many follow, and the range of the second (RFC 3629: no surrogates, no
-- overlong forms, nothing above U+10FFFF).
local function sequence(first)
  if first >= 0xC2 and first <= 0xDF then return 1, 0x80, 0xBF end
  if first == 0xE0 then return 2, 0xA0, 0xBF end
  if first == 0xED then return 2, 0x80, 0x9F end
  if first >= 0xE1 and first <= 0xEF then return 2, 0x80, 0xBF end
  if first == 0xF0 then return 3, 0x90, 0xBF end
  if first >= 0xF1 and first <= 0xF3 then return 3, 0x80, 0xBF end
  if first == 0xF4 then return 3, 0x80, 0x8F end
  return nil
end

local function valid_at(text, i)
  local more, low, high = sequence(text:byte(i))
  if not more then return nil end
  for k = 1, more do
    local octet = text:byte(i + k)
    if not octet or octet < low or octet > high then return nil end
    low, high = 0x80, 0xBF
  end
  return more
end

-- Octets that are no UTF-8 become U+FFFD, each.
local function repair(text)
  local out, i = {}, 1
  while i <= #text do
    local more = text:byte(i) < 0x80 and 0 or valid_at(text, i)
    out[#out + 1] = more and text:sub(i, i + more) or "\239\191\189"
    i = i + (more or 0) + 1
  end
  return table.concat(out)
end

local function encode_string(text)
  if text:find("[\128-\255]") then text = repair(text) end
  return '"' .. text:gsub('[%c"\\\127]', escape) .. '"'
end

local function encode_number(n)
  if n ~= n or n == math.huge or n == -math.huge then error("json: no number: " .. tostring(n), 0) end
  if n == math.floor(n) and math.abs(n) < 2 ^ 53 then return ("%d"):format(n) end
  return ("%.17g"):format(n)
end

local encode_value

local function encode_array(t, depth)
  local out = {}
  for i = 1, #t do out[i] = encode_value(t[i], depth) end
  return "[" .. table.concat(out, ",") .. "]"
end

local function encode_object(t, depth)
  local keys, out = {}, {}
  for key in pairs(t) do
    if type(key) ~= "string" then error("json: an object's key is a " .. type(key), 0) end
    keys[#keys + 1] = key
  end
  table.sort(keys)
  for i, key in ipairs(keys) do out[i] = encode_string(key) .. ":" .. encode_value(t[key], depth) end
  return "{" .. table.concat(out, ",") .. "}"
end

function encode_value(value, depth)
  local kind = type(value)
  if value == json.null then return "null" end
  if kind == "string" then return encode_string(value) end
  if kind == "number" then return encode_number(value) end
  if kind == "boolean" then return tostring(value) end
  if kind == "cdata" and (ffi.istype("uint64_t", value) or ffi.istype("int64_t", value)) then
    return (tostring(value):gsub("U?LL$", ""))
  end
  if kind ~= "table" then error("json: cannot write a " .. kind, 0) end
  if depth >= 64 then error("json: tables nested more than 64 deep", 0) end
  if getmetatable(value) == array_mark or #value > 0 then return encode_array(value, depth + 1) end
  return encode_object(value, depth + 1)
end

--- Strings that are not UTF-8 are repaired; 64-bit integers (cdata) are written exactly; keys are
--- sorted. Raises on functions, cycles, NaN and keys that are no strings.
---@param value any
---@return string
function json.encode(value) return encode_value(value, 0) end

return json
