-- SPDX-License-Identifier: Apache-2.0
local source_lines = require("flowd.source_lines")

-- line("path.to.it", source) -> line, exact
local function line(text, ...) return source_lines.read(text):find({ ... }) end

describe("source lines", function()
  it("are those of the keys in the returned table", function()
    local text = "\nreturn {\n a = 1,\n b = {\n  c = { 'x',\n   'y' } },\n ['d.e'] = { },\n [5] = 1; 'z' }"
    assert.same({ 3, true }, { line(text, "a") })
    assert.same({ 4, true }, { line(text, "b") })
    assert.same({ 5, true }, { line(text, "b", "c", 1) })
    assert.same({ 6, true }, { line(text, "b", "c", 2) })
    assert.same({ 7, true }, { line(text, "d.e") })
    assert.same({ 8, true }, { line(text, 5) })
    assert.same({ 8, true }, { line(text, 1) })
  end)

  it("fall back on the nearest table around what is not written", function()
    local text = "return {\n a = {\n  b = 1 } }"
    assert.same({ 2, false }, { line(text, "a", "x", "y") })
    assert.same({ 1, false }, { line(text, "x") })
    assert.same({ 1, false }, { line("local x", "x") })
    assert.same({ 1, false }, { line("", "x") })
  end)

  it("are not confused by strings, comments and long brackets", function()
    local text = [==[
#!/usr/bin/lua
-- return { a = 1 }
--[[ return {
a = 1 } ]] --[=[ ]] ]=]
return { x = "}\"--[[", y = '\'{',
  z = [[
}
]] .. "a\
b",
  a = 1 }]==]
    assert.same({ 10, true }, { line(text, "a") })
    assert.same({ 6, true }, { line(text, "z") })
  end)

  it("pass over functions, calls and operators", function()
    local text = [[
return {
  f = function(a, b) local c, d = 1, { e = 2 }; if a then return { g = 1 } end
    for i = 1, 3 do while true do repeat c = 1 until d end end end,
  n = 1e-5 + f(2, { 3 }) .. x[y],
  a = not b and c == d,
  last = 0x1p-4,
  z = 1 }]]
    assert.same({ 4, true }, { line(text, "n") })
    assert.same({ 5, true }, { line(text, "a") })
    assert.same({ 7, true }, { line(text, "z") })
    assert.is_false(select(2, line(text, "g")))
  end)

  it("look into rules", function()
    local text = 'return { rules = {\n rule "a" (function(flow) return 1, 2 end),\n rule "b" { match = {\n src = 1 } },\n "f" } }'
    assert.same({ 2, true }, { line(text, "rules", 1) })
    assert.same({ 4, true }, { line(text, "rules", 2, "match", "src") })
    assert.same({ 5, true }, { line(text, "rules", 3) })
  end)

  it("follow top-level variables and assignments", function()
    local text = [[
local pipe = {
  paths = {} }
local function f() return { pipe = 1 } end
local conf = {}
conf.plugins = {
  pipe = pipe }
conf.log = { level = 1 }
conf.log.time = true
f(conf)
return conf]]
    assert.same({ 6, true }, { line(text, "plugins", "pipe") })
    assert.same({ 2, true }, { line(text, "plugins", "pipe", "paths") })
    assert.same({ 7, true }, { line(text, "log", "level") })
    assert.same({ 8, true }, { line(text, "log", "time") })
    assert.same({ 3, true }, { line("local a = { b = 1 }\nreturn {\n c = a.d, e = a }", "c") })
  end)

  it("end, whatever the text is", function()
    local pieces = { "{", "}", "(", ")", "[", "]", "=", ",", "a", "return ", "function ", "end ", "'", '"', "[[", "--[[",
      "1", ".", "\n", "local ", "if ", "\\", "do " }
    math.randomseed(1)
    for _ = 1, 3000 do
      local text = {}
      for i = 1, math.random(30) do text[i] = pieces[math.random(#pieces)] end
      local found = source_lines.read(table.concat(text)):find({ "a", 1 })
      assert.is_true(found >= 1 and found <= 31)
    end
  end)
end)
