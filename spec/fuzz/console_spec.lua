-- SPDX-License-Identifier: Apache-2.0
-- The console's framing: damaged and random frames in random pieces, against what the frames should have told.
-- FUZZ_ROUNDS (default 100,000 frames) and FUZZ_SEED may be set.
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local console = require("spec.support.console")
local temp = require("spec.support.temp")

local C = ffi.C
local rounds = tonumber(os.getenv("FUZZ_ROUNDS") or 100000)
local seed = tonumber(os.getenv("FUZZ_SEED") or os.time())

local function random_body() return ("x"):rep(math.random(0, math.random(1, 40))) end

-- A frame and what it is: "request", "break", or false for one that ends the connection.
local function random_frame()
  local pick = math.random(1, 40)
  local body = random_body()
  if pick == 1 then return console.frame(math.random(4, 255), body), false end
  if pick == 2 then return console.frame(1, body, math.random(2, 255)), false end
  if pick == 3 then return console.frame(1, body, 1, math.random(1, 255)), false end
  if pick == 4 then return console.frame(2, body, 1, 0, math.random(1, 255)), false end
  if pick == 5 then return console.frame(1, "", 1, 0, 0, C.CONSOLE_REQUEST_MAX + math.random(1, 2 ^ 31)), false end
  if pick == 6 then
    local octets = {}
    -- A version that is none, so that chance makes no good one.
    for i = 1, 12 do octets[i] = string.char(i == 5 and math.random(2, 255) or math.random(0, 255)) end
    return table.concat(octets), false
  end
  if pick <= 12 then return console.frame(3, body), "break" end
  return console.frame(math.random(1, 2), body), "request", body
end

describe("the console's framing, fuzzed", function()
  after_each(cleanup.all)

  it(("takes %d frames in pieces (FUZZ_SEED=%d)"):format(rounds, seed), function()
    math.randomseed(seed)
    local message = ffi.new("char[512]")
    local path = temp.dir() .. "/socket"
    local server = api.console_server_open(ffi.new("struct console_options", { path = path, mode = 384,
      group = C.CONSOLE_NOBODY, readonly_group = C.CONSOLE_NOBODY, owner_group = C.CONSOLE_NOBODY, patience_ms = 60000,
      listener = -1 }), message, 512)
    assert(server ~= nil, ffi.string(message))
    local news = ffi.new("struct console_news")
    local sent = 0
    while sent < rounds do
      local c = console.raw(path)
      local waiting, requests, ended = {}, {}, false
      local text, good = {}, true
      for i = 1, math.random(1, 60) do
        local frame, what, body = random_frame()
        text[i] = frame
        sent = sent + 1
        if what == "request" then requests[#requests + 1] = body end
        if not what then
          good = false
          break
        end
      end
      text = table.concat(text)
      -- Sometimes it leaves in the middle.
      local leaves = math.random(1, 10) == 1
      local at, answered, client, turns = 1, 0, nil, 0
      if leaves then text = text:sub(1, math.random(0, #text)) end
      while not ended do
        turns = turns + 1
        assert(turns < 100000, "does not end")
        if at <= #text then
          local n = c:send(text:sub(at, at + math.random(0, 60)))
          if not n then at = #text + 1 else at = at + n end
        elseif leaves then
          c:close()
          leaves = nil
        elseif leaves == false then
          ffi.C.shutdown(c.fd, 1)
          leaves = 0
        end
        api.console_server_turn(server)
        while api.console_server_next(server, news) do
          if news.happening == C.CONSOLE_REQUEST then
            assert(not waiting[1], "two requests at once")
            answered = answered + 1
            client = news.client
            assert.equal(requests[answered], ffi.string(news.body, news.length))
            waiting[1] = client
          elseif news.happening == C.CONSOLE_BREAK then
            assert(waiting[1], "a break of nothing")
          elseif news.happening == C.CONSOLE_GONE then
            ended = true
          end
        end
        if waiting[1] and math.random(1, 3) == 1 then
          api.console_server_send(server, client, C.CONSOLE_OUTPUT, 0, "output", 6)
          api.console_server_send(server, client, C.CONSOLE_END, 0, "", 0)
          waiting[1] = nil
        end
        if c.fd then c:fill() end
      end
      if leaves == 0 then
        -- Every good request was told, and a bad frame answered.
        assert.equal(#requests, answered)
        local status
        repeat
          local kind, s = c:frame()
          if kind == C.CONSOLE_END then status = s end
        until not kind
        if not good then assert.equal(C.CONSOLE_MALFORMED, status) end
      end
      c:close()
    end
    assert.equal(0, api.console_server_count(server))
    api.console_server_close(server, true)
  end)
end)
