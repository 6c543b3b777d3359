-- SPDX-License-Identifier: Apache-2.0
--- Fetch the registry from its URL, now and then, and take it when it is new and everything works with it.
local context = require("flowd.context")
local counters = require("flowd.counters")
local log = require("flowd.log")
local cache = require("flowd.registry_cache")
local registry = require("flowd.registry")

local updates = {}

local SIZE_MAX = 4 * 1024 * 1024
local RETRY_FIRST = 60 -- seconds after a failure; doubled each time, up to `refresh`
local LOOK_SECONDS = 0.1 -- between looks at whether the reload is through

-- What an operator can do about a failure that is not the server's.
local function advice(message)
  if message:find("issuer certificate", 1, true) or message:find("self.signed") then
    return " (registry.ca names the certificate of its authority)"
  end
  if message:find("proxy", 1, true) then return " (https_proxy and no_proxy are the daemon's environment)" end
  return ""
end

--- Ask once.
---@param ctx table the owner of the connection
---@param settings table the options registry.*
---@param note flowd.RegistryNote about the text at hand: an answer may be that it is the newest
---@param callback fun(result: { text: string?, registry: flowd.Registry?, note: flowd.RegistryNote }|nil, message: string|nil)
---  a result without text: unchanged
---@return table handle with close()
function updates.fetch(ctx, settings, note, callback)
  local headers = { Accept = "application/json" }
  if note.etag then headers["If-None-Match"] = note.etag end
  if note.last_modified then headers["If-Modified-Since"] = note.last_modified end
  return ctx.http.get(settings.url, {
    headers = headers, timeout = settings.timeout, limit = SIZE_MAX, ca = settings.ca ~= "" and settings.ca or nil,
  }, function(response, message)
    if not response then return callback(nil, message .. advice(message)) end
    local fetched = os.time()
    if response.status == 304 and (note.etag or note.last_modified) then
      return callback({ note = { etag = note.etag, last_modified = note.last_modified, fetched = fetched } })
    end
    if response.status ~= 200 then
      return callback(nil, ("%s: the server answers %d %s"):format(response.url, response.status, response.reason))
    end
    local made, problems = registry.parse(response.body, response.url)
    if not made then return callback(nil, table.concat(problems, "; ")) end
    callback({ text = response.body, registry = made, note = {
      etag = response.headers.etag, last_modified = response.headers["last-modified"], fetched = fetched,
    } })
  end)
end

local Updates = {}
Updates.__index = Updates

function Updates:count(result)
  local counter = counters.get("flowd_registry_updates_total", { result = result })
  counter.value = counter.value + 1
end

function Updates:ask_in(seconds)
  if self.timer then self.ctx:release(self.timer) end
  self.timer = self.ctx:after(seconds, function()
    self.timer = nil
    self:ask()
  end)
end

function Updates:failed(result, message)
  self:count(result)
  -- Once, until it works again or something else is wrong.
  log.write(self.complained == message and "debug" or "warn", "registry: %s: the one in use stays in use", message)
  self.complained = message
  self:ask_in(math.min(self.wait, self.settings.refresh))
  self.wait = math.min(self.wait * 2, self.settings.refresh)
end

function Updates:done(result, note)
  self:count(result)
  self.wait, self.complained = RETRY_FIRST, nil
  if note then cache.renew(self.path, note) end
  self:ask_in(self.settings.refresh)
end

-- The new one is in the cache; is it in use? Nothing but the reload can tell.
function Updates:look(result, before, before_note)
  if self.daemon.registry.fingerprint == result.registry.fingerprint then
    self.taking = nil
    log.info("registry: %d experiments from %s%s are in use", #result.registry.experiments, self.settings.url,
      result.registry.modified and ", as of " .. result.registry.modified or "")
    return self:done("new")
  end
  if self.daemon.reloading then
    self.ctx:after(LOOK_SECONDS, function() self:look(result, before, before_note) end)
    return
  end
  self.taking = nil
  -- The next start must find what works.
  cache.store(self.path, before, before_note)
  self:failed("refused", "the configuration cannot be loaded with the new one")
end

function Updates:take(result)
  local before, before_note = cache.text(self.path), cache.note(self.path)
  local ok, message = cache.store(self.path, result.text, result.note)
  if not ok then return self:failed("failed", message) end
  self.taking = true
  self.daemon:reload()
  self:look(result, before, before_note)
end

function Updates:ask()
  local path, settings = self.path, self.settings
  self.request = updates.fetch(self.ctx, settings, cache.note(path), function(result, message)
    self.request = nil
    if not result then return self:failed("failed", message) end
    if not result.text then return self:done("unchanged", result.note) end
    if result.registry.fingerprint == self.daemon.registry.fingerprint and cache.text(path) then
      return self:done("unchanged", result.note)
    end
    self:take(result)
  end)
end

--- The configuration changed, perhaps.
function Updates:configure()
  local values = self.daemon.values
  local settings = values.registry
  if self.taking and self.settings and settings.url == self.settings.url then
    self.settings = settings
    return
  end
  local same = self.settings and settings.url == self.settings.url and settings.refresh == self.settings.refresh
  self.settings, self.path = settings, cache.path(values)
  if same then return end
  for _, name in ipairs({ "timer", "request" }) do
    if self[name] then self.ctx:release(self[name]) end
    self[name] = nil
  end
  self.wait, self.taking = RETRY_FIRST, nil
  if settings.url == "" then return end
  if not self.path then
    log.warn("registry.url: nothing is fetched without a cache_dir")
    return
  end
  -- Started again and again, we do not ask each time.
  local note = cache.note(self.path)
  local age = note.fetched and os.time() - note.fetched or math.huge
  self:ask_in(age >= 0 and age < settings.refresh and settings.refresh - age or 0)
end

function Updates:close() self.ctx:close() end

--- Keep a daemon's registry up to date.
---@param daemon table flowd.daemon's
---@return table handle with configure() and close()
function updates.start(daemon)
  local self = setmetatable({ daemon = daemon, ctx = context.new({ kind = "service", name = "registry" }) }, Updates)
  self:configure()
  return self
end

return updates
