-- SPDX-License-Identifier: Apache-2.0
--- The console's end in the daemon: hands what clients ask to the evaluator in the policy's Lua state, a slice
-- in each turn of the loop, and what comes of it back to them. The socket, the frames and who may are C's
-- (src/console_server.h).
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local json = require("flowd.json")
local log = require("flowd.log")
local loop = require("flowd.loop")
local watch = require("flowd.watch")

local server = {}

local SLICE_NS = 1e6 -- of a turn of the loop, for what clients run: together
local FIRST_NS = 0.7e6 -- for what was just asked: most is done then
local TURN_NS = 1e6 -- for taking requests in
local PIECE = ffi.C.CONSOLE_REPLY_MAX
local READ, FULL = ffi.C.CONSOLE_ACCESS_READ, ffi.C.CONSOLE_ACCESS_FULL
local EAGAIN = 11
local TEXT_LOGGED = 500 -- octets of what was typed

local NOBODY = ffi.C.CONSOLE_NOBODY

---@class flowd.console.Server
local Server = {}
Server.__index = Server

local cpu_ns = api.clock_cpu_ns

local function now_ns() return tonumber(api.clock_monotonic_ns()) end

local function group_id(option, name)
  if name == "" then return NOBODY end
  local gid = ffi.new("uint32_t[1]")
  if api.account_group(name, gid) ~= 0 then
    return nil, ("console.%s: there is no group %q"):format(option, name)
  end
  return gid[0]
end

local user_names = {}

-- "root (uid 0, pid 4711)": names from /etc/passwd, which does not block.
local function user_text(peer)
  local uid = tonumber(peer.uid)
  if not user_names[uid] then
    local name
    local file = io.open("/etc/passwd")
    if file then
      for line in file:lines() do
        local known, id = line:match("^([^:]+):[^:]*:(%d+):")
        if tonumber(id) == uid then
          name = known
          break
        end
      end
      file:close()
    end
    user_names[uid] = name or "user"
  end
  return ("%s (uid %d, pid %d)"):format(user_names[uid], uid, tonumber(peer.pid))
end

local function parse_options(text)
  local head, body = text:match("^([^\n]*)\n(.*)$")
  if not head then return {}, text end
  local options = {}
  for name, value in head:gmatch("([%w_]+)=(%S*)") do options[name] = value end
  return options, body
end

-- ---- what goes out -----------------------------------------------------------------

