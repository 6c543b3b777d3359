-- SPDX-License-Identifier: Apache-2.0
--- Rules as they come from a configuration and its rule files.
local cleanup = require("spec.support.cleanup")
local config = require("flowd.config")
local temp = require("spec.support.temp")

describe("rules of a configuration", function()
  after_each(cleanup.all)

  -- Write conf.lua and rule files (name -> text) into a directory; load it.
  local function load(conf, files)
    local directory = temp.dir()
    assert(os.execute("mkdir " .. directory .. "/rules.d") == 0)
    for name, text in pairs(files or {}) do temp.write(directory .. "/" .. name, text) end
    local loaded, errors = config.load(temp.write(directory .. "/conf.lua", conf))
    for i, message in ipairs(errors or {}) do errors[i] = message:gsub(directory:gsub("%p", "%%%0") .. "/", "") end
    return loaded, errors
  end

  local function names(loaded)
    local list = {}
    for i, rule in ipairs(loaded.rules) do list[i] = rule.name end
    return table.concat(list, " ")
  end

  it("stand in the order of the list, those of files in their place, files in the order of their names", function()
    local loaded, errors = load([[return {
      backends = { firefly = {} },
      rules = {
        rule "first" { drop = true },
        "rules.d/*.lua",
        rule "last" (function(flow) return accept end),
        "one.lua",
      },
    }]], {
      ["rules.d/20.lua"] = 'rule "c" { drop = true }',
      ["rules.d/10.lua"] = 'rule "a" { drop = true }\nrule "b" { drop = true }',
      ["one.lua"] = 'local x = rule "x" { drop = true }\nreturn { rule "y" { drop = true }, x }',
    })
    assert.same(nil, errors)
    assert.equal("first a b c last y x", names(loaded))
  end)

  it("share no globals and see the words of policy", function()
    local _, errors = load('return { rules = { "a.lua", "b.lua" } }', {
      ["a.lua"] = "local site = flowd.prefixes{ '10.0.0.0/8' }\nrule 'a' (function(flow) return flow.src:within(site) and drop end)",
      ["b.lua"] = "return site",
    })
    assert.same({ "b.lua:1: site is not defined" }, errors)
  end)

  it("are checked when the configuration is: every error of every file", function()
    local _, errors = load([[
local servers = flowd.map.prefixes{ ["10.0.0.0/8"] = "atlsa" }
local lost = rule "lost" { drop = true }
return {
  plugins = { pipe = {} },
  backends = { firefly = {} },
  rules = {
    "rules.d/*.lua",
    rule "bad" { match = { plugin = "pip" }, route = "marker" },
    rule "fn" (function(flow) flow.experiment = 2 end),
  },
}]], {
      ["rules.d/a.lua"] = 'rule "a" { match = { dst_port = 70000 }, drop = true }\nrule "fn" { drop = true }',
      ["rules.d/b.lua"] = 'rule "lost too" { drop = true }\nreturn {}',
      ["rules.d/c.lua"] = "rule 'c'",
    })
    table.sort(errors)
    assert.same({
      'conf.lua:1: map.prefixes: ["10.0.0.0/8"]: unknown experiment "atlsa" — did you mean "atlas"?',
      'conf.lua:2: rule "lost" is not in the list of rules: it would never run',
      'conf.lua:8: rule "bad": match.plugin: no plugin "pip" is configured (there is pipe) — did you mean "pipe"?',
      'conf.lua:8: rule "bad": route: no backend "marker" is configured (there is firefly)',
      'conf.lua:9: rule "fn": the name is taken by the rule at rules.d/a.lua:2',
      'rules.d/a.lua:1: rule "a": match.dst_port: expected a port from 1 to 65535 or a range such as "20000-25000"; got 70000',
      'rules.d/b.lua:1: rule "lost too" is not in the list of rules: it would never run',
      "rules.d/c.lua:1: rule \"c\" has no body: expected (function(flow) … end) or {…} behind the name",
    }, errors)
  end)
end)
