-- SPDX-License-Identifier: Apache-2.0
--- What TLS clients and servers trust and present (src/tls.h), made once for the same files.
local ffi = require("ffi")
local api = require("flowd.api")

local tls = {}

local ERROR_SIZE = 512
local KEEP_SECONDS = 300 -- then the files are read again: certificates are renewed

local kept = {}

local function make(new, first, second, third)
  local message = ffi.new("char[?]", ERROR_SIZE)
  local made = new(first, second, third, message, ERROR_SIZE)
  if made == nil then return nil, ffi.string(message) end
  return ffi.gc(made, api.tls_context_free)
end

local function cached(new, kind, first, second, third)
  local key = table.concat({ kind, first, second, third }, "\0")
  local entry, now = kept[key], tonumber(api.clock_monotonic_ns()) / 1e9
  if entry and now - entry.made < KEEP_SECONDS then return entry.tls end
  local made, message = make(new, first, second, third)
  if not made then return nil, message end
  kept[key] = { tls = made, made = now }
  return made
end

--- For a client.
---@param options { ca: string?, certificate: string?, key: string? } files; without ca the system's
---@return any|nil context `struct tls_context *`
---@return string|nil message
function tls.client(options)
  return cached(api.tls_client_new, "client", options.ca or "", options.certificate or "",
    options.key or options.certificate or "")
end

--- For a server.
---@param options { certificate: string, key: string?, client_ca: string? } files
---@return any|nil context `struct tls_context *`
---@return string|nil message
function tls.server(options)
  if type(options.certificate) ~= "string" then return nil, "tls.certificate: expected the name of a file" end
  return cached(api.tls_server_new, "server", options.certificate, options.key or options.certificate,
    options.client_ca or "")
end

return tls
