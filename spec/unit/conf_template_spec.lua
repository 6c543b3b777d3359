-- SPDX-License-Identifier: Apache-2.0
local config = require("flowd.config")
local conf_template = require("flowd.conf_template")
local options = require("flowd.options")
local schema = require("flowd.schema")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local daemon = require("spec.support.daemon")
local temp = require("spec.support.temp")

describe("conf/flowd.lua", function()
  after_each(cleanup.all)

  it("is what the schemas say: `make conf` writes it", function()
    assert.is_true(conf_template.text() == temp.read("conf/flowd.lua"),
      "conf/flowd.lua is not what the schemas say: run `make conf` and commit it")
  end)

  it("is what `flowd-lua conf --template` prints, without a configuration", function()
    assert.equal(conf_template.text(),
      process.must({ daemon.binary(), "conf", "--template", "--conf", "/none" }))
  end)

  it("shows each option once, with its default, and nothing else", function()
    local loaded, errors = config.load("conf/flowd.lua")
    assert.same(nil, errors)
    local defaults = config.load(temp.write(temp.dir() .. "/conf.lua", "return {}"))
    for name, field in pairs(options.global) do
      if name ~= "plugins" and name ~= "backends" then
        assert.same(defaults.values[name], loaded.values[name], name)
      end
      assert.truthy(field)
    end
    for _, kind in ipairs({ "plugins", "backends" }) do
      for name, module in pairs(loaded.modules[kind]) do
        local expected, problems = schema.validate(options.of_module(module), {})
        assert.same({}, problems)
        assert.same(expected, loaded.values[kind][name])
      end
    end
  end)
end)
