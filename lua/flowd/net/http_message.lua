-- SPDX-License-Identifier: Apache-2.0
--- HTTP/1.1 messages (RFC 9112), octets in, requests or responses out; strict where leniency has been
-- abused: no folded headers, no blank before a colon, one length only.
--
-- libevent's own HTTP knows neither proxies nor a limit for the time of a whole message, and does not tell
-- an answer that was cut off from one that ended; so this speaks over flowd.net.stream instead.
local message = {}

local HEAD_MAX = 32768 -- octets of first line and headers
local BODY_MAX = 1048576
local CHUNK_LINE_MAX = 1024
local TRAILERS_MAX = 8192

---@class flowd.HttpReader
---@field message table version, headers, body; method and target, or status and reason
---@field rest string octets behind the message
local Reader = {}
Reader.__index = Reader

--- A reader of one message.
---@param kind "request"|"response"
---@param options? { head_max: integer?, body_max: integer?, bodiless: boolean? } bodiless: the answer to HEAD
---@return flowd.HttpReader
function message.reader(kind, options)
  options = options or {}
  return setmetatable({
    kind = kind, head_max = options.head_max or HEAD_MAX, body_max = options.body_max or BODY_MAX,
    bodiless = options.bodiless, state = "head", buffer = "", parts = {}, size = 0, rest = "",
  }, Reader)
end

-- Raised inside, returned by feed(): the status that a server answers with, and words.
local function refuse(status, format, ...) error({ status = status, message = format:format(...) }, 0) end

local function first_line(self, line)
  local m = self.message
  if self.kind == "request" then
    local method, target, major, minor = line:match("^([%w!#$%%&'*+%-.^_`|~]+) ([!-~]+) HTTP/(%d)%.(%d)$")
    if not method then refuse(400, "not a request line") end
    if major ~= "1" then refuse(505, "expected HTTP/1.0 or HTTP/1.1") end
    m.method, m.target, m.minor = method, target, tonumber(minor)
    return
  end
  local major, minor, status, reason = line:match("^HTTP/(%d)%.(%d) (%d%d%d) ?([^%z\r\n]*)$")
  if not major then refuse(400, "not an HTTP answer: it begins with %q", line:sub(1, 40)) end
  if major ~= "1" then refuse(505, "expected HTTP/1.0 or HTTP/1.1") end
  m.status, m.reason, m.minor = tonumber(status), reason, tonumber(minor)
end

local function header_line(m, line)
  -- Patterns that cannot be made to backtrack over and over: who sends this is not known.
  local name, value = line:match("^([%w!#$%%&'*+%-.^_`|~]+):[ \t]*(.*)$")
  value = value and value:match("^(.*[^ \t])") or ""
  if not name or value:find("[%z\1-\8\10-\31\127]") then refuse(400, "not a header: %q", line:sub(1, 40)) end
  name = name:lower()
  local before = m.headers[name]
  if not before then
    m.headers[name] = value
  elseif name == "content-length" then
    if before ~= value then refuse(400, "two lengths: %s and %s", before, value) end
  elseif name == "host" then
    refuse(400, "two Host headers")
  else
    m.headers[name] = before .. ", " .. value
  end
end

-- How the body is delimited.
local function body_state(self)
  local m = self.message
  local coding, length = m.headers["transfer-encoding"], m.headers["content-length"]
  if self.kind == "response" then
    if self.bodiless or m.status < 200 or m.status == 204 or m.status == 304 then return "done" end
  end
  if coding then
    if coding:lower() ~= "chunked" then refuse(501, "transfer-encoding %q: expected chunked", coding) end
    if length and self.kind == "request" then refuse(400, "both a length and a transfer-encoding") end
    return "size"
  end
  if length then
    if not length:find("^%d+$") or #length > 15 then refuse(400, "content-length %q: expected a number", length) end
    self.left = tonumber(length)
    if self.left > self.body_max then
      refuse(413, "a body of %s octets: expected at most %d", length, self.body_max)
    end
    self.expected = self.left
    return self.left > 0 and "length" or "done"
  end
  return self.kind == "request" and "done" or "until_end"
