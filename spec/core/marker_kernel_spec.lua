-- SPDX-License-Identifier: Apache-2.0
local api = require("flowd.api")
local bit = require("bit")
local ffi = require("ffi")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local KERNEL = "/sys/kernel/btf/vmlinux"
local ENOENT, EINVAL, ENOTSUP = -2, -22, -95
local INT, PTR, STRUCT, UNION, TYPEDEF, FUNC, PROTO, ENUM64 = 1, 2, 4, 5, 8, 12, 13, 19

local function u32(n)
  return string.char(bit.band(n, 255), bit.band(bit.rshift(n, 8), 255), bit.band(bit.rshift(n, 16), 255), bit.rshift(n, 24))
end

-- BTF of a kernel, type by type.
local function writer()
  local self = { types = {}, names = { "\0" }, length = 1 }
  local known = { [""] = 0 }

  function self.name(text)
    if not known[text] then
      known[text] = self.length
      self.names[#self.names + 1] = text .. "\0"
      self.length = self.length + #text + 1
    end
    return known[text]
  end

  function self.add(kind, name, size, parts, rest, flag)
    self.types[#self.types + 1] = u32(self.name(name)) .. u32(bit.bor(bit.lshift(kind, 24), parts or 0, flag and bit.lshift(1, 31) or 0))
      .. u32(size or 0) .. (rest or "")
    return #self.types
  end

  -- members: { name, type, bits from the start, bits of a bit field }
  function self.struct(kind, name, members)
    local rest, flag = {}, false
    for _, m in ipairs(members) do flag = flag or m[4] ~= nil end
    for i, m in ipairs(members) do
      rest[i] = u32(self.name(m[1])) .. u32(m[2]) .. u32(bit.bor(m[3], bit.lshift(m[4] or 0, 24)))
    end
    return self.add(kind, name, 8, #members, table.concat(rest), flag)
  end

  function self.file()
    local types, names = table.concat(self.types), table.concat(self.names)
    return u32(0x1eb9f + bit.lshift(1, 16)):sub(1, 2) .. "\1\0" .. u32(24) .. u32(0) .. u32(#types) .. u32(#types)
      .. u32(#names) .. types .. names
  end
  return self
end

-- As kernels have them, some fields deeper.
local function kernel(leave_out)
  local w = writer()
  local word = w.add(INT, "long", 8, 0, u32(0))
  local pointer = w.add(PTR, "", word)
  w.add(ENUM64, "big", 8, 2, ("\0"):rep(24))
  w.add(FUNC, "not_bpf_cast_to_kern_ctx", w.add(PROTO, "", 0, 1, u32(0) .. u32(pointer)))
  local cookie = w.struct(UNION, "", { { "skc_node", word, 0 }, { "skc_cookie", word, 0 } })
  w.struct(STRUCT, "sock_common", { { "skc_hash", word, 0 }, { "", cookie, 64 } })
  w.struct(STRUCT, "sock", { { "before", word, 0 }, { "__sk_common", word, 128 } })
  local inner = w.struct(UNION, "", { { "ip_defrag_offset", word, 0 }, { "sk", pointer, 0 } })
  local outer = w.struct(STRUCT, "", { { "rbnode", word, 0 }, { "", inner, 64 } })
  w.add(TYPEDEF, "sk_buff", word)
  if leave_out ~= "sk_buff" then
    w.struct(STRUCT, "sk_buff", { { "sk_of_nobody", word, 0 }, { "", outer, 64 }, { "fclone", word, 1000, 2 },
      { "cloned", word, 1005, 1 } })
  end
  if leave_out ~= "function" then w.add(FUNC, "bpf_cast_to_kern_ctx", w.add(PROTO, "", 0)) end
  return w.file(), #w.types
end

local function read(text)
  local out = ffi.new("struct marker_kernel")
  return api.marker_kernel_read(temp.write(temp.dir() .. "/btf", text), out), out
end

-- Without eBPF there is nothing to be read.
local built = api.marker_kernel_read("/nowhere", ffi.new("struct marker_kernel")) ~= ENOTSUP
local it_when_built = built and it or pending

describe("types of the kernel", function()
  it_when_built("tell where fields are, also those in members without a name", function()
    local text, count = kernel()
    local r, found = read(text)
    assert.equal(0, r)
    assert.equal(count, found.cast)
    assert.equal((64 + 64) / 8, found.offset[ffi.C.MARKER_KERNEL_SOCKET - ffi.C.MARKER_KERNEL_CAST])
    assert.equal(125, found.offset[ffi.C.MARKER_KERNEL_CLONED - ffi.C.MARKER_KERNEL_CAST])
    assert.equal(bit.lshift(1, 5), found.cloned)
    assert.equal((128 + 64) / 8, found.offset[ffi.C.MARKER_KERNEL_COOKIE - ffi.C.MARKER_KERNEL_CAST])
  end)

  it_when_built("are of an older kernel when something is not there", function()
    assert.equal(ENOENT, (read((kernel("function")))))
    assert.equal(ENOENT, (read((kernel("sk_buff")))))
    assert.equal(ENOENT, api.marker_kernel_read("/nowhere/vmlinux", ffi.new("struct marker_kernel")))
  end)

  it_when_built("are refused when they are damaged, wherever they end", function()
    local text = kernel()
    for length = 1, #text - 1 do
      local r = read(text:sub(1, length))
      assert(r == EINVAL or r == ENOENT, ("%d octets: %d"):format(length, r))
    end
    local seed = 1
    for _ = 1, 500 do
      seed = (seed * 1103515245 + 12345) % 2147483648
      local at = math.floor(seed / 16) % #text + 1
      -- Whatever it says then: nothing beyond the file is read (make asan).
      read(text:sub(1, at - 1) .. string.char(seed % 251) .. text:sub(at + 1))
    end
  end)

  it_when_built("of the running kernel are what bpftool says", function()
    local dump = process.run({ "bpftool", "btf", "dump", "file", KERNEL, "format", "raw", seconds = 30 })
    if dump.code ~= 0 then return pending("no types of the kernel, or no bpftool") end
    local id = dump.stdout:match("%[(%d+)%] FUNC 'bpf_cast_to_kern_ctx'")
    local found = ffi.new("struct marker_kernel")
    local r = api.marker_kernel_read(KERNEL, found)
    if not id then return assert.equal(ENOENT, r) end
    assert.equal(0, r)
    assert.equal(tonumber(id), found.cast)
    local skb = dump.stdout:match("\n%[%d+%] STRUCT 'sk_buff' (.-)\n%[")
    local cloned = tonumber(skb:match("'cloned' type_id=%d+ bits_offset=(%d+)"))
    assert.equal(math.floor(cloned / 8), found.offset[ffi.C.MARKER_KERNEL_CLONED - ffi.C.MARKER_KERNEL_CAST])
    assert.equal(bit.lshift(1, cloned % 8), found.cloned)
    local cookie = dump.stdout:match("\n%[%d+%] STRUCT 'sock_common' .-'skc_cookie' type_id=%d+ bits_offset=(%d+)")
    assert.equal(tonumber(cookie) / 8, found.offset[ffi.C.MARKER_KERNEL_COOKIE - ffi.C.MARKER_KERNEL_CAST])
  end)
end)