function Server:send(client, kind, status, text)
  return api.console_server_send(self.core, client, kind, status, text, #text)
end

function Server:finish(session, status, message)
  session.running = nil
  self.sessions[session.client] = session
  self:send(session.client, ffi.C.CONSOLE_END, status, (message or ""):sub(1, PIECE))
end

-- Output as it fits. True: all of it has been taken.
function Server:deliver(session)
  while session.pending[1] do
    local piece = session.pending[1]
    local text = piece.text
    local status = self:send(session.client, ffi.C.CONSOLE_OUTPUT, piece.status, text:sub(piece.at, piece.at + PIECE - 1))
    if status == -EAGAIN then
      session.blocked = true
      return false
    end
    piece.at = piece.at + PIECE
    if status < 0 or piece.at > #text then table.remove(session.pending, 1) end
  end
  session.blocked = false
  return true
end

local function queue(session, status, text)
  if text ~= "" then session.pending[#session.pending + 1] = { status = status, text = text, at = 1 } end
end

-- ---- what runs ---------------------------------------------------------------------

local ends = { done = ffi.C.CONSOLE_OK, error = ffi.C.CONSOLE_ERROR, incomplete = ffi.C.CONSOLE_INCOMPLETE }

-- What was said goes first, then the end, as soon as there is room.
function Server:conclude(session, status, message)
  session.running = nil
  session.ending = { status = status, message = message }
  if self:deliver(session) then
    session.ending = nil
    self:finish(session, status, message)
  end
end

function Server:evaluate(name, session, ...)
  local mark = watch.enter("console", session.user)
  local function left(ok, ...)
    watch.leave(mark)
    return ok, ...
  end
  self.current = session
  return left(pcall(self.call, "flowd.console.evaluator." .. name, session.client, ...))
end

-- Do what has to be done outside of the policy's Lua state, which may not outlive it.
function Server:act(session, name)
  session.running = "host"
  local ok, message = pcall(self.actions[name], function(done, text)
    if self.sessions[session.client] ~= session then return end
    queue(session, 0, done and (session.json and json.encode(text) or text) .. "\n" or "")
    self:conclude(session, done and ffi.C.CONSOLE_OK or ffi.C.CONSOLE_ERROR, not done and text or "")
    self:schedule()
  end)
  if not ok then self:conclude(session, ffi.C.CONSOLE_ERROR, tostring(message)) end
end

function Server:step(session, budget_ns)
  local ok, what, text, said, detail = self:evaluate("step", session, budget_ns)
  if not ok then
    -- Out of memory in the policy's state, most likely: what ran is given up.
    self:evaluate("stop", session)
    self:conclude(session, ffi.C.CONSOLE_ERROR, tostring(what))
    return
  end
  queue(session, 0, text)
  queue(session, 1, said)
  if ends[what] then
    self:conclude(session, ends[what], detail)
    return
  elseif what == "none" then
    self:conclude(session, ffi.C.CONSOLE_INTERRUPTED, "the configuration was loaded anew meanwhile")
    return
  end
  self:deliver(session)
  if what == "host" then
    self:evaluate("stop", session)
    self:act(session, detail)
  elseif what == "wait" then
    session.wake_ns = now_ns() + detail * 1e9
  else
    session.wake_ns = 0
  end
end

-- Who may run now; and when the next one may.
function Server:runnable()
  local now, list, next_ns = now_ns(), {}, math.huge
  for _, session in pairs(self.sessions) do
    if session.running == true and not session.blocked then
      if session.wake_ns <= now then
        list[#list + 1] = session
      else
        next_ns = math.min(next_ns, session.wake_ns)
      end
    end
  end
  table.sort(list, function(a, b) return a.turn < b.turn end)
  return list, next_ns
end

function Server:schedule(soon)
  if self.timer then
    if not soon then return end
    self.timer:close()
  end
  local list, next_ns = self:runnable()
  local seconds = (soon or #list > 0) and 0 or (next_ns - now_ns()) / 1e9
  if seconds == math.huge then
    self.timer = nil
    return
  end
  self.timer = loop.after(math.max(seconds, 0), function()
    self.timer = nil
    self:pump()
  end)
end

-- One slice for all, those first who waited longest.
function Server:run()
  local list = self:runnable()
  local ends_ns = now_ns() + SLICE_NS
  for _, session in ipairs(list) do
    local left = ends_ns - now_ns()
    if left <= 0 then break end
    self.turns = self.turns + 1
    session.turn = self.turns
    self:step(session, math.max(left / #list, 0.2e6))
  end
end

-- ---- what comes in -----------------------------------------------------------------

function Server:session(client)
  local session = self.sessions[client]
  if not session then
    local peer = ffi.new("struct console_peer")
    if not api.console_server_peer(self.core, client, peer) then return nil end
    session = { client = client, pending = {}, turn = 0, user = user_text(peer), full = peer.access == FULL,
      readonly = peer.access == READ }
    self.sessions[client] = session
  end
  return session
end

function Server:request(client, kind, body)
  local session = self:session(client)
  if not session then return end
  local given, text = parse_options(body)
  local options = {
    user = session.user, readonly = session.readonly, json = given.format == "json",
    interactive = given.interactive == "1", width = math.min(math.max(tonumber(given.width) or 80, 20), 1000),
  }
  session.typed, session.json = text:sub(1, TEXT_LOGGED), options.json
  local ok, message = self:evaluate(kind == ffi.C.CONSOLE_COMPLETE and "complete" or "start", session, text, options)
  if not ok then
    self:conclude(session, ffi.C.CONSOLE_ERROR, tostring(message))
    return
  end
  session.running, session.wake_ns, session.turn = true, 0, self.turns
  self:step(session, FIRST_NS)
end

function Server:interrupt(session, reason)
  if not session or not session.running then return end
  local where = ""
  if session.running == true then
    local ok, trace = self:evaluate("stop", session)
    where = ok and trace or ""
  end
  self:conclude(session, ffi.C.CONSOLE_INTERRUPTED, reason .. (where ~= "" and "\n" .. where or ""))
end

function Server:forget(client)
  local session = self.sessions[client]
  if not session then return end
  self.sessions[client] = nil
  self:evaluate("forget", session)
end

-- Everything that is to be done now, but no more than a turn of the loop may take.
function Server:pump()
  if self.closed then return end
  local before = cpu_ns()
  self:turn()
  local took_us = tonumber(cpu_ns() - before) / 1e3
  if took_us > self.longest.value then self.longest.value = took_us end
end

function Server:turn()
  local news = self.news
  api.console_server_turn(self.core)
  local ends_ns = now_ns() + TURN_NS
  local more = api.console_server_next(self.core, news)
  while more do
    local client, what = tonumber(news.client), news.happening
    local session = self.sessions[client]
    if what == ffi.C.CONSOLE_REQUEST then
      self:request(client, news.type, ffi.string(news.body, news.length))
    elseif what == ffi.C.CONSOLE_BREAK then
      self:interrupt(session, "interrupted")
    elseif what == ffi.C.CONSOLE_GONE then
      self:forget(client)
    elseif session and self:deliver(session) and session.ending then
      local ending = session.ending
      session.ending = nil
      self:finish(session, ending.status, ending.message)
    end
    if now_ns() >= ends_ns then break end
    more = api.console_server_next(self.core, news)
  end
  self:run()
  -- An end that was sent may have made room for the next request.
  self:schedule(more or api.console_server_pending(self.core))
  counters.get("flowd_console_clients").value = api.console_server_count(self.core)
end

--- Another policy from now on: what ran in the one before is over.
---@param call fun(name: string, ...): any calls a function in the policy's Lua state
function Server:use(call)
  for _, session in pairs(self.sessions) do
    if session.running == true then
      self:conclude(session, ffi.C.CONSOLE_INTERRUPTED, "the configuration was loaded anew meanwhile")
    end
  end
  self.call = call
  self:schedule()
end

--- Drop all clients and leave. remove: the socket file too.
---@param remove boolean
function Server:close(remove)
  if self.closed then return end
  for _, session in pairs(self.sessions) do self:interrupt(session, "the daemon ends") end
  self.closed = true
  if self.timer then self.timer:close() end
  self.handle:close()
  self.ticker:close()
  api.handover_withdraw(self.name)
  api.console_server_close(self.core, remove)
  self.core = nil
  counters.get("flowd_console_clients").value = 0
end

-- A message of the evaluator's: who did what.
function Server:log_change(client, what)
  local session = self.sessions[client]
  log.info("console: %s: %s", session and session.user or "?", what)
  local counter = counters.get("flowd_console_changes_total")
  counter.value = counter.value + 1
end

local function file_mode(values, groups)
  if values.mode then return tonumber(values.mode, 8) end
  -- The file lets in whoever may be let in; who that is, is checked at each connection.
  if groups == 2 then return tonumber("0666", 8) end
  return tonumber(groups == 1 and "0660" or "0600", 8)
end

--- Listen.
---@param values table the option `console`
---@param services { path: string, call: function, actions: table<string, fun(done: fun(ok: boolean, text: string))> }
---@return flowd.console.Server|nil
---@return string|nil message
function server.open(values, services)
  local group, message = group_id("group", values.group)
  if not group then return nil, message end
  local readonly
  readonly, message = group_id("readonly_group", values.readonly_group)
  if not readonly then return nil, message end
  local groups = (group ~= NOBODY and 1 or 0) + (readonly ~= NOBODY and 1 or 0)
  local path = services.path
  local name = "console " .. path
  local error_size = 512
  local text = ffi.new("char[?]", error_size)
  local core = api.console_server_open(ffi.new("struct console_options", {
    path = path, mode = file_mode(values, groups), group = group, readonly_group = readonly,
    owner_group = groups == 1 and (group ~= NOBODY and group or readonly) or NOBODY,
    patience_ms = values.patience * 1000, listener = api.handover_take(name),
  }), text, error_size)
  if core == nil then return nil, ffi.string(text) end
  api.handover_offer(name, api.console_server_listener(core))
  local self = setmetatable({
    core = core, name = name, path = path, sessions = {}, turns = 0, news = ffi.new("struct console_news"),
    call = services.call, actions = services.actions or {}, longest = counters.get("flowd_console_longest_microseconds"),
  }, Server)
  self.handle = loop.fd(api.console_server_fd(core), "r", function() self:pump() end)
  self.ticker = loop.every(1, function()
    api.console_server_tick(core)
    self:pump()
  end)
  return self
end

return server
