-- SPDX-License-Identifier: Apache-2.0
--- A client of the console, for commands: sends a request, hands on what comes back.
local ffi = require("ffi")
local api = require("flowd.api")

local client = {}

local ENOENT, EINTR, EACCES, EPIPE, ECONNRESET, ECONNREFUSED = 2, 4, 13, 32, 104, 111

---@class flowd.console.Client
local Client = {}
Client.__index = Client

client.status = {
  ok = ffi.C.CONSOLE_OK, error = ffi.C.CONSOLE_ERROR, incomplete = ffi.C.CONSOLE_INCOMPLETE,
  interrupted = ffi.C.CONSOLE_INTERRUPTED, refused = ffi.C.CONSOLE_REFUSED, malformed = ffi.C.CONSOLE_MALFORMED,
  busy = ffi.C.CONSOLE_BUSY,
}

local function text_of(status) return ffi.string(api.error_text(status)) end

--- Connect to a running daemon.
---@param path string
---@return flowd.console.Client|nil
---@return string|nil message
function client.connect(path)
  local fd = api.console_socket_connect(path)
  if fd == -ENOENT or fd == -ECONNREFUSED then
    return nil, ("%s: no daemon answers there: is it running, and is its console on?"):format(path)
  elseif fd == -EACCES then
    return nil, ("%s: this user may not use the console (options console.group and console.readonly_group)"):format(path)
  elseif fd < 0 then
    return nil, ("%s: %s"):format(path, text_of(fd))
  end
  local core = api.console_client_new(fd)
  if core == nil then return nil, "out of memory" end
  return setmetatable({ core = ffi.gc(core, api.console_client_free), frame = ffi.new("struct console_frame"), path = path },
    Client)
end

local function options_text(options)
  local parts = {}
  for name, value in pairs(options or {}) do parts[#parts + 1] = ("%s=%s"):format(name, tostring(value)) end
  return table.concat(parts, " ") .. "\n"
end

--- Ask for something.
---@param kind "eval"|"complete"|"interrupt"
---@param text string|nil
---@param options table|nil format = "json", width, interactive = 1
---@return boolean|nil ok
---@return string|nil message
function Client:send(kind, text, options)
  local number = kind == "eval" and ffi.C.CONSOLE_EVAL or kind == "complete" and ffi.C.CONSOLE_COMPLETE or ffi.C.CONSOLE_INTERRUPT
  local body = kind == "interrupt" and "" or options_text(options) .. text
  if #body > ffi.C.CONSOLE_REQUEST_MAX then
    return nil, ("%d octets of Lua are too many: at most %d"):format(#body, ffi.C.CONSOLE_REQUEST_MAX)
  end
  local status = api.console_client_send(self.core, number, body, #body)
  -- What the daemon said before it closed can still be read.
  if status == 0 or status == -EPIPE or status == -ECONNRESET then return true end
  return nil, text_of(status)
end

--- The next of the answer.
---@param timeout_ms integer|nil
---@return "output"|"end"|"signal"|"timeout"|"lost" what
---@return string|nil text
---@return integer|nil status
function Client:receive(timeout_ms)
  local frame = self.frame
  local status = api.console_client_receive(self.core, timeout_ms or -1, frame)
  if status == 1 then
    return frame.type == ffi.C.CONSOLE_OUTPUT and "output" or "end", ffi.string(frame.body, frame.length), frame.status
  end
  if status == 0 then return "timeout" end
  if status == -EINTR then return "signal" end
  return "lost", status == -ECONNRESET and "the daemon closed the connection" or text_of(status)
end

--- Ask, and wait for all of the answer.
---@param kind "eval"|"complete"
---@param text string
---@param options table|nil
---@param write fun(text: string, status: integer) gets output as it comes
---@param on_signal fun()|nil
---@return integer|nil status of the end; nil: the connection was lost
---@return string message
function Client:ask(kind, text, options, write, on_signal)
  local sent, problem = self:send(kind, text, options)
  if not sent then return nil, problem end
  while true do
    local what, body, status = self:receive()
    if what == "output" then
      write(body, status)
    elseif what == "end" then
      return status, body
    elseif what == "signal" then
      if on_signal then on_signal() end
    else
      return nil, body
    end
  end
end

function Client:close()
  if not self.core then return end
  api.console_client_free(ffi.gc(self.core, nil))
  self.core = nil
end

--- The socket of the daemon that the options are about.
---@param options table of the command line: --socket, --conf
---@return string
function client.path(options)
  if options.socket then return options.socket end
  local cli = require("flowd.cli")
  local default = require("flowd.options").global.runtime_dir.default .. "/console"
  local file = io.open(options.conf or cli.default_conf)
  -- A group's members need not be able to read the configuration.
  if not file and not options.conf then return default end
  if file then file:close() end
  local ok, config = pcall(cli.load_config, options)
  if not ok then
    -- Somebody may be editing it: the daemon runs all the same.
    if not options.conf then return default end
    error(config, 0)
  end
  local values = config.values
  return values.console.path ~= "" and values.console.path or values.runtime_dir .. "/console"
end

return client
