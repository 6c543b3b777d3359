-- SPDX-License-Identifier: Apache-2.0
--- What clients of the console type, evaluated in the policy's Lua state: in slices, interpreted, in the
--- policy's environment. Everything that goes in and out is plain values, so that the server may be in
--- another Lua state.
--
-- Between two slices of one client events are handled and others' slices run, so a slice is left only where
-- that does no harm (slice.among): never inside this file, for example between the look at where output is
-- collected and the output's being added.
jit.off(true, true)

local changes = require("flowd.console.changes")
local commands = require("flowd.console.commands")
local environment = require("flowd.console.environment")
local format = require("flowd.console.format")
local memory = require("flowd.console.memory")
local place = require("flowd.console.place")
local run = require("flowd.console.run")
local slice = require("flowd.slice")

local addresses = require("flowd.addresses")
local api = require("flowd.api")

local evaluator = {}

local REFUSED = "not enough memory" -- LuaJIT's words
local FORGOTTEN = "(names that were assigned here are gone: they held too much memory)\n"

local FLUSH_OCTETS = 32768 -- of output, before the client must have taken it
local RESULTS_KEPT = 8192 -- octets of what is said about an error
local CODE_LOGGED = 300
local ERROR_WIDTH = 2000 -- of one that is a table

---@class flowd.console.Session
---@field client integer
---@field user string "root (uid 0, pid 17)"
---@field readonly boolean
---@field width integer columns of the client's terminal
---@field json boolean
---@field env table
local Session = {}
Session.__index = Session

local sessions = {}

