-- SPDX-License-Identifier: Apache-2.0
--- Other people's BPF programs, for tests beside which the marker must live: bpf(2) by hand, so that
--- nothing of the code under test is used.
local bit = require("bit")
local ffi = require("ffi")
local process = require("spec.support.process")

ffi.cdef([[
long syscall(long, ...);
unsigned if_nametoindex(const char *name);
struct lab_bpf_insn { uint8_t code; uint8_t registers; int16_t offset; int32_t immediate; };
struct lab_bpf_map { uint32_t type, key_size, value_size, entries, flags, spare[27]; };
struct lab_bpf_load {
  uint32_t type, count; const void *insns; const char *license;
  uint32_t log_level, log_size; void *log; uint32_t kernel, flags; char name[16]; uint32_t spare[16];
};
struct lab_bpf_lookup { uint32_t map, zero; const void *key; void *value; uint64_t flags; uint32_t spare[24]; };
struct lab_bpf_link { uint32_t program, target, type, flags, relative, zero; uint64_t revision; uint32_t spare[24]; };
struct lab_bpf_query { uint32_t target, type, query_flags, attach_flags; uint32_t *ids; uint32_t count, spare[25]; };
struct lab_bpf_info { uint32_t fd, size; void *info; uint32_t spare[28]; };
]])
local C = ffi.C

local SYS_BPF = ffi.arch == "arm64" and 280 or 321
local MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD = 0, 1, 2, 5
local PROG_FD_BY_ID, INFO_BY_FD, PROG_QUERY, LINK_CREATE = 13, 15, 16, 28
local TYPE_ARRAY, TYPE_SCHED_CLS = 2, 3
local TCX_EGRESS, BEFORE = 47, 8

local bpf = {}

local function call(command, attributes)
  local r = tonumber(C.syscall(ffi.cast("long", SYS_BPF), ffi.cast("long", command), attributes,
    ffi.cast("long", ffi.sizeof(attributes))))
  if r < 0 then return nil, process.errno_text() end
  return r
end

local Program = {}
Program.__index = Program

--- A program that counts packets and returns `verdict` (default -1, next).
---@param verdict integer|nil
function bpf.counting_program(verdict)
  local map = assert(call(MAP_CREATE, ffi.new("struct lab_bpf_map", TYPE_ARRAY, 4, 8, 1)))
  local insns = ffi.new("struct lab_bpf_insn[11]", {
    { 0x18, 0x11, 0, map }, { 0, 0, 0, 0 }, -- r1 = map
    { 0x62, 0x0A, -4, 0 },                  -- *(u32 *)(r10 - 4) = 0
    { 0xBF, 0xA2, 0, 0 },                   -- r2 = r10
    { 0x07, 0x02, 0, -4 },                  -- r2 -= 4
    { 0x85, 0, 0, 1 },                      -- r0 = bpf_map_lookup_elem(r1, r2)
    { 0x15, 0x00, 2, 0 },                   -- if r0 == 0 skip 2
    { 0xB7, 0x01, 0, 1 },                   -- r1 = 1
    { 0xDB, 0x10, 0, 0 },                   -- *(u64 *)r0 += r1, atomic
    { 0xB7, 0x00, 0, verdict or -1 },       -- r0 = verdict
    { 0x95, 0, 0, 0 },                      -- return
  })
  local load = ffi.new("struct lab_bpf_load")
  load.type, load.count, load.insns, load.license, load.name = TYPE_SCHED_CLS, 11, insns, "GPL", "foreign"
  local fd = assert(call(PROG_LOAD, load))
  return setmetatable({ fd = fd, map = map, id = bpf.program_info(fd).id }, Program)
end

--- A program that is loaded: attached, looked at and detached like those made here.
---@param fd integer borrowed
function bpf.program(fd) return setmetatable({ fd = fd, id = bpf.program_info(fd).id }, Program) end

--- Undo attach().
function Program:detach()
  C.close(self.link)
  self.link = nil
end

--- Attach at the egress of a device (of the namespace this process is in) by TCX. Lasts until close().
---@param device string
---@param first boolean|nil before all others; default: after them
function Program:attach(device, first)
  local attributes = ffi.new("struct lab_bpf_link", self.fd, C.if_nametoindex(device), TCX_EGRESS, first and BEFORE or 0)
  self.link = assert(call(LINK_CREATE, attributes))
