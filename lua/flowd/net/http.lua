-- SPDX-License-Identifier: Apache-2.0
--- HTTP client: https and http, proxies, redirects, connections that are used again.
local api = require("flowd.api")
local message = require("flowd.net.http_message")
local stream = require("flowd.net.stream")
local task = require("flowd.task")
local tls = require("flowd.net.tls")

local http = {}

local TIMEOUT = 30 -- seconds for everything, redirects included
local REDIRECTS = 5
local IDLE_SECONDS = 15 -- for which a connection is kept for another request
local IDLE_MAX = 4 -- of a plugin, for one server

local function default_port(url) return url.port == (url.scheme == "https" and 443 or 80) end

local function host_header(url)
  local host = url.host:find(":", 1, true) and "[" .. url.host .. "]" or url.host
  return default_port(url) and host or host .. ":" .. url.port
end

-- -- proxies ---------------------------------------------------------------------------

local function environment(name)
  local value = os.getenv(name)
  -- HTTP_PROXY is not read: in a CGI program the caller sets it.
  if (value == nil or value == "") and name ~= "http_proxy" then value = os.getenv(name:upper()) end
  return value ~= "" and value or nil
end

--- Does no_proxy name this host? Entries: a host, a domain (with or without a point before it), an address, "*", each
--- perhaps with a port.
---@param list string
---@param host string
---@param port integer
---@return boolean
function http.bypasses(list, host, port)
  host = host:lower()
  for entry in list:lower():gmatch("[^,%s]+") do
    local name, wanted = entry:match("^%[(.-)%]:?(%d*)$")
    if not name then name, wanted = entry:match("^([^:]+):(%d+)$") end
    name = (name or entry):gsub("^%*?%.", "")
    if entry == "*" then return true end
    if not wanted or wanted == "" or tonumber(wanted) == port then
      if host == name or host:sub(-#name - 1) == "." .. name then return true end
    end
  end
  return false
end

-- The proxy for a URL, taken apart; nil: none. Second: what is wrong with its URL.
local function proxy_for(url, options)
  if options.proxy == false then return nil end
  local text = options.proxy
  if not text or text == "" then
    text = environment(url.scheme .. "_proxy") or environment("all_proxy")
    if not text then return nil end
    local list = environment("no_proxy")
    if list and http.bypasses(list, url.host, url.port) then return nil end
  end
  if not text:find("://", 1, true) then text = "http://" .. text end
  local proxy, why = message.parse_url(text)
  if not proxy then return nil, "proxy: " .. why end
  if proxy.scheme ~= "http" then return nil, ("proxy: %q: expected http://"):format(text) end
  return proxy
end

local function decode(text) return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)) end

local function authorization(user) return "Basic " .. message.base64(decode(user)) end

-- -- idle connections --------------------------------------------------------------------

-- What must be equal for a connection to be used again.
local function pool_key(url, proxy, options)
  return table.concat({ url.scheme, url.host, url.port, proxy and proxy.host or "", proxy and proxy.port or "",
    proxy and proxy.user or "", options.ca or "", options.certificate or "", options.key or "" }, "\0")
end

local function take_idle(ctx, key)
  local list = ctx.http_idle and ctx.http_idle[key]
  local made = list and table.remove(list)
  if not made then return nil end
  if #list == 0 then ctx.http_idle[key] = nil end
  ctx:release(made.idle_timer)
  made.idle_timer, made.on_closed = nil, nil
  return made
end

