-- SPDX-License-Identifier: Apache-2.0
--- Ways out of the sandbox that are known of Lua sandboxes, each tried in a rule that runs.
local cleanup = require("spec.support.cleanup")
local config = require("flowd.config")
local escape = require("spec.support.escape")
local support = require("spec.support.policy")
local temp = require("spec.support.temp")

local attempt, fails, holds = escape.attempt, escape.fails, escape.holds

describe("nothing leads out of the sandbox:", function()
  after_each(cleanup.all)

  it("globals that it has not", function()
    for _, name in ipairs({ "_G", "package", "debug", "jit", "ffi", "io", "load", "loadstring", "loadfile", "dofile", "getfenv",
      "setfenv", "rawget", "rawset", "rawequal", "rawlen", "newproxy", "collectgarbage", "gcinfo", "coroutine", "module", "_flowd",
      "arg", "_ENV", "_VERSION" }) do
      fails("local x = " .. name, name .. " is not ")
      fails(("local ok = pcall(function() return %s end) if not ok then error('refused') end"):format(name), "refused")
    end
    fails("coroutine.wrap(function() end)", "coroutine is not available")
    fails("debug.getinfo(1)", "debug is not available")
    fails("package.loaded.ffi.cdef('int x;')", "package is not available")
    fails("jit.off()", "jit is not available")
    fails("newproxy(true)", "newproxy is not available")
    fails("collectgarbage('stop')", "collectgarbage is not available")
    fails("getfenv(1)", "getfenv is not available")
    fails("getfenv(print)", "getfenv is not available")
    fails("setfenv(2, {})", "setfenv is not available")
    fails("loadstring('return 1')", "loadstring is not available")
  end)

  it("libraries, of which it has the harmless part", function()
    for _, name in ipairs({ "execute", "exit", "getenv", "remove", "rename", "tmpname", "setlocale" }) do
      fails("os." .. name .. "('true')", "os." .. name .. " is not available")
    end
    fails("math.randomseed(1)", "math.randomseed is not available")
    fails("string.dump(function() end)", "string.dump is not available")
  end)

  it("the methods of strings", function()
    holds("return ('').dump == nil")
    fails("('x'):dump()", "dump")
    holds("return getmetatable('') == nil and getmetatable(('x'):rep(2)) == nil")
    holds("return ('').__index == nil")
    fails("('').rep = nil", "attempt to index")
    fails("('x').rep.x = 1", "attempt to index")
    -- Its own copies are its own.
    holds("string.format = nil return ('%d'):format(1) == '1'")
    assert.equal("1", ("%d"):format(1))
  end)

  it("metatables of what the daemon hands over", function()
    for _, value in ipairs({ "flow", "flow.src", "flowd", "flowd.map", "flowd.state", "string", "math", "table", "os", "bit", "drop",
      "accept", "flowd.prefixes{ '::/0' }" }) do
      holds(("return not getmetatable(%s)"):format(value))
      fails(("setmetatable(%s, {})"):format(value), "cannot change a protected metatable")
    end
    holds("return getmetatable(print) == nil and getmetatable(1) == nil and getmetatable(nil) == nil")
    fails("setmetatable('', {})", "table expected")
    fails("setmetatable(print, {})", "table expected")
  end)

  it("adding to what is closed, also past its metatable", function()
    fails("flow.mine = 1", "a flow has no field")
    fails("flowd.mine = 1", "cannot be added")
    fails("string.mine = 1", "cannot be added")
    fails("mine = 1", "mine is not declared")
    fails("table.insert(flow, 1)", "table.insert")
    fails("table.insert(flowd, 1)", "table.insert")
    fails("table.insert(flow.src, 1)", "table.insert")
    fails("table.remove(flow.src)", "table.remove")
    fails("table.sort(flow.src)", "table.sort")
    fails("table.sort({ 3, 2, 1 }, 7)")
    fails("drop.x = 1", "cannot be changed")
  end)

  it("walking over what is closed", function()
    holds("return next(flow) == nil")
    holds("for _, value in pairs(flow) do return false end return true")
    -- Functions and words, nothing else.
    holds([[for _, library in ipairs({ flowd, flowd.map, flowd.state, string, table, math, os, bit }) do
      for _, value in pairs(library) do
        local kind = type(value)
        if kind ~= "function" and kind ~= "number" and kind ~= "table" then return false end
      end
    end return true]])
    holds("for i, word in pairs(flow.src) do if type(word) ~= 'number' then return false end end return true")
  end)

  it("cdata: every field is a plain value", function()
    local chain = support.chain([[
      local fields = { "src_port", "dst_port", "protocol", "family", "state", "plugin", "experiment", "activity", "experiment_name",
        "activity_name", "application", "time", "start_time", "bytes_sent", "bytes_received", "uid", "user", "pid", "comm", "cgroup",
        "tag", "route" }
      local plain = { number = true, string = true, ["nil"] = true, ["function"] = true }
      rule "r" (function(flow)
        for _, field in ipairs(fields) do
          if not plain[type(flow[field])] then error(field .. " is a " .. type(flow[field])) end
        end
        if type(flow.src) ~= "table" or type(flow.src[1]) ~= "number" then error("src") end
      end)
    ]])
    assert.same({}, support.logged(function() support.run(chain, { bytes_sent = 1, bytes_received = 2 }) end))
    holds("return type(flowd.state.counter('escape'):add()) == 'number'")
    holds("return tostring(flow.src) == '2001:db8::1' and not tostring(flow):find('0x')")
  end)

  it("sets and maps made to stand for other memory", function()
    fails("local set = flowd.prefixes{ '::/0' } set[1] = 1e9 flow.src:within(set)", "was changed")
    fails("local set = flowd.prefixes{ '::/0' } set[1] = -1 flow.src:within(set)", "was changed")
    fails("local set = flowd.prefixes{ '::/0' } set[1] = 0/0 flow.src:within(set)", "was changed")
    fails("local set = flowd.prefixes{ '::/0' } set[1] = setmetatable({}, { __le = function() return true end, "
      .. "__lt = function() return true end }) set:contains('::1')")
    -- The number of another map: another map, no more.
    holds("local set = flowd.prefixes{ '::/0' } set[1] = 16383 return not flow.src:within(set)")
    local chain = support.chain([[
      local ports = flowd.map.ports{ [1] = "atlas" }
      local globs = flowd.map.globs{ ["*"] = "atlas" }
      local week = flowd.map.schedule{ always = "atlas" }
      rule "r" (function(flow)
        for _, map in ipairs({ ports, globs, week }) do
          for _, number in ipairs({ 4096, -1, 1e300, 0/0 }) do
            map[1] = number
            local key = map == ports and 1 or map == globs and "x" or 1e9
            if pcall(map.find, map, key) then error(tostring(map) .. tostring(number)) end
          end
          if pcall(map.find, {}, 1) or pcall(map.find, { 1 }, {}) then error("not a map") end
        end
      end)
    ]])
    assert.same({}, support.logged(function() support.run(chain) end))
    fails("flow.src.within({}, '::/0')")
    fails("flow.src.within({ 'a', 'b', 'c', 'd' }, '::/0')")
    holds("return pcall(flow.src.is_private, { 1e300, -1, 0/0, 2 }) ~= nil")
    holds("local s = flowd.state.table('forged') return not pcall(s.get, {}, 1) and not pcall(s.set, s, {}, 1)")
  end)

  it("a view or an address kept after the call", function()
    local chain = support.chain([[
      local kept, address, tag
      rule "keep" (function(flow) if flow.dst_port == 1 then kept, address, tag = flow, flow.src, flow.tag end end)
      rule "use" (function(flow)
        if flow.dst_port == 2 and tostring(address) ~= "2001:db8::1" then error("changed") end
      end)
      rule "after" { match = { dst_port = 3 }, drop = true }
      function flowd.prefixes() return kept, tag end
    ]])
    local text = [[
      rule "keep" (function(flow) string.format = flow string.rep = flow.tag end)
      function flowd.prefixes() return pcall(function() return string.format.src_port end) end
      function flowd.address() return pcall(string.rep, string.format, 2, 1) end
    ]]
    assert.same({}, support.logged(function()
      support.run(chain, { dst_port = 1 })
      support.run(chain, { dst_port = 2, src = "2001:db8::9" })
    end))
    -- Between two events nothing is shown: called by hand, from outside a rule.
    local environment = require("flowd.policy").new()
    assert(environment:load(text, "@site.lua"))()
    local kept = require("flowd.rules").compile((environment:take_rules()), { registry = support.names, backends = {} })
    support.run(kept)
    local flowd = environment.env.flowd
    local ok, message = flowd.prefixes()
    assert.is_false(ok)
    assert.matches("only there while a rule runs", message, 1, true)
    ok, message = flowd.address()
    assert.is_false(ok)
    assert.matches("only there while a rule runs", message, 1, true)
  end)

  it("errors that are no strings, and handlers", function()
    local _, result = attempt([[flow.activity = 7
      error(setmetatable({}, { __tostring = function() error("again") end }))]])
    assert.equal(0, result.activity)
    attempt("error(setmetatable({}, { __tostring = function() return 7 end }))")
    attempt("error(setmetatable({}, { __tostring = function() return setmetatable({}, {}) end }))")
    attempt("error(setmetatable({}, { __index = function() error('index') end, __concat = function() error('concat') end }))")
    attempt("error(nil)")
    attempt("error(drop)")
    holds("return not xpcall(function() error('x') end, function() return getfenv end)")
    holds("local ok, value = xpcall(function() error({ 7 }) end, function(e) return e[1] end) return not ok and value == 7")
    -- What a handler sees of an error of the daemon's is text.
    holds("local ok, message = pcall(function() flow.experiment = {} end) return not ok and type(message) == 'string'")
    holds("local ok, message = xpcall(function() flow.src:within(7) end, function(e) return type(e) end) return message == 'string'")
  end)

  it("metamethods", function()
    -- LuaJIT calls no __gc of a table.
    holds("for i = 1, 1000 do setmetatable({}, { __gc = function() error('gc') end }) end return true")
    fails("local t = setmetatable({}, { __index = table }) return t.getn", "table.getn is not available")
    fails("return setmetatable({}, { __call = function() end })", "a rule returns drop, accept or nothing")
    holds("return select('#', table.concat(setmetatable({}, { __len = function() return 1e9 end }))) == 1")
    holds("local t = setmetatable({}, { __metatable = 'mine' }) return getmetatable(t) == 'mine'")
    fails("flow.application = setmetatable({}, { __tostring = function() return 'x' end })", "application: expected a text")
    fails("flow.experiment = setmetatable({}, { __lt = function() return true end })", "experiment: expected")
    fails("flow:route(setmetatable({}, { __tostring = function() return 'marker' end }))", "route: expected names of backends")
  end)
end)

