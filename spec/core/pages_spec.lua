-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local pages = require("flowd.pages")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef("int getpid(void);")

local PAGE = 4096

-- Octets resident of the mapping at an address, and its protection; nil when there is none.
local function mapping(address)
  local found
  for line in (temp.read("/proc/self/smaps") .. "\n"):gmatch("([^\n]*)\n") do
    local from, to, rights = line:match("^(%x+)%-(%x+) (%S+)")
    if from then
      found = tonumber(from, 16) <= address and address < tonumber(to, 16) and rights or nil
    elseif found and line:match("^Rss:") then
      return tonumber(line:match("%d+")) * 1024, found
    end
  end
end

local function number(pointer) return tonumber(ffi.cast("uintptr_t", pointer)) end

describe("large objects", function()
  -- So large that nothing else is in the same mapping but for chance neighbours, which are small.
  local SIZE = 64 * 2 ^ 20

  it("are zeros, and resident only where they were written", function()
    local octets = pages.new("uint8_t", SIZE)
    local before = mapping(number(octets))
    assert.equal(0, octets[SIZE - 1])
    assert.equal(0, octets[SIZE / 2])
    for i = 0, 99 do octets[i * 10 * PAGE] = 7 end
    local grown = mapping(number(octets)) - before
    assert.equal(7, octets[990 * PAGE])
    -- A large page of the system's may serve for many small ones.
    assert.is_true(grown >= 100 * PAGE, grown)
    assert.is_true(grown < SIZE / 2, grown)
  end)

  it("go when nobody holds them any more", function()
    local function address_space() return tonumber(temp.read("/proc/self/status"):match("VmSize:%s+(%d+) kB")) * 1024 end
    local before = address_space()
    for _ = 1, 10 do pages.new("uint8_t", SIZE)[0] = 1 end
    assert.is_true(address_space() >= before + 2 * SIZE)
    collectgarbage()
    collectgarbage()
    assert.is_true(address_space() < before + 2 * SIZE)
  end)

  it("may be of any type", function()
    local batch = pages.new("struct flow_batch")
    assert.equal(0, batch.count)
    batch.event[ffi.C.FLOW_BATCH_MAX - 1].time_us = 5
    assert.equal(5, tonumber(batch.event[ffi.C.FLOW_BATCH_MAX - 1].time_us))
  end)

  it("that are larger than memory are an error", function()
    assert.has_error(function() pages.new("uint8_t", 2 ^ 60) end, "not enough memory")
  end)
end)

describe("what is given back after the start", function()
  -- Octets resident of the binary that runs.
  local function resident()
    local exe, sum, ours = process.must({ "readlink", "/proc/" .. ffi.C.getpid() .. "/exe" }):gsub("\n", ""), 0, false
    for line in (temp.read("/proc/self/smaps") .. "\n"):gmatch("([^\n]*)\n") do
      if line:match("^%x+%-%x+ ") then
        ours = line:sub(-#exe) == exe
      elseif ours and line:match("^Rss:") then
        sum = sum + tonumber(line:match("%d+")) * 1024
      end
    end
    return sum
  end

  it("are the pages of the embedded modules, which are there again when they are wanted", function()
    local loader = package.loaders[3]
    local function load_all()
      for _, name in ipairs(_flowd.embedded()) do assert.equal("function", type(loader(name)), name) end
      return resident()
    end
    local all = load_all()
    api.pages_give_back()
    assert.is_true(resident() < all - 500000, ("%d of %d"):format(resident(), all))
    assert.is_true(load_all() > all - 100000)
  end)
end)
