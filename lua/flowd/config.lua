-- SPDX-License-Identifier: Apache-2.0
--- Load a configuration: trusted file, sandboxed chunk, everything checked, all errors told.
local bit = require("bit")
local ffi = require("ffi")
local api = require("flowd.api")
local memory = require("flowd.memory")
local options = require("flowd.options")
local paths = require("flowd.paths")
local plugins = require("flowd.plugins")
local policy = require("flowd.policy")
local registry = require("flowd.registry")
local registry_cache = require("flowd.registry_cache")
local rules = require("flowd.rules")
local schema = require("flowd.schema")
local snapshot = require("flowd.snapshot")
local source_lines = require("flowd.source_lines")
local suggest = require("flowd.suggest")
local trusted = require("flowd.trusted")
local watch = require("flowd.watch")

local config = {}

local ENOENT = 2

---@class flowd.Config
---@field path string the --conf file
---@field directory string where it stands: what its relative names of files refer to
---@field owner integer uid whose files are trusted, besides root's
---@field values table every option, completed with the defaults
---@field modules table<string, table<string, table>> by kind and key: the module behind it
---@field registry flowd.Registry
---@field registry_file string|nil where that is from; nil: built in
---@field module_names table<string, table<string, table>> by kind and key: its name, and the directories searched
---@field rules table[] all rules, those of files in their place
---@field entries table[] the same as written: { rule = … } or, for files, { name = …, rules = … }
---@field files string[] every file that was read
---@field map_files flowd.map.Files of the maps that its rules use
---@field sources flowd.Snapshot what was read, to load the same again

-- -- one load --------------------------------------------------------------------------------

local Loader = {}
Loader.__index = Loader

-- A problem at a path of the configuration; its line is looked up when all are known.
function Loader:fail(keys, message, missing)
  self.problems[#self.problems + 1] = {
    keys = { unpack(keys) }, message = message, missing = missing, order = #self.problems,
  }
end

