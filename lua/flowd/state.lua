-- SPDX-License-Identifier: Apache-2.0
--- What rules remember: counters, and tables of plain values that outlive a reload.
--
--     local seen = flowd.state.table("seen", { max = 1000, when_full = "forget" })
--     local alarms = flowd.state.counter "new sources"
--     rule "first seen" (function(flow)
--       if not seen:get(flow.src) then
--         seen:set(flow.src, flow.time)
--         alarms:add()
--       end
--     end)
--
-- Counters are those of the state file: `stats` shows them. Tables are Lua's; when another Lua state takes
-- over, it gets them piece by piece, while rules go on to change them: flowd.state_copy. What has changed since a piece
-- was copied stands in the store's journal, by key: NEW, or CHANGED in place or away.
local addresses = require("flowd.addresses")
local counters = require("flowd.counters")
local dry = require("flowd.dry")
local show = require("flowd.show")
local suggest = require("flowd.suggest")

local error, rawget, tonumber, type = error, rawget, tonumber, type
local address_text = addresses.text

local state = {}

local COUNTERS_MAX, TABLES_MAX = 500, 100
local NEW, CHANGED = 1, 2
local MAX_DEFAULT, MAX_MOST = 10000, 1000000
local KEY_MAX, TEXT_MAX = 256, 1024

---@class flowd.StateCounter
local Counter = {}

---@class flowd.StateTable
local Table = {}

-- What is behind each object: out of reach of rules.
local held = setmetatable({}, { __mode = "k" })

-- By name.
local known_counters, known_tables = {}, {}
local counters_count, tables_count = 0, 0
-- Stores of tables that another Lua state had, and that nobody asked for here yet.
local pending = {}

local function check_name(what, name)
  if type(name) ~= "string" or name == "" or #name > 64 or name:find("%c") then
    error(("state.%s: expected a name of 1 to 64 characters; got %s"):format(what, show(name)), 3)
  end
end

