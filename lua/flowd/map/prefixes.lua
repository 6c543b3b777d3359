-- SPDX-License-Identifier: Apache-2.0
--- Map of prefixes: the longest that holds an address gives the tag.
local addresses = require("flowd.addresses")

local prefixes = { kind = "prefixes", example = '{ ["2001:db8::/32"] = "atlas/Data Challenge", … }' }

---@param entries { [1]: string, [2]: integer }[] prefix, tag
function prefixes.make(entries)
  local pointer, anchor = addresses.build_map(entries)
  if not pointer then return nil, anchor end
  local find = addresses.find
  return function(address)
    local tag = find(pointer, address)
    if tag ~= 0 then return tag end
    return nil
  end, nil, anchor
end

return prefixes
