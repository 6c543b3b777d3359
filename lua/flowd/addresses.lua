-- SPDX-License-Identifier: Apache-2.0
--- IP addresses and sets of prefixes, as rules see them.
--
-- An address is a value: four 32-bit words in a plain table, so that LuaJIT need not make
-- the table at all when it lives no longer than an expression (`flow.src:within(set)`).
-- C memory is never handed out: a set holds the number of its prefix map, and a rule that writes
-- another number there reaches another map, no more. What rules call is written as view.lua says.
local ffi = require("ffi")
local api = require("flowd.api")
local memory = require("flowd.memory")
local numbers = require("flowd.numbers")
local show = require("flowd.show")

local error, rawget, setmetatable, type = error, rawget, setmetatable, type
local parse, format = api.address_parse, api.address_format
local find = api.prefix_map_find_words

---@class flowd.Address
---@field family 4|6
---@field within fun(self: flowd.Address, what: flowd.PrefixSet|string|table): boolean
---@field is_private fun(self: flowd.Address): boolean
---@field is_global fun(self: flowd.Address): boolean
local Address = {}

---@class flowd.PrefixSet
---@field contains fun(self: flowd.PrefixSet, address: flowd.Address|string): boolean

local addresses = {}

-- The address a C function is called with.
local scratch = ffi.new("struct flow_address")
local text = ffi.new("char[?]", ffi.C.ADDRESS_TEXT_SIZE)
-- What octets 8 to 11 are in an IPv4-mapped address, as a word of this machine.
local mapped_word = ffi.abi("le") and 0xffff0000 or 0x0000ffff

--- An address from its four words (struct flow_address).
---@return flowd.Address
local function new(word0, word1, word2, word3)
  return (setmetatable({ word0, word1, word2, word3 }, Address))
end
addresses.new = new

-- What was written; of objects of ours, which one.
local function describe(value)
  return type(value) == "number" and ("the number %s"):format(value) or show(value)
end

local function load_words(address)
  local words = scratch.word
  words[0], words[1], words[2], words[3] = address[1], address[2], address[3], address[4]
end

