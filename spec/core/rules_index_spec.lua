-- SPDX-License-Identifier: Apache-2.0
--- Many declared rules: the index (src/rule_index.c) comes to what the list says, rule by rule.
local ffi = require("ffi")
local api = require("flowd.api")
local evaluate = require("flowd.rules.evaluate")
local index = require("flowd.rules.index")
local support = require("spec.support.policy")

-- ---- sets of rules by chance ------------------------------------------------------------

-- A generator of its own: a failure names the seed.
local function generator(seed)
  local state = seed * 2654435761 % 2 ^ 31
  local function random(n)
    state = (state * 1103515245 + 12345) % 2 ^ 31
    return math.floor(state / 65536) % n + 1
  end
  return random, function(list) return list[random(#list)] end
end

local experiments = { "atlas", "cms", "lhcb", "alice", 9, 200 }
local applications = { "xrd", "xrdcp", "xrootd", "fts", "gfal", "gfal-copy", "curl" }
local hosts = { "2001:db8::1", "2001:db8::2", "2001:db8:1::1", "2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db9::1", "fd00::1" }
local hosts4 = { "192.0.2.1", "192.0.2.77", "198.51.100.1", "10.1.2.3", "10.1.9.9" }
local prefixes = { "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1:2::/64", "2001:db8::1", "::/0", "0.0.0.0/0", "10.0.0.0/8",
  "10.1.0.0/16", "192.0.2.0/24", "192.0.2.64/26", "fd00::/8" }

local makers = {
  protocol = function(_, one_of) return ("%q"):format(one_of({ "tcp", "udp" })) end,
  family = function(_, one_of) return one_of({ "4", "6", "{ 4, 6 }" }) end,
  state = function(_, one_of) return one_of({ '"start"', '"end"', '{ "start", "ongoing" }' }) end,
  plugin = function(_, one_of) return one_of({ '"pipe"', '"http"', '{ "pipe", "http" }' }) end,
  src_port = function(random) return ("{ %d, %q }"):format(random(12), ("%d-%d"):format(random(6), 6 + random(9))) end,
  dst_port = function(random) return tostring(random(12)) end,
  src = function(_, one_of) return ("{ %q, %q }"):format(one_of(prefixes), one_of(prefixes)) end,
  dst = function(_, one_of) return ("%q"):format(one_of(prefixes)) end,
  experiment = function(_, one_of)
    return one_of({ '"unset"', '"atlas"', '{ "atlas", "cms" }', '{ 9, "lhcb", "unset" }', "200" })
  end,
  activity = function(_, one_of) return one_of({ "1", "{ 1, 2, 3 }", '"unset"', "63", "4" }) end,
  application = function(_, one_of) return ('{ %q, %q }'):format(one_of(applications), one_of({ "xrd*", "gf*", "gfal*", "x*", "*" })) end,
  bytes_sent = function(_, one_of) return one_of({ '">= 1k"', '{ "..10", "1000..2000" }', "0" }) end,
  duration = function(_, one_of) return one_of({ '"> 100ms"', '"..1s"', '"1h.."' }) end,
}
local fields = {}
for field in pairs(makers) do fields[#fields + 1] = field end
table.sort(fields)

local function declared(random, one_of)
  local match, done = {}, {}
  for _ = 1, random(3) do
    local field = one_of(fields)
    if not done[field] then
      done[field] = true
      match[#match + 1] = ("%s = %s"):format(field, makers[field](random, one_of))
    end
  end
  if done.activity == nil and random(6) == 1 then
    if done.experiment == nil then match[#match + 1] = 'experiment = { "atlas", "cms" }' end
    match[#match + 1] = 'activity = "Data Challenge"'
    if done.experiment then match = { 'experiment = { "atlas", "cms" }', 'activity = "Data Challenge"' } end
  end
  local effect = random(8)
  local text = ("{ match = { %s }, "):format(table.concat(match, ", "))
  if effect <= 3 then return text .. ("set = { experiment = %q, activity = %d } }"):format(one_of(experiments), random(63)) end
  if effect == 4 then return text .. ("set = { activity = %d } }"):format(random(4)) end
  if effect == 5 then return text .. ("set = { application = %q } }"):format(one_of(applications)) end
  if effect == 6 then return text .. 'route = "marker" }' end
  if effect == 7 then return text .. ("route = \"firefly\", set = { experiment = %q } }"):format(one_of(experiments)) end
  return text .. one_of({ "drop = true }", "accept = true }", "set = { experiment = 0, activity = 0 } }" })
end

local functions = {
  "function(flow) if flow.dst_port % 3 == 0 then flow.activity = 2 end end",
  "function(flow) if flow.experiment == 0 then flow.experiment = 'cms' end end",
  "function(flow) if flow.application == '' then flow.application = 'gfal-copy' end end",
  "function(flow) flow.experiment = 9; if flow.src_port == 5 then error('oops') end end",
  "function(flow) if flow.src_port == 11 then return accept end end",
  "function(flow) if flow.src_port == 12 and flow.dst_port == 12 then return drop end end",
}
-- What these do to an event, written once more.
local by_hand = {
  function(e) if e.key.dst_port % 3 == 0 then return { activity = 2 } end end,
  function(e) if e.experiment == 0 then return { experiment = 3 } end end,
  function(e) if e.application[0] == 0 then return { application = "gfal-copy" } end end,
  function(e) if e.key.src_port ~= 5 then return { experiment = 9 } end end,
  function(e) if e.key.src_port == 11 then return { verdict = "accept" } end end,
  function(e) if e.key.src_port == 12 and e.key.dst_port == 12 then return { verdict = "drop" } end end,
}

local function policy_by_chance(random, one_of, count, every)
  local lines, kinds = {}, {}
  for i = 1, count do
    if random(every) == 1 then
      kinds[i] = random(#functions)
      lines[i] = ('rule "%d" (%s)'):format(i, functions[kinds[i]])
    else
      lines[i] = ('rule "%d" %s'):format(i, declared(random, one_of))
    end
  end
  return table.concat(lines, "\n"), kinds
end

local function events_by_chance(random, one_of, count)
  local list = {}
  for i = 1, count do
    local from = random(3) == 1 and hosts4 or hosts
    local bytes = random(3) == 1
    list[i] = {
      src = one_of(from), dst = one_of(from), src_port = random(14), dst_port = random(14), protocol = one_of({ "tcp", "udp" }),
      state = one_of({ "start", "ongoing", "end" }), plugin = one_of({ "pipe", "http" }), experiment = one_of({ 0, 0, 2, 3, 4, 9, 200 }),
      activity = one_of({ 0, 1, 2, 3, 4, 26, 63 }), application = one_of({ "", "", "xrdcp", "xrd", "gfal-copy", "gfa", "curl" }),
      bytes_sent = bytes and one_of({ 0, 10, 1500, 1000000 }) or nil, bytes_received = bytes and 0 or nil,
    }
  end
  return list
end

-- The same, rule by rule.
local function naive(chain, kinds, batch, off)
  local hits = {}
  for number = 1, #chain.rules do hits[number] = 0 end
  for i = 0, batch.count - 1 do
    local e = batch.event[i]
    for number, rule in ipairs(chain.rules) do
      local d = rule.declaration
      if kinds[number] then d = by_hand[kinds[number]](e) elseif not evaluate.matches(d, e) then d = nil end
      if d and not off[number] then
        hits[number] = hits[number] + 1
        if evaluate.apply(d, e, number) then break end
      end
    end
  end
  return support.results(batch), hits
end

local function hits_of(chain)
  local hits = {}
  for number, rule in ipairs(chain.rules) do hits[number] = rule.hits end
  return hits
end

local function compare(seed, rules, every)
  local random, one_of = generator(seed)
  local text, kinds = policy_by_chance(random, one_of, rules, every)
  local list, off = events_by_chance(random, one_of, 300), {}
  local chain = support.chain(text, { failures_max = 100000 })
  for round = 1, 3 do
    local before = hits_of(chain)
    local batch = support.batch(list)
    support.logged(function() chain:run(batch) end)
    local expected, hits = naive(chain, kinds, support.batch(list), off)
    local got = support.results(batch)
    for i in ipairs(expected) do
      assert.same(expected[i], got[i], ("seed %d, round %d, event %d"):format(seed, round, i))
    end
    for number, after in ipairs(hits_of(chain)) do
      assert.equal(hits[number], after - before[number], ("seed %d, round %d: hits of rule %d"):format(seed, round, number))
    end
    -- Then with some rules off, and some of them on again.
    for _ = 1, 5 do
      local number = random(rules)
      off[number] = not off[number]
      chain:switch(chain.rules[number], not off[number])
    end
  end
  return chain
end

describe("an index of declared rules", function()
  it("decides what the rules decide one by one, and counts the same hits", function()
    for seed = 1, 12 do compare(seed, 60, 12) end
  end)

  it("does so for rules without functions between them, and for more than one word of them", function()
    for seed = 21, 24 do
      local chain = compare(seed, 300, 1000000)
      assert.equal(1, #chain.index.units)
    end
  end)

  it("does so where functions stand between most of them", function()
    for seed = 31, 34 do compare(seed, 80, 5) end
  end)

  it("decides the same where one index is too small", function()
    index.size = 16
    for seed = 41, 46 do
      local chain = compare(seed, 100, 20)
      assert.is_true(#chain.index.indexes > 2)
    end
    index.size = ffi.C.RULE_INDEX_MAX
  end)

  it("is made when there are enough rules, and not for a few", function()
    local function many(n)
      local text = {}
      for i = 1, n do text[i] = ('rule "%d" { match = { dst_port = %d }, set = { activity = 1 } }'):format(i, i) end
      return support.chain(table.concat(text, "\n"))
    end
    assert.equal(8, #many(8).index.units)
    local chain = many(12)
    assert.equal(1, #chain.index.units)
    support.run(chain)
    local counters = require("flowd.counters")
    assert.equal(12, tonumber(counters.get("flowd_rules_indexed").value))
    assert.is_true(tonumber(counters.get("flowd_rules_index_octets").value) > 0)
  end)

  it("holds more rules than fit one, in order", function()
    -- Without a chain: the table of counters is too small for so many rules' hits.
    local n, rules = 2 * ffi.C.RULE_INDEX_MAX + 10, {}
    local hits = ffi.new("struct counter *[?]", n + 1)
    local counter = ffi.new("struct counter")
    for i = 1, n do
      rules[i] = { declaration = { tests = { dst_port = { { i, i } } }, activity = i % 60 + 1 } }
      hits[i] = counter
    end
    rules[n].declaration = { tests = { activity = { any = { 7 }, named = {} } }, application = "seven" }
    local all = index.new(rules, hits)
    assert.equal(3, #all.units)
    local list = {}
    for i = 1, 1000 do list[i] = { dst_port = i * 8 } end
    local batch = support.batch(list)
    all:begin(ffi.cast("struct flow_event *", batch.event), batch.count)
    for i = 0, 999 do
      for _, unit in ipairs(all.units) do api.rule_index_run(unit.index, batch.event[i], unit.from, unit.to) end
    end
    for i, result in ipairs(support.results(batch)) do
      local activity = i * 8 % 60 + 1
      assert.equal(activity, result.activity)
      assert.equal(activity == 7 and "seven" or "", result.application)
    end
  end)

  it("takes sets of any size, and a set for what it is", function()
    local text = { "local large = {} for i = 0, 999 do large[#large + 1] = ('2001:db8:%x::/48'):format(i) end",
      "local set = flowd.prefixes(large)" }
    for i = 1, 20 do
      text[#text + 1] = ('rule "%d" { match = { dst = set, dst_port = %d }, set = { activity = %d } }'):format(i, i, i)
    end
    local chain = support.chain(table.concat(text, "\n"))
    assert.equal(1, #chain.index.units)
    assert.equal(5, support.run(chain, { dst = "2001:db8:3e7::1", dst_port = 5 }).activity)
    assert.equal(0, support.run(chain, { dst = "2001:db8:3e8::1", dst_port = 5 }).activity)
  end)

  it("knows a longer text of an application from a start of it", function()
    local text = {}
    for i = 1, 12 do text[i] = ('rule "%d" { match = { dst_port = %d }, route = "marker" }'):format(i, i) end
    text[13] = 'rule "longest" { match = { application = "' .. ("a"):rep(47) .. '" }, set = { activity = 1 } }'
    text[14] = 'rule "start" { match = { application = "' .. ("a"):rep(46) .. '*" }, set = { experiment = 2 } }'
    local chain = support.chain(table.concat(text, "\n"))
    local function tag(application)
      local result = support.run(chain, { application = application })
      return { result.experiment, result.activity }
    end
    assert.same({ 2, 1 }, tag(("a"):rep(47)))
    assert.same({ 2, 0 }, tag(("a"):rep(46) .. "b"))
    assert.same({ 2, 0 }, tag(("a"):rep(46)))
    assert.same({ 0, 0 }, tag(("a"):rep(45)))
  end)

  it("refuses what is out of range", function()
    local x = ffi.gc(api.rule_index_new(2), api.rule_index_free)
    local C, EINVAL = ffi.C, 22
    assert.equal(-EINVAL, api.rule_index_range(x, 2, C.RULE_PROTOCOL, 6, 6))
    assert.equal(-EINVAL, api.rule_index_range(x, 0, C.RULE_FIELDS, 6, 6))
    assert.equal(-EINVAL, api.rule_index_range(x, 0, C.RULE_DST_PORT, 6, 65536))
    assert.equal(-EINVAL, api.rule_index_range(x, 0, C.RULE_DST_PORT, 7, 6))
    assert.equal(-EINVAL, api.rule_index_range(x, 0, C.RULE_EXPERIMENT, 512, 512))
    assert.equal(-EINVAL, api.rule_index_range(x, 0, C.RULE_SRC, 1, 1))
    assert.equal(-EINVAL, api.rule_index_pair(x, 0, 1, 64))
    assert.equal(-EINVAL, api.rule_index_application(x, 0, ("a"):rep(48), 48, false))
    assert.is_true(api.rule_index_new(0) == nil)
    assert.is_true(api.rule_index_new(C.RULE_INDEX_MAX + 1) == nil)
  end)
end)