local function put_idle(ctx, key, made)
  ctx.http_idle = ctx.http_idle or {}
  local list = ctx.http_idle[key] or {}
  if #list >= IDLE_MAX or made.ended then return made:close() end
  ctx.http_idle[key] = list
  list[#list + 1] = made
  -- Whatever comes on it now, nobody asked for.
  made.on_data = function() made:close() end
  made.on_end = made.on_data
  made.idle_timer = ctx:after(IDLE_SECONDS, function()
    made.idle_timer = nil
    made:close()
  end)
  made.on_closed = function()
    if made.idle_timer then ctx:release(made.idle_timer) end
    for i, other in ipairs(list) do
      if other == made then table.remove(list, i) end
    end
    if #list == 0 and ctx.http_idle[key] == list then ctx.http_idle[key] = nil end
  end
end

-- -- one request -------------------------------------------------------------------------

local Request = {}
Request.__index = Request

function Request:finish(response, why)
  if self.closed then return end
  local callback = self.callback
  self:close()
  local counter = self.ctx:counter("flowd_http_requests_total", { kind = self.ctx.kind, name = self.ctx.name,
    result = response and math.floor(response.status / 100) .. "xx" or "failed" })
  counter.value = counter.value + 1
  callback(response, why and ("%s: %s"):format(self.address, why) or nil)
end

--- Give it up: the callback is not called.
function Request:close()
  if self.closed then return end
  self.closed = true
  self.ctx.handles[self] = nil
  for _, name in ipairs({ "deadline", "connecting", "stream" }) do
    if self[name] then self.ctx:release(self[name]) end
    self[name] = nil
  end
end

local function redirect_method(self, status)
  if status == 303 or (status == 301 or status == 302) and self.method == "POST" then
    self.method, self.body = "GET", nil
  end
end

function Request:redirect(response)
  local location = response.headers.location
  self.redirects = self.redirects - 1
  if self.redirects < 0 then return self:finish(nil, ("more than %d redirects"):format(self.options.redirects or REDIRECTS)) end
  local url, why = message.parse_url(message.join_url(self.url, location))
  if not url then return self:finish(nil, "redirect: " .. why) end
  if self.url.scheme == "https" and url.scheme ~= "https" then
    return self:finish(nil, ("redirected from https to %s: not followed"):format(location))
  end
  -- What the caller says to one host is not for another.
  if url.host ~= self.url.host or url.port ~= self.url.port then self.elsewhere = true end
  redirect_method(self, response.status)
  self.url, self.address = url, message.join_url(self.url, location)
  self:start()
end

local redirecting = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

function Request:answered(reader)
  local response, made = reader.message, self.stream
  self.stream = nil
  made.on_data, made.on_end = nil, nil
  if reader.rest == "" and message.keeps_alive(response) and reader.delimited then
    put_idle(self.ctx, self.key, made)
  else
    made:close()
  end
  if redirecting[response.status] and response.headers.location and self.options.redirects ~= 0 then
    return self:redirect(response)
  end
  response.url = self.address
  self:finish(response)
end

-- Read one answer from self.stream. on_answer(reader) or on_failure(message, nothing_came).
local function read_answer(self, options, on_answer, on_failure)
  local reader, made = message.reader("response", options), self.stream
  made.on_data = function(_, text)
    local done, why = reader:feed(text)
    if done == nil then return on_failure(why) end
    if done then
      reader.delimited = reader.state ~= "until_end"
      on_answer(reader)
    end
  end
  made.on_end = function(_, failure)
    if failure then return on_failure(failure, not reader:begun()) end
    local done, why = reader:finish()
    if not done then return on_failure(why, not reader:begun()) end
    on_answer(reader)
  end
end

local function all_headers(self)
  local url, headers = self.url, {}
  local given = {}
  for name, value in pairs(self.options.headers or {}) do
    local lower = name:lower()
    given[lower] = true
    if not (self.elsewhere and (lower == "authorization" or lower == "cookie" or lower == "host")) then
      headers[#headers + 1] = { name, value }
    end
  end
  table.sort(headers, function(a, b) return a[1] < b[1] end)
  local function add(name, value)
    if value ~= nil and not given[name:lower()] then table.insert(headers, 1, { name, value }) end
  end
  add("Content-Length", self.body and #self.body or (self.method == "POST" or self.method == "PUT") and 0 or nil)
  add("Accept", "*/*")
  add("User-Agent", "flowd-lua/" .. _flowd.version)
  add("Authorization", url.user and authorization(url.user) or nil)
  if self.proxy and url.scheme == "http" then
    add("Proxy-Authorization", self.proxy.user and authorization(self.proxy.user) or nil)
  end
  add("Host", host_header(url))
  return headers
end

function Request:send()
  local target = self.url.target
  if self.proxy and self.url.scheme == "http" then target = "http://" .. host_header(self.url) .. target end
  local ok, head = pcall(message.head, ("%s %s HTTP/1.1"):format(self.method, target), all_headers(self))
  if not ok then return self:finish(nil, head) end
  read_answer(self, { body_max = self.options.limit, bodiless = self.method == "HEAD" },
    function(reader) self:answered(reader) end,
    function(why, nothing_came)
      -- The server closed a connection that was kept, as we took it: that says nothing about the server.
      local again = self.reused and nothing_came
      self.ctx:release(self.stream)
      self.stream = nil
      if again then return self:start(true) end
      self:finish(nil, why)
    end)
  local written, why = self.stream:write(head .. (self.body or ""))
  if not written then self:finish(nil, why) end
end

function Request:secure()
  local context, why = tls.client(self.options)
  if not context then return self:finish(nil, why) end
  self.stream:start_tls(context, false, self.url.host, function(secured, message_)
    if secured then return self:send() end
    self.stream = nil
    self:finish(nil, message_)
  end)
end

-- Ask the proxy for a way through.
function Request:tunnel()
  local place = ("%s:%d"):format(self.url.host:find(":", 1, true) and "[" .. self.url.host .. "]" or self.url.host, self.url.port)
  local headers = { { "Host", place } }
  if self.proxy.user then headers[2] = { "Proxy-Authorization", authorization(self.proxy.user) } end
  local name = ("proxy %s:%d: "):format(self.proxy.host, self.proxy.port)
  read_answer(self, { bodiless = true }, function(reader)
    local answer = reader.message
    self.stream.on_data, self.stream.on_end = nil, nil
    if answer.status < 200 or answer.status > 299 then
      return self:finish(nil, ("%sit refuses: %d %s"):format(name, answer.status, answer.reason))
    end
    if reader.rest ~= "" then return self:finish(nil, name .. "it says more than it should") end
    self:secure()
  end, function(why) self:finish(nil, name .. why) end)
  self.stream:write(message.head(("CONNECT %s HTTP/1.1"):format(place), headers))
end

function Request:connected(made)
  self.stream, self.reused = made, false
  if self.url.scheme == "http" then return self:send() end
  if self.proxy then return self:tunnel() end
  self:secure()
end

-- From the top: for the first URL and for those that it leads to.
function Request:start(fresh)
  local proxy, why = proxy_for(self.url, self.options)
  if why then return self:finish(nil, why) end
  self.proxy = proxy
  self.key = pool_key(self.url, proxy, self.options)
  local idle = not fresh and take_idle(self.ctx, self.key)
  if idle then
    self.stream, self.reused = idle, true
    return self:send()
  end
  local to = proxy or self.url
  self.connecting = stream.connect(self.ctx, {
    host = to.host, port = to.port, timeout = self.options.connect_timeout or self.timeout,
    output_max = math.max(1048576, #(self.body or "") + 65536),
  }, function(made, message_)
    self.connecting = nil
    if not made then return self:finish(nil, (proxy and "proxy " or "") .. message_) end
    self:connected(made)
  end)
end

local function check(url, options)
  if type(options) ~= "table" then error("http: expected options to be a table, got " .. type(options), 3) end
  if options.body ~= nil and type(options.body) ~= "string" then
    error("http: expected body to be a string, got " .. type(options.body), 3)
  end
  return message.parse_url(url)
end

--- Ask an HTTP server. Certificates and names of hosts are always verified.
---@param ctx table the owner
---@param url string https://… or http://…
---@param options? table method ("GET"), headers (a table), body; timeout (30 s, for everything), connect_timeout;
---  limit: octets of an answer's body (1 MiB); redirects: how many are followed (5; never from https to http);
---  ca, certificate, key: files; proxy: URL, or false for none (unless given: https_proxy, http_proxy, all_proxy and
---  no_proxy of the environment)
---@param callback? fun(response: table|nil, message: string|nil) response: status, reason, headers (names in lower
---  case), body, url; nil and why there is no answer
---@return table handle with close(); inside a task and without callback, what the callback would get
function http.request(ctx, url, options, callback)
  if type(options) == "function" then options, callback = nil, options end
  options = options or {}
  if not callback then return task.wait("http", function(resume) http.request(ctx, url, options, resume) end) end
  local parsed, why = check(url, options)
  local self = setmetatable({
    ctx = ctx, url = parsed, address = tostring(url), options = options, callback = callback,
    method = (options.method or "GET"):upper(), body = options.body, timeout = options.timeout or TIMEOUT,
    redirects = options.redirects or REDIRECTS, started = api.clock_monotonic_ns(),
  }, Request)
  ctx:own(self)
  self.deadline = ctx:after(parsed and self.timeout or 0, function()
    self.deadline = nil
    self:finish(nil, parsed and ("no complete answer within %g s"):format(self.timeout) or why)
  end)
  if parsed then self:start() end
  return self
end

--- The same with the method GET.
function http.get(ctx, url, options, callback) return http.request(ctx, url, options, callback) end

--- The same with the method POST.
---@param body string
function http.post(ctx, url, body, options, callback)
  if type(options) == "function" then options, callback = nil, options end
  local all = { method = "POST", body = body }
  for key, value in pairs(options or {}) do all[key] = value end
  return http.request(ctx, url, all, callback)
end

return http
