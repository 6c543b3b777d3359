-- SPDX-License-Identifier: Apache-2.0
--- A value as an error message shows it: what somebody wrote, never the address of something in memory.
local TEXT_MAX = 64

--- `"atlas"`, `7`, `true`, `nil`, `map.prefixes`, `2001:db8::1`, `a table`, `a function`.
---@param value any
---@return string
local function show(value)
  local kind = type(value)
  if kind == "string" then
    return ("%q"):format(#value > TEXT_MAX and value:sub(1, TEXT_MAX - 3) .. "..." or value)
  elseif kind == "number" or kind == "boolean" or kind == "nil" then
    return tostring(value)
  elseif kind == "cdata" then
    -- 2ULL is a literal of LuaJIT.
    local text = tostring(value)
    return text:find("^cdata") and "a cdata" or text
  elseif kind == "table" then
    -- Maps, sets, addresses and flows say what they are: their metatables are hidden. A script may hide one, too.
    if getmetatable(value) ~= false then return "a table" end
    local ok, text = pcall(tostring, value)
    if ok and not text:find("^table: 0x") then return text end
  end
  return "a " .. kind
end

return show
