-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local temp = require("spec.support.temp")

local ENOENT = 2

describe("a file's stamp", function()
  after_each(cleanup.all)

  it("changes when the file is written, replaced, removed and made again", function()
    local path = temp.dir() .. "/map.csv"
    local stamp = ffi.new("struct file_stamp")
    assert.equal(0, api.file_stamp_changed(path, stamp))
    temp.write(path, "a")
    assert.equal(1, api.file_stamp_changed(path, stamp))
    assert.equal(0, api.file_stamp_changed(path, stamp))
    temp.write(path, "ab")
    assert.equal(1, api.file_stamp_changed(path, stamp))
    temp.write(path .. ".new", "cd")
    os.rename(path .. ".new", path)
    assert.equal(1, api.file_stamp_changed(path, stamp))
    os.remove(path)
    assert.equal(1, api.file_stamp_changed(path, stamp))
    assert.equal(0, api.file_stamp_changed(path, stamp))
  end)
end)

describe("whether a file is below a directory", function()
  after_each(cleanup.all)

  it("goes by where it is, not by its name", function()
    local dir = temp.dir()
    os.execute(("mkdir %s/conf %s/conf/sub %s/config"):format(dir, dir, dir))
    temp.write(dir .. "/conf/sub/a.lua", "")
    temp.write(dir .. "/config/b.lua", "")
    os.execute(("ln -s %s/config/b.lua %s/conf/out.lua; ln -s sub/a.lua %s/conf/in.lua"):format(dir, dir, dir))
    local function below(path) return api.file_is_below(dir .. path, dir .. "/conf") end
    assert.equal(1, below("/conf/sub/a.lua"))
    assert.equal(1, below("/conf/in.lua"))
    assert.equal(0, below("/conf/out.lua"))
    assert.equal(0, below("/conf/../config/b.lua"))
    assert.equal(0, below("/config/b.lua"))
    assert.equal(0, below("/conf"))
    assert.equal(1, api.file_is_below(dir .. "/conf/in.lua", "/"))
    assert.equal(-ENOENT, below("/conf/none.lua"))
  end)
end)
