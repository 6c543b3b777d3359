-- SPDX-License-Identifier: Apache-2.0
local plugins = require("flowd.plugins")
local lfs = require("lfs")

local function context()
  local ctx = { options = { size = 3 }, logged = {} }
  function ctx:log(level, format, ...) self.logged[#self.logged + 1] = level .. " " .. format:format(...) end
  function ctx:close() self.closed = true end
  return ctx
end

describe("plugin modules", function()
  local directory

  before_each(function()
    directory = os.tmpname()
    os.remove(directory)
    assert(lfs.mkdir(directory))
  end)

  after_each(function()
    for name in lfs.dir(directory) do os.remove(directory .. "/" .. name) end
    lfs.rmdir(directory)
  end)

  local function write(name, text)
    local file = assert(io.open(directory .. "/" .. name .. ".lua", "w"))
    file:write(text)
    file:close()
  end

  it("are found among a site's own files", function()
    write("mine", [[return { name = "mine", doc = "d", schema = {}, start = function() end }]])
    local module, message = plugins.find("plugins", "mine", { directory })
    assert.is_nil(message)
    assert.equal("mine", module.name)
  end)

  it("are nil without a message when there is none of that name", function()
    local module, message = plugins.find("plugins", "nowhere", { directory })
    assert.is_nil(module)
    assert.is_nil(message)
  end)

  it("cannot be named by a path", function()
    local module, message = plugins.find("plugins", "../../etc/passwd", { directory })
    assert.is_nil(module)
    assert.is_nil(message)
  end)

  it("that do not compile are refused with file and line", function()
    write("broken", "return {\n  name = \n}")
    local module, message = plugins.find("plugins", "broken", { directory })
    assert.is_nil(module)
    assert.matches("broken%.lua:3:", message)
  end)

  it("that return no table, or lack a function, are refused with what is missing", function()
    write("number", "return 7")
    assert.matches("must return a table, as in `return number`; it returns 7", select(2, plugins.find("plugins", "number", { directory })))
    write("nostart", [[return { doc = "d", schema = {} }]])
    assert.matches("expected start to be a function, got nil",
      select(2, plugins.find("plugins", "nostart", { directory })))
    write("noevents", [[return { name = "mine", doc = "d", schema = {}, start = function() end }]])
    assert.matches("expected on_events to be a function", select(2, plugins.find("backends", "noevents", { directory })))
  end)

  it("that others may write are refused by the caller's check", function()
    write("mine", [[return { name = "mine", doc = "d", schema = {}, start = function() end }]])
    local module, message = plugins.find("plugins", "mine", { directory }, function(path)
      return nil, path .. " is writable by others"
    end)
    assert.is_nil(module)
    assert.matches("is writable by others", message)
  end)
end)

describe("plugin instances", function()
  it("did not start when start raises, or says so as Lua's own functions do", function()
    local function start(fn) return select(2, plugins.start({ start = fn }, context())) end
    assert.equal("no such device", start(function() error("no such device", 0) end))
    assert.equal("no such device", start(function() return nil, "no such device" end))
    assert.matches("^spec/unit/plugins_spec.lua:%d+: oops\nstack traceback:", start(function() error("oops") end))
    assert.is_nil(start(function() return true, "is well" end))
    assert.is_nil(start(function() return nil end))
  end)

  it("get their options and their context, and inherit from the module", function()
    local seen
    local module = { doc = "d", schema = {}, start = function(self) seen = self.options.size end, stop = function() end }
    local ctx = context()
    local instance = plugins.start(module, ctx)
    assert.equal(3, seen)
    assert.equal(ctx, instance.ctx)
    plugins.stop(instance)
    assert.is_true(ctx.closed)
  end)

  it("that fail to start on purpose give the reason without a traceback, and leave nothing open", function()
    local ctx = context()
    local instance, message = plugins.start({ start = function() error("port 80 is taken", 0) end }, ctx)
    assert.is_nil(instance)
    assert.equal("port 80 is taken", message)
    assert.is_true(ctx.closed)
  end)

  it("that fail by a programming error give a traceback", function()
    local _, message = plugins.start({ start = function() return (nil).y end }, context())
    assert.matches("stack traceback", message)
  end)

  it("are closed even when stop() raises", function()
    local ctx = context()
    local instance = plugins.start({ start = function() end, stop = function() error("no") end }, ctx)
    plugins.stop(instance)
    assert.is_true(ctx.closed)
    assert.matches("^error stop: .*no", ctx.logged[1])
  end)
end)
