-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local ffi = require("ffi")
local process = require("spec.support.process")
local temp = require("spec.support.temp")
local cleanup = require("spec.support.cleanup")
local marking = require("spec.support.marking")

local ENOENT = 2

local function try_all()
  local list, trial = {}, ffi.new("struct program_trial")
  while api.programs_try(#list, trial) == 0 do
    list[#list + 1] = { name = ffi.string(trial.object) .. "." .. ffi.string(trial.program), error = trial.error,
      instructions = trial.instructions }
  end
  return list
end

-- Every function of bpf/ that is a program, by what the sources say.
local function in_sources()
  local names = {}
  for path in process.must({ "sh", "-c", "ls bpf/*.bpf.c" }):gmatch("[^\n]+") do
    local object = path:match("([^/]+)%.bpf%.c$")
    for section, name in temp.read(path):gmatch('\nSEC%("([^"]+)"%)%s+int%s+([%w_]+)') do
      if section ~= "license" then names[#names + 1] = object .. "." .. name end
    end
  end
  table.sort(names)
  return names
end

describe("the programs in the binary", function()
  after_each(cleanup.all)

  it("are those of the sources, and this kernel takes each of them alone", function()
    local able, reason = marking.available()
    if not able then return pending(reason) end
    local names = {}
    for i, trial in ipairs(try_all()) do
      assert.equal(0, trial.error, trial.name)
      assert.is_true(trial.instructions > 0)
      names[i] = trial.name
    end
    table.sort(names)
    assert.same(in_sources(), names)
    assert.is_true(#names > 0)
  end)

  it("end with ENOENT, also for a number far behind the last", function()
    local trial = ffi.new("struct program_trial")
    assert.equal(-ENOENT, api.programs_try(100000, trial))
  end)
end)
