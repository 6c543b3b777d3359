-- SPDX-License-Identifier: Apache-2.0
--- "Did you mean": the nearest of the words that would have been right.
local slice = require("flowd.slice")

local suggest = {}

--- Insertions, deletions, replacements and swaps of neighbours that turn a into b.
---@param a string
---@param b string
---@return integer
function suggest.distance(a, b)
  -- Three rows of the usual table: the one being filled and the two before it.
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    local ai = a:byte(i)
    for j = 1, #b do
      local bj = b:byte(j)
      local cost = ai == bj and 0 or 1
      local best = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and ai == b:byte(j - 1) and a:byte(i - 1) == bj then
        best = math.min(best, before[j - 2] + 1)
      end
      row[j] = best
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

-- Names are compared as people mistake them: case, "_", "-", "." and blanks do not count.
local function fold(text) return (text:lower():gsub("[_%-%s%.]", "")) end

--- The candidate that `word` most likely stands for, or nil when none is near.
---@param word any what was written; anything but a string has no neighbour
---@param candidates string[]
---@return string?
function suggest.nearest(word, candidates)
  if type(word) ~= "string" or word == "" or #word > 64 then return nil end
  local folded = fold(word)
  -- A third of the letters may be wrong: "strategie" is near "strategy", "foo" near nothing.
  local limit = math.max(1, math.floor(math.max(#folded, 3) / 3))
  local best, best_distance
  for _, candidate in ipairs(candidates) do
    slice.pause()
    local target = fold(candidate)
    local distance = suggest.distance(folded, target)
    -- An abbreviation: "exp" for "experiment".
    if distance > limit and #folded >= 3 and target:sub(1, #folded) == folded then distance = limit end
    if distance <= limit and distance < #target and (not best or distance < best_distance) then
      best, best_distance = candidate, distance
    end
  end
  return best
end

--- Text to put behind a message: ` — did you mean "label"?`, or "".
---@param word any
---@param candidates string[]
---@return string
function suggest.hint(word, candidates)
  local nearest = suggest.nearest(word, candidates)
  return nearest and (' — did you mean "%s"?'):format(nearest) or ""
end

return suggest
