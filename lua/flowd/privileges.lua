-- SPDX-License-Identifier: Apache-2.0
--- The daemon's user: what root has to do first, then root is left for good (src/privileges.h).
--
-- Everything that needs root is done in privileges.take(): directories, the pid file, the directory of
-- pins, and what a plugin or backend does in its `prepare(options, user)`, which is called without an
-- instance. A process that replaces this one (SIGUSR2, a hang) is the ordinary user from its beginning.
local ffi = require("ffi")
local api = require("flowd.api")
local log = require("flowd.log")
local pins = require("flowd.pins")

local privileges = {}

local ERROR_SIZE = 512
local PINS = "pins" -- name of the descriptor that is handed on
local ENOENT, ENOSYS = 2, 38

local message = ffi.new("char[?]", ERROR_SIZE)
local pins_fd, pins_path

local function text(status) return ffi.string(api.error_text(status)) end

--- Where the marker pins, as this process can reach it.
---@param runtime_dir string
---@return string path
function privileges.pins_directory(runtime_dir)
  if not pins_fd then
    local fd = api.handover_take(PINS)
    if fd < 0 then return pins.directory(runtime_dir) end
    privileges.keep_pins(fd, pins.directory(runtime_dir))
  end
  return "/proc/self/fd/" .. pins_fd
end

--- Hold a descriptor of the directory of pins, for this process and the next image.
---@param fd integer
---@param path string
function privileges.keep_pins(fd, path)
  pins_fd, pins_path = fd, path
  local status = api.handover_offer(PINS, fd)
  if status < 0 then log.warn("%s: cannot be handed to the next process: %s", path, text(status)) end
end

--- At the end: an empty directory is left only where its user may not remove it.
function privileges.close()
  if not pins_fd then return end
  api.handover_withdraw(PINS)
  api.descriptor_close(pins_fd)
  os.remove(pins_path)
  pins_fd = nil
end

-- A daemon that runs: its files are not ours to give away.
local function running_pid(values)
  local view = api.state_view(values.runtime_dir .. "/state", message, ERROR_SIZE)
  if view == nil then return nil end
  local pid = api.state_owned(view) and tonumber(api.state_header(view).pid)
  api.state_close(view, false)
  return pid or nil
end

local function prepare_directories(values, user)
  for _, field in ipairs({ "runtime_dir", "state_dir", "cache_dir" }) do
    if api.process_prepare_directory_for(values[field], user.uid, user.gid, field == "runtime_dir" and "state" or "",
      message, ERROR_SIZE) ~= 0 then
      return ("%s: %s"):format(field, ffi.string(message))
    end
  end
  local path = values.runtime_dir .. "/state"
  local status = api.privileges_give(path, user)
  if status ~= 0 and status ~= -ENOENT then return ("state file %s: %s"):format(path, text(status)) end
end

local function prepare_pid_file(values, user)
  local path = values.pid_file
  if path == "" then return end
  if api.process_write_pid_file(path, message, ERROR_SIZE) ~= 0 then return "pid_file: " .. ffi.string(message) end
  -- Ours to empty at the end, wherever it stands.
  local status = api.privileges_give(path, user)
  if status ~= 0 then return ("pid_file: %s: %s"):format(path, text(status)) end
end

local function is_marked(config)
  for name, options in pairs(config.values.backends) do
    if (options.use or name) == "marker" then return true end
  end
  return false
end

-- Without it the marker says by itself what becomes of marks, and tries the path.
local function prepare_pins(config, user)
  local directory = pins.directory(config.values.runtime_dir)
  local fd = api.marker_pins_prepare(directory, user.uid, user.gid)
  if fd >= 0 then
    privileges.keep_pins(fd, directory)
  elseif fd ~= -ENOSYS then
    log.warn("%s: cannot be prepared: %s", directory, text(fd))
  end
end

local function prepare_modules(config, user)
  for _, kind in ipairs({ "backends", "plugins" }) do
    for name, options in pairs(config.values[kind]) do
      local module = config.modules[kind][name]
      if module.prepare then
        local ok, problem = pcall(module.prepare, module, options, user)
        if not ok then log.warn("%s '%s': %s", kind:sub(1, -2), name, tostring(problem)) end
      end
    end
  end
end

local function become(config, user)
  local values = config.values
  local pid = running_pid(values)
  if pid then return ("another flowd-lua is running with pid %d (it owns %s/state)"):format(pid, values.runtime_dir) end
  local problem = prepare_directories(values, user) or prepare_pid_file(values, user)
  if problem then return problem end
  if is_marked(config) then prepare_pins(config, user) end
  prepare_modules(config, user)
  if api.privileges_drop(user, message, ERROR_SIZE) ~= 0 then
    return ('user: cannot become "%s": %s'):format(values.user, ffi.string(message))
  end
  log.info('runs as user "%s" (%d), group %d', values.user, user.uid, user.gid)
  -- Not an error: what runs, runs on.
  if api.trust_check(config.path, ffi.C.TRUST_OWN_FILE, message, ERROR_SIZE) ~= 0 then
    log.warn('user "%s" cannot read the configuration: reload and upgrade will be refused: %s', values.user,
      ffi.string(message))
  end
end

--- At a reload as an ordinary user: what would need root, which is left. Nothing: nil.
---@param config table the new one
---@param goes_on fun(kind: "plugins"|"backends", name: string): boolean does it run on as it is?
---@return string[]|nil problems
function privileges.denied(config, goes_on)
  if api.privileges_uid() == 0 then return nil end
  local problems = {}
  for _, kind in ipairs({ "backends", "plugins" }) do
    for name, options in pairs(config.values[kind]) do
      local module = config.modules[kind][name]
      local problem = module.denied and not goes_on(kind, name) and module:denied(options)
      if problem then problems[#problems + 1] = ("%s.%s: %s"):format(kind, name, problem) end
    end
  end
  table.sort(problems)
  return #problems > 0 and problems or nil
end

--- Become the user that the configuration names, or keep what we have as an ordinary one.
---@param config table what flowd.config.load returned
---@return string|nil problem why the daemon must not start
function privileges.take(config)
  local values = config.values
  local uid = api.privileges_uid()
  api.privileges_raise_memlock()
  -- Privileges are a thread's: one that runs beside us would keep them.
  if uid ~= 0 or values.user ~= "" then api.marker_early_wait() end
  if values.user == "" then
    if values.group ~= "" then return "group: goes with the option user, which is not set" end
  else
    local user = ffi.new("struct privileges_user")
    if api.privileges_find_user(values.user, values.group, user, message, ERROR_SIZE) ~= 0 then
      return ffi.string(message)
    end
    if uid == 0 and user.uid ~= 0 then return become(config, user) end
    if user.uid ~= uid then
      return ('user: this process runs as user %d: only root can become "%s" (%d)'):format(uid, values.user, user.uid)
    end
  end
  if uid ~= 0 then
    local status = api.privileges_keep()
    if status ~= 0 then log.warn("capabilities cannot be kept for the next image of the process: %s", text(status)) end
  end
end

return privileges
