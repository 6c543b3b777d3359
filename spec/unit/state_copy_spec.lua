-- SPDX-License-Identifier: Apache-2.0
--- flowd.state on its way to another Lua state: piece by piece, while it changes.
local dry = require("flowd.dry")
local state = require("flowd.state")
local state_copy = require("flowd.state_copy")

local ALL = 2 ^ 31

local names = 0
local function new_name()
  names = names + 1
  return "copied " .. names
end

local function content(t)
  local list, by_key = {}, {}
  for key, value in t:each() do
    list[#list + 1] = { key, value }
    by_key[key] = value
  end
  return list, by_key
end

-- Pieces of one table, under another name: here both sides are one Lua state.
local function renamed(pieces, from, to)
  local list = {}
  for _, piece in ipairs(pieces) do
    if piece.name == from then
      piece.name = to
      list[#list + 1] = piece
    end
  end
  return list
end

describe("what rules remember", function()
  after_each(state_copy.finish)

  local function change(t, random)
    local key = "k" .. random(60)
    local what = random(20)
    if what == 1 then
      t:clear()
    elseif what < 7 then
      t:set(key, nil)
    elseif what < 14 then
      t:set(key, random(1000))
    else
      t:add("n" .. random(60))
    end
  end

  -- Copied by `most` entries at a time, with changes between; what comes out, and what should.
  local function copied(seed, most, settings)
    math.randomseed(seed)
    local from, to = "copied from", "copied to"
    local t = state.table(from, settings)
    t:clear()
    for i = 1, 100 do t:set("k" .. i, i) end
    state.table(to, { max = 1000 }):set("from before", seed)
    for _ = 1, 30 do change(t, math.random) end
    state_copy.begin()
    local turns, more = 0, true
    while more or turns < 8 do
      local pieces
      pieces, more = state_copy.some(most)
      state_copy.receive(renamed(pieces, from, to))
      turns = turns + 1
      for _ = 1, turns < 40 and math.random(4) or 0 do change(t, math.random) end
    end
    state_copy.receive(renamed(state_copy.some(ALL), from, to))
    return state.table(to, { max = 1000 }), t
  end

  it("arrives as it is at the end, however small the pieces are", function()
    for seed = 1, 150 do
      local copy, t = copied(seed, math.random(40))
      local _, got = content(copy)
      local _, expected = content(t)
      assert.same(expected, got, "seed " .. seed)
      assert.equal(t:count(), copy:count())
    end
  end)

  it("arrives in the order in which it was made", function()
    for seed = 1, 100 do
      local copy, t = copied(seed, ALL)
      assert.same((content(t)), (content(copy)), "seed " .. seed)
    end
  end)

  it("arrives also of a table that forgets", function()
    for seed = 1, 50 do
      local copy, t = copied(seed, 7, { max = 40, when_full = "forget" })
      local _, got = content(copy)
      local _, expected = content(t)
      assert.same(expected, got, "seed " .. seed)
    end
  end)

  it("comes in pieces of the size that is asked for", function()
    local name = new_name()
    local t = state.table(name)
    for i = 1, 1000 do t:set(i, i) end
    state_copy.begin()
    local turns, most = 0, 0
    local more
    repeat
      local pieces
      pieces, more = state_copy.some(50)
      local entries = 0
      for _, piece in ipairs(pieces) do entries = entries + #piece.keys + #(piece.new_keys or {}) + #(piece.removed or {}) end
      turns, most = turns + 1, math.max(most, entries)
    until not more
    assert.is_true(most <= 50 and turns >= 20, ("%d turns, at most %d"):format(turns, most))
  end)

  it("waits for whoever asks for it; of more than there is room for, the newest stays", function()
    local from, to = new_name(), new_name()
    local t = state.table(from)
    for i = 1, 5 do t:set("k" .. i, i) end
    state_copy.begin()
    state_copy.receive(renamed(state_copy.some(ALL), from, to))
    assert.same({ { "k4", 4 }, { "k5", 5 } }, (content(state.table(to, { max = 2 }))))
  end)

  it("takes the place of what the new configuration put there when it was loaded", function()
    local from, to = new_name(), new_name()
    state.table(from):set("old", 1)
    local t = state.table(to, { max = 1 })
    t:set("new", 2)
    state_copy.begin()
    state_copy.receive(renamed(state_copy.some(ALL), from, to))
    assert.same({ { "old", 1 } }, (content(t)))
  end)

  it("has tables that were made meanwhile, and nothing of a trial", function()
    local first, second = new_name(), new_name()
    local t = state.table(first)
    t:set("kept", 1)
    state_copy.begin()
    state_copy.some(ALL)
    dry.run(function()
      t:clear()
      t:set("tried", 1)
    end)
    assert.same({}, renamed(state_copy.some(ALL), first, first))
    state.table(second):set("late", 3)
    local to = new_name()
    state_copy.receive(renamed(state_copy.some(ALL), second, to))
    assert.equal(3, state.table(to):get("late"))
  end)

  it("is not noted any more behind the end", function()
    local name = new_name()
    local t = state.table(name)
    t:set("a", 1)
    state_copy.begin()
    state_copy.finish()
    assert.is_nil(state.stores()[name].journal)
    t:set("b", 2)
    assert.is_nil(state.stores()[name].journal)
  end)
end)
