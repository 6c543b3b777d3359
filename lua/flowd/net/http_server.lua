-- SPDX-License-Identifier: Apache-2.0
--- HTTP server, over TCP, TLS or a Unix socket.
local message = require("flowd.net.http_message")
local listen = require("flowd.net.listen")
local task = require("flowd.task")

local server = {}

local REQUEST_SECONDS = 30 -- for a whole request to arrive
local IDLE_SECONDS = 60 -- between two requests of a connection
local ANSWER_SECONDS = 60 -- for on_request to answer
local MAX_CONNECTIONS = 256

local reasons = {
  [200] = "OK", [201] = "Created", [202] = "Accepted", [204] = "No Content", [301] = "Moved Permanently", [302] = "Found",
  [303] = "See Other", [304] = "Not Modified", [307] = "Temporary Redirect", [308] = "Permanent Redirect",
  [400] = "Bad Request", [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed",
  [408] = "Request Timeout", [409] = "Conflict", [411] = "Length Required", [413] = "Content Too Large",
  [415] = "Unsupported Media Type", [422] = "Unprocessable Content", [429] = "Too Many Requests",
  [431] = "Request Header Fields Too Large", [500] = "Internal Server Error", [501] = "Not Implemented",
  [503] = "Service Unavailable", [504] = "Gateway Timeout", [505] = "HTTP Version Not Supported",
}

---@class flowd.HttpResponse
---@field closed boolean|nil the client has gone, or the answer was sent
local Response = {}
Response.__index = Response

local Connection = {}
Connection.__index = Connection

local function count(self, result)
  local ctx = self.server.ctx
  local counter = ctx:counter("flowd_http_served_total", { kind = ctx.kind, name = ctx.name, result = result })
  counter.value = counter.value + 1
end

function Connection:arm(seconds, fn)
  local ctx = self.server.ctx
  if self.timer then ctx:release(self.timer) end
  self.timer = seconds and ctx:after(seconds, function()
    self.timer = nil
    fn()
  end) or nil
end

local function response_headers(status, body, headers, close)
  local list, given = {}, {}
  for name, value in pairs(headers or {}) do
    list[#list + 1] = { name, value }
    given[name:lower()] = true
  end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  if not given["content-type"] and body ~= "" then list[#list + 1] = { "Content-Type", "text/plain; charset=utf-8" } end
  list[#list + 1] = { "Date", os.date("!%a, %d %b %Y %H:%M:%S GMT") }
  if status ~= 204 and status ~= 304 then list[#list + 1] = { "Content-Length", #body } end
  if close then list[#list + 1] = { "Connection", "close" } end
  return list
end

-- Write an answer and go on with the connection, or end it.
function Connection:answer(status, body, headers, request)
  local close = self.closing or not request or not message.keeps_alive(request)
  local line = "HTTP/1.1 %d %s"
  local fine, head = pcall(message.head, line:format(status, reasons[status] or "Status"),
    response_headers(status, body, headers, close))
  if not fine then
    -- A header that cannot be: the plugin's mistake, and the client is told of one.
    self.server.ctx:failed(head)
    status, body = 500, "internal error\n"
    head = message.head(line:format(status, reasons[status]), response_headers(status, body, nil, close))
  end
  count(self, math.floor(status / 100) .. "xx")
  local ok, why = self.stream:write(request and request.method == "HEAD" and head or head .. body)
  if not ok then
    self.server.ctx:log("warn", "an answer of %d octets is not sent: %s", #body, why)
    return self.stream:close()
  end
  if close then
    self:arm(nil)
    return self.stream:finish()
  end
  self:expect()
end

--- Answer. May be called later, too; once.
---@param status integer
---@param body? string
---@param headers? table<string, string>
---@return boolean|nil ok
---@return string|nil message the client has gone, or was answered already
function Response:send(status, body, headers)
  if self.closed then return nil, "the client has gone, or was answered already" end
  body = body or ""
  if type(body) ~= "string" then error("send: expected the body to be a string, got " .. type(body), 2) end
  if type(status) ~= "number" or status < 200 or status > 999 then
    error(("send: expected a status from 200 to 999, got %s"):format(tostring(status)), 2)
  end
  self.closed = true
  self.connection.response = nil
  self.connection:answer(status, body, headers, self.request)
  return true
end

local function request_of(self, m)
  local path, query = m.target:match("^([^?]*)%??(.*)$")
  return {
    method = m.method, target = m.target, path = path, query = query, headers = m.headers, body = m.body, minor = m.minor,
    peer_address = self.stream.peer_address, peer_port = self.stream.peer_port,
  }
end

-- A whole request is here.
function Connection:serve(m)
  if m.minor >= 1 and not m.headers.host then return self:refuse(400, "expected a Host header") end
  local owner = self.server
  local request = request_of(self, m)
  local response = setmetatable({ connection = self, request = request }, Response)
  self.response = response
  self:arm(owner.answer_seconds, function()
    if response.closed then return end
    self.closing = true
    response:send(503, "no answer in time\n")
  end)
  task.spawn(owner.ctx, function()
    local ok, status, body, headers = xpcall(owner.on_request, function(err)
      return type(err) == "string" and debug.traceback(err, 2) or err
    end, request, response)
    if not ok then
      response.failed = true
      if not response.closed then response:send(500, "internal error\n") end
      return owner.ctx:failed(status)
    end
    if status and not response.closed then response:send(status, body, headers) end
  end)
end

function Connection:refuse(status, why)
  self.closing = true
  self:answer(status, why .. "\n")
end

-- Wait for the next request; what came with the last one is its start.
function Connection:expect()
  local rest = self.reader and self.reader.rest or ""
  self.reader = message.reader("request", { body_max = self.server.body_max, head_max = self.server.head_max })
  self.continued = false
  self:arm(self.server.idle_seconds, function() self.stream:close() end)
  if rest == "" then return self.stream:resume() end
  -- Not from here: requests that came together would be nested.
  self.nested = true
  self.server.ctx:after(0, function()
    self.nested = false
    if self.stream.closed then return end
    self:take(rest)
    if not self.response and not self.nested and not self.stream.closed then self.stream:resume() end
  end)
end

function Connection:take(text)
  local reader = self.reader
  if not reader:begun() then
    self:arm(self.server.request_seconds, function()
      count(self, "timeout")
      self:refuse(408, "the request did not arrive in time")
    end)
  end
  local done, why, status = reader:feed(text)
  if done == nil then return self:refuse(status, why) end
  if done then
    -- The next request waits until this one is answered.
    self.stream:pause()
    return self:serve(reader.message)
  end
  if reader:within_body() and not self.continued and (reader.message.headers.expect or ""):lower() == "100-continue" then
    self.continued = true
    self.stream:write("HTTP/1.1 100 Continue\r\n\r\n")
  end
end

local function adopt(owner, made)
  local self = setmetatable({ server = owner, stream = made }, Connection)
  owner.connections[self] = true
  made.on_data = function(_, text)
    if not self.response and not self.closing then self:take(text) end
  end
  local counted = made.on_closed
  made.on_closed = function(...)
    counted(...)
    self:arm(nil)
    owner.connections[self] = nil
    if self.response then self.response.closed = true end
  end
  self:expect()
end

local Server = {}
Server.__index = Server

--- Stop: connections are closed at once.
function Server:close()
  if self.closed then return end
  self.closed = true
  self.ctx.handles[self] = nil
  self.ctx:release(self.listener)
  for connection in pairs(self.connections) do connection.stream:close() end
end

--- Serve HTTP.
---@param ctx table the owner
---@param options table where, as for listen: address and port, or path with mode, owner, group; tls;
---  max_connections (256). on_request(request, response): runs as a task, may wait; returns status, body, headers,
---  or nothing, and calls response:send(status, body, headers) later. request: method, path, query, target, headers
---  (names in lower case), body, peer_address, peer_port. body_max (1 MiB), head_max (32 KiB): more is refused;
---  request_timeout (30 s for a whole request), idle_timeout (60 s), answer_timeout (60 s)
---@return table handle with port and close(); raises a message for the operator when it cannot listen
function server.open(ctx, options)
  if type(options) ~= "table" or type(options.on_request) ~= "function" then
    error("http.serve: expected on_request to be a function", 2)
  end
  local self = setmetatable({
    ctx = ctx, connections = {}, on_request = options.on_request, body_max = options.body_max, head_max = options.head_max,
    request_seconds = options.request_timeout or REQUEST_SECONDS, idle_seconds = options.idle_timeout or IDLE_SECONDS,
    answer_seconds = options.answer_timeout or ANSWER_SECONDS,
  }, Server)
  local where = {}
  for key, value in pairs(options) do where[key] = value end
  where.max_connections = options.max_connections or MAX_CONNECTIONS
  where.output_max = options.output_max or 16777216
  where.on_connection = function(made) adopt(self, made) end
  self.listener = listen.open(ctx, where)
  self.port = self.listener.port
  ctx:own(self)
  return self
end

return server