local function class(methods, what)
  local names = {}
  for name in pairs(methods) do names[#names + 1] = name end
  return {
    __index = function(_, name)
      local method = methods[name]
      if method then return method end
      error(("a %s has no %s%s: its values are asked for by :get"):format(what, show(name), suggest.hint(name, names)), 2)
    end,
    __newindex = function() error(("a %s is changed by its methods, as :add and :set"):format(what), 2) end,
    __tostring = function(self) return ('%s "%s"'):format(what, held[self] and held[self].name or "?") end,
    __metatable = false,
  }
end

local function behind(self, what)
  local object = held[self]
  if not object then
    error(("expected a %s: write %s with a colon"):format(what, what == "counter" and "counter:add()" or "table:get(key)"), 3)
  end
  return object
end

-- ---- counters ----------------------------------------------------------------------

local function set_counter(counter, value)
  local before = counter.value
  counter.value = value
  return counter, before
end

--- Add to the counter.
---@param amount? integer default 1
---@return integer value what it is now
function Counter.add(self, amount)
  local counter = behind(self, "counter").counter
  if amount == nil then amount = 1 end
  if type(amount) ~= "number" or not (amount >= 0 and amount <= 2 ^ 53) or amount % 1 ~= 0 then
    error(("counter: expected a whole number from 0 on; got %s"):format(show(amount)), 2)
  end
  if dry.on then dry.note(set_counter, counter, counter.value) end
  counter.value = counter.value + amount
  return (tonumber(counter.value))
end

--- What it has come to.
---@return integer
function Counter.get(self) return (tonumber(behind(self, "counter").counter.value)) end

local counter_class = class(Counter, "counter")

--- A counter, which `stats` shows as flowd_site_total{name="…"}. The same name is the same counter.
---@param name string
---@return flowd.StateCounter
function state.counter(name)
  check_name("counter", name)
  local object = known_counters[name]
  if object then return object end
  if counters_count == COUNTERS_MAX then
    error(("state.counter %s: there are %d already, and no more are possible"):format(show(name), COUNTERS_MAX), 2)
  end
  counters_count = counters_count + 1
  object = setmetatable({}, counter_class)
  held[object] = { name = name, counter = counters.get("flowd_site_total", { name = name }) }
  known_counters[name] = object
  return object
end

-- ---- tables ------------------------------------------------------------------------
--
-- values: by key. turn: by key, the place in `order`, which holds the keys from the oldest (head) to the
-- newest (tail); a place whose key has another turn by now is empty.

-- What raises in the middle (memory or the stack may be used up anywhere) leaves a table as good as it was: what
-- allocates or calls comes before what must change together.

-- A key as it is kept.
local function plain_key(key)
  if type(key) == "number" and key == key then return key end
  if type(key) == "string" then
    if #key <= KEY_MAX then return key end
  elseif type(key) == "table" and type(rawget(key, 4)) == "number" then
    return (address_text(key))
  end
  error(("state.table: expected a number, an address or a text of at most %d octets as key; got %s"):format(KEY_MAX, show(key)), 3)
end

local function check_value(value)
  local kind = type(value)
  if kind == "number" or kind == "boolean" or kind == "string" and #value <= TEXT_MAX then return end
  error(("state.table: expected a number, a boolean or a text of at most %d octets as value; got %s"):format(TEXT_MAX, show(value)), 3)
end

-- They return what undoes them, as dry.note wants.

local function set_fields(store, fields)
  local before = {}
  for name, value in pairs(fields) do before[name], store[name] = store[name], value end
  return store, before
end

local function set_key(store, key, value, turn, count)
  local value_before, turn_before, count_before = store.values[key], store.turn[key], store.count
  store.values[key], store.turn[key], store.count = value, turn, count
  return store, key, value_before, turn_before, count_before
end

local function set_place(store, at, key, head, tail)
  local key_before, head_before, tail_before = store.order[at], store.head, store.tail
  store.order[at], store.head, store.tail = key, head, tail
  return store, at, key_before, head_before, tail_before
end

-- Rules are on trial: a key, and the oldest place or the one behind the newest, are to be as they are now.
local function note_key(store, key) dry.note(set_key, store, key, store.values[key], store.turn[key], store.count) end
local function note_place(store, at) dry.note(set_place, store, at, store.order[at], store.head, store.tail) end

-- What a trial changes is changed back.
local function note_change(store, key, how)
  if dry.on or store.journal[key] == NEW then return end
  store.journal[key] = how
end

local function remove(store, key)
  if store.values[key] == nil then return end
  if dry.on then note_key(store, key) end
  if store.journal then note_change(store, key, CHANGED) end
  store.values[key], store.turn[key] = nil, nil
  store.count = store.count - 1
end

local function compact(store)
  local order, tail = {}, 0
  for at = store.head, store.tail do
    local key = store.order[at]
    if store.turn[key] == at then
      tail = tail + 1
      order[tail] = key
    end
  end
  for at = 1, tail do store.turn[order[at]] = at end
  store.order, store.head, store.tail = order, 1, tail
end

local function forget_oldest(store)
  while store.head <= store.tail do
    local key, at = store.order[store.head], store.head
    if dry.on then note_place(store, at) end
    local there = store.turn[key] == at
    if there then remove(store, key) end
    store.order[at] = nil
    store.head = at + 1
    if there then return end
  end
end

local function put(store, key, value)
  if store.journal then note_change(store, key, store.values[key] == nil and NEW or CHANGED) end
  if store.values[key] == nil then
    if store.count >= store.max then
      if not store.forget then
        error(('state.table "%s" is full: it has %d entries; a larger max, or when_full = "forget", makes room'):format(store.name,
          store.count), 3)
      end
      forget_oldest(store)
    end
    if store.tail - store.head > 2 * store.count + 64 and not dry.on then compact(store) end
    if dry.on then
      note_key(store, key)
      note_place(store, store.tail + 1)
    end
    store.tail = store.tail + 1
    store.order[store.tail], store.turn[key] = key, store.tail
    store.values[key] = value
    store.count = store.count + 1
    return
  elseif dry.on then
    note_key(store, key)
  end
  store.values[key] = value
end

--- The value of a key; nil when there is none.
---@param key string|number|flowd.Address
---@return string|number|boolean|nil
function Table.get(self, key)
  local store = behind(self, "table")
  key = plain_key(key)
  return store.values[key]
end

--- Set the value of a key; nil takes the key away.
---@param key string|number|flowd.Address
---@param value string|number|boolean|nil
function Table.set(self, key, value)
  local store = behind(self, "table")
  key = plain_key(key)
  if value == nil then
    remove(store, key)
    return
  end
  check_value(value)
  put(store, key, value)
end

--- Add to the number of a key, 0 when there is none.
---@param key string|number|flowd.Address
---@param amount? number default 1
---@return number value what it is now
function Table.add(self, key, amount)
  local store = behind(self, "table")
  key = plain_key(key)
  local value = store.values[key]
  if value == nil then value = 0 end
  if amount == nil then amount = 1 end
  if type(value) ~= "number" or type(amount) ~= "number" then
    error(("state.table: expected numbers to add; got %s and %s"):format(show(value), show(amount)), 2)
  end
  value = value + amount
  put(store, key, value)
  return value
end

--- How many keys have a value.
---@return integer
function Table.count(self) return behind(self, "table").count end

local function clear(store)
  if dry.on then
    dry.note(set_fields, store, { values = store.values, turn = store.turn, order = store.order, head = store.head,
      tail = store.tail, count = store.count })
  end
  if store.journal and not dry.on then store.journal, store.cleared = {}, true end
  store.values, store.turn, store.order, store.head, store.tail, store.count = {}, {}, {}, 1, 0, 0
end

--- Take all keys away.
function Table.clear(self) clear(behind(self, "table")) end

local function each(store)
  local order, at, tail = store.order, store.head - 1, store.tail
  return function()
    while at < tail do
      at = at + 1
      local key = order[at]
      if key ~= nil and store.values[key] ~= nil and (order ~= store.order or store.turn[key] == at) then
        return key, store.values[key]
      end
    end
    return nil
  end
end

--- Every key and its value, the oldest key first: `for key, value in table:each() do`.
---@return fun(): string|number|nil, string|number|boolean|nil
function Table.each(self) return each(behind(self, "table")) end

local table_class = class(Table, "table of flowd.state")

-- What rules can call on them.
state.methods = { counter = Counter, table = Table }
state.NEW = NEW

local settings_known = { "max", "when_full" }

local function check_settings(name, settings)
  if settings == nil then settings = {} end
  if type(settings) ~= "table" then error(('state.table "%s": expected a table of settings; got %s'):format(name, show(settings)), 3) end
  for key in pairs(settings) do
    if key ~= "max" and key ~= "when_full" then
      error(('state.table "%s": unknown setting %s%s'):format(name, show(key), suggest.hint(key, settings_known)), 3)
    end
  end
  local max, when_full = settings.max or MAX_DEFAULT, settings.when_full or "error"
  if type(max) ~= "number" or not (max >= 1 and max <= MAX_MOST) or max % 1 ~= 0 then
    error(('state.table "%s": max: expected a number from 1 to %d; got %s'):format(name, MAX_MOST, show(max)), 3)
  end
  if when_full ~= "error" and when_full ~= "forget" then
    error(('state.table "%s": when_full: expected "error" or "forget" (the oldest key); got %s'):format(name, show(when_full)), 3)
  end
  return max, when_full == "forget"
end

local function new_store(name, max, forget)
  return { name = name, values = {}, turn = {}, order = {}, head = 1, tail = 0, count = 0, max = max, forget = forget }
end

--- A table of plain values. The same name is the same table.
---@param name string
---@param settings? { max: integer?, when_full: "error"|"forget"|nil }
---@return flowd.StateTable
function state.table(name, settings)
  check_name("table", name)
  local max, forget = check_settings(name, settings)
  local object = known_tables[name]
  if not object then
    if tables_count == TABLES_MAX then
      error(('state.table "%s": there are %d already, and no more are possible'):format(name, TABLES_MAX), 2)
    end
    tables_count = tables_count + 1
    object = setmetatable({}, table_class)
    local store = pending[name] or new_store(name, max, forget)
    pending[name] = nil
    -- Of more than there is room for, the newest.
    while store.count > max do forget_oldest(store) end
    held[object], known_tables[name] = store, object
  end
  held[object].max, held[object].forget = max, forget
  return object
end

-- ---- for another Lua state (flowd.state_copy) ------------------------------------------

--- What is behind the tables that were asked for.
---@return table<string, table> stores by name
function state.stores()
  local all = {}
  for name, object in pairs(known_tables) do all[name] = held[object] end
  return all
end

--- What comes from elsewhere for the table of this name goes there. It waits when nobody has asked for it yet.
---@param name string
---@return table store
function state.receiver(name)
  if known_tables[name] then return held[known_tables[name]] end
  pending[name] = pending[name] or new_store(name, MAX_MOST, true)
  return pending[name]
end

--- Put a key behind all others, or give it another value; in a full table it takes the place of the oldest one.
---@param store table
function state.receive(store, key, value)
  if store.values[key] == nil and store.count >= store.max then forget_oldest(store) end
  put(store, key, value)
end

state.remove, state.clear, state.each = remove, clear, each

return state
