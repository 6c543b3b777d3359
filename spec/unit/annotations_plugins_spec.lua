-- SPDX-License-Identifier: Apache-2.0
-- conf/annotations/plugins.lua says what is there, all of it.
local temp = require("spec.support.temp")

local text = assert(temp.read("conf/annotations/plugins.lua"))

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- Functions of a name's table in a source, as "name(arguments)".
local function functions(source, pattern)
  local set = {}
  for name, arguments in source:gmatch(pattern) do set[name .. arguments] = true end
  return set
end

-- Fields of an annotated class.
local function fields(class)
  local set = {}
  local block = assert(text:match("%-%-%-@class " .. class:gsub("%p", "%%%0") .. "\n(.-)\n\n"), class)
  for name in block:gmatch("%-%-%-@field ([%w_]+)") do set[name] = true end
  return set
end

-- What a source reads of `options`.
local function used(source, ...)
  local set = {}
  for name in source:gmatch("[^%w_]options%.([%w_]+)") do set[name] = true end
  for _, name in ipairs({ ... }) do set[name] = true end
  return set
end

describe("the annotations for plugins", function()
  it("have every function of the context, with its arguments", function()
    local there = functions(assert(temp.read("lua/flowd/context.lua")), "\nfunction methods:([%w_]+)(%b())")
    for _, internal in ipairs({ "close()", "failed(message, thread)" }) do there[internal] = nil end
    assert.same(sorted(there), sorted(functions(text, "\nfunction ctx%.([%w_]+)(%b()) end")))
  end)

  it("have every kind of option", function()
    local there, told = {}, {}
    for kind in pairs(require("flowd.schema_containers").kinds) do there[kind] = true end
    -- Of the configuration itself.
    there.rules, there.rules_item = nil, nil
    local section = text:match("%-%- == OPTIONS ==\n(.-)\n%-%- ==")
    for names in section:gmatch("\n%-%-     ([%l_, ]-)   ") do
      for name in names:gmatch("[%l_]+") do told[name] = true end
    end
    assert.same(sorted(there), sorted(told))
  end)

  it("have every function of streams, sockets, HTTP", function()
    local stream = functions(assert(temp.read("lua/flowd/net/stream.lua")), "\nfunction Stream:([%w_]+)(%b())")
    for _, internal in ipairs({ "close_in(seconds)", "deliver()", "deliver_all()", "drained()", "fail(message)", "happened(event)",
      "linger()", "peer_ended()", "start_tls(context, server, host, callback)", "tell_end()" }) do
      assert.is_true(stream[internal], internal)
      stream[internal] = nil
    end
    assert.same(sorted(stream), sorted(functions(text, "\nfunction stream:([%w_]+)(%b()) end")))
    local http = functions(assert(temp.read("lua/flowd/net/http.lua")), "\nfunction http%.([%w_]+)%(ctx, (.-%))")
    local server = functions(assert(temp.read("lua/flowd/net/http_server.lua")), "\nfunction Response:([%w_]+)(%b())")
    local annotated = functions(text, "\nfunction ctx%.http%.([%w_]+)%((.-%)) end")
    assert.is_true(annotated["serve" .. "options)"])
    annotated["serveoptions)"] = nil
    assert.same(sorted(http), sorted(annotated))
    assert.same(sorted(server), sorted(functions(text, "\nfunction response:([%w_]+)(%b()) end")))
  end)

  it("have every option, and no other", function()
    local function source(name) return assert(temp.read("lua/flowd/" .. name .. ".lua")) end
    assert.same(sorted(used(source("follow"))), sorted(fields("flowd.FollowOptions")))
    assert.same(sorted(used(source("subprocess"))), sorted(fields("flowd.RunOptions")))
    local connect = used(source("net/stream"))
    connect.input_max = nil
    assert.same(sorted(connect), sorted(fields("flowd.ConnectOptions")))
    assert.same(sorted(used(source("net/listen"))), sorted(fields("flowd.ListenOptions")))
    local http = used(source("net/http"), "ca", "certificate", "key")
    assert.same(sorted(http), sorted(fields("flowd.HttpOptions")))
    assert.same(sorted(used(source("net/http_server"))), sorted(fields("flowd.HttpServerOptions")))
    local datagrams = fields("flowd.UdpOptions")
    for name in pairs(fields("flowd.UnixDatagramOptions")) do datagrams[name] = true end
    assert.same(sorted(used(source("net/datagram"))), sorted(datagrams))
    local fifo = used(source("fifo"))
    assert.same(sorted(fifo), sorted(fields("flowd.FifoOptions")))
    local emitted = {}
    for name in source("emit"):match("local known = (%b{})"):gmatch("([%w_]+) = true") do emitted[name] = true end
    assert.same(sorted(emitted), sorted(fields("flowd.Emitted")))
  end)
end)
