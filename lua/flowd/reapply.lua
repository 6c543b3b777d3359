-- SPDX-License-Identifier: Apache-2.0
--- Today's rules over all open flows.
--
-- A decision holds from a flow's start to its end, whatever happens to the rules meanwhile; this is how it is
-- taken again, for every flow, as if it had been announced now with the tag that it was announced with:
-- - another tag: label and slot change in place, no packet goes unmarked; backends get the start once more,
--   with the start time of the flow;
-- - another route: backends that are new get a start, those that are not meant any more an end;
-- - dropped, or without experiment now: the flow ends, with its old tag, for all that knew it.
-- Flows that start meanwhile have today's rules anyway. It goes in slices, between batches: a slice is one batch.
local ffi = require("ffi")
local api = require("flowd.api")
local counters = require("flowd.counters")
local log = require("flowd.log")
local loop = require("flowd.loop")

local reapply = {}

local results = { "unchanged", "changed", "rerouted", "dropped", "unmapped" }

---@class flowd.Reapply
---@field done boolean
---@field dry boolean
local Reapply = {}
Reapply.__index = Reapply

--- Begin. Nothing happens before the first step.
---@param get_pipeline fun(): flowd.Pipeline the one in use: another one after a reload
---@param options? { dry: boolean? } dry: only count what would change; what rules remember is put back
---  behind each slice
---@return flowd.Reapply
function reapply.new(get_pipeline, options)
  local self = setmetatable({
    get_pipeline = get_pipeline, dry = options and options.dry or false, done = false, restarts = 0,
    batch = ffi.new("struct flow_batch"), ended = ffi.new("struct flow_batch"), counts_now = ffi.new("struct flow_reapplied"),
    started_ns = api.clock_monotonic_ns(),
  }, Reapply)
  self:begin()
  return self
end

function Reapply:begin()
  self.pipeline = self.get_pipeline()
  self.from, self.newest = 0, api.flow_table_newest(self.pipeline.table)
  ffi.fill(self.counts_now, ffi.sizeof(self.counts_now))
end

--- One slice: at most a batch of flows. Never from within a batch.
---@return boolean done
function Reapply:step()
  if self.done then return true end
  if self.get_pipeline() ~= self.pipeline then
    -- Reloaded: what was decided so far is of yesterday.
    self.restarts = self.restarts + 1
    self:begin()
  end
  local pipeline, batch, ended = self.pipeline, self.batch, self.ended
  self.from = api.flow_table_announced(pipeline.table, self.from, self.newest, batch)
  if batch.count > 0 then
    if self.dry then pipeline:try(batch) else pipeline:decide(batch) end
    api.flow_table_reapply(pipeline.table, batch, ended, pipeline.known, self.dry, self.counts_now)
    if not self.dry then
      if ended.count > 0 then pipeline:queue(ended) end
      pipeline:deliver(batch)
      api.flow_table_release(pipeline.table, batch)
    end
  end
  if self.from == ffi.C.FLOW_SLOT_NONE then self:finish() end
  return self.done
end

--- How many flows, and what became of them so far.
---@return table flows, unchanged, changed, rerouted, dropped, unmapped, dry, done, seconds
function Reapply:counts()
  local counts = {
    flows = tonumber(self.counts_now.flows), dry = self.dry, done = self.done, restarts = self.restarts,
    seconds = tonumber((self.ended_ns or api.clock_monotonic_ns()) - self.started_ns) / 1e9,
  }
  for _, result in ipairs(results) do counts[result] = tonumber(self.counts_now[result]) end
  return counts
end

function Reapply:finish()
  self.done, self.ended_ns = true, api.clock_monotonic_ns()
  local counts = self:counts()
  if not self.dry then
    for _, result in ipairs(results) do
      local counter = counters.get("flowd_flows_reapplied_total", { result = result })
      counter.value = counter.value + self.counts_now[result]
    end
  end
  log.info("%s", reapply.describe(counts))
end

--- The counts in a line.
---@param counts table
---@return string
function reapply.describe(counts)
  return (("reapply%s: %d open flows: %d unchanged, %d with another tag, %d with another route, "
    .. "%d ended (%d dropped, %d without experiment); took %.1f s"))
    :format(counts.dry and " (dry: nothing was changed)" or "", counts.flows, counts.unchanged, counts.changed,
      counts.rerouted, counts.dropped + counts.unmapped, counts.dropped, counts.unmapped, counts.seconds)
end

--- All of it at once: for specs, and where nothing else waits.
---@return table counts
function reapply.run(pipeline, options)
  local job = reapply.new(function() return pipeline end, options)
  while not job:step() do end
  return job:counts()
end

--- What the console and `flowd-lua reapply` ask of the daemon. One at a time.
---@param daemon table flowd.daemon's: `pipeline` is the one in use
---@return table<string, function> by name: reapply_start({ dry = })? -> true, or nil and why not; reapply_status() -> counts
function reapply.hosts(daemon)
  local job, failure
  local function step()
    local ok, done = xpcall(job.step, debug.traceback, job)
    if not ok then
      failure, job.done = done, true
      log.error("reapply: ended early: %s", done)
    elseif not done then
      -- Other events have their turn in between.
      loop.after(0, step)
    end
  end
  return {
    reapply_start = function(options)
      if job and not job.done then return nil, "reapply: one is under way already" end
      failure = nil
      job = reapply.new(function() return daemon.pipeline end, options)
      loop.after(0, step)
      return true
    end,
    reapply_status = function()
      if not job then return nil end
      local counts = job:counts()
      counts.failure = failure
      counts.text = reapply.describe(counts)
      return counts
    end,
  }
end

return reapply
