-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local function replace(path, text) return api.save_file_replace(path, text, #text, 420) end

describe("a file that is replaced", function()
  after_each(cleanup.all)

  it("holds the new octets, and nothing is left beside it", function()
    local dir = temp.dir()
    local path = dir .. "/f"
    assert.equal(0, replace(path, "one"))
    temp.write(path .. ".new", "left by one that was killed")
    assert.equal(0, replace(path, "two\0"))
    assert.equal("two\0", temp.read(path))
    assert.equal("f\n", process.must({ "ls", dir }))
    assert.equal("644\n", process.must({ "stat", "-c", "%a", path }))
  end)

  it("stays as it was when it cannot be", function()
    local dir = temp.dir()
    process.must({ "mkdir", "-p", dir .. "/d/x" })
    assert.is_true(replace(dir .. "/d", "x") < 0)
    assert.equal("d\n", process.must({ "ls", dir }))
    assert.is_true(replace(dir .. "/none/f", "x") < 0)
  end)
end)
