-- SPDX-License-Identifier: Apache-2.0
local sandbox = require("flowd.sandbox")

local function run(text, box)
  local chunk, message = (box or sandbox.new()):load_text(text, "@site.lua")
  if not chunk then return false, message end
  return pcall(chunk)
end

local function fails(text, pattern)
  local ok, message = run(text)
  assert.is_false(ok, text .. " went through")
  assert.matches(pattern, tostring(message), 1, false)
end

local function gives(expected, text)
  local ok, value = run(text)
  assert.is_true(ok, tostring(value))
  assert.equal(expected, value)
end

describe("sandbox", function()
  it("has the harmless part of Lua", function()
    gives("2 b c", [[
      local t = { "c", "b" } table.sort(t)
      return ("%d %s"):format(math.max(1, 2), table.concat(t, " "))
    ]])
    gives(5, "return bit.bor(1, 4)")
    gives(true, "return os.time() > 0 and os.date('!%Y', 0) == '1970'")
    gives("x", "local ok, message = pcall(error, 'x') return message")
  end)

  it("has nothing that reaches outside", function()
    for _, name in ipairs({ "io", "debug", "jit", "ffi", "package", "require", "load", "loadstring", "loadfile",
      "dofile", "getfenv", "setfenv", "rawget", "rawset", "rawequal", "newproxy", "collectgarbage", "gcinfo",
      "module", "coroutine", "_G", "_flowd", "arg" }) do
      fails("return " .. name, "^site.lua:1: " .. name .. " is not")
    end
    for _, name in ipairs({ "os.execute", "os.exit", "os.getenv", "os.remove", "os.rename", "os.tmpname", "os.setlocale",
      "string.dump", "math.randomseed", "table.foreach" }) do
      fails("return " .. name, "^site.lua:1: " .. name:gsub("%.", "%%.") .. " is not available")
    end
  end)

  it("makes an undeclared global an error of its line, with the name that was meant", function()
    fails("\n\nreturn strnig.format", 'site.lua:3: strnig is not defined — did you mean "string"?')
    fails("x = 1", "site.lua:1: x is not declared: write `local x = …`")
    fails("return string.formt", 'string.formt is not available.- — did you mean "format"?')
    fails("string.mine = 1", "site.lua:1: string.mine cannot be added")
  end)

  it("refuses bytecode", function()
    -- What string.dump made of an empty function, when there was string.dump.
    local bytecode = "\27LJ\2\10\0\12\2\0\1\0\0\0\1K\0\1\0\0"
    fails(bytecode, "^site.lua: this is compiled Lua")
    -- Also behind something that hides its first octet.
    fails("\239\187\191" .. bytecode, "site.lua")
  end)

  it("keeps the metatable of strings out of reach", function()
    gives(nil, "return getmetatable('')")
    fails("('').format = 1", "site.lua:1: attempt to index")
    run("string.format = function() return 'mine' end")
    assert.equal("1", ("%d"):format(1))
    gives("1", "string.format = function() return 'mine' end return ('%d'):format(1)")
  end)

  it("keeps its own environment closed", function()
    gives(false, "return getmetatable(string)")
    fails("setmetatable(string, {})", "cannot change a protected metatable")
  end)

  it("gives each sandbox copies of its own", function()
    run("string.upper = nil; table.concat = nil")
    gives("A", "return string.upper('a')")
    gives("a", "return table.concat({ 'a' })")
  end)

  it("can be given names, and a plain metatable of a script's own works", function()
    local box = sandbox.new()
    box:define("answer", 42)
    local ok, value = run("local t = setmetatable({}, { __index = function() return answer end }) return t.x", box)
    assert.is_true(ok)
    assert.equal(42, value)
  end)

  it("loads a file, and says what is wrong with one", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write("#!/usr/bin/env lua\nreturn 1 +\n")
    file:close()
    local box = sandbox.new()
    local chunk, message = box:load_file(path)
    assert.is_nil(chunk)
    assert.matches(path .. ":%d: unexpected symbol", message)
    os.remove(path)
    chunk, message = box:load_file(path)
    assert.is_nil(chunk)
    assert.matches(path .. ": No such file", message, 1, true)
  end)
end)
