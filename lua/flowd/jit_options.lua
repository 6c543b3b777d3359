-- SPDX-License-Identifier: Apache-2.0
--- LuaJIT's limits, set in this one place, and word of when it forgets what it compiled.
local jit = require("jit")

---@class flowd.JitOptions
---@field generation integer
---@field compiling integer
local options = {}

-- The defaults suit a script with a few hot loops. Rules are many small ones, each with as many
-- paths as it has outcomes. Memory for machine code is taken as needed, up to maxmcode.
require("jit.opt").start(
  "maxtrace=20000", -- traces in all
  "maxside=1000",   -- side traces of one loop
  "sizemcode=256",  -- KiB of machine code taken at a time,
  "maxmcode=32768", -- and in all
  "maxrecord=8000", -- instructions in one trace,
  "maxsnap=1000",   -- and places where it can be left
  "loopunroll=60"   -- also how many tail calls a rule's path may have
)

--- Have LuaJIT count anew what is hot. Its counters are few, and shared: without this, code that runs
--- for the first time may find its own at the end.
function options.count_anew() require("jit.opt").start("hotloop=56") end

-- Grows each time LuaJIT throws all machine code away, which it does when a limit is reached.
options.generation = 0
-- Grows each time it begins to compile something: time that is not the code's own.
options.compiling = 0

--- Notice when that happens. LuaJIT tells one listener: whoever listens instead (jit.v, a spec)
--- calls this afterwards.
function options.listen()
  jit.attach(function(what)
    if what == "flush" then options.generation = options.generation + 1 end
    if what == "start" then options.compiling = options.compiling + 1 end
  end, "trace")
end
jit.off(options.listen) -- called now and then, and never worth a trace
options.listen()

return options
