-- SPDX-License-Identifier: Apache-2.0
--- Find plugin and backend modules, built in or a site's own, and run instances of them.
--
-- A module is a Lua file that returns a table: `name`, `doc`, `schema`, `start(self, ctx)`,
-- `stop(self)`; a backend also `on_events(self, events, n)` and, if it queues, `flush(self)`. Either may have
-- `change(self, options)`: take new options while it runs; false: it cannot, and is stopped and started.
-- One that needs root for more than marking has, both called without an instance:
-- `prepare(module, options, user)`, as root before the daemon becomes `user`, and `denied(module, options)`,
-- at a reload as an ordinary user: why it could not be started with these options, or nil.
-- An instance inherits from its module: `self.options`, `self.ctx`, and whatever it sets.
local module_memory = require("flowd.module_memory")
local schema_check = require("flowd.schema_check")
local show = require("flowd.show")
local watch = require("flowd.watch")

local plugins = {}

local singular = { plugins = "plugin", backends = "backend" }

local builtin = {}

--- Names of the built-in modules of a kind.
---@param kind "plugins"|"backends"
---@return string[] names to be read only
function plugins.builtin(kind)
  local names = builtin[kind]
  if names then return names end
  names = {}
  builtin[kind] = names
  for _, module in ipairs(_flowd.embedded()) do
    local name = module:match("^" .. kind .. "%.([%w_]+)$")
    if name then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- Text and path of the modules that are a site's own.
local sources, paths = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

--- The text of a site's own module; nil of one that is built in.
---@param module table
---@return string|nil
function plugins.source(module) return sources[module] end

-- What it raised, as text. Of a table that is the script's doing, too.
local function text_of(err)
  if type(err) == "string" then return err end
  local ok, text = pcall(tostring, err)
  return ok and type(err) ~= "nil" and text or ("error object is no string (a %s)"):format(type(err))
end

-- A deliberate error("…", 0) is for the operator; anything else wants a traceback, of the site's own functions.
local function site_traceback(err)
  if type(err) == "string" and not err:find("^[^\n]-%.lua:%d+:") then return err end
  local trace = debug.traceback(text_of(err), 2)
  return (trace:gsub("\n%s+%[C%]: in function 'xpcall'.*", ""):gsub("\n%s+%[C%]: in function 'fn'.*", "")
    :gsub("\n%s+lua/flowd/plugins.lua:.*", ""):gsub("\t", "  "))
end

local function read_plain(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

local function check_shape(kind, name, module, where)
  local what = singular[kind]
  local function refuse(format, ...) return nil, ("%s '%s' (%s): " .. format):format(what, name, where, ...) end
  if type(module) ~= "table" then
    return refuse("the file must return a table, as in `return %s`; it returns %s", name, show(module))
  end
  for _, field in ipairs({ { "doc", "string" }, { "schema", "table" }, { "start", "function" } }) do
    if type(module[field[1]]) ~= field[2] then
      return refuse("expected %s to be a %s, got %s", field[1], field[2], show(module[field[1]]))
    end
  end
  if kind == "backends" and type(module.on_events) ~= "function" then
    return refuse("expected on_events to be a function, got %s", show(module.on_events))
  end
  if module.name ~= name then return refuse("expected name to be that of the file, %q; got %s", name, show(module.name)) end
  -- Those that are built in are tested.
  local problems = where ~= "built in" and schema_check.problems(module.schema) or {}
  if #problems > 0 then
    table.sort(problems)
    return refuse("%s", table.concat(problems, "; "))
  end
  return module
end

--- Find and load a module.
---@param kind "plugins"|"backends"
---@param name string
---@param directories? string[] a site's own, searched before the built-in ones
---@param read? fun(path: string): string|nil, string? text of a file; nil and why it is refused; nil alone: there
---  is none
---@return table|nil module
---@return string|nil message why not; nil together with a nil module: there is none of that name
function plugins.find(kind, name, directories, read)
  if not name:match("^[%a_][%w_]*$") then return nil, nil end
  for _, directory in ipairs(directories or {}) do
    local path = directory .. "/" .. name .. ".lua"
    local text, refusal = (read or read_plain)(path)
    if refusal then return nil, refusal end
    if text then
      local chunk, message = load(text, "@" .. path, "t")
      if not chunk then return nil, message end
      -- To look at what it returns may be to run it, too.
      local ok, module, problem = watch.load(path, function()
        return check_shape(kind, name, chunk(name), path)
      end, site_traceback)
      if not ok then return nil, module end
      if module then sources[module], paths[module] = text, path end
      return module, problem
    end
  end
  for _, known in ipairs(plugins.builtin(kind)) do
    if known == name then return check_shape(kind, name, require(kind .. "." .. name), "built in") end
  end
  return nil, nil
end

--- Call a function that looks at what a module says of itself, its schema and such: of a site's own that may be code,
--- too, which fails or never ends.
---@param module table
---@param fn function
---@return boolean ok
---@return any result or, if it failed, the message
function plugins.ask(module, fn)
  if not paths[module] then return true, fn() end
  return watch.load(paths[module], fn, site_traceback)
end

--- Make and start an instance.
---@param module table
---@param ctx table its context, with the validated options
---@return table|nil instance
---@return string|nil message why it did not start
function plugins.start(module, ctx)
  local instance = setmetatable({ options = ctx.options, ctx = ctx }, { __index = module })
  -- The built-in ones may take their time to set themselves up.
  local mark = sources[module] and watch.enter(ctx.kind, ctx.name)
  local ok, message, reason = module_memory.call_as(ctx.kind, ctx.name, xpcall, module.start, site_traceback, instance, ctx)
  if mark then watch.leave(mark) end
  -- `return nil, "why"`, as Lua's own functions say that they failed.
  if ok and (message or type(reason) ~= "string") then return instance end
  ctx:close()
  return nil, tostring(ok and reason or message)
end

--- Stop an instance; its handles are closed whatever its stop() does.
---@param instance table
function plugins.stop(instance)
  if instance.stop then
    local mark = watch.enter(instance.ctx.kind, instance.ctx.name)
    local ok, message = module_memory.call_as(instance.ctx.kind, instance.ctx.name, xpcall, instance.stop,
      site_traceback, instance)
    watch.leave(mark)
    if not ok then instance.ctx:log("error", "stop: %s", message) end
  end
  instance.ctx:close()
end

return plugins
