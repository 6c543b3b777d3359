-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local config = require("flowd.config")
local config_print = require("flowd.config_print")
local options = require("flowd.options")
local plugins = require("flowd.plugins")
local schema = require("flowd.schema")
local cleanup = require("spec.support.cleanup")
local temp = require("spec.support.temp")

ffi.cdef("int chmod(const char *, unsigned int); int mkdir(const char *, unsigned int);")

-- A plugin and a backend of a site's own, in <dir>/plugins and <dir>/backends.
local PLUGIN = [[
local schema = require("flowd.schema")
return { name = "tail", doc = "Follows a file.", start = function() end, schema = {
  files = schema.list{ of = schema.path{}, default = { "/var/log/x" }, doc = "Files." },
  strategy = schema.one_of{ "label", "hopbyhop", default = "label", doc = "How." },
  wait = schema.seconds{ default = "5m", doc = "How long." },
  experiment = schema.experiment{ doc = "Which." }, activity = schema.activity{ doc = "Which." },
} }]]
local BACKEND = [[
local schema = require("flowd.schema")
return { name = "sink", doc = "Takes all.", start = function() end, on_events = function() end,
  schema = { port = schema.port{ required = true, doc = "Port." } } }]]

local dir

local function write(name, text) return temp.write(dir .. "/" .. name, text) end

-- Load a configuration that finds the plugins above.
local function load(text, overrides)
  return config.load(write("conf.lua", (text:gsub("DIRS", "plugin_dirs = { 'plugins' }, backend_dirs = { 'backends' }"))), overrides)
end

local function accept(text, overrides)
  local loaded, errors = load(text, overrides)
  assert.same(nil, errors)
  return loaded
end

-- The errors, without the directory.
local function refuse(text)
  local loaded, errors = load(text)
  assert.is_nil(loaded)
  for i, e in ipairs(errors) do errors[i] = e:gsub(dir:gsub("%p", "%%%0") .. "/", "") end
  return errors
end

before_each(function()
  dir = temp.dir()
  ffi.C.mkdir(dir .. "/plugins", tonumber("755", 8))
  ffi.C.mkdir(dir .. "/backends", tonumber("755", 8))
  ffi.C.mkdir(dir .. "/rules.d", tonumber("755", 8))
  write("plugins/tail.lua", PLUGIN)
  write("backends/sink.lua", BACKEND)
end)
after_each(cleanup.all)

describe("a configuration", function()
  it("that says nothing has all defaults", function()
    local loaded = accept("return {}")
    assert.equal("/run/flowd-lua", loaded.values.runtime_dir)
    assert.equal(1000000, loaded.values.max_flows)
    assert.same({ level = "info", time = false }, loaded.values.log)
    assert.same({}, loaded.values.plugins)
    assert.same({}, loaded.rules)
    assert.equal(2, loaded.registry:experiment_id("atlas"))
    assert.same({ dir .. "/conf.lua" }, loaded.files)
  end)

  it("switches on the plugins and backends that it names, with their defaults", function()
    local loaded = accept('return { DIRS, plugins = { tail = { strategy = "hopbyhop" } }, backends = { sink = { port = 5 } } }')
    assert.same({ tail = { files = { "/var/log/x" }, strategy = "hopbyhop", wait = 300, required = false } },
      loaded.values.plugins)
    assert.same({ sink = { port = 5, required = false } }, loaded.values.backends)
    assert.equal("Follows a file.", loaded.modules.plugins.tail.doc)
  end)

  it("runs one plugin several times under names of its own", function()
    local loaded = accept('return { DIRS, plugins = { tail = {}, ["tail.two"] = { use = "tail", wait = 1 } } }')
    assert.equal(300, loaded.values.plugins.tail.wait)
    assert.equal(1, loaded.values.plugins["tail.two"].wait)
    assert.equal("tail", loaded.modules.plugins["tail.two"].name)
  end)

  it("names experiments and activities of its registry", function()
    write("api.json", [[{"version": 1, "experiments": [{"expName": "mine", "expId": 77, "activities":
      [{"activityName": "Test Run", "activityId": 9}]}]}]])
    local loaded = accept([[return { DIRS, registry = { file = "api.json" },
      plugins = { tail = { experiment = "Mine", activity = "test_run" } } }]])
    assert.equal(77, loaded.values.plugins.tail.experiment)
    assert.equal(9, loaded.values.plugins.tail.activity)
  end)

  it("is overridden by the command line", function()
    local loaded = accept('return { log = { level = "warn" } }', { log_level = "trace", log_time = true })
    assert.same({ level = "trace", time = true }, loaded.values.log)
  end)

  it("may compute", function()
    assert.equal(6, accept("local n = 0\nfor i = 1, 3 do n = n + i end\nreturn { max_flows = n }").values.max_flows)
    assert.equal(5, accept("#!/usr/bin/env x\nreturn { max_flows = 5 }").values.max_flows)
  end)
end)

