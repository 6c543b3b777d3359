-- SPDX-License-Identifier: Apache-2.0
--- How the demo looks: colours where a terminal shows them, JSON and flow labels laid out.
local ffi = require("ffi")
local bit = require("bit")

ffi.cdef("int isatty(int);")

local paint = {}

local colours = { bold = "1", dim = "2", red = "31", green = "32", yellow = "33", blue = "34", cyan = "36" }
local coloured = ffi.C.isatty(1) == 1 and not os.getenv("NO_COLOR") and os.getenv("TERM") ~= "dumb"

--- paint.green("text"), paint.bold("text"), ...
for name, code in pairs(colours) do
  paint[name] = function(text)
    return coloured and ("\27[%sm%s\27[0m"):format(code, text) or tostring(text)
  end
end

--- One line, printed at once.
---@param format string
function paint.line(format, ...)
  io.write(select("#", ...) > 0 and format:format(...) or format, "\n")
  io.flush()
end

local steps = 0

--- The heading of the next step.
---@param format string
function paint.step(format, ...)
  steps = steps + 1
  paint.line("\n%s  %s", paint.cyan(tostring(steps)), paint.bold(format:format(...)))
end

--- "    name          value"
---@param name string
---@param format string
function paint.field(name, format, ...)
  paint.line("   %s %s", paint.dim(("%-24s"):format(name)), format:format(...))
end

--- JSON with each member of the outermost object on a line of its own.
---@param json string
---@param indent string
---@return string
function paint.json(json, indent)
  local out, depth, in_string, escaped = {}, 0, false, false
  for ch in json:gmatch(".") do
    if in_string then
      if escaped then
        escaped = false
      elseif ch == "\\" then
        escaped = true
      elseif ch == '"' then
        in_string = false
      end
      out[#out + 1] = ch
    elseif ch == '"' then
      in_string = true
      out[#out + 1] = ch
    elseif ch == "{" or ch == "[" then
      depth = depth + 1
      out[#out + 1] = depth == 1 and ch .. "\n" .. indent .. "  " or ch
    elseif ch == "}" or ch == "]" then
      depth = depth - 1
      out[#out + 1] = depth == 0 and "\n" .. indent .. ch or ch
    elseif ch == "," then
      out[#out + 1] = depth == 1 and ",\n" .. indent .. "  " or ", "
    elseif ch == ":" then
      out[#out + 1] = ": "
    elseif not ch:find("%s") then
      out[#out + 1] = ch
    end
  end
  return indent .. table.concat(out)
end

--- The 20 bits of a flow label: its fields apart, and each by itself.
---@param label integer
---@return { all: string, experiment: string, activity: string, entropy: string }
function paint.label_bits(label)
  local function bits(high, low)
    local text = ""
    for i = high, low, -1 do text = text .. (bit.band(bit.rshift(label, i), 1) == 1 and "1" or "0") end
    return text
  end
  local experiment, activity = paint.green(bits(17, 9)), paint.yellow(bits(7, 2))
  local high, middle, low = paint.dim(bits(19, 18)), paint.dim(bits(8, 8)), paint.dim(bits(1, 0))
  return { all = table.concat({ high, experiment, middle, activity, low }, " "), experiment = experiment, activity = activity,
    entropy = table.concat({ high, middle, low }, " ") }
end

return paint
