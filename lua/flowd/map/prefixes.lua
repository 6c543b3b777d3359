-- SPDX-License-Identifier: Apache-2.0
--- Map of prefixes: the longest that holds an address gives the tag.
local addresses = require("flowd.addresses")

local find = addresses.find

local prefixes = { kind = "prefixes", example = '{ ["2001:db8::/32"] = "atlas/Data Challenge", … }' }

---@param entries { [1]: string, [2]: integer }[] prefix, tag
function prefixes.make(entries)
  local pointer, map = addresses.build_map(entries)
  if not pointer then return nil, map end
  local number, message = addresses.number_map(map)
  if not number then return nil, { message } end
  return number, map
end

function prefixes.find(number, address)
  local tag = find(number, address)
  if tag ~= 0 then return tag end
  return nil
end

return prefixes
