-- SPDX-License-Identifier: Apache-2.0
--- The annotations for editors say what the code has: no name more, none less.
local build = require("scripts.build.annotations")
local declaration = require("flowd.rules.declaration")
local map = require("flowd.map")
local policy = require("flowd.policy")
local read = require("flowd.man_annotations").read
local sandbox = require("flowd.sandbox")
local state = require("flowd.state")
local support = require("spec.support.policy")
local temp = require("spec.support.temp")

local function annotated(file) return read(assert(temp.read("conf/annotations/" .. file))) end

local rules = annotated("rules.lua")

local function set(list)
  local names = {}
  for _, name in ipairs(list) do names[name] = true end
  return names
end

local function keys(t)
  local names = {}
  for name in pairs(t) do names[name] = true end
  return names
end

-- Fields of a class and its methods.
local function members(entries, class)
  local fields, methods = {}, {}
  for _, entry in ipairs(entries) do
    if entry.kind == "class" and entry.name == class then
      for _, field in ipairs(entry.fields) do fields[field.name] = true end
    elseif entry.kind == "function" and entry.class == class then
      methods[entry.name] = true
    end
  end
  return fields, methods
end

local function both(a, b)
  local names = keys(a)
  for name in pairs(b) do names[name] = true end
  return names
end

local environment = policy.new({ directory = ".", owner = 0, read = function() end }).env

describe("the annotations of rules", function()
  it("have every word of a rule file, and no other", function()
    local words, plain = {}, sandbox.new().env
    for name in pairs(environment) do
      if rawget(plain, name) == nil and name ~= "flowd" then words[name] = true end
    end
    for name, value in pairs(environment.flowd) do
      if type(value) == "table" then
        for inner in pairs(value) do words[("flowd.%s.%s"):format(name, inner)] = true end
      else
        words["flowd." .. name] = true
      end
    end
    local told = {}
    for _, entry in ipairs(rules) do
      if entry.kind == "value" or entry.kind == "function" and not entry.class then told[entry.name] = true end
    end
    assert.same(words, told)
    for _, kind in ipairs(map.kinds) do assert.truthy(told["flowd.map." .. kind]) end
  end)

  it("have every field of a flow, and no other", function()
    local text, fields = temp.read("lua/flowd/view.lua"), {}
    for name in text:match("\nlocal fields = (%b{})"):gmatch('{ "([%w_]+)",') do fields[name] = true end
    local told, methods = members(rules, "flowd.Flow")
    assert.same(fields, told)
    assert.same(set({ "tag", "route" }), methods)
    for name in pairs(both(told, methods)) do
      local chain = support.chain(("rule 'r' (function(flow) local x = flow.%s end)"):format(name))
      assert.same({}, support.logged(function() support.run(chain) end), name)
    end
  end)

  it("have all of addresses, sets, maps, counters and tables", function()
    local flowd = environment.flowd
    local fields, methods = members(rules, "flowd.Address")
    local ok, message = pcall(function() return flowd.address("::1").nothing end)
    assert.is_false(ok)
    local names = {}
    for name in message:match("it has ([^)]+)"):gmatch("[%w_]+") do names[name] = true end
    assert.same(names, both(fields, methods))
    local function class_of(object) return debug.getmetatable(object).__index end
    assert.same(keys(class_of(flowd.prefixes({}))), select(2, members(rules, "flowd.PrefixSet")))
    assert.same(keys(class_of(flowd.map.ports({ [1] = "atlas" }))), select(2, members(rules, "flowd.Map")))
    assert.same(keys(class_of(flowd.after(1e6, function() end))), select(2, members(rules, "flowd.Timer")))
    assert.same(keys(state.methods.counter), select(2, members(rules, "flowd.StateCounter")))
    assert.same(keys(state.methods.table), select(2, members(rules, "flowd.StateTable")))
  end)

  it("have every field of a declaration, and no other", function()
    assert.same(set(declaration.match_fields), (members(rules, "flowd.RuleMatch")))
    local text = temp.read("lua/flowd/rules/declaration.lua")
    local function list(name)
      local names = {}
      for field in text:match("\nlocal " .. name .. " = (%b{})"):gmatch("([%w_]+) = true") do names[field] = true end
      return names
    end
    assert.same(list("known"), (members(rules, "flowd.RuleDeclaration")))
    assert.same(list("settable"), (members(rules, "flowd.RuleSet")))
  end)

  it("have examples that compile", function()
    local examples = 0
    for _, entry in ipairs(rules) do
      local example = {}
      for line in ((entry.kind == "prose" and entry.text or "") .. "\n."):gmatch("[^\n]*") do
        if line:find("^    ") or line == "" and #example > 0 then
          example[#example + 1] = line
        elseif #example > 0 then
          assert(loadstring(table.concat(example, "\n")))
          examples, example = examples + 1, {}
        end
      end
    end
    assert.is_true(examples >= 2, examples)
  end)
end)

describe("the annotations of the configuration", function()
  it("are what the schemas say: `make conf` writes them", function()
    assert.equal(build.configuration(), temp.read("conf/annotations/configuration.lua"))
  end)
end)

describe("annotation files", function()
  it("are Lua, and nothing that runs", function()
    for _, name in ipairs({ "rules", "configuration", "plugins" }) do
      local path = ("conf/annotations/%s.lua"):format(name)
      local text = temp.read(path)
      assert.matches("^%-%-%-@meta\n", text)
      assert(loadstring(text, "@" .. path))
    end
  end)

  it("name only classes that there are", function()
    local text = temp.read("conf/annotations/rules.lua") .. temp.read("conf/annotations/plugins.lua")
      .. temp.read("conf/annotations/configuration.lua")
    local known = {}
    for name in text:gmatch("%-%-%-@class ([%w_.]+)") do known[name] = true end
    for name in text:gmatch("%-%-%-@alias ([%w_.]+)") do known[name] = true end
    for line in text:gmatch("[^\n]+") do
      local tag = line:match("^%-%-%-@(%w+)")
      if tag == "field" or tag == "param" or tag == "return" or tag == "type" then
        for name in line:gmatch("flowd%.%u[%w_.]*") do assert.truthy(known[name:gsub("%.$", "")], line) end
      end
    end
  end)
end)
