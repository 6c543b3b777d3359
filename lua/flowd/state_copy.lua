-- SPDX-License-Identifier: Apache-2.0
--- What rules remember (flowd.state), from the policy that runs to the one that follows: piece by piece, as events are
--- handled meanwhile.
--
-- begin(), then some() until it says that there is no more, and some() once more at the moment of the exchange: each
-- piece goes to receive() in the other Lua state. Pieces are plain values.
local state = require("flowd.state")

local state_copy = {}

-- Tables to be copied, as they were when that began: { name, next }; the first is at work. nil: nothing is copied.
local copying

---@class flowd.StatePiece
---@field name string
---@field cleared? boolean everything that came before is void
---@field removed? table keys
---@field keys table the values of these have changed, or they are new in this order if the other side has them not
---@field values table
---@field new_keys? table these come behind all others, in this order
---@field new_values? table

-- Tables that were made meanwhile, too.
local function find_tables()
  for name, store in pairs(state.stores()) do
    if not store.journal then
      store.journal, store.cleared = {}, true
      copying[#copying + 1] = { name = name, next = state.each(store) }
    end
  end
end

--- No more pieces are wanted: nothing is noted any more.
function state_copy.finish()
  for _, store in pairs(state.stores()) do store.journal, store.cleared = nil, nil end
  copying = nil
end

--- From now on what changes is noted.
function state_copy.begin()
  state_copy.finish()
  copying = {}
  find_tables()
end

-- What has changed in a table, up to so many keys: a piece, or nil; and how many.
local function changes(name, store, most)
  local piece = { name = name, removed = {}, keys = {}, values = {}, new_keys = {}, new_values = {} }
  local count = 0
  for key, how in pairs(store.journal) do
    if count >= most then break end
    count = count + 1
    store.journal[key] = nil
    local value = store.values[key]
    if value == nil then
      piece.removed[#piece.removed + 1] = key
    elseif how == state.NEW then
      piece.new_keys[#piece.new_keys + 1] = key
    else
      piece.keys[#piece.keys + 1], piece.values[#piece.values + 1] = key, value
    end
  end
  if count == 0 then return nil, 0 end
  local turn = store.turn
  table.sort(piece.new_keys, function(a, b) return turn[a] < turn[b] end)
  for i, key in ipairs(piece.new_keys) do piece.new_values[i] = store.values[key] end
  return piece, count
end

-- The next entries of the table at work.
local function entries(first, most)
  local piece, count = { name = first.name, keys = {}, values = {} }, 0
  while count < most do
    local key, value = first.next()
    if key == nil then return piece, count, true end
    count = count + 1
    piece.keys[count], piece.values[count] = key, value
  end
  return piece, count, false
end

--- About so many entries: first what was there, then what has changed since.
---@param most integer
---@return flowd.StatePiece[] pieces for receive(), in this order
---@return boolean more
function state_copy.some(most)
  find_tables()
  local pieces = {}
  -- A table begins with what was cleared: nothing of it is there yet.
  for name, store in pairs(state.stores()) do
    if store.cleared then
      pieces[#pieces + 1] = { name = name, cleared = true, keys = {}, values = {} }
      store.cleared = nil
    end
  end
  while copying[1] and most > 0 do
    local piece, count, done = entries(copying[1], most)
    pieces[#pieces + 1], most = piece, most - count
    if done then table.remove(copying, 1) end
  end
  for name, store in pairs(state.stores()) do
    local piece, count
    if most > 0 then piece, count = changes(name, store, most) end
    if piece then pieces[#pieces + 1], most = piece, most - count end
  end
  return pieces, most <= 0
end

--- What came from the policy before.
---@param pieces flowd.StatePiece[]
function state_copy.receive(pieces)
  for _, piece in ipairs(pieces) do
    local store = state.receiver(piece.name)
    if piece.cleared then state.clear(store) end
    for _, key in ipairs(piece.removed or {}) do state.remove(store, key) end
    for i, key in ipairs(piece.keys) do state.receive(store, key, piece.values[i]) end
    for i, key in ipairs(piece.new_keys or {}) do
      state.remove(store, key)
      state.receive(store, key, piece.new_values[i])
    end
  end
end

return state_copy