end

--- How many packets it saw.
---@return integer
function Program:packets()
  local key, value = ffi.new("uint32_t[1]"), ffi.new("uint64_t[1]")
  assert(call(MAP_LOOKUP, ffi.new("struct lab_bpf_lookup", self.map, 0, key, value)))
  return tonumber(value[0])
end

function Program:close()
  for _, name in ipairs({ "link", "fd", "map" }) do
    if self[name] then C.close(self[name]) end
    self[name] = nil
  end
end

--- Id and name of a program.
---@return { id: integer, name: string }
function bpf.program_info(fd)
  local info = ffi.new("uint8_t[128]")
  assert(call(INFO_BY_FD, ffi.new("struct lab_bpf_info", fd, 128, info)))
  return { id = tonumber(ffi.cast("uint32_t *", info)[1]), name = ffi.string(info + 64) }
end

--- Programs at the egress of a device, in their order.
---@param device string
---@return { id: integer, name: string }[]
function bpf.egress_programs(device)
  local ids = ffi.new("uint32_t[64]")
  local query = ffi.new("struct lab_bpf_query", C.if_nametoindex(device), TCX_EGRESS, 0, 0, ids, 64)
  assert(call(PROG_QUERY, query))
  local list = {}
  for i = 0, query.count - 1 do
    local fd = assert(call(PROG_FD_BY_ID, ffi.new("uint32_t[32]", ids[i], 0)))
    list[#list + 1] = bpf.program_info(fd)
    C.close(fd)
  end
  return list
end

-- -- maps of this process --------------------------------------------------------------

local VALUE_MAX = 16 * 1048576

local Map = {}
Map.__index = Map

-- Descriptors of maps by the maps' ids.
local function own_maps()
  local fds = {}
  for fd = 0, 255 do
    local info = io.open("/proc/self/fdinfo/" .. fd)
    local id = info and info:read("*a"):match("map_id:%s*(%d+)")
    if info then info:close() end
    if id then fds[tonumber(id)] = fd end
  end
  return fds
end

--- Run `fn`, which loads programs; returns its result and an array of theirs. Only while they are loaded.
---@param name string pattern
---@param fn function
function bpf.with_map(name, fn)
  local before = own_maps()
  local result = fn()
  for id, fd in pairs(own_maps()) do
    local info = ffi.new("struct { uint32_t type, id, key_size, value_size, max_entries, flags; char name[16], spare[64]; }")
    assert(call(INFO_BY_FD, ffi.new("struct lab_bpf_info", fd, ffi.sizeof(info), info)))
    if not before[id] and ffi.string(info.name):find(name) then
      assert(info.value_size <= VALUE_MAX)
      return result, setmetatable({ fd = fd, size = info.value_size, count = info.max_entries }, Map)
    end
  end
  error(("no %s among the new maps"):format(name), 2)
end

--- The same with the memory of theirs that begins as zero.
---@param fn function
function bpf.with_bss(fn) return bpf.with_map("%.bss$", fn) end

--- An element's octets.
---@param i integer from 0
---@return ffi.cdata* uint8_t[]
function Map:get(i)
  local key, value = ffi.new("uint32_t[1]", i), ffi.new("uint8_t[?]", self.size)
  assert(call(MAP_LOOKUP, ffi.new("struct lab_bpf_lookup", self.fd, 0, key, value)))
  return value
end

---@param i integer from 0
---@param value ffi.cdata* uint8_t[]
function Map:set(i, value)
  local key = ffi.new("uint32_t[1]", i)
  assert(call(MAP_UPDATE, ffi.new("struct lab_bpf_lookup", self.fd, 0, key, value)))
end

--- How many bits of the first element are set.
---@return integer
function Map:bits()
  local words, bits = ffi.cast("uint32_t *", self:get(0)), 0
  for i = 0, self.size / 4 - 1 do
    local word = words[i]
    while word ~= 0 do
      word = bit.band(word, word - 1)
      bits = bits + 1
    end
  end
  return bits
end

--- Can programs be attached by TCX here?
function bpf.has_tcx()
  return (call(PROG_QUERY, ffi.new("struct lab_bpf_query", 1, TCX_EGRESS))) ~= nil
end

return bpf