--- Write to the client. May leave until the client has taken it.
---@param text string
function Session:write(text)
  -- What is long goes out in pieces: nobody waits until all of it was copied from here to there.
  for from = 1, math.max(#text, 1), FLUSH_OCTETS do
    local out = self.out
    out[#out + 1] = #text <= FLUSH_OCTETS and text or text:sub(from, from + FLUSH_OCTETS - 1)
    self.octets = self.octets + math.min(#text, FLUSH_OCTETS)
    if self.octets >= FLUSH_OCTETS and coroutine.isyieldable() then coroutine.yield("output") end
  end
end

--- Write for people, also when the result goes to a program.
function Session:say(text)
  if not self.json then
    self:write(text)
    return
  end
  self.said[#self.said + 1] = text
  self.octets = self.octets + #text
  if self.octets >= FLUSH_OCTETS and coroutine.isyieldable() then coroutine.yield("output") end
end

--- Show a value that is not the last one: for programs, JSON in a line of its own.
---@param value any
---@param text fun(write: fun(text: string)) for people
function Session:stream(value, text)
  local function write(piece) self:write(piece) end
  if not self.json then return text(write) end
  self.streamed = true
  format.json(value, write)
  self:write("\n")
end

--- Do nothing for a while.
---@param seconds number
function Session:wait(seconds) coroutine.yield("wait", seconds) end

local function with_its_memory(self, ok, ...)
  self.is_apart = nil
  memory.set_client(self.client)
  if not ok then error((...), 0) end
  return ...
end

--- Call a function of the daemon's that makes what stays when the client has left: its memory is not the client's.
---@param fn function
function Session:apart(fn, ...)
  self.is_apart = true
  memory.set_client(nil)
  return with_its_memory(self, pcall(fn, ...))
end

--- Call a function when what runs has ended, however.
---@param fn function
function Session:defer(fn) self.deferred[#self.deferred + 1] = fn end

function Session:ended()
  self.running, self.traceback, self.given_up, self.is_apart = nil, nil, nil, nil
  local deferred = self.deferred
  self.deferred = {}
  for _, fn in ipairs(deferred) do fn() end
end

--- An error for those who may only ask.
---@param command string
function Session:may_change(command)
  if self.readonly then error(command .. ": you may ask, but not change anything (console.readonly_group)", 0) end
end

--- Before anything changes: who it was.
---@param what string for the log
function Session:change(what)
  self:may_change(what:match("^[%w_]+") or what)
  place.call("console_log", self.client, what)
end

local function take(self)
  local text, said = table.concat(self.out), table.concat(self.said)
  self.out, self.said, self.octets = {}, {}, 0
  return text, said
end

-- An expression, or statements. Returns the chunk, or nil, message, incomplete.
local function compile(code, env)
  if code:sub(1, 1) == "\27" then return nil, "this is compiled Lua; only source text is accepted" end
  local chunk, as_expression = load("return " .. code, "=console", "t", env)
  if chunk then return chunk end
  local message
  chunk, message = load(code, "=console", "t", env)
  if chunk then return chunk end
  -- The one that got further tells what is wrong: to the end, or past the first word, with which no statement begins.
  local near = message:match(" near '(.-)'$")
  local first = near and code:find("%S")
  if as_expression:find("near '<eof>'", 1, true) or first and code:sub(first, first + #near - 1) == near then message = as_expression end
  return nil, message, message:find("near '<eof>'", 1, true) ~= nil
end

local function session_of(client, options)
  local self = sessions[client]
  if not self then
    self = setmetatable({ client = client, user = options.user, readonly = options.readonly, out = {}, said = {}, octets = 0,
      deferred = {} },
      Session)
    self.env, self.variables = environment.new(place.env(), commands.bind(self), options.readonly, function(name)
      self:change(name .. ": " .. self.code:gsub("%s+", " "):sub(1, CODE_LOGGED))
      changes.set("timer " .. self.code, "-- a timer, outside of the configuration's table:\n" .. self.code)
    end)
    sessions[client] = self
  end
  return self
end

--- Begin to evaluate something for a client. One thing at a time for each.
---@param client integer
---@param code string
---@param options { user: string, readonly: boolean, width: integer?, json: boolean?, interactive: boolean? }
function evaluator.start(client, code, options)
  local self = session_of(client, options)
  self.width, self.json, self.interactive = options.width or 80, options.json or false, options.interactive or false
  self.code, self.streamed, self.running = code, false, "to be compiled"
end

--- Begin to say what may stand at the end of a line: the word that is completed, and each candidate, a line each.
---@param client integer
---@param line string up to the cursor
---@param options table as for start
function evaluator.complete(client, line, options)
  local self = session_of(client, options)
  self.code, self.streamed, self.json = "", false, false
  self.running = slice.among(require("flowd.console.complete").run, self, line)
end

-- The stack from the error to what was typed.
local function trimmed(trace)
  local lines = {}
  for line in trace:gmatch("[^\n]+") do
    if line:find("console/evaluator.lua", 1, true) then break end
    -- How the console's own commands did it is of no interest.
    if not line:find("lua/flowd/", 1, true) and not line:find("^%s*%[C%]") then lines[#lines + 1] = line end
  end
  -- Only "stack traceback:" and the line that the message names anyway.
  if #lines <= 2 then return "" end
  return "\n" .. table.concat(lines, "\n")
end

local function error_text(message, trace)
  if message == REFUSED then
    message, trace = memory.message(), ""
    memory.refused()
  end
  -- This is done in one go, however long the message is. Where in the framework something was refused is of no interest.
  local text = tostring(message):sub(1, RESULTS_KEPT):gsub("^%S*lua/flowd/[%w_/.]+:%d+: ", "")
  if text:find("\nstack traceback:", 1, true) then trace = "" end
  return format.clean(text .. trimmed(trace)):sub(1, RESULTS_KEPT)
end

-- Clients hold all that they may: the one that holds most lets go.
local function make_room(why)
  local most, largest = 0, nil
  for client, session in pairs(sessions) do
    local used = memory.used_by(client)
    if used > most then most, largest = used, session end
  end
  if not largest then return end
  for name in pairs(largest.variables) do largest.variables[name] = nil end
  largest.notice, largest.given_up = FORGOTTEN, largest.running and memory.message(why) or nil
  memory.refused()
end

local function failed(self, text, said, message)
  self:ended()
  return "error", text, said, message
end

-- The code as a slice; or what is wrong with it.
local function begin(self)
  local ok, chunk, message, incomplete = memory.read(self.client, compile, self.code, self.env)
  if not ok then chunk, message = nil, chunk end
  if chunk then
    self.running = slice.among(run, self, chunk)
    jit.off(chunk, true)
    return "more", "", ""
  end
  if message == REFUSED then
    memory.refused()
    message = memory.message()
  end
  self:ended()
  return incomplete and self.interactive and "incomplete" or "error", "", "", message
end

local function call_apart(_, fn, ...) return pcall(fn, ...) end

--- Go on for a while.
---@param client integer
---@param budget_ns number
---@return "more"|"wait"|"output"|"host"|"done"|"error"|"incomplete"|"none" what
---@return string text output of it
---@return string said output for people where `text` is for programs
---@return any detail wait: seconds; host: what is to be done when this has ended; error, incomplete: message
function evaluator.step(client, budget_ns)
  local self = sessions[client]
  if not self or not self.running then return "none", "", "" end
  local ends_ns = tonumber(api.clock_monotonic_ns()) + budget_ns
  local may, collected = memory.collect(ends_ns)
  if not may then return "more", "", "" end
  local full = collected and memory.full()
  if full then make_room(full) end
  if self.running == "to be compiled" then
    local what, text, said, message = begin(self)
    if what ~= "more" then return what, text, said, message end
  end
  if self.given_up then
    self.running:cancel()
    take(self)
    return failed(self, "", "", self.given_up)
  end
  local left_ns = math.max(ends_ns - tonumber(api.clock_monotonic_ns()), 0)
  addresses.at_prompt(slice.pause)
  local ok, what, detail, more = (self.is_apart and call_apart or memory.call)(client, self.running.step, self.running, left_ns)
  addresses.at_prompt(nil)
  if not ok then what, detail, more = "error", what, "" end
  local text, said = take(self)
  if self.notice then text, self.notice = self.notice .. text, nil end
  if what == "more" then
    -- What was yielded by the console's own functions; nothing when the time was spent.
    if detail == "wait" or detail == "output" or detail == "host" or detail == "pause" then return detail, text, said, more end
    return "more", text, said
  end
  local traceback = self.traceback
  if what == "error" and type(detail) == "table" and not traceback then
    -- How it shows itself may be the client's code, too.
    self.traceback = more
    self.running = slice.among(format.line, detail, ERROR_WIDTH)
    return "more", text, said
  end
  if traceback then
    return failed(self, text, said, error_text(what == "done" and detail or "(an error that is no text)", traceback))
  end
  if what == "error" then return failed(self, text, said, error_text(detail, more)) end
  self:ended()
  return "done", text, said
end

--- End what runs for a client. Where it was:
---@param client integer
---@return string traceback
function evaluator.stop(client)
  local self = sessions[client]
  if not self or not self.running then return "" end
  local trace = type(self.running) == "table" and self.running:cancel() or ""
  self:ended()
  take(self)
  return (trimmed(trace):gsub("^\n", ""))
end

--- The client is gone.
---@param client integer
function evaluator.forget(client)
  evaluator.stop(client)
  sessions[client] = nil
end

return evaluator
