-- SPDX-License-Identifier: Apache-2.0
--- State files, flow tables and batches for specs. Flow number n has a 5-tuple of its own.
local ffi = require("ffi")
local bit = require("bit")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local temp = require("spec.support.temp")

local flows = {}

local ERROR_SIZE = 512
local states = { start = 1, ongoing = 2, ["end"] = 3 }

function flows.has(e, flags) return bit.band(e.flags, flags) == flags end

---@param path string
---@param flows_max integer
---@return any|nil state, string|nil message
function flows.state(path, flows_max)
  local message = ffi.new("char[?]", ERROR_SIZE)
  local s = api.state_open(path, flows_max or 100, message, ERROR_SIZE)
  if s == nil then return nil, ffi.string(message) end
  return s
end

--- No log lines of the code under test until the test is over.
function flows.quiet()
  local level = api.log_get_level()
  api.log_setup(ffi.C.LOG_LEVEL_ERROR + 1, false)
  cleanup.add(function() api.log_setup(level, false) end)
end

local current = {}

local function take_down()
  if current.table then api.flow_table_close(current.table) end
  if current.state then api.state_close(current.state, true) end
  current = {}
end

--- A state file in a directory of its own, and its table; closed when the test is over.
---@param flows_max integer
---@return any state
---@return any table
---@return string path
function flows.open_table(flows_max, path)
  path = path or temp.dir() .. "/state"
  local s = assert(flows.state(path, flows_max))
  local t = api.flow_table_open(s)
  assert(t ~= nil)
  current = { state = s, table = t, path = path }
  cleanup.add(take_down)
  return s, t, path
end

function flows.close() take_down() end

--- The file as a process that is killed now leaves it.
---@return string path of the copy
function flows.snapshot()
  local copy = current.path .. ".killed"
  assert(os.execute("cp --sparse=always " .. current.path .. " " .. copy) == 0)
  return copy
end

--- What the next process finds when this one is killed now.
---@return any state
---@return any table
function flows.reopen(_, _, flows_max)
  local copy, path = flows.snapshot(), current.path
  take_down()
  assert(os.rename(copy, path))
  local s, t = flows.open_table(flows_max, path)
  return s, t
end

--- Close; the file stays for the next to take over.
function flows.leave()
  api.flow_table_close(current.table)
  api.state_close(current.state, false)
  current = {}
end

---@param n integer
---@return any key `struct flow_key`
function flows.key(n)
  local key = ffi.new("struct flow_key")
  key.src.octet[0], key.src.octet[1] = 0x20, 0x01
  key.dst.octet[0], key.dst.octet[1] = 0x20, 0x01
  key.dst.word[3] = n
  key.src_port, key.dst_port = 1094, 1 + n % 60000
  key.protocol, key.family = n % 7 == 0 and 17 or 6, 6
  return key
end

---@return integer n
function flows.number(key) return key.dst.word[3] end

-- A reference to an event does not keep its batch from being collected: this does, for a while.
flows.recent = {}
local last = 0

--- A batch of { "start"|"ongoing"|"end", flow number, time=, route=, application=, sent=, received= }.
---@param events table[]
function flows.batch(events)
  local b = ffi.new("struct flow_batch")
  last = last % 32 + 1
  flows.recent[last] = b
  b.count = #events
  for i, event in ipairs(events) do
    local e = b.event[i - 1]
    e.key = flows.key(event[2])
    e.state = states[event[1]]
    e.time_us = event.time or 1
    e.route = event.route or -1
    e.application = event.application or ""
    if event.sent then
      e.flags = ffi.C.EVENT_HAS_BYTES
      e.bytes_sent, e.bytes_received = event.sent, event.received or 0
    end
  end
  return b
end

-- -- batches that are a function of their number ---------------------------------

-- What happens in batch n: at most twenty flows, each several times in a batch.
local function numbered(n)
  local events, x = {}, n * 2654435761 % 2 ^ 32
  for i = 1, 8 + n % 9 do
    x = (x * 1103515245 + 12345) % 2 ^ 31
    local what = math.floor(x / 65536)
    events[i] = { ({ "start", "start", "end", "ongoing" })[what % 4 + 1], math.floor(what / 4) % 20 + 1, time = n * 100 + i,
      activity = (n + i) % 63 + 1 }
  end
  return events
end

--- Run batch n through the table; every event not decided is given its own activity.
function flows.run_numbered(t, n)
  local events = numbered(n)
  local b = flows.batch(events)
  api.flow_table_resolve(t, b)
  for i, event in ipairs(events) do
    local e = b.event[i - 1]
    if not flows.has(e, ffi.C.EVENT_DECIDED) then e.experiment, e.activity = 2, event.activity end
  end
  api.flow_table_commit(t, b, 0xff)
  api.flow_table_release(t, b)
end

--- What batch n makes of the open flows: { [flow number] = { start, activity } }.
function flows.model_numbered(open, n)
  for _, event in ipairs(numbered(n)) do
    local number = event[2]
    if event[1] == "end" then
      open[number] = nil
    elseif not open[number] then
      open[number] = { start = event.time, activity = event.activity }
    elseif event[1] == "start" then
      open[number].activity = event.activity
    end
  end
end

return flows
