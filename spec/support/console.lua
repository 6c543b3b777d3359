-- SPDX-License-Identifier: Apache-2.0
--- Clients of the console for specs: well-behaved ones, and raw connections.
local ffi = require("ffi")
local api = require("flowd.api")
local client = require("flowd.console.client")
local process = require("spec.support.process")

local console = {}

ffi.cdef([[
ssize_t send(int, const void *, size_t, int);
ssize_t recv(int, void *, size_t, int);
int shutdown(int, int);
]])

local MSG_NOSIGNAL, MSG_DONTWAIT = 0x4000, 0x40

--- Ask the daemon and wait for the answer.
---@return integer|nil status
---@return string output
---@return string message
function console.ask(path, code, options)
  local c = assert(client.connect(path))
  local out = {}
  local status, message = c:ask("eval", code, options, function(text) out[#out + 1] = text end)
  c:close()
  return status, table.concat(out), message
end

--- The same for what must succeed: its output.
function console.answer(path, code, options)
  local status, out, message = console.ask(path, code, options)
  if status ~= client.status.ok then error(code .. ": " .. message, 3) end
  return out
end

local raw = {}
raw.__index = raw

--- A connection that speaks as the spec wants.
function console.raw(path)
  local fd = api.console_socket_connect(path)
  assert(fd >= 0, ("connect %s: %d"):format(path, fd))
  return setmetatable({ fd = fd, got = "" }, raw)
end

--- A frame as it stands on the wire.
function console.frame(kind, body, version, status, spare, length)
  length = length or #body
  return string.char(bit.band(bit.rshift(length, 24), 255), bit.band(bit.rshift(length, 16), 255),
    bit.band(bit.rshift(length, 8), 255), bit.band(length, 255), version or 1, kind, status or 0, spare or 0) .. body
end

--- Octets sent; fewer when the socket is full, nil when the other end is gone.
function raw:send(text, wait)
  local n = tonumber(ffi.C.send(self.fd, text, #text, bit.bor(MSG_NOSIGNAL, wait and 0 or MSG_DONTWAIT)))
  if n < 0 then return ffi.errno() == 11 and 0 or nil end
  return n
end

local buffer = ffi.new("char[65536]")

-- True unless the connection has ended.
function raw:fill()
  local n = tonumber(ffi.C.recv(self.fd, buffer, 65536, MSG_DONTWAIT))
  if n > 0 then self.got = self.got .. ffi.string(buffer, n) end
  self.ended = self.ended or n == 0 or (n < 0 and ffi.errno() ~= 11)
  return not self.ended
end

--- The next frame: kind, status, body; nil when there is none yet.
function raw:frame()
  if #self.got < 8 then return nil end
  local a, b, c, d, version, kind, status = self.got:byte(1, 7)
  local length = ((a * 256 + b) * 256 + c) * 256 + d
  if #self.got < 8 + length then return nil end
  local body = self.got:sub(9, 8 + length)
  self.got = self.got:sub(9 + length)
  return kind, status, body, version
end

--- Wait for an END: status, body, and the output before it.
function raw:finish(seconds)
  local out, status, body = {}, nil, nil
  process.wait_for("the end of an answer", seconds or 20, function()
    self:fill()
    while true do
      local kind, s, b = self:frame()
      if not kind then return self.ended end
      if kind == ffi.C.CONSOLE_END then
        status, body = s, b
        return true
      end
      out[#out + 1] = b
    end
  end)
  return status, body, table.concat(out)
end

function raw:eval(code, options) return self:send(console.frame(1, (options or "") .. "\n" .. code)) end

function raw:close()
  if self.fd then api.descriptor_close(self.fd) end
  self.fd = nil
end

return console
