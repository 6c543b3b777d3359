-- SPDX-License-Identifier: Apache-2.0
local registry = require("flowd.registry")
local schema = require("flowd.schema")

local names = registry.load_embedded()

-- The completed value; fails when there are errors.
local function accept(field, value)
  local completed, errors = schema.validate({ x = field }, { x = value }, { registry = names })
  assert.same({}, errors)
  return completed.x
end

-- The one error's message.
local function refuse(field, value)
  local _, errors = schema.validate({ x = field }, { x = value }, { registry = names })
  assert.equal(1, #errors, "errors for " .. tostring(value))
  assert.truthy(errors[1].path:find("^x"), errors[1].path)
  return errors[1].message
end

describe("schema", function()
  it("completes what is not given with the defaults, deeply", function()
    local fields = {
      a = schema.integer({ default = 3 }),
      b = schema.table({ fields = { c = schema.list({ of = schema.string(), default = { "x" } }) } }),
      d = schema.string({}),
      e = schema.table({ optional = true, fields = { f = schema.integer({ default = 1 }) } }),
    }
    local completed, errors = schema.validate(fields, {})
    assert.same({}, errors)
    assert.same({ a = 3, b = { c = { "x" } } }, completed)
    -- A default is not shared between two configurations.
    completed.b.c[1] = "changed"
    assert.same({ "x" }, schema.validate(fields, {}).b.c)
  end)

  it("gives the same result for its own result", function()
    local fields = {
      wait = schema.seconds({ default = "5m" }), mode = schema.mode({ default = "660" }),
      experiment = schema.experiment({ default = "atlas" }), activity = schema.activity({ default = "data_challenge" }),
    }
    local once = schema.validate(fields, {}, { registry = names })
    assert.same({ wait = 300, mode = "0660", experiment = 2, activity = 26 }, once)
    local twice, errors = schema.validate(fields, once, { registry = names })
    assert.same({}, errors)
    assert.same(once, twice)
  end)

  it("keeps the order in which fields are written", function()
    local order = {}
    for _, entry in ipairs(schema.ordered({ z = schema.string(), a = schema.string(), m = schema.string() })) do
      order[#order + 1] = entry.name
    end
    assert.same({ "z", "a", "m" }, order)
  end)

  it("tells every error with its path", function()
    local fields = {
      backends = schema.table({ fields = { marker = schema.table({ fields = {
        strategy = schema.one_of({ "label", "hopbyhop" }),
        interfaces = schema.list({ of = schema.string() }),
      } }) } }),
      ["odd-name"] = schema.integer(),
    }
    local _, errors = schema.validate(fields, {
      backends = { marker = { strategy = "lable", interfaces = { "lo", 5 } } }, ["odd-name"] = "x", extra = 1,
    })
    local text = {}
    for i, e in ipairs(errors) do text[i] = e.path .. ": " .. e.message end
    table.sort(text)
    assert.same({
      '["odd-name"]: expected an integer; got "x"',
      "backends.marker.interfaces[2]: expected a string; got 5",
      'backends.marker.strategy: expected one of label, hopbyhop; got "lable" — did you mean "label"?',
      "extra: unknown option; known are backends, odd-name",
    }, text)
  end)

  it("refuses unknown options and names the nearest", function()
    local fields = { strategy = schema.string(), interfaces = schema.string() }
    local _, errors = schema.validate(fields, { strategie = "x", [1] = "y" })
    assert.equal('unknown option — did you mean "strategy"?', errors[2].message)
    assert.equal('expected named options; got "y" without a name', errors[1].message)
    assert.equal("[1]", errors[1].path)
  end)

  it("demands what is required", function()
    local _, errors = schema.validate({ a = schema.port({ required = true }) }, {})
    assert.equal("this option is required: expected a port from 1 to 65535", errors[1].message)
    assert.is_true(errors[1].missing)
  end)

  it("asks a field's own check", function()
    local even = schema.integer({ check = function(v) return v % 2 == 1 and "expected an even number" or nil end })
    assert.equal(4, accept(even, 4))
    assert.equal("expected an even number", refuse(even, 5))
  end)

  it("checks strings", function()
    assert.equal("", accept(schema.string(), ""))
    assert.equal("expected a string; got 5", refuse(schema.string(), 5))
    assert.equal("expected a string; got a table", refuse(schema.string(), {}))
    assert.equal("expected a string that is not empty; got \"\"", refuse(schema.string({ empty = false }), ""))
    assert.equal('expected a string that matches ^%d+$; got "x"', refuse(schema.string({ pattern = "^%d+$" }), "x"))
    assert.equal("expected digits; got \"x\"", refuse(schema.string({ pattern = "^%d+$", expects = "digits" }), "x"))
    assert.equal('expected one of left, right; got "letf" — did you mean "left"?',
      refuse(schema.string({ one_of = { "left", "right" } }), "letf"))
    assert.equal("expected at most 3 characters; got 4", refuse(schema.string({ max_length = 3 }), "abcd"))
  end)

  it("shows foreign text harmlessly and shortened", function()
    assert.equal('expected an integer; got "a\\x0Ab\\"\\\\"', refuse(schema.integer(), 'a\nb"\\'))
    assert.equal(('expected an integer; got "%s..."'):format(("x"):rep(57)), refuse(schema.integer(), ("x"):rep(100)))
  end)

  it("checks numbers", function()
    assert.equal(1.5, accept(schema.number(), 1.5))
    assert.equal(7, accept(schema.integer({ min = 1, max = 7 }), 7))
    assert.equal("expected an integer from 1 to 7; got 8", refuse(schema.integer({ min = 1, max = 7 }), 8))
    assert.equal("expected an integer from 1 to 7; got 1.5", refuse(schema.integer({ min = 1, max = 7 }), 1.5))
    assert.equal("expected an integer, 1 octets or more; got 0", refuse(schema.integer({ min = 1, unit = "octets" }), 0))
    assert.equal("expected a number, at most 2; got 3", refuse(schema.number({ max = 2 }), 3))
    assert.truthy(refuse(schema.number(), 0 / 0):find("^expected a number; got %-?nan$"))
    assert.equal("expected an integer; got inf", refuse(schema.integer(), math.huge))
    assert.equal('expected an integer; got "5"', refuse(schema.integer(), "5"))
  end)

  it("checks booleans", function()
    assert.is_false(accept(schema.boolean(), false))
    assert.equal("expected true or false; got \"yes\"", refuse(schema.boolean(), "yes"))
  end)

  it("tells a default that is wrong from an option that is", function()
    local fields = { port = schema.port({ default = 0 }), other = schema.port({ default = 1 }),
      t = schema.table({ fields = { name = schema.one_of({ "a", "b" }) }, default = { name = "c" } }),
      u = schema.table({ fields = { x = schema.integer({ default = 1.5 }), y = schema.integer() } }) }
    local function messages(value)
      local list = {}
      for _, e in ipairs(select(2, schema.validate(fields, value))) do list[#list + 1] = e.path .. ": " .. e.message end
      table.sort(list)
      return list
    end
    assert.same({
      "other: expected a port from 1 to 65535; got 0",
      "port: not given, and its default in the schema is wrong: expected a port from 1 to 65535; got 0",
      't.name: not given, and its default in the schema is wrong: expected one of a, b; got "c"',
      "u.x: not given, and its default in the schema is wrong: expected an integer; got 1.5",
      "u.y: expected an integer; got true",
    }, messages({ other = 0, u = { y = true } }))
    assert.same({ "port: expected a port from 1 to 65535; got 0" }, messages({ port = 0, t = { name = "a" }, u = { x = 1 } }))
  end)

  it("keeps a false that differs from the default", function()
    assert.is_false(accept(schema.boolean({ default = true }), false))
  end)

  it("checks ports", function()
    assert.equal(65535, accept(schema.port(), 65535))
    for _, bad in ipairs({ 0, 65536, 1.5, "80" }) do
      assert.truthy(refuse(schema.port(), bad):find("^expected a port from 1 to 65535; got "))
    end
  end)

  it("checks file modes", function()
    assert.equal("0660", accept(schema.mode(), "0660"))
    assert.equal("0660", accept(schema.mode(), "660"))
    for _, bad in ipairs({ 660, "0668", "66", "10660", "rw" }) do
      assert.truthy(refuse(schema.mode(), bad):find('^expected a file mode in octal, such as "0660"; got '))
    end
  end)

  it("checks durations", function()
    local all = { [5] = 5, [0.5] = 0.5, ["5"] = 5, ["5s"] = 5, ["500ms"] = 0.5, ["5m"] = 300, ["1.5h"] = 5400, ["2 d"] = 172800 }
    for written, seconds in pairs(all) do assert.equal(seconds, accept(schema.seconds(), written)) end
    for _, bad in ipairs({ -1, "5x", "m", "", "5m5", 0 / 0, {} }) do
      assert.truthy(refuse(schema.seconds(), bad):find("^expected seconds, 0 or more %("))
    end
    assert.truthy(refuse(schema.seconds({ min = 1, max = 10 }), "1m"):find('from 1 to 10 .*; got "1m"'))
  end)

  it("checks addresses", function()
    assert.equal("192.0.2.1", accept(schema.address(), "192.0.2.1"))
    assert.equal("2001:db8::1", accept(schema.address({ family = 6 }), "2001:db8::1"))
    assert.equal('expected an IPv6 address; got "192.0.2.1"', refuse(schema.address({ family = 6 }), "192.0.2.1"))
    assert.equal('expected an IPv4 or IPv6 address; got "::g"', refuse(schema.address(), "::g"))
    assert.equal("expected an IPv4 address; got 1", refuse(schema.address({ family = 4 }), 1))
  end)

  it("checks host names", function()
    for _, good in ipairs({ "localhost", "a.example.org", "a.example.org.", "_x.a-b", "192.0.2.1", "::1" }) do
      assert.equal(good, accept(schema.host(), good))
    end
    for _, bad in ipairs({ "", ".", "a..b", "-a", "a-", "a b", "192.0.2", "host:1", ("a"):rep(64), 5 }) do
      assert.truthy(refuse(schema.host(), bad):find("^expected a host name or an address; got "), bad)
    end
  end)

  it("checks paths", function()
    assert.equal("a/b", accept(schema.path(), "a/b"))
    assert.equal("", accept(schema.path({ default = "" }), ""))
    assert.equal('expected a path; got ""', refuse(schema.path({ default = "/x" }), ""))
    assert.equal('expected a path, or "" for none; got 1', refuse(schema.path({ default = "" }), 1))
    assert.equal('expected an absolute path; got "a"', refuse(schema.path({ absolute = true }), "a"))
    assert.equal('expected a path; got "a\\x00b"', refuse(schema.path(), "a\0b"))
  end)

  it("turns names of experiments and activities into ids", function()
    assert.equal(2, accept(schema.experiment(), "ATLAS"))
    assert.equal(511, accept(schema.experiment(), 511))
    assert.equal('unknown experiment "atlsa" — did you mean "atlas"?', refuse(schema.experiment(), "atlsa"))
    assert.equal("expected an experiment: an id from 1 to 511 or a name of the registry; got 512",
      refuse(schema.experiment(), 512))
    assert.equal("expected an activity: an id from 1 to 63 or a name of the registry; got 64",
      refuse(schema.activity(), 64))
    assert.equal('the activity "Debug" needs an experiment beside it, or give its id', refuse(schema.activity(), "Debug"))
    local pair = { experiment = schema.experiment(), activity = schema.activity() }
    assert.same({ experiment = 3, activity = 4 },
      schema.validate(pair, { experiment = "cms", activity = "Data Challenge" }, { registry = names }))
    local _, errors = schema.validate(pair, { experiment = "cms", activity = "cache_" }, { registry = names })
    assert.equal('unknown activity of cms "cache_" — did you mean "Cache"?', errors[1].message)
  end)

  it("checks choices", function()
    local field = schema.one_of({ "auto", 5, true })
    assert.equal(5, accept(field, 5))
    assert.is_true(accept(field, true))
    assert.equal('expected one of auto, 5, true; got "outo" — did you mean "auto"?', refuse(field, "outo"))
  end)

  it("takes the first alternative that fits", function()
    local field = schema.any_of({
      schema.host(), schema.table({ fields = { host = schema.host({ required = true }), port = schema.port({ default = 9 }) } }),
    })
    assert.equal("a.b", accept(field, "a.b"))
    assert.same({ host = "a.b", port = 9 }, accept(field, { host = "a.b" }))
    assert.equal("expected a host name or an address, or a table of options; got 5", refuse(field, 5))
    -- The alternative that was meant says what is wrong.
    local _, errors = schema.validate({ x = field }, { x = { host = "a", port = 0 } })
    assert.equal("x.port", errors[1].path)
    assert.equal("expected a port from 1 to 65535; got 0", errors[1].message)
  end)

  it("checks lists", function()
    local field = schema.list({ of = schema.integer(), min = 1, max = 3 })
    assert.same({ 1, 2 }, accept(field, { 1, 2 }))
    assert.truthy(refuse(field, {}):find("got 0$"))
    assert.truthy(refuse(field, { 1, 2, 3, 4 }):find("from 1 to 3; got 4$"))
    assert.equal("expected a list without gaps; position 2 of 3 is nil", refuse(field, { 1, nil, 3 }))
    assert.equal('expected a list; got the name "a" in it', refuse(field, { a = 1 }))
    assert.equal("expected a list, each an integer; 1 or more; got 5", refuse(field, 5))
    assert.truthy(refuse(field, setmetatable({ 1 }, {})):find("^expected a list"))
  end)

  it("checks maps", function()
    local field = schema.map({ keys = schema.address(), of = schema.port() })
    assert.same({ ["::1"] = 1 }, accept(field, { ["::1"] = 1 }))
    assert.equal('expected an IPv4 or IPv6 address; got "x"', refuse(field, { x = 1 }))
    assert.equal("expected a port from 1 to 65535; got 0", refuse(field, { ["::1"] = 0 }))
  end)

  it("checks rules", function()
    assert.same({ "a.lua" }, accept(schema.rules(), { "a.lua" }))
    assert.truthy(refuse(schema.rules(), { 5 }):find('^expected a rule .* got 5$'))
    assert.truthy(refuse(schema.rules(), { "a.lua", x = 1 }):find('got the name "x"'))
    assert.truthy(refuse(schema.rules(), "a.lua"):find('^expected a list of rules'))
  end)
end)