describe("a wrong configuration", function()
  it("is told completely, with lines, paths and suggestions", function()
    assert.same({
      'conf.lua:2: max_flow: unknown option — did you mean "max_flows"?',
      "conf.lua:3: stop_deadline: expected seconds from 0 to 3600 (a number, or \"500ms\", \"30s\", \"5m\", \"1h\", \"1d\"); "
        .. 'got "soon"',
      'conf.lua:6: plugins.tail.strategy: expected one of label, hopbyhop; got "lable" — did you mean "label"?',
      "conf.lua:8: plugins.tail.files[2]: expected a path; got 5",
      'conf.lua:11: plugins.tial: there is no plugin "tial" — did you mean "tail"?',
      "conf.lua:13: backends.sink.port: this option is required: expected a port from 1 to 65535",
    }, refuse([[
return { DIRS,
  max_flow = 5,
  stop_deadline = "soon",
  plugins = {
    tail = {
      strategy = "lable",
      files = { "a",
        5,
      },
    },
    tial = {},
  },
  backends = { sink = {} },
}]]))
  end)

  it("is no Lua", function()
    assert.same({ "conf.lua:2: unexpected symbol near ','" }, refuse("return {\n a = , }"))
  end)

  it("raises", function()
    assert.same({ "conf.lua:2: no interface" }, refuse("local x\nerror('no interface')"))
    assert.truthy(refuse("error({})")[1]:find("^conf.lua: "))
    assert.truthy(refuse("return { a = nothing.b }")[1]:find("^conf.lua:1: nothing is not defined"))
  end)

  it("returns no table", function()
    assert.same({ "conf.lua: expected the file to return a table of options; it returned nothing" }, refuse("local x = 1"))
    assert.same({ "conf.lua: expected the file to return a table of options; it returned a string" }, refuse("return 'x'"))
  end)

  it("is bytecode", function()
    assert.truthy(refuse("\27LJ\2\10\0\12\2\0\1\0\0\0\1K\0\1\0\0")[1]:find("^conf.lua: "))
  end)

  it("reaches outside", function()
    for _, code in ipairs({ "io.open('x')", "os.execute('x')", "loadstring('x')", "debug.getinfo(1)",
      "package.path = 'x'", "jit.off()", "getfenv(1)", "setfenv(1, {})", "dofile('x')", "os.getenv('x')" }) do
      local errors = refuse("local x = " .. code:gsub(" = ", " == ") .. "\nreturn {}")
      assert.equal(1, #errors)
      assert.truthy(errors[1]:find("^conf.lua:1: [%w_.]+ is not "), errors[1])
    end
    assert.matches('conf.lua:1: require "ffi": there is no file', refuse("require('ffi')")[1], 1, true)
    assert.truthy(refuse("x = 1")[1]:find("^conf.lua:1: x is not declared"))
  end)

  it("is not there", function()
    local loaded, errors = config.load(dir .. "/none.lua")
    assert.is_nil(loaded)
    assert.same({ dir .. "/none.lua: there is no such file; --conf FILE names another" }, errors)
  end)

  it("is no file", function()
    local _, errors = config.load(dir)
    assert.same({ dir .. ": not a regular file" }, errors)
  end)

  it("can be written by others", function()
    local path = write("conf.lua", "return {}")
    ffi.C.chmod(path, tonumber("666", 8))
    local _, errors = config.load(path)
    assert.same({ ("%s: not trusted: %s can be written by everybody (mode 0666): chmod go-w %s"):format(path, path, path) },
      errors)
  end)

  it("switches a plugin on in the wrong way", function()
    assert.same({ "conf.lua:1: plugins.tail: expected a table of options ({} for all defaults); got true" },
      refuse("return { DIRS, plugins = { tail = true } }"))
    assert.same({ "conf.lua:1: plugins[1]: expected the name of a plugin; got 1" },
      refuse('return { DIRS, plugins = { { use = "tail" } } }'))
    assert.same({ 'conf.lua:1: plugins.x.use: there is no plugin "sink"' },
      { (refuse('return { DIRS, plugins = { x = { use = "sink" } } }')[1]:gsub("; known are.*", "")) })
    assert.same({ "conf.lua:1: plugins.x.use: expected the name of a plugin; got 5" },
      refuse("return { DIRS, plugins = { x = { use = 5 } } }"))
  end)

  it("names a plugin that is broken", function()
    write("plugins/syntax.lua", "return {")
    write("plugins/raises.lua", "error('oh')")
    write("plugins/shape.lua", "return { doc = 'x', schema = {} }")
    local errors = refuse("return { DIRS, plugins = {\nsyntax = {},\nraises = {},\nshape = {} } }")
    assert.truthy(errors[1]:find("^conf.lua:2: plugins.syntax: plugins/syntax.lua:1: unexpected symbol"))
    assert.truthy(errors[2]:find("^conf.lua:3: plugins.raises: plugins/raises.lua:1: oh"))
    assert.truthy(errors[3]:find("^conf.lua:4: plugins.shape: plugin 'shape' %(plugins/shape.lua%): expected start to be"))
    assert.equal(3, #errors)
  end)

  it("names a plugin that others can write", function()
    ffi.C.chmod(dir .. "/plugins", tonumber("777", 8))
    local errors = refuse("return { DIRS, plugins = { tail = {} } }")
    assert.equal(1, #errors)
    assert.truthy(errors[1]:find("^conf.lua:1: plugins.tail: plugins/tail.lua: not trusted: .*plugins can be written by everybody"))
  end)

  it("has too many backends", function()
    local sinks = {}
    for i = 1, 32 do sinks[i] = ("s%d = { use = 'sink', port = 1 }"):format(i) end
    assert.same({ "conf.lua:1: backends: expected at most 31; got 32" },
      refuse("return { DIRS, backends = { " .. table.concat(sinks, ", ") .. " } }"))
  end)

  it("has a registry that is wrong", function()
    assert.same({ "conf.lua:2: registry.file: none.json: No such file or directory" },
      refuse("return { registry = {\nfile = 'none.json' } }"))
    write("api.json", '{"version": 1,')
    assert.truthy(refuse("return { registry = { file = 'api.json' } }")[1]:find(
      "^conf.lua:1: registry.file: api.json:1:14: not JSON: "))
  end)

  it("names experiments that there are not", function()
    assert.same({
      'conf.lua:2: plugins.tail.experiment: unknown experiment "atals" — did you mean "atlas"?',
    }, refuse("return { DIRS, plugins = { tail = {\nexperiment = 'atals' } } }"))
  end)
end)

describe("rules in a configuration", function()
  local function names(loaded)
    local list = {}
    for i, rule in ipairs(loaded.rules) do list[i] = rule.name end
    return table.concat(list, " ")
  end

  it("come from the file itself and from files, in order", function()
    write("rules.d/20.lua", 'return { rule "c" (function() end) }')
    write("rules.d/10.lua", 'return rule "b" (function() end)')
    write("rules.d/note.txt", "no Lua")
    write("statements.lua", 'rule "s" { set = { activity = 2 } }\nrule "t" (function() end)')
    write("more.lua", 'return { rule "e" (function() end), rule "f" { set = { experiment = "atlas" } } }')
    local loaded = accept([[return { rules = {
      rule "a" (function(flow) return accept end), "rules.d/*.lua", rule "d" { set = { activity = 1 } }, "more.lua",
      "statements.lua" } }]])
    assert.equal("a b c d e f s t", names(loaded))
    assert.same({ dir .. "/conf.lua", dir .. "/rules.d/10.lua", dir .. "/rules.d/20.lua", dir .. "/more.lua",
      dir .. "/statements.lua" }, loaded.files)
  end)

  it("may be no rules at all where a pattern matches nothing", function()
    assert.equal("", names(accept('return { rules = { "rules.d/*.lua", "none/*.lua" } }')))
  end)

  it("are refused when they are none", function()
    local errors = refuse('return { rules = {\n5,\n{},\nrule "x" (function() end),\nprint } }')
    assert.truthy(errors[1]:find("^conf.lua:2: rules%[1%]: expected a rule"))
    assert.truthy(errors[2]:find('^conf.lua:3: rules%[2%]: expected rule "name"'))
    assert.truthy(errors[3]:find("^conf.lua:5: rules%[4%]: expected a rule"))
    assert.equal(3, #errors)
  end)

  it("of a file that is missing, wrong or writable by others are refused", function()
    assert.same({ "conf.lua:1: rules[1]: none.lua: No such file or directory" }, refuse('return { rules = { "none.lua" } }'))
    write("r.lua", "return {\n rule 'x' }}")
    assert.truthy(refuse('return { rules = { "r.lua" } }')[1]:find("^r.lua:2: "))
    write("r.lua", "local x = undefined_thing")
    assert.truthy(refuse('return { rules = { "r.lua" } }')[1]:find("^r.lua:1: undefined_thing is not defined"))
    write("r.lua", "return 5")
    assert.same({ "r.lua: expected the file to return nothing or a list of rules; it returned a number" },
      refuse('return { rules = { "r.lua" } }'))
    write("r.lua", "return { 5 }")
    assert.same({ 'r.lua: expected a list of rules; entry 1 is a number, not made by rule "name" …' },
      refuse('return { rules = { "r.lua" } }'))
    ffi.C.chmod(write("r.lua", "return {}"), tonumber("646", 8))
    assert.truthy(refuse('return { rules = { "r.lua" } }')[1]:find("^conf.lua:1: rules%[1%]: r.lua: not trusted: "))
  end)
end)

describe("rules that are wrong", function()
  it("are told where they are written", function()
    write("r.lua", '\nreturn { rule "tag" { set = { experiment = "atals" } } }')
    assert.same({
      'r.lua:2: rule "tag": set.experiment: unknown experiment "atals" — did you mean "atlas"?',
      'conf.lua:3: rule "tag": the name is taken by the rule at r.lua:2',
    }, refuse('return { rules = { "r.lua",\n\nrule "tag" (function() end) } }'))
  end)

  it("stand in no list", function()
    assert.same({ 'conf.lua:2: rule "lost" is not in the list of rules: it would never run' },
      refuse('local kept = rule "kept" (function() end)\nrule "lost" (function() end)\nreturn { rules = { kept } }'))
    write("r.lua", 'rule "lost" (function() end)\nreturn {}')
    assert.same({ 'r.lua:1: rule "lost" is not in the list of rules: it would never run' },
      refuse('return { rules = { "r.lua" } }'))
  end)

  it("are told with the whole path of their file, however long it is", function()
    local name = ("long"):rep(30) .. ".lua"
    write(name, 'rule "tag" { set = { experiment = "atals" } }')
    local shown = refuse(('return { rules = { "%s" } }'):format(name))[1]
    assert.equal(name .. ":1:", shown:sub(1, #name + 3))
    write(name, 'local m = flowd.map.ports { [80] = "atals" }')
    shown = refuse(('return { rules = { "%s" } }'):format(name))[1]
    assert.equal(name .. ":1:", shown:sub(1, #name + 3))
    write(name, "error('oh')")
    assert.same({ name .. ":1: oh" }, refuse(('return { rules = { "%s" } }'):format(name)))
    write(name, "return {{")
    shown = refuse(('return { rules = { "%s" } }'):format(name))[1]
    assert.equal(name .. ":1:", shown:sub(1, #name + 3))
  end)
end)

describe("the effective configuration", function()
  -- `text` as a configuration, printed; and what that gives when it is loaded.
  local function printed(text)
    local loaded = accept(text)
    local out = config_print.text(loaded)
    return out, accept(out), loaded
  end

  it("is Lua that gives the same options", function()
    write("r.lua", 'return { rule "in file" (function() end) }')
    local out, again, loaded = printed([[
return { DIRS, stop_deadline = "1500ms", pid_file = 'a"\\\n\0b' and "", log = { time = true },
  plugins = { tail = { files = { "a b", "c" } }, ["tail.2"] = { use = "tail", experiment = "cms" } },
  backends = { sink = { port = 5 } },
  rules = { "r.lua" } }]])
    assert.same(loaded.values, again.values)
    assert.truthy(out:find("stop_deadline = 1.5,", 1, true))
    assert.truthy(out:find('      files = { "a b", "c" },', 1, true))
    assert.truthy(out:find('    ["tail.2"] = {\n', 1, true))
    assert.truthy(out:find("max_flows = 1000000,", 1, true))
    assert.truthy(out:find(('"r.lua",\n      -- rule "in file" at %s/r.lua:1\n'):format(dir), 1, true))
  end)

  it("says where functions are defined", function()
    local out = printed('return { rules = {\nrule "x" (function() end) } }')
    assert.truthy(out:find(('-- rule "x" at %s/conf.lua:2\n'):format(dir), 1, true))
  end)

  it("writes any value so that it reads back", function()
    for _, value in ipairs({ "a\"b\\c\nd\re\0f\200", -5, 0.1, 1e300, 2 ^ 53, true, { a = { 1, { 2 } }, ["end"] = 1, ["x y"] = 2,
      [5] = 3 }, {} }) do
      assert.same(value, loadstring("return " .. config_print.value(value))())
    end
  end)
end)

describe("every option", function()
  local function each_field(fields, path, fn)
    for name, field in pairs(fields) do
      fn(path .. name, field)
      if field.kind == "table" then each_field(field.fields, path .. name .. ".", fn) end
    end
  end

  -- fn(path, field) for the options of the daemon and of all built-in modules.
  local function all(fn)
    each_field(options.global, "", fn)
    each_field(options.instance, "", fn)
    for _, kind in ipairs({ "plugins", "backends" }) do
      for _, name in ipairs(plugins.builtin(kind)) do
        local module = assert(plugins.find(kind, name))
        each_field(schema.as_field(module.schema).fields, kind .. "." .. name .. ".", fn)
      end
    end
  end

  it("is documented in sentences", function()
    all(function(path, field)
      assert.equal("string", type(field.doc), path)
      assert.truthy(field.doc:find("^%S.*%.$"), path .. ": " .. field.doc)
    end)
  end)

  it("has a default that is valid", function()
    all(function(path, field)
      local _, errors = schema.validate({ x = field }, { x = field.default })
      if field.default ~= nil then assert.same({}, errors, path) end
    end)
  end)
end)