-- The words of an address value or of its text.
local function words_of(address, level)
  if type(address) == "table" and type(rawget(address, 4)) == "number" then
    return address[1], address[2], address[3], address[4]
  elseif type(address) ~= "string" or parse(address, #address, scratch) < 0 then
    error(("expected an IP address; got %s"):format(describe(address)), level + 1)
  end
  local words = scratch.word
  return words[0], words[1], words[2], words[3]
end

--- Read an address from text.
---@param address string
---@return flowd.Address? address, string? message
function addresses.parse(address)
  if type(address) ~= "string" or parse(address, #address, scratch) < 0 then
    return nil, ("expected an IP address; got %s"):format(describe(address))
  end
  local words = scratch.word
  return new(words[0], words[1], words[2], words[3])
end

-- The address of `scratch` as text.
local function scratch_text() return ffi.string(text, format(scratch, text)) end

local ERANGE = 34

-- "0" to "999" as numbers.
local lengths = {}
for i = 0, 999 do lengths[tostring(i)] = i end

--- Read a prefix ("2001:db8::/32", "192.0.2.0/24", or an address: one host) into `scratch`.
---@param prefix any
---@return integer? bits 0..128, IPv4 counted from 96
---@return string? message
local function parse_prefix(prefix)
  if type(prefix) ~= "string" then return nil, ("expected a prefix such as \"2001:db8::/32\"; got %s"):format(describe(prefix)) end
  local slash, host, length = prefix:find("/", 1, true), prefix, nil
  if slash then
    length = lengths[prefix:sub(slash + 1)]
    if length then host = prefix:sub(1, slash - 1) end
  end
  local family = parse(host, #host, scratch)
  if family < 0 then return nil, ("expected a prefix such as \"2001:db8::/32\"; got %q"):format(prefix) end
  -- IPv4-mapped text may give the length either way round: only the dotted form is unambiguous.
  local most = family == 4 and not host:find(":", 1, true) and 32 or 128
  local bits = length or most
  if bits > most then return nil, ("prefix %q: expected a length of 0 to %d; got %d"):format(prefix, most, bits) end
  return bits + 128 - most
end

-- Add to a prefix map; a message when that is refused.
local function add_prefix(map, prefix, value)
  local bits, message = parse_prefix(prefix)
  if not bits then return message end
  local status = api.prefix_map_add(map, scratch, bits, value)
  if status == 0 then return nil end
  if status ~= -ERANGE then return ("prefix %q: out of memory"):format(prefix) end
  api.prefix_mask(scratch, bits)
  return ("prefix %q has bits set beyond its length — did you mean \"%s/%s\"?")
    :format(prefix, scratch_text(), prefix:match("/(%d+)$"))
end

-- What frees a map and its account.
local frees = setmetatable({}, { __mode = "k" })
local COUNTED_EVERY, NO_MEMORY = 1024, "not enough memory"

-- Texts that are hardly ever asked for, by number: many strings in use at a time would make LuaJIT's table of them
-- grow, in one go.
local Texts = {}
Texts.__index = Texts

local TOGETHER = 256

local function new_texts() return setmetatable({ count = 0, last = {} }, Texts) end

-- None of them has a zero octet.
function Texts:add(one)
  local place = self.count % TOGETHER
  self.count = self.count + 1
  self.last[place + 1] = one
  if place == TOGETHER - 1 then
    self[self.count / TOGETHER] = table.concat(self.last, "\0")
    self.last = {}
  end
end

-- number: from 0 on.
function Texts:get(number)
  local place, joined = number % TOGETHER, self[math.floor(number / TOGETHER) + 1]
  if not joined then return self.last[place + 1] end
  for one in joined:gmatch("%Z+") do
    if place == 0 then return one end
    place = place - 1
  end
end

---@class flowd.PrefixMapBuilder
local Builder = {}
Builder.__index = Builder

--- A prefix map in the making.
---@return flowd.PrefixMapBuilder? builder
---@return string? message
function addresses.map_builder()
  local map, account = api.prefix_map_new(), memory.account()
  if map == nil then return nil, "out of memory" end
  local function free(dead)
    account:close()
    api.prefix_map_free(dead)
  end
  map = ffi.gc(map, free)
  frees[map] = free
  return setmetatable({ map = map, texts = new_texts(), account = account }, Builder)
end

-- Its memory counts as that of the script which makes it.
function Builder:counted() return self.account:grow(tonumber(api.prefix_map_memory(self.map))) end

--- Add a prefix with a value from 1 on; a message when it is none.
---@param prefix any
---@param value integer
---@return string? message
function Builder:add(prefix, value)
  if self.full then return NO_MEMORY end
  local message = add_prefix(self.map, prefix, value)
  if message then return message end
  local texts = self.texts
  texts:add(prefix)
  if texts.count % COUNTED_EVERY ~= 0 or self:counted() then return nil end
  self.full = true
  return NO_MEMORY
end

--- The map: C memory, which is never handed to a rule.
---@param pause? fun() is called now and then
---@return ffi.cdata*? pointer
---@return any anchor_or_message keeps what is behind the pointer
---@return integer? which of the additions is too much, counted from 1
function Builder:finish(pause)
  local map, texts, clash = self.map, self.texts, ffi.new("uint32_t[2]")
  local status = 1
  -- In steps: events are handled between them while a configuration or a file is loaded.
  while status > 0 do
    status = api.prefix_map_build_step(map, clash, clash + 1)
    if pause then pause() end
  end
  if status == 0 and not self:counted() then return nil, NO_MEMORY end
  if status == 0 then return ffi.cast("const struct prefix_map *", map), map end
  local EEXIST = 17
  if status ~= -EEXIST then return nil, "out of memory" end
  return nil, ("prefix %q is the same as %q, with another value"):format(texts:get(clash[1]), texts:get(clash[0])), clash[1] + 1
end

--- A prefix map from `entries`, an array of { prefix, value }. What it returns is C memory: never
--- hand it to a rule. The second result anchors it.
---@param entries { [1]: string, [2]: integer }[]
---@return ffi.cdata*? pointer, any anchor_or_messages
function addresses.build_map(entries)
  local builder, refusal = addresses.map_builder()
  if not builder then return nil, { refusal } end
  local messages = {}
  for _, entry in ipairs(entries) do messages[#messages + 1] = builder:add(entry[1], entry[2]) end
  if #messages > 0 then return nil, messages end
  local pointer, anchor = builder:finish()
  if not pointer then return nil, { anchor } end
  return pointer, anchor
end

-- ---- numbered maps ---------------------------------------------------------

local MAPS_MAX = 16384
local numbered = numbers.new("const struct prefix_map *", MAPS_MAX, ffi.gc(api.prefix_map_new(), api.prefix_map_free))
local maps = numbered.pointers

--- Give a map a number, for as long as it is held.
---@param map any the anchor from build_map
---@return integer? number
---@return string? message
function addresses.number_map(map)
  local number, message = numbered:take(map, frees[map] or api.prefix_map_free)
  return number, message and "sets and maps of prefixes: " .. message
end

-- Numbers come back from scripts.
local function map_of(number)
  if not (number >= 0 and number < MAPS_MAX) then error("this set or map was changed", 3) end
  return maps[number]
end

--- The value that a numbered map has for an address (a value or text); 0 for none.
---@param number integer from number_map
---@param address flowd.Address|string
function addresses.find(number, address)
  local word0, word1, word2, word3 = words_of(address, 4)
  return (find(map_of(number), word0, word1, word2, word3))
end

-- ---- sets -------------------------------------------------------------------

-- Set -> array of its prefixes as text: for sets made of sets. And its prefix map.
local members = setmetatable({}, { __mode = "k" })
local set_maps = setmetatable({}, { __mode = "k" })

local function gather(what, into, messages)
  if type(what) == "string" then
    into[#into + 1] = { what, 1 }
  elseif members[what] then
    for _, prefix in ipairs(members[what]) do into[#into + 1] = { prefix, 1 } end
  elseif type(what) == "table" and getmetatable(what) == false then
    messages[#messages + 1] = ("expected a prefix, a list or a set of prefixes; got %s"):format(describe(what))
  elseif type(what) == "table" then
    for key in pairs(what) do
      if type(key) ~= "number" then
        messages[#messages + 1] = ("expected a list of prefixes; got the key %s"):format(describe(key))
      end
    end
    for _, item in ipairs(what) do gather(item, into, messages) end
  else
    messages[#messages + 1] = ("expected a prefix, a list or a set of prefixes; got %s"):format(describe(what))
  end
end

--- A set of prefixes as C sees it: for generated code.
---@param what string|table prefix, list, set, or lists of these; of a set, its own map
---@return ffi.cdata*? pointer, any anchor_or_messages, string[]? prefixes
function addresses.build_set(what)
  if set_maps[what] then return ffi.cast("const struct prefix_map *", set_maps[what]), set_maps[what], members[what] end
  local entries, messages = {}, {}
  gather(what, entries, messages)
  if #messages > 0 then return nil, messages end
  local pointer, anchor = addresses.build_map(entries)
  if not pointer then return nil, anchor end
  local list = {}
  for i, entry in ipairs(entries) do list[i] = entry[1] end
  return pointer, anchor, list
end

--- Read prefixes that a set was built from: fn(address, bits) for each, with `struct flow_address *` valid
--- for the call and the bits as prefix_map_add() takes them.
---@param list string[]
---@param fn fun(address: ffi.cdata*, bits: integer)
function addresses.each_prefix(list, fn)
  for _, prefix in ipairs(list) do
    local bits = assert(parse_prefix(prefix))
    fn(scratch, bits)
  end
end

local Set = { __metatable = false, __index = setmetatable({}, { __index = function(_, name)
  if type(name) == "number" then return nil end
  error(("a set of prefixes has no function %s; it has contains"):format(show(name)), 2)
end }) }

function Set.__newindex() error("a set of prefixes cannot be changed", 2) end

function Set.__tostring(set) return ("prefixes{%s}"):format(table.concat(members[set], ", ")) end

--- Is the address in the set?
---@param address flowd.Address|string
---@return boolean
function Set.__index.contains(self, address)
  local word0, word1, word2, word3 = words_of(address, 2)
  return find(map_of(self[1]), word0, word1, word2, word3) ~= 0
end

-- The second element tells a set from an address: no word is false.
local function new_set(what)
  local pointer, map, list = addresses.build_set(what)
  if not pointer then return nil, map end
  local number, message = addresses.number_map(map)
  if not number then return nil, { message } end
  local set = setmetatable({ number, false }, Set)
  members[set], set_maps[set] = list, map
  return set
end

--- A set of prefixes: `flowd.prefixes{ "192.0.2.0/24", "2001:db8::/32" }`. Items may be sets.
---@param list string|flowd.PrefixSet|table
---@return flowd.PrefixSet
function addresses.prefixes(list)
  local set, messages = new_set(list)
  if not set then error(table.concat(messages, "; "), 2) end
  return set
end

-- Sets written as text in a rule (`flow.src:within("10.0.0.0/8")`) are made once. A rule
-- that makes up ever new texts does not fill the memory.
local memo, memo_count, MEMO_MAX = {}, 0, 10000

local function memorise(prefix, level)
  local set, messages = new_set(prefix)
  if not set then error(table.concat(messages, "; "), level + 1) end
  if memo_count == MEMO_MAX then memo, memo_count = {}, 0 end
  memo[prefix], memo_count = set, memo_count + 1
  return set
end

-- ---- values -----------------------------------------------------------------

-- While a client of the console has its turn: what it calls to leave.
local pause
local PROMPT_LIST_MAX, PAUSE_EVERY = 1000, 32

--- From now on addresses are asked by a client of the console, and others have their turn in between; nil: no more.
---@param fn function|nil slice.pause
function addresses.at_prompt(fn) pause = fn end

local function check_list(count)
  if count <= PROMPT_LIST_MAX then return end
  error(("within: a list of %d prefixes is too long at the prompt, at most %d: make a set of them once, with flowd.prefixes, or a map "
    .. "in a file of the configuration, with flowd.map.prefixes"):format(count, PROMPT_LIST_MAX), 3)
end

local function no_set(what, depth)
  local hint = type(rawget(what, 4)) == "number" and ": compare addresses with =="
    or tostring(what):find("^map%.") and ": a map is asked with find" or ""
  -- A list is asked item by item: so many calls deeper.
  error(("within: expected prefixes; got %s%s"):format(describe(what), hint), 3 + (tonumber(depth) or 0))
end

--- Is the address in a set (flowd.prefixes), a prefix ("2001:db8::/32"), or one of a list of these?
---@param what flowd.PrefixSet|string|table
---@return boolean
local function within(self, what, depth)
  if type(what) == "table" then
    local first = rawget(what, 1)
    if type(first) == "number" or getmetatable(what) == false then
      if rawget(what, 2) ~= false then no_set(what, depth) end
      return find(map_of(first), self[1], self[2], self[3], self[4]) ~= 0
    end
    if pause then check_list(#what) end
    for i = 1, #what do
      if within(self, what[i], (depth or 0) + 1) then return true end
      if pause and i % PAUSE_EVERY == 0 then pause() end
    end
    return false
  elseif type(what) ~= "string" then
    error(("within: expected a prefix, a list or a set of prefixes, as in flow.src:within(\"2001:db8::/32\"); got %s")
      :format(describe(what)), 2 + (tonumber(depth) or 0))
  end
  local set = memo[what] or memorise(what, 2)
  return find(map_of(set[1]), self[1], self[2], self[3], self[4]) ~= 0
end

-- IANA's special-purpose registries (RFC 6890 and its successors): what is not globally
-- reachable, and what inside of it is again.
local PRIVATE, SPECIAL, GLOBAL = 1, 2, 3
local special = {
  [PRIVATE] = { "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16",
    "100.64.0.0/10", "fc00::/7", "fe80::/10", "::1/128" },
  [SPECIAL] = { "0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "::/128", "64:ff9b:1::/48", "100::/64", "2001::/23",
    "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10", "ff00::/8" },
  [GLOBAL] = { "192.0.0.9/32", "192.0.0.10/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:3::/32",
    "2001:4:112::/48", "2001:20::/28", "2001:30::/28" },
}
local function make_special()
  local entries = {}
  for class, list in pairs(special) do
    for _, prefix in ipairs(list) do entries[#entries + 1] = { prefix, class } end
  end
  local pointer, anchor = addresses.build_map(entries)
  return assert(pointer, anchor), anchor
end
local special_map, special_anchor = make_special()
addresses.special = special_anchor -- keeps it

--- Private, shared, link-local or loopback (RFC 1918, 4193, 6598, 3927, 4291).
---@return boolean
local function is_private(self)
  return find(special_map, self[1], self[2], self[3], self[4]) == PRIVATE
end

--- Reachable from anywhere: neither private nor otherwise special (IANA's registries), nor multicast.
---@return boolean
local function is_global(self)
  local class = find(special_map, self[1], self[2], self[3], self[4])
  return class == 0 or class == GLOBAL
end

function Address.__index(self, key)
  if key == "within" then return within end
  if key == "is_private" then return is_private end
  if key == "is_global" then return is_global end
  if key == "family" then return self[1] == 0 and self[2] == 0 and self[3] == mapped_word and 4 or 6 end
  if type(key) == "number" then return nil end
  error(("an address has no field %s (it has family, within, is_private, is_global)"):format(describe(key)), 2)
end

function Address.__newindex() error("an address cannot be changed", 2) end

function Address.__eq(a, b)
  return a[1] == b[1] and a[2] == b[2] and a[3] == b[3] and a[4] == b[4]
end

--- An address as text.
---@param address flowd.Address
---@return string
function addresses.text(address)
  load_words(address)
  return scratch_text()
end
Address.__tostring = addresses.text

function Address.__concat(a, b) return tostring(a) .. tostring(b) end
Address.__metatable = false

return addresses
