-- SPDX-License-Identifier: Apache-2.0
--- Modes, users and groups of what is made in the file system, as numbers.
local ffi = require("ffi")
local api = require("flowd.api")

local accounts = {}

local KEEP = 0xffffffff -- the daemon's own

local function find(lookup, what, name)
  if name == nil or name == "" then return KEEP end
  local id = ffi.new("uint32_t[1]")
  if lookup(name, id) ~= 0 then error(('there is no %s "%s"'):format(what, name), 0) end
  return id[0]
end

---@param name string|nil a name or a number; nil or "": the daemon's
---@return integer
function accounts.user(name) return find(api.account_user, "user", name) end

---@param name string|nil
---@return integer
function accounts.group(name) return find(api.account_group, "group", name) end

---@param text string|nil octal, "0660" unless given
---@return integer
function accounts.mode(text)
  local mode = tonumber(text or "0660", 8)
  if not mode or mode > 511 then error(('expected a mode such as "0660", got %q'):format(tostring(text)), 0) end
  return mode
end

return accounts