describe("require in rule files", function()
  after_each(cleanup.all)

  local function load(dir, text)
    temp.write(dir .. "/conf/conf.lua", text .. "\nreturn { rules = { rule 'r' (function() end) } }")
    local loaded, errors = config.load(dir .. "/conf/conf.lua")
    return loaded, errors and table.concat(errors, "\n")
  end

  local function new_dir()
    local dir = temp.dir()
    os.execute(("mkdir -p %s/conf/lists %s/config"):format(dir, dir))
    return dir
  end

  it("finds files below the configuration's directory, each loaded once, in the same sandbox", function()
    local dir = new_dir()
    temp.write(dir .. "/conf/lists/tier1.lua", "return { count = 0, set = flowd.prefixes{ '2001:db8::/32' } }")
    temp.write(dir .. "/conf/other.lua", "local t = require 'lists/tier1' t.count = t.count + 1 return t")
    local loaded, message = load(dir, [[
      local a, b = require "lists.tier1", require "other"
      if a ~= b or a.count ~= 1 or not a.set:contains("2001:db8::1") then error("not the same") end
      local ok = pcall(function() undeclared = 1 end)
      if ok then error("not closed") end
    ]])
    assert.truthy(loaded, message)
    -- What a process that takes over after a hang loads.
    assert.truthy(loaded.sources.files[dir .. "/conf/lists/tier1.lua"])
    temp.write(dir .. "/conf/lists/tier1.lua", "error('changed')")
    assert.truthy(config.load(dir .. "/conf/conf.lua", nil, loaded.sources))
  end)

  it("reaches nothing else", function()
    local dir = new_dir()
    temp.write(dir .. "/config/secret.lua", "return 7")
    os.execute(("ln -s %s/config/secret.lua %s/conf/link.lua; ln -s %s/config %s/conf/away"):format(dir, dir, dir, dir))
    local function refused(name, expected)
      local loaded, message = load(dir, ("\nlocal x = require %q"):format(name))
      assert.is_nil(loaded, name)
      assert.matches("conf.lua:2: require", message, 1, true)
      assert.matches(expected, message, 1, true)
    end
    refused("link", "leads to a file that is not below the configuration's directory")
    refused("away.secret", "leads to a file that is not below the configuration's directory")
    for _, name in ipairs({ "../config/secret", "..config.secret", "/etc/passwd", "lists/../../config/secret", "", ".", "a..b", "a/",
      "lists/tier1.lua\0", "~root/x", "lists/*" }) do
      refused(name, "expected the name of a file below the configuration's directory")
    end
    for _, name in ipairs({ "ffi", "io", "os", "flowd.api", "jit.util", "flowd.log", "table.new" }) do refused(name, "there is no file") end
    local _, message = load(dir, "\nlocal x = require(7)")
    assert.matches("conf.lua:2: require: expected the name of a file", message, 1, true)
  end)

  it("trusts files as the configuration itself", function()
    local dir = new_dir()
    temp.write(dir .. "/conf/open.lua", "return 1")
    os.execute("chmod 666 " .. dir .. "/conf/open.lua")
    local _, message = load(dir, "local x = require 'open'")
    assert.matches("open.lua: not trusted", message, 1, true)
  end)

  it("says where a file is wrong, and that two require each other", function()
    local dir = new_dir()
    temp.write(dir .. "/conf/bad.lua", "\nreturn 1 +")
    temp.write(dir .. "/conf/raises.lua", "\nreturn nothing.x")
    temp.write(dir .. "/conf/a.lua", "return require 'b'")
    temp.write(dir .. "/conf/b.lua", "\nlocal a = require 'a'\nreturn a")
    temp.write(dir .. "/conf/compiled.lua", "\27LJ\2")
    assert.matches(dir .. "/conf/bad.lua:2: unexpected symbol", select(2, load(dir, "require 'bad'")), 1, true)
    assert.matches(dir .. "/conf/raises.lua:2: nothing is not defined", select(2, load(dir, "require 'raises'")), 1, true)
    assert.matches("b.lua:2: require \"a\": it is being loaded", select(2, load(dir, "require 'a'")), 1, true)
    assert.matches("compiled.lua: this is compiled Lua", select(2, load(dir, "require 'compiled'")), 1, true)
  end)
end)
