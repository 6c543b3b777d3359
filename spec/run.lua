-- SPDX-License-Identifier: Apache-2.0
-- Run busted inside the real binary: bin/flowd-lua lua spec/run.lua [FILE|DIR]...
-- Prints each failure and a closing line "N passed, N failed"; a run of no test fails.
package.path = "./?.lua;./spec/?.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua"
package.cpath = "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/aarch64-linux-gnu/lua/5.1/?.so"

local roots = {}
for i = 1, #arg do roots[i] = arg[i] end
if #roots == 0 then roots = { "spec" } end
arg = { [0] = "spec/run.lua", "--helper=spec/helper.lua", "--output=spec.output", "--pattern=_spec",
  "--no-auto-insulate", unpack(roots) }

-- busted ends the process itself; its exit status is the suite's.
require("busted.runner")({ standalone = false })
