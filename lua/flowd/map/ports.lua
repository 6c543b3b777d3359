-- SPDX-License-Identifier: Apache-2.0
--- Map of ports: a single port before a range that holds it.
local ffi = require("ffi")
local declaration = require("flowd.rules.declaration")

local ports = { kind = "ports", example = '{ [1094] = "atlas", ["20000-25000"] = "cms", … }' }

---@param entries { [1]: integer|string, [2]: integer }[] port or range, tag
function ports.make(entries)
  local ranges, problems = {}, {}
  for _, entry in ipairs(entries) do
    local first, last = declaration.port_range(entry[1])
    if first then
      ranges[#ranges + 1] = { first = first, last = last, tag = entry[2] }
    else
      problems[#problems + 1] = last
    end
  end
  -- Ranges first, single ports over them.
  table.sort(ranges, function(a, b)
    local single_a, single_b = a.first == a.last, b.first == b.last
    if single_a ~= single_b then return single_b end
    return a.first < b.first
  end)
  local tag = ffi.new("uint16_t[65536]")
  local owner = {}
  for _, range in ipairs(ranges) do
    for port = range.first, range.last do
      local other = owner[port]
      if other and (other.first == other.last) == (range.first == range.last) and other.tag ~= range.tag then
        problems[#problems + 1] = ("port %d is in two entries, %d-%d and %d-%d, with different values"):format(port,
          other.first, other.last, range.first, range.last)
        break
      end
      owner[port], tag[port] = range, range.tag
    end
  end
  if #problems > 0 then return nil, problems end
  local pointer = ffi.cast("const uint16_t *", tag)
  return function(port)
    if type(port) ~= "number" or port < 0 or port > 65535 then
      error(("find: expected a port; got %s"):format(tostring(port)), 2)
    end
    local found = pointer[port]
    if found ~= 0 then return found end
    return nil
  end, nil, tag
end

return ports
