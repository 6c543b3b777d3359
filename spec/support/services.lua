-- SPDX-License-Identifier: Apache-2.0
--- For specs of what plugins are given: a context, and turns of the loop until something has happened.
local context = require("flowd.context")
local counters = require("flowd.counters")
local loop = require("flowd.loop")
local process = require("spec.support.process")

local services = {}

local made = 0

--- A context of a plugin with a name of its own, so that its counters start at 0.
---@param fields table|nil
function services.context(fields)
  made = made + 1
  local all = { name = "spec" .. made, kind = "plugin", options = {} }
  for key, value in pairs(fields or {}) do all[key] = value end
  return context.new(all)
end

--- Turn the loop until the condition holds; returns what it returned.
---@param what string for the message
---@param condition fun(): any
---@param seconds number|nil
function services.turn_until(what, condition, seconds)
  local result
  process.wait_for(what, seconds or 20, function()
    for _ = 1, 10 do loop.turn() end
    result = condition()
    return result
  end)
  return result
end

--- Run a function as a task of the context and turn the loop until it is done; returns its results, up to three.
function services.run(ctx, fn, seconds)
  local results
  ctx:spawn(function() results = { fn() } end)
  services.turn_until("the task", function() return results end, seconds)
  return results[1], results[2], results[3]
end

--- A proxy that makes tunnels, and answers other requests itself.
---@param ctx table
---@param status string|nil what it refuses tunnels with
---@return table handle with .port
---@return string[] seen the requests
function services.proxy(ctx, status)
  local seen = {}
  local handle = ctx:listen({ on_connection = function() end, on_data = function(outside, text)
    if outside.inside then return outside.inside:write(text) end
    seen[#seen + 1] = text
    local host, port = text:match("^CONNECT %[(.-)%]:(%d+) HTTP/1.1\r\n")
    if not host then return outside:write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy") end
    if status then return outside:write(("HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"):format(status)) end
    ctx.connect({ host = host, port = tonumber(port), on_data = function(_, more) outside:write(more) end,
      on_end = function() outside:finish() end }, function(inside)
      outside.inside = inside
      outside:write("HTTP/1.1 200 Connected\r\n\r\n")
    end)
  end })
  return handle, seen
end

--- One of a context's counters.
function services.counter(ctx, base, labels)
  local all = { kind = ctx.kind, name = ctx.name }
  for key, value in pairs(labels or {}) do all[key] = value end
  return tonumber(counters.get(base, all).value)
end

return services
