-- SPDX-License-Identifier: Apache-2.0
-- Write the manual pages. Usage: bin/flowd-lua lua scripts/build/man.lua OUTDIR YYYY-MM-DD
local man = require("flowd.man")

local directory, day = arg[1], arg[2]
local year, month, date = day:match("^(%d+)-(%d+)-(%d+)$")
local months = { "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
  "November", "December" }
local written = ("%s %d, %s"):format(months[tonumber(month)], tonumber(date), year)

local function write(name, text)
  local file = assert(io.open(directory .. "/" .. name, "w"))
  assert(file:write(text))
  assert(file:close())
end

write("flowd-lua.8", man.daemon(written))
write("flowd-lua.conf.5", man.configuration(written))
write("flowd-lua-console.7", man.console(written))

local function annotations(name)
  local file = assert(io.open(("conf/annotations/%s.lua"):format(name)))
  local text = file:read("*a")
  file:close()
  return text
end

write("flowd-lua-rules.7", man.rules(written, annotations("rules")))
write("flowd-lua-plugins.7", man.plugins(written, annotations("plugins")))
