-- SPDX-License-Identifier: Apache-2.0
--- The table of the matrix: luajit scripts/kernels/report.lua README TITLE=DIRECTORY...
---
--- Prints it; with README (not ""), and when all is well, also puts it between the two markers in
--- that file. Status 1 when a check failed or a run did not come to its end.
package.path = "./?.lua;" .. package.path
local result = require("scripts.kernels.result")

local BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"

local function read(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

local function trim(text) return (text:gsub("^%s+", ""):gsub("%s+$", "")) end

local cells = {
  pass = function(detail) return detail end,
  fallback = function(detail) return detail .. " (fallback)" end,
  absent = function() return "not tried" end,
  fail = function(detail) return "**failed:** " .. detail:gsub("|", "\\|") end,
}

local columns, rows, seen, problems = {}, {}, {}, {}
for i = 2, #arg do
  local title, dir = arg[i]:match("^(.-)=(.*)$")
  local run = result.read(dir .. "/results")
  local column = { title = title, version = read(dir .. "/version") or run.release or "no kernel", cell = {} }
  for _, check in ipairs(run.checks) do
    column.cell[check.name] = cells[check.state](check.detail)
    if check.state == "fail" then problems[#problems + 1] = ("%s: %s: %s"):format(title, check.name, check.detail) end
    if not seen[check.name] then
      seen[check.name] = true
      rows[#rows + 1] = check.name
    end
  end
  if not run.complete then
    problems[#problems + 1] = ("%s: ended early, after %d checks: %s"):format(title, #run.checks,
      trim(read(dir .. "/reason") or "the guest stopped"))
  end
  columns[#columns + 1] = column
end

local lines = {}
local function line(first, cell)
  local parts = { "| " .. first }
  for _, column in ipairs(columns) do parts[#parts + 1] = cell(column) end
  lines[#lines + 1] = table.concat(parts, " | ") .. " |"
end
line("", function(column) return ("%s, %s"):format(column.title, trim(column.version)) end)
line("---", function() return "---" end)
for _, name in ipairs(rows) do
  line(name, function(column) return column.cell[name] or "**did not run**" end)
end
local text = table.concat(lines, "\n")
print(text)

if #problems > 0 then
  io.stderr:write("\n")
  for _, problem in ipairs(problems) do io.stderr:write("kernels: ", problem, "\n") end
  os.exit(1)
end

if arg[1] ~= "" then
  local readme = assert(read(arg[1]), "cannot read " .. arg[1])
  local first, first_end = readme:find(BEGIN, 1, true)
  local last = first and readme:find(END, first_end, true)
  assert(last, arg[1] .. " has no place for the table: " .. BEGIN .. " and " .. END)
  local file = assert(io.open(arg[1], "w"))
  assert(file:write(readme:sub(1, first_end), "\n", text, "\n", readme:sub(last)))
  assert(file:close())
end
