-- SPDX-License-Identifier: Apache-2.0
--- Fireflies as a collector sees them.
local firefly = {}

--- The value of a string or number member, found by its name (names are unique in a firefly).
---@param text string datagram
---@param name string for example "src-port"
---@return string|nil
function firefly.member(text, name)
  name = name:gsub("%-", "%%-")
  return text:match('"' .. name .. '"%s*:%s*"([^"]*)"') or text:match('"' .. name .. '"%s*:%s*(%-?[%d.]+)')
end

--- One string that tells flows apart.
---@param text string datagram
---@return string "SRC SRC-PORT DST DST-PORT PROTOCOL"
function firefly.flow(text)
  local member = firefly.member
  return table.concat({ member(text, "src-ip"), member(text, "src-port"), member(text, "dst-ip"), member(text, "dst-port"),
    member(text, "protocol") }, " ")
end

--- Fireflies of one state, by flow. A second one for the same flow is an error.
---@param datagrams table[] from udp.lua
---@param state "start"|"ongoing"|"end"
---@return table<string, string> texts, integer count
function firefly.by_flow(datagrams, state)
  local found, count = {}, 0
  for _, datagram in ipairs(datagrams) do
    if firefly.member(datagram.text, "state") == state then
      local flow = firefly.flow(datagram.text)
      if found[flow] then error("two " .. state .. " fireflies for " .. flow .. "\n" .. datagram.text, 2) end
      found[flow] = datagram.text
      count = count + 1
    end
  end
  return found, count
end

--- Fireflies of one state, by flow, where one may come again after a crash: then it tells the same start.
---@param datagrams table[] from udp.lua
---@param state "start"|"ongoing"|"end"
---@return table<string, string> texts, integer count of flows, integer repeats
function firefly.at_least_once(datagrams, state)
  local found, count, repeats = {}, 0, 0
  for _, datagram in ipairs(datagrams) do
    local text = datagram.text
    if text:find('"state":"' .. state, 1, true) then
      local flow = firefly.flow(text)
      local before = found[flow]
      if before then
        repeats = repeats + 1
        if firefly.member(before, "start-time") ~= firefly.member(text, "start-time") then
          error("another start-time:\n" .. before .. "\n" .. text, 2)
        end
      else
        found[flow], count = text, count + 1
      end
    end
  end
  return found, count, repeats
end

return firefly
