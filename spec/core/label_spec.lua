-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local bit = require("bit")
local ffi = require("ffi")

-- Independent of label.c: reads the label as text of 20 binary digits, bit 19 first.
local function decode(label)
  local digits = {}
  for i = 19, 0, -1 do
    digits[#digits + 1] = math.floor(label / 2 ^ i) % 2
  end
  local text = table.concat(digits)
  return {
    experiment = tonumber(text:sub(3, 11):reverse(), 2),
    activity = tonumber(text:sub(13, 18), 2),
    entropy = text:sub(1, 2) .. text:sub(12, 12) .. text:sub(19, 20),
  }
end

local rows = {
  { 1, 1, 0x20004 }, { 2, 2, 0x10008 }, { 3, 14, 0x30038 }, { 3, 23, 0x3005C }, { 16, 14, 0x02038 },
  { 511, 63, 0x3FEFC },
}

describe("the flow label", function()
  it("is that of the specification's table", function()
    for _, row in ipairs(rows) do
      assert.are.equal(row[3], api.label_encode(row[1], row[2], 0), row[1] .. "/" .. row[2])
      assert.are.equal(row[1], api.label_experiment(row[3]))
      assert.are.equal(row[2], api.label_activity(row[3]))
    end
  end)

  it("carries every experiment and activity to an independent decoder", function()
    for experiment = 1, 511 do
      for activity = 1, 63 do
        local label = api.label_encode(experiment, activity, 0)
        local seen = decode(label)
        if seen.experiment ~= experiment or seen.activity ~= activity or seen.entropy ~= "00000"
          or api.label_experiment(label) ~= experiment or api.label_activity(label) ~= activity then
          error(("%d/%d became %05x"):format(experiment, activity, label))
        end
      end
    end
  end)

  it("spreads five bits of entropy without touching the ids", function()
    local seen = {}
    for entropy = 0, 31 do
      local label = api.label_encode(3, 14, entropy)
      assert.are.equal(0x30038, bit.band(label, 0x3FEFC))
      assert.are.equal(0, bit.band(label, bit.bnot(0xFFFFF)))
      assert.are.equal(3, decode(label).experiment)
      assert.are.equal(14, decode(label).activity)
      assert.are.equal(entropy, tonumber(decode(label).entropy, 2))
      assert.are.equal(entropy, api.label_entropy(label))
      seen[label] = true
    end
    assert.is_true(seen[0x30038 + 0xC0103])
  end)

  it("is 0 for ids that are unset or out of range", function()
    for _, ids in ipairs({ { 0, 1 }, { 1, 0 }, { 512, 1 }, { 1, 64 }, { 65535, 1 }, { 1, 65535 }, { -1, 1 } }) do
      assert.are.equal(0, api.label_encode(ids[1], ids[2], 31), ids[1] .. "/" .. ids[2])
    end
  end)

  it("has masks that divide its 20 bits", function()
    assert.are.equal(0x3FEFC, ffi.C.LABEL_SEMANTIC_MASK)
    assert.are.equal(0xC0103, ffi.C.LABEL_ENTROPY_MASK)
    assert.are.equal(0xFFFFF, bit.bor(ffi.C.LABEL_SEMANTIC_MASK, ffi.C.LABEL_ENTROPY_MASK))
  end)
end)

-- Walks an options header as RFC 8200 section 4.2 has it; returns what the SciTags option says.
local function decode_header(octets)
  local at = function(i) return octets:byte(i + 1) end
  assert.are.equal((at(1) + 1) * 8, #octets)
  local i, found = 2, nil
  while i < #octets do
    local kind = at(i)
    if kind == 0 then
      i = i + 1
    else
      local size = at(i + 1)
      assert.is_true(i + 2 + size <= #octets)
      if kind == 0x1E and size == 3 then
        assert.is_nil(found)
        found = { experiment = at(i + 2) * 256 + at(i + 3), activity = at(i + 4) }
      end
      i = i + 2 + size
    end
  end
  return at(0), found
end

describe("the extension header", function()
  local out = ffi.new("uint8_t[10]")

  local function encode(next_header, experiment, activity)
    ffi.fill(out, 10, 0xEE)
    assert.are.equal(0, api.label_header_encode(out, next_header, experiment, activity))
    assert.are.equal(0xEE, out[8], "wrote beyond its 8 octets")
    return ffi.string(out, 8)
  end

  it("is eight octets as specified", function()
    assert.are.equal("\6\0\30\3\0\3\14\0", encode(6, 3, 14))
    assert.are.equal("\17\0\30\3\1\255\63\0", encode(17, 511, 63))
  end)

  it("carries every row of the table to an independent decoder", function()
    for _, row in ipairs(rows) do
      local next_header, tag = decode_header(encode(60, row[1], row[2]))
      assert.are.equal(60, next_header)
      assert.are.same({ experiment = row[1], activity = row[2] }, tag)
    end
  end)

  it("is refused for ids out of range, and nothing is written", function()
    ffi.fill(out, 10, 0xEE)
    for _, ids in ipairs({ { 0, 1 }, { 1, 0 }, { 512, 1 }, { 1, 64 } }) do
      assert.are.equal(-22, api.label_header_encode(out, 6, ids[1], ids[2]))
      assert.are.equal(("\xEE"):rep(10), ffi.string(out, 10))
    end
  end)
end)