end

local steps = {}

function steps.head(self)
  -- Empty lines before a request are passed over.
  local start = self.kind == "request" and self.buffer:match("^[\r\n]*()") or 1
  local stop, after = self.buffer:match("()\r?\n\r?\n()", start)
  if (stop or #self.buffer) > self.head_max then refuse(431, "headers of more than %d octets", self.head_max) end
  if not stop then return false end
  local head = self.buffer:sub(start, stop - 1)
  self.buffer = self.buffer:sub(after)
  self.message = { headers = {} }
  local lines = 0
  for line in (head .. "\n"):gmatch("(.-)\r?\n") do
    lines = lines + 1
    if lines == 1 then first_line(self, line) else header_line(self.message, line) end
  end
  self.state = body_state(self)
  return true
end

local function keep(self, text)
  self.size = self.size + #text
  if self.size > self.body_max then refuse(413, "a body of more than %d octets", self.body_max) end
  self.parts[#self.parts + 1] = text
end

local function take(self)
  local text = self.buffer:sub(1, self.left)
  self.buffer = self.buffer:sub(#text + 1)
  self.left = self.left - #text
  if text ~= "" then keep(self, text) end
end

function steps.length(self)
  take(self)
  if self.left > 0 then return false end
  self.state = "done"
  return true
end

function steps.size(self)
  local line, after = self.buffer:match("^(.-)\r?\n()")
  if #(line or self.buffer) > CHUNK_LINE_MAX then refuse(400, "not the size of a chunk") end
  if not line then return false end
  local digits = line:match("^(%x+)[ \t]*$") or line:match("^(%x+)[ \t]*;")
  if not digits or #digits > 8 then refuse(400, "not the size of a chunk: %q", line:sub(1, 40)) end
  self.buffer = self.buffer:sub(after)
  self.left = tonumber(digits, 16)
  if self.size + self.left > self.body_max then refuse(413, "a body of more than %d octets", self.body_max) end
  self.state = self.left > 0 and "chunk" or "trailers"
  return true
end

function steps.chunk(self)
  take(self)
  if self.left > 0 then return false end
  local after = self.buffer:match("^\r?\n()")
  if not after then
    if self.buffer ~= "" and self.buffer ~= "\r" then refuse(400, "a chunk is longer than its size says") end
    return false
  end
  self.buffer = self.buffer:sub(after)
  self.state = "size"
  return true
end

function steps.trailers(self)
  local line, after = self.buffer:match("^(.-)\r?\n()")
  self.trailers = (self.trailers or 0) + (after or 0)
  if self.trailers > TRAILERS_MAX or #self.buffer > TRAILERS_MAX and not line then refuse(431, "trailers too long") end
  if not line then return false end
  self.buffer = self.buffer:sub(after)
  if line == "" then self.state = "done" end
  return true
end

function steps.until_end(self)
  if self.buffer ~= "" then keep(self, self.buffer) end
  self.buffer = ""
  return false
end

local function run(self)
  while self.state ~= "done" do
    if not steps[self.state](self) then return false end
    -- 100 Continue and the like: the answer comes behind.
    if self.state == "done" and self.kind == "response" and self.message.status < 200 and self.message.status ~= 101 then
      self.state = "head"
    end
  end
  return true
end

local function complete(self)
  self.message.body = table.concat(self.parts)
  self.rest, self.buffer = self.buffer, ""
  self.done = true
end

--- Take octets.
---@param text string
---@return boolean|nil done true: the message is complete; false: more is needed; nil: it is refused
---@return string|nil what is wrong
---@return integer|nil status that a server answers with
function Reader:feed(text)
  if self.done then
    self.rest = self.rest .. text
    return true
  end
  self.buffer = self.buffer .. text
  local ok, done = pcall(run, self)
  if not ok then
    if type(done) ~= "table" then error(done, 0) end
    return nil, done.message, done.status
  end
  if done then complete(self) end
  return done
end

--- Has the message begun?
function Reader:begun() return self.state ~= "head" or self.buffer ~= "" end

--- Is the head known, but not yet all of the body?
function Reader:within_body() return self.state ~= "head" and not self.done end

--- The connection ended.
---@return boolean|nil done
---@return string|nil message why the message is not complete
function Reader:finish()
  if self.done then return true end
  if self.state == "until_end" then
    complete(self)
    return true
  end
  if not self:begun() then return nil, "the connection was closed without an answer" end
  if self.state == "head" then return nil, "the answer is cut off within its headers" end
  if self.expected then
    return nil, ("the answer is cut off: %d of %d octets came"):format(self.size, self.expected)
  end
  return nil, ("the answer is cut off after %d octets"):format(self.size)
end

--- Does the connection stay usable after this message?
---@param m table the message
---@return boolean
function message.keeps_alive(m)
  local words = (m.headers.connection or ""):lower()
  if words:find("close", 1, true) then return false end
  return m.minor >= 1 or words:find("keep-alive", 1, true) ~= nil
end

--- Write a head: a first line and headers, in order, with the blank line. Raises for what no header can be.
---@param line string
---@param headers { [1]: string, [2]: string }[]
---@return string
function message.head(line, headers)
  local lines = { line }
  for _, header in ipairs(headers) do
    local name, value = header[1], tostring(header[2])
    if name:find("[^%w!#$%%&'*+%-.^_`|~]") or name == "" then error(("a header cannot be called %q"):format(name), 0) end
    if value:find("[%z\r\n]") then error(("the header %s cannot hold %q"):format(name, value), 0) end
    lines[#lines + 1] = name .. ": " .. value
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

--- Take a URL apart.
---@param url string
---@return { scheme: string, host: string, port: integer, target: string, user: string|nil, authority: string }|nil
---@return string|nil message
function message.parse_url(url)
  if type(url) ~= "string" or url:find("[%s%c]") then return nil, ("not a URL: %q"):format(tostring(url)) end
  local scheme, authority, target = url:match("^(%a[%w+.-]*)://([^/?#]*)([^#]*)")
  scheme = scheme and scheme:lower()
  if scheme ~= "http" and scheme ~= "https" then
    return nil, ("%q: expected a URL that begins with https:// or http://"):format(url)
  end
  local user, place = authority:match("^(.*)@(.*)$")
  place = place or authority
  local host, port = place:match("^%[([%x:.]+)%]:?(%d*)$")
  if not host then host, port = place:match("^([^:%[%]]+):?(%d*)$") end
  if not host then return nil, ("%q: expected a host, and perhaps a port, behind ://"):format(url) end
  port = port ~= "" and tonumber(port) or scheme == "https" and 443 or 80
  if port < 1 or port > 65535 then return nil, ("%q: expected a port from 1 to 65535"):format(url) end
  if target:sub(1, 1) ~= "/" then target = "/" .. target end
  return { scheme = scheme, host = host, port = port, target = target, user = user, authority = place }
end

--- The URL that a Location header means.
---@param base table the URL it came from, taken apart
---@param location string
---@return string
function message.join_url(base, location)
  if location:find("^%a[%w+.-]*:") then return location end
  local root = base.scheme .. "://" .. base.authority
  if location:sub(1, 2) == "//" then return base.scheme .. ":" .. location end
  if location:sub(1, 1) == "/" then return root .. location end
  local path = base.target:match("^[^?]*")
  if location:sub(1, 1) == "?" then return root .. path .. location end
  return root .. path:match("^.*/") .. location
end

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Base64 (RFC 4648).
---@param text string
---@return string
function message.base64(text)
  return (text:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    local out = {}
    for i = 1, 4 do
      local digit = math.floor(n / 64 ^ (4 - i)) % 64
      out[i] = i > #three + 1 and "=" or alphabet:sub(digit + 1, digit + 1)
    end
    return table.concat(out)
  end))
end

return message
