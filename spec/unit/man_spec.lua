-- SPDX-License-Identifier: Apache-2.0
local cli = require("flowd.cli")
local man = require("flowd.man")
local options = require("flowd.options")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local annotations = assert(temp.read("conf/annotations/rules.lua"))
local pages = { ["flowd-lua.8"] = man.daemon("January 2, 2026"), ["flowd-lua.conf.5"] = man.configuration("January 2, 2026"),
  ["flowd-lua-console.7"] = man.console("January 2, 2026"), ["flowd-lua-rules.7"] = man.rules("January 2, 2026", annotations),
  ["flowd-lua-plugins.7"] = man.plugins("January 2, 2026", assert(temp.read("conf/annotations/plugins.lua"))) }

-- A page as a reader sees it, blanks and emphasis removed.
local function rendered(name)
  local path = temp.write(temp.dir() .. "/" .. name, pages[name])
  return (process.must({ "mandoc", "-Tutf8", path }):gsub(".\b", ""):gsub("%s+", " "))
end

describe("the manual pages", function()
  after_each(cleanup.all)

  it("are clean mdoc", function()
    for name, text in pairs(pages) do
      local path = temp.write(temp.dir() .. "/" .. name, text)
      local result = process.run({ "mandoc", "-Tlint", path })
      -- They refer to each other before they are installed.
      for line in result.stdout:gmatch("[^\n]+") do
        assert.truthy(line:find("referenced manual not found: Xr flowd%-lua"), line)
      end
    end
  end)

  it("write options so that they can be copied: with the minus sign", function()
    assert.truthy(pages["flowd-lua.8"]:find("unless \\-\\-conf names another", 1, true))
  end)

  it("show every command with its arguments and options", function()
    local page = rendered("flowd-lua.8")
    for _, name in ipairs(cli.commands) do
      local command = cli.command(name)
      assert.truthy(page:find(" " .. name .. " ", 1, true), name)
      for _, option in ipairs(command.options or {}) do assert.truthy(page:find(option.name, 1, true), option.name) end
      for _, argument in ipairs(command.arguments or {}) do assert.truthy(page:find(argument.name, 1, true)) end
    end
    for _, option in ipairs(cli.options) do assert.truthy(page:find(option.name, 1, true), option.name) end
  end)

  it("show everything that rules can use: what is annotated", function()
    local page = rendered("flowd-lua-rules.7")
    for _, entry in ipairs(require("flowd.man_annotations").read(annotations)) do
      if entry.kind == "function" then
        assert.truthy(page:find(entry.call, 1, true), entry.call)
        -- The first words are enough; a line break may have split a longer word.
        assert.truthy(page:find(entry.call .. " " .. entry.text:gsub("%s+", " "):sub(1, 20), 1, true), entry.call)
      elseif entry.kind == "value" then
        assert.truthy(page:find(" " .. entry.name .. " " .. entry.text:sub(1, 20), 1, true), entry.name)
      end
      for _, field in ipairs(entry.fields or {}) do
        assert.truthy(page:find(" " .. field.name .. " " .. field.text:sub(1, 1):upper() .. field.text:sub(2, 15), 1, true),
          entry.name .. "." .. field.name .. ": " .. field.text)
      end
    end
  end)

  it("show every option with what it is for", function()
    local page = rendered("flowd-lua.conf.5")
    local function each(fields)
      for name, field in pairs(fields) do
        -- The first words are enough; a line break may have split a longer word.
        local doc = field.doc:gsub("%s+", " "):sub(1, 30)
        assert.truthy(page:find(" " .. name .. " " .. doc, 1, true), name .. ": " .. doc)
        if field.kind == "table" then each(field.fields) end
      end
    end
    each(options.global)
    each(options.instance)
    for _, kind in ipairs({ "plugins", "backends" }) do
      for _, name in ipairs(plugins.builtin(kind)) do
        local module = assert(plugins.find(kind, name))
        each(schema.as_field(module.schema).fields)
      end
    end
  end)
end)