-- A problem that says itself where it is.
function Loader:fail_text(text) self.problems[#self.problems + 1] = { text = text, order = #self.problems } end

function Loader:validate(fields, value, keys)
  local completed, errors = schema.validate(fields, value, { keys = keys, registry = self.registry })
  for _, e in ipairs(errors) do self:fail(e.keys, e.message, e.missing) end
  return completed
end

-- The text of a file: what was kept of it, or what it says now.
function Loader:read(path, owner)
  local text, message
  if self.kept then
    text = self.kept.files[path]
    if not text then message = path .. ": not among what was kept of the configuration" end
  else
    text, message = trusted.read(path, owner)
  end
  self.sources.files[path] = text
  return text, message
end

-- The same of a site's own module; nil alone when there is none.
function Loader:read_module(path)
  if self.kept then
    if not self.kept.files[path] then return nil end
  elseif tonumber(api.trust_file_owner(path)) == -ENOENT then
    return nil
  end
  return self:read(path, self.owner)
end

function Loader:glob(pattern)
  local list, message
  if self.kept then list = self.kept.lists[pattern] or {} else list, message = paths.glob(pattern) end
  self.sources.lists[pattern] = list
  return list, message
end

-- Run a configuration or rule file. Returns true, what it returns, and the rules that it made; or
-- false and a message.
function Loader:run_file(path, text)
  self.files[#self.files + 1] = path
  local function whole(message) return source_lines.whole_path(message, path) end
  local chunk, message = self.policy:load(text, "@" .. path)
  if not chunk then return false, whole(message) end
  local before = memory.enter()
  local ok, value = watch.load(path, chunk, function(err)
    memory.leave(before)
    if type(err) ~= "string" then return ("%s: error object is no string (%s)"):format(path, type(err)) end
    return whole(err)
  end)
  memory.leave(before)
  if not ok and memory.is_refusal(value) then
    collectgarbage()
    value = ("%s: not enough memory: memory_limit is %d MB"):format(path, memory.limit() or 0)
  end
  local made, problems = self.policy:take_rules()
  for _, problem in ipairs(ok and problems or {}) do self:fail_text(problem) end
  return ok, value, made
end

local function names_of(kind, directories)
  local names, seen = { unpack(plugins.builtin(kind)) }, {}
  for _, directory in ipairs(directories) do
    for _, path in ipairs(paths.glob(directory .. "/*.lua") or {}) do
      local name = path:match("([^/]+)%.lua$")
      if not seen[name] then names[#names + 1], seen[name] = name, true end
    end
  end
  return names
end

-- One key of `plugins` or `backends`.
function Loader:load_module(kind, key, section, directories)
  local keys = { kind, key }
  local what = kind == "plugins" and "plugin" or "backend"
  if type(key) ~= "string" then
    self:fail(keys, ("expected the name of a %s; got %s"):format(what, tostring(key)))
    return nil
  end
  if type(section) ~= "table" then
    self:fail(keys, ("expected a table of options ({} for all defaults); got %s"):format(tostring(section)))
    return nil
  end
  local name = key
  if section.use ~= nil then
    name, keys = section.use, { kind, key, "use" }
    if type(name) ~= "string" then
      self:fail(keys, ("expected the name of a %s; got %s"):format(what, tostring(name)))
      return nil
    end
  end
  local module, message = plugins.find(kind, name, directories, function(path) return self:read_module(path) end)
  if not module then
    local names = names_of(kind, directories)
    if not message then
      local hint = suggest.hint(name, names)
      if hint == "" and #names > 0 then hint = "; known are " .. table.concat(names, ", ") end
      message = ('there is no %s "%s"%s'):format(what, name, hint)
    end
    self:fail(keys, message)
    return nil
  end
  self.module_names[kind][key] = { name = name, directories = directories }
  local ok, completed = plugins.ask(module, function()
    return self:validate(options.of_module(module), section, { kind, key })
  end)
  if not ok then
    self:fail(keys, completed)
    return nil
  end
  self:check_plain(completed, { kind, key })
  return module, completed
end

-- Options are data: plugins and backends live in another Lua state.
function Loader:check_plain(value, keys, above)
  local kind = type(value)
  if kind == "table" then
    if getmetatable(value) ~= nil then return self:fail(keys, "expected a plain table; got one with a metatable: options are data") end
    above = above or {}
    if above[value] then return self:fail(keys, "a table holds itself: options are data") end
    above[value] = true
    for key, item in pairs(value) do
      if type(key) == "string" or type(key) == "number" then
        keys[#keys + 1] = key
        self:check_plain(item, keys, above)
        keys[#keys] = nil
      else
        self:fail(keys, ("expected texts and numbers as keys; got a %s"):format(type(key)))
      end
    end
    above[value] = nil
  elseif kind ~= "nil" and kind ~= "boolean" and kind ~= "number" and kind ~= "string" then
    self:fail(keys, ("a %s cannot be handed to a plugin or backend: options are data"):format(kind))
  end
end

function Loader:load_modules(kind)
  local sections, modules = {}, {}
  local directories = {}
  for i, directory in ipairs(self.values[kind == "plugins" and "plugin_dirs" or "backend_dirs"] or {}) do
    directories[i] = paths.below(self.directory, directory)
  end
  local keys = {}
  for key in pairs(self.values[kind] or {}) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  if kind == "backends" and #keys > ffi.C.FLOW_BACKENDS_MAX then
    self:fail({ kind }, ("expected at most %d; got %d"):format(ffi.C.FLOW_BACKENDS_MAX, #keys))
  end
  for _, key in ipairs(keys) do
    modules[key], sections[key] = self:load_module(kind, key, self.values[kind][key], directories)
  end
  self.values[kind] = sections
  return modules
end

-- A registry, from a file or what was kept of it. Not a trusted file: it is data, and every part of it is checked.
function Loader:read_registry(path)
  local text, problems
  if self.kept then
    text = self.kept.files[path]
    problems = { path .. ": not among what was kept of the configuration" }
  else
    text, problems = registry.read_file(path)
  end
  local loaded
  if text then loaded, problems = registry.parse(text, path) end
  if not loaded then return nil, problems end
  self.sources.files[path], self.registry_file = text, path
  return loaded
end

function Loader:load_registry()
  local settings = self.values.registry
  if settings and settings.ca and settings.ca ~= "" then settings.ca = paths.below(self.directory, settings.ca) end
  -- What was fetched last, when there is something of use.
  local fetched = registry_cache.path(self.values)
  local loaded = fetched and self:read_registry(fetched)
  if loaded then return loaded end
  local file = settings and settings.file or ""
  if file ~= "" then
    local problems
    loaded, problems = self:read_registry(paths.below(self.directory, file))
    if loaded then return loaded end
    for _, problem in ipairs(problems) do self:fail({ "registry", "file" }, problem) end
  end
  return registry.load_embedded()
end

-- A rule that was made but stands in no list would silently not run.
function Loader:fail_forgotten(made, listed)
  for _, rule in ipairs(made) do
    if not listed[rule] then
      self:fail_text(('%s:%d: rule "%s" is not in the list of rules: it would never run'):format(rule.file, rule.line, rule.name))
    end
  end
end

-- The list of rules that a rule file gave, or nil: what is wrong is noted.
function Loader:rule_list(file, value, made)
  if rules.is_rule(value) then return { value } end
  -- rule "…" {…} as statements: they stand in the order in which they were made.
  if value == nil then return made end
  if type(value) == "table" then return value end
  self:fail_text(("%s: expected the file to return nothing or a list of rules; it returned a %s"):format(file,
    type(value)))
  return nil
end

-- The rules of one trusted file, appended to both lists.
function Loader:load_rule_file(file, text, all, of_entry)
  local ok, value, made = self:run_file(file, text)
  if not ok then return self:fail_text(value) end
  local list = self:rule_list(file, value, made)
  if not list then return end
  local listed = {}
  for i, rule in ipairs(list) do
    if rules.is_rule(rule) then
      listed[rule] = true
      of_entry[#of_entry + 1], all[#all + 1] = rule, rule
    else
      self:fail_text(('%s: expected a list of rules; entry %d is a %s, not made by rule "name" …'):format(file, i,
        type(rule)))
    end
  end
  self:fail_forgotten(made, listed)
end

-- The files of one entry: a name, or a pattern.
function Loader:load_rule_files(position, name, all, entries)
  local entry = { name = name, rules = {} }
  entries[#entries + 1] = entry
  local keys = { "rules", position }
  local path = paths.below(self.directory, name)
  local files = { path }
  if path:find("[*?%[]") then
    local message
    files, message = self:glob(path)
    if not files then return self:fail(keys, message) end
  end
  for _, file in ipairs(files) do
    local text, message = self:read(file, self.owner)
    if text then
      self:load_rule_file(file, text, all, entry.rules)
    else
      self:fail(keys, message)
    end
  end
end

-- made: the rules that the configuration file itself made.
function Loader:load_rules(made)
  local all, entries, listed = {}, {}, {}
  for position, item in ipairs(self.values.rules or {}) do
    if type(item) == "string" then
      self:load_rule_files(position, item, all, entries)
    elseif rules.is_rule(item) then
      listed[item] = true
      entries[#entries + 1] = { rule = item }
      all[#all + 1] = item
    elseif item then
      self:fail({ "rules", position }, 'expected rule "name" … or the name of a file of rules; got a table')
    end
  end
  self:fail_forgotten(made, listed)
  return all, entries
end

-- Every problem as FILE:LINE: path: message, in the order of the lines.
function Loader:report()
  local lines = source_lines.read(self.text)
  for _, problem in ipairs(self.problems) do
    if problem.keys then
      problem.line = lines:find(problem.keys)
      local path = schema.path_text(problem.keys)
      problem.text = ("%s:%d: %s%s"):format(self.path, problem.line, path ~= "" and path .. ": " or "",
        problem.message)
    end
  end
  table.sort(self.problems, function(a, b)
    local line_a, line_b = a.line or math.huge, b.line or math.huge
    if line_a ~= line_b then return line_a < line_b end
    return a.order < b.order
  end)
  local errors = {}
  for i, problem in ipairs(self.problems) do errors[i] = problem.text end
  return errors
end

-- Everything after the chunk has returned its table.
function Loader:build(raw, made)
  self.values = self:validate(options.global, raw, {}) or {}
  if type(self.values.memory_limit) == "number" then memory.set_limit(self.values.memory_limit) end
  self.registry = self:load_registry()
  local result = {
    path = self.path, directory = self.directory, owner = self.owner, values = self.values,
    registry = self.registry, registry_file = self.registry_file, files = self.files, sources = self.sources,
    module_names = self.module_names, map_files = self.policy.files,
    env = self.policy.env,
  }
  result.modules = { plugins = self:load_modules("plugins"), backends = self:load_modules("backends") }
  result.rules, result.entries = self:load_rules(made)
  for _, problem in ipairs(rules.check(result.rules, {
    registry = self.registry, backends = config.backend_bits(result), plugins = self.values.plugins,
  })) do
    self:fail_text(problem)
  end
  return result
end

-- What the file says of memory holds while it is loaded, too.
function Loader:expect_memory(text)
  local megabytes = tonumber(("\n" .. text):match("[\n,{]%s*memory_limit%s*=%s*(%d+)"))
  local field = options.global.memory_limit
  if megabytes and megabytes >= field.min and megabytes <= field.max then memory.set_limit(megabytes) end
end

local function load_file(path, overrides, kept)
  local owner = tonumber(api.trust_file_owner(path))
  if owner == -ENOENT and not kept then
    return nil, { path .. ": there is no such file; --conf FILE names another" }
  end
  local self = setmetatable({
    path = path, directory = paths.directory_of(path), owner = owner, problems = {}, files = {},
    kept = kept, sources = snapshot.new(), module_names = { plugins = {}, backends = {} },
  }, Loader)
  self.policy = policy.new({
    directory = self.directory, owner = owner, kept = kept ~= nil, read = function(name) return self:read(name, owner) end,
  })
  local text, message = self:read(path, ffi.C.TRUST_OWN_FILE)
  if not text then return nil, { message } end
  self:expect_memory(text)
  self.text = text
  local ok, raw, made = self:run_file(path, text)
  if not ok then return nil, { raw } end
  if type(raw) ~= "table" then
    return nil, { ("%s: expected the file to return a table of options; it returned %s"):format(path,
      raw == nil and "nothing" or "a " .. type(raw)) }
  end
  local result = self:build(raw, made)
  if #self.problems > 0 then return nil, self:report() end
  overrides = overrides or {}
  if overrides.log_level then result.values.log.level = overrides.log_level end
  if overrides.log_time then result.values.log.time = true end
  if overrides.user then result.values.user = overrides.user end
  result.overrides = overrides
  self.policy:seal()
  return result
end

--- Load a configuration file.
---@param path string
---@param overrides { log_level: string?, log_time: boolean?, user: string? }? of the command line
---@param kept flowd.Snapshot? its `sources` of before, instead of the files
---@return flowd.Config|nil
---@return string[]|nil errors all of them, each "FILE:LINE: path: message"
function config.load(path, overrides, kept)
  return load_file(path, overrides, kept)
end

--- Bits of the backends, in the order of their keys: what a rule's route is made of.
---@param loaded flowd.Config
---@return table<string, integer>
function config.backend_bits(loaded)
  local names, bits = {}, {}
  for name in pairs(loaded.values.backends) do names[#names + 1] = name end
  table.sort(names)
  for position, name in ipairs(names) do bits[name] = bit.lshift(1, position - 1) end
  return bits
end

return config
