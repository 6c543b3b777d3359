-- SPDX-License-Identifier: Apache-2.0
--- What was changed from the console since the configuration was loaded, as Lua that could go into the files.
-- It lives and ends with the policy's Lua state.
jit.off(true, true)

local changes = {}

-- By what is changed, so that the last word counts: key to { order, text }. No text: as in the files again.
local made, count = {}, 0

--- Remember a change.
---@param key string what was changed: "rule NAME", "switch NAME", "timer N"; "option NAME", these come last
---@param text string|nil Lua that says the same in the files; nil: it is again as there
function changes.set(key, text)
  count = count + 1
  made[key] = text and { option = key:find("^option ") ~= nil, order = made[key] and made[key].order or count, text = text } or nil
end

---@param key string
---@return string|nil
function changes.get(key) return made[key] and made[key].text end

--- All of them, in the order in which they were first made.
---@return string[]
function changes.lines()
  local list, texts = {}, {}
  for _, change in pairs(made) do list[#list + 1] = change end
  table.sort(list, function(a, b)
    if a.option ~= b.option then return b.option end
    return a.order < b.order
  end)
  for i, change in ipairs(list) do texts[i] = change.text end
  return texts
end

return changes
