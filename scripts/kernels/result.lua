-- SPDX-License-Identifier: Apache-2.0
--- What a guest reports: a file of lines, fields separated by tabs.
---
---     kernel  6.1.0-50-amd64
---     check   veth  pass  1,204 packets
---     end     12
---
--- States: pass; fallback (the kernel cannot do it, and what the project does instead works);
--- fail; absent (outside a guest only: this machine has no such device). A file without its
--- last line, the number of checks, is of a run that did not end.
local result = {}

local states = { pass = true, fallback = true, fail = true, absent = true }

local function clean(text)
  return (tostring(text):gsub("[%c]+", " "):gsub("%s+$", ""))
end

--- Start to write a file, or a serial line.
---@param path string
---@return table writer
function result.writer(path)
  local file = assert(io.open(path, "w"))
  local count = 0
  local writer = {}

  local function line(...)
    local fields = { ... }
    for i, field in ipairs(fields) do fields[i] = clean(field) end
    assert(file:write(table.concat(fields, "\t"), "\n"))
    file:flush()
  end

  ---@param release string
  function writer.kernel(release) line("kernel", release) end

  ---@param name string
  ---@param state "pass"|"fallback"|"fail"|"absent"
  ---@param detail string
  function writer.check(name, state, detail)
    assert(states[state], state)
    count = count + 1
    line("check", name, state, detail)
  end

  function writer.finish()
    line("end", count)
    file:close()
  end

  return writer
end

--- Read one. `checks`: list of { name =, state =, detail = }; `complete`: it has its end.
---@param path string
---@return table result { release =, checks =, complete = }
function result.read(path)
  local all = { checks = {}, complete = false }
  local file = io.open(path, "r")
  if not file then return all end
  for line in file:lines() do
    local fields = {}
    -- A serial line ends its lines with CR LF.
    for field in (line:gsub("\r$", "") .. "\t"):gmatch("([^\t]*)\t") do fields[#fields + 1] = field end
    if fields[1] == "kernel" then
      all.release = fields[2]
    elseif fields[1] == "check" and states[fields[3]] then
      all.checks[#all.checks + 1] = { name = fields[2], state = fields[3], detail = fields[4] or "" }
    elseif fields[1] == "end" then
      all.complete = tonumber(fields[2]) == #all.checks and #all.checks > 0
    end
  end
  file:close()
  return all
end

return result
