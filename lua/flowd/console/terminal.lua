-- SPDX-License-Identifier: Apache-2.0
--- The console at a terminal: reads what is typed, until it is a whole chunk; shows what the daemon answers.
local ffi = require("ffi")
local api = require("flowd.api")
local client = require("flowd.console.client")
local cli = require("flowd.cli")
local format = require("flowd.console.format")

local terminal = {}

local PROMPT, MORE = "flowd> ", "   ... "
local S = client.status

local function columns()
  local width = api.line_editor_columns()
  return width > 0 and width or tonumber(os.getenv("COLUMNS")) or 80
end

-- Where the history is kept: XDG_STATE_HOME, or ~/.local/state; "" when there is no place.
local function history_path()
  local state = os.getenv("XDG_STATE_HOME")
  if not state or state:sub(1, 1) ~= "/" then
    local home = os.getenv("HOME")
    if not home or home == "" then return "" end
    state = home .. "/.local/state"
  end
  return state .. "/flowd-lua/console_history"
end

---@class flowd.console.Terminal
local Terminal = {}
Terminal.__index = Terminal

function Terminal:say(text)
  io.stderr:write(text, "\n")
  io.stderr:flush()
end

-- A connection, made anew after a restart of the daemon.
function Terminal:connect()
  if self.connection then return true end
  local connection, message = client.connect(self.path)
  if not connection then
    self:say("flowd-lua: " .. message)
    return false
  end
  if self.lost then self:say("(connected again; names that were assigned are gone)") end
  self.connection, self.lost = connection, false
  if self.editor then api.line_editor_use(self.editor, connection.core) end
  return true
end

function Terminal:disconnect()
  if self.editor then api.line_editor_use(self.editor, nil) end
  if self.connection then self.connection:close() end
  self.connection, self.lost = nil, true
end

-- Evaluate a chunk. True: it is done with, well or not; false: it is unfinished.
function Terminal:evaluate(chunk, interactive)
  if not self:connect() then
    self.failed = true
    return true
  end
  local status, message = self.connection:ask("eval", chunk, { width = columns(), interactive = 1 }, function(text)
    -- What came over the network is shown, but does nothing to the terminal.
    io.stdout:write(self.editor and format.clean(text) or text)
    io.stdout:flush()
  end, function() self.connection:send("interrupt") end)
  if status == S.incomplete and interactive ~= "last" then return false end
  if status == S.ok then return true end
  self.failed = true
  if not status or status >= S.refused then self:disconnect() end
  self:say(message ~= "" and message or "the daemon refused")
  return true
end

local function blank(text) return not text:find("%S") end

-- What people type who do not know how to leave.
local function leaves(text) return text:find("^%s*quit%s*$") or text:find("^%s*exit%s*$") end

function Terminal:edit()
  local outcome = ffi.new("int[1]")
  local chunk
  while true do
    local line = api.line_editor_read(self.editor, chunk and MORE or PROMPT, outcome)
    if outcome[0] == ffi.C.LINE_EDITOR_END then break end
    if outcome[0] == ffi.C.LINE_EDITOR_INTERRUPT then
      chunk = nil
    else
      line = ffi.string(line)
      if not chunk and leaves(line) then return end
      -- A chunk is one entry, from its first line on: it may never end.
      if chunk or not blank(line) then api.line_editor_remember(self.editor, line, chunk ~= nil) end
      chunk = chunk and chunk .. "\n" .. line or line
      if blank(chunk) or self:evaluate(chunk) then chunk = nil end
    end
  end
  io.stdout:write("\n")
end

-- Input that nobody types: chunk by chunk.
function Terminal:read()
  local chunk
  for line in io.stdin:lines() do
    chunk = chunk and chunk .. "\n" .. line or line
    if blank(chunk) or self:evaluate(chunk) then chunk = nil end
  end
  if chunk then self:evaluate(chunk, "last") end
end

--- Run until the input ends.
---@param path string the daemon's socket
---@return integer status
function terminal.run(path)
  local self = setmetatable({ path = path, failed = false }, Terminal)
  if not self:connect() then return 1 end
  if not api.line_editor_interactive() then
    self:read()
    return self.failed and 1 or 0
  end
  local editor = api.line_editor_open(history_path())
  if editor == nil then cli.fail("the terminal cannot be used for editing") end
  self.editor = editor
  api.line_editor_use(editor, self.connection.core)
  api.console_client_catch_interrupt()
  self:say(("flowd-lua %s, %s. help() lists commands; Ctrl-C interrupts, Ctrl-D leaves."):format(_flowd.version, path))
  self:edit()
  api.line_editor_close(editor)
  return 0
end

return terminal
