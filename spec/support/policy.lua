-- SPDX-License-Identifier: Apache-2.0
--- For specs of policy: rules from text, batches from tables, what the chain made of them.
local bit = require("bit")
local ffi = require("ffi")
local jit = require("jit")
local api = require("flowd.api")
local jit_options = require("flowd.jit_options")
local policy = require("flowd.policy")
local registry = require("flowd.registry")
local rules = require("flowd.rules")

local support = {}

support.backends = { marker = 1, firefly = 2, prometheus = 4 }
support.names = registry.load_embedded()
local plugins = { "pipe", "http" }

local protocols = { tcp = 6, udp = 17 }
local states = { start = 1, ongoing = 2, ["end"] = 3 }

--- Rules of a text, not compiled.
function support.rules(text)
  local environment = policy.new()
  local chunk = assert(environment:load(text, "@site.lua"))
  chunk()
  return environment:take_rules()
end

--- Compile the rules of a text; returns what rules.compile returns.
function support.compile(text, options)
  local all = {
    registry = support.names, backends = support.backends, plugins = { pipe = true, http = true },
    source_id = function(name)
      for id, plugin in ipairs(plugins) do
        if plugin == name then return id end
      end
    end,
    source_name = function(id) return plugins[id] end,
  }
  for key, value in pairs(options or {}) do all[key] = value end
  return rules.compile(support.rules(text), all)
end

--- Compile the rules of a text, which must be right.
---@return flowd.Chain
function support.chain(text, options)
  local chain, problems = support.compile(text, options)
  return chain or error(table.concat(problems, "\n"), 2)
end

--- One event: the fields given, over a TCP start from [2001:db8::1]:1094 to [2001:db8::2]:40000.
function support.fill(e, fields)
  ffi.fill(e, ffi.sizeof("struct flow_event"))
  local src, dst = fields.src or "2001:db8::1", fields.dst or "2001:db8::2"
  e.key.family = api.address_parse(src, #src, e.key.src)
  assert(api.address_parse(dst, #dst, e.key.dst) == e.key.family)
  e.key.src_port, e.key.dst_port = fields.src_port or 1094, fields.dst_port or 40000
  e.key.protocol = protocols[fields.protocol or "tcp"]
  e.state = states[fields.state or "start"]
  e.time_us = fields.time and fields.time * 1e6 or 1700000000250000ULL
  e.start_us = 1700000000000000ULL
  e.route, e.slot = -1, -1
  e.source = fields.plugin == "http" and 2 or 1
  e.experiment, e.activity = fields.experiment or 0, fields.activity or 0
  e.flags = fields.flags or 0
  if fields.bytes_sent then
    e.flags = bit.bor(e.flags, ffi.C.EVENT_HAS_BYTES)
    e.bytes_sent, e.bytes_received = fields.bytes_sent, fields.bytes_received
  end
  ffi.copy(e.application, fields.application or "")
end

--- A batch of events.
function support.batch(list)
  local batch = ffi.new("struct flow_batch")
  for i, fields in ipairs(list) do support.fill(batch.event[i - 1], fields) end
  batch.count = #list
  return batch
end

--- What became of the batch's events: tables of what rules can change.
function support.results(batch)
  local results = {}
  for i = 0, batch.count - 1 do
    local e = batch.event[i]
    results[i + 1] = {
      experiment = e.experiment, activity = e.activity, route = e.route, rule = e.rule,
      application = ffi.string(e.application), dropped = bit.band(e.flags, ffi.C.EVENT_DROPPED) ~= 0,
    }
  end
  return results
end

--- Run the rules of a text (or a chain) on one event.
---@return table result, flowd.Chain chain
function support.run(chain, fields)
  if type(chain) == "string" then chain = support.chain(chain) end
  local batch = support.batch({ fields or {} })
  chain:run(batch)
  return support.results(batch)[1], chain
end

--- Run `fn` with the log's lines caught instead of written.
---@return string[] lines
function support.logged(fn)
  local log = require("flowd.log")
  local write, lines = log.write, {}
  rawset(log, "write", function(level, format, ...)
    lines[#lines + 1] = level .. " " .. (select("#", ...) > 0 and format:format(...) or format)
  end)
  local ok, message = pcall(fn)
  rawset(log, "write", write)
  if not ok then error(message, 0) end
  return lines
end

--- What LuaJIT tells while fn runs: how many traces it started, and a line for each of ours that it gave up.
function support.traces_of(fn)
  local started, aborted = 0, {}
  -- The spec's own loops are not what is watched.
  jit.off(fn, false)
  local function watch(what, _, func, pc, code, reason)
    if what == "start" then started = started + 1 end
    if what == "abort" then
      local info = require("jit.util").funcinfo(func, pc)
      local source = info.source or ""
      if source == "=rules" or source == "=flow" or source == "@site.lua" or source == "=map.first_of"
        or source:find("lua/flowd/", 1, true) then
        aborted[#aborted + 1] = ("%s: %s %s"):format(info.loc, tostring(code), tostring(reason))
      end
    end
  end
  jit.attach(watch, "trace")
  local ok, message = pcall(fn)
  jit_options.listen()
  if not ok then error(message, 0) end
  return started, aborted
end
jit.off(support.traces_of)

return support
