-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local temp = require("spec.support.temp")

ffi.cdef([[
int chmod(const char *, unsigned int);
int lchown(const char *, unsigned int, unsigned int);
int symlink(const char *, const char *);
int mkdir(const char *, unsigned int);
int mkfifo(const char *, unsigned int);
int chdir(const char *);
char *getcwd(char *, size_t);
unsigned int geteuid(void);
]])
local C = ffi.C
local EPERM, ENOENT, ELOOP, EFBIG = 1, 2, 40, 27
local message = ffi.new("char[4608]")

local function check(path, owner)
  message[0] = 0
  local status = api.trust_check(path, owner or 0, message, 4608)
  return status, ffi.string(message)
end

local function read(path, size)
  local buffer = ffi.new("char[?]", size)
  local got = tonumber(api.trust_read(path, 0, buffer, size, message, 4608))
  return got, got >= 0 and ffi.string(buffer, got) or ffi.string(message)
end

local needs_root = C.geteuid() == 0 and it or pending

describe("a trusted file", function()
  local dir, file

  before_each(function()
    dir = temp.dir()
    C.chmod(dir, tonumber("755", 8))
    C.mkdir(dir .. "/sub", tonumber("755", 8))
    file = temp.write(dir .. "/sub/conf.lua", "return {}")
    C.chmod(file, tonumber("644", 8))
  end)
  after_each(cleanup.all)

  needs_root("belongs to root, as every directory above it", function()
    assert.equal(0, check(file))
    assert.equal(0, check(dir .. "//sub/./../sub/conf.lua"))
    assert.equal(0, check(dir .. "/sub/"))
    assert.equal(0, check("/"))
  end)

  needs_root("or to the given user", function()
    C.lchown(file, 12345, 0)
    local status, text = check(file)
    assert.equal(-EPERM, status)
    assert.equal(("%s: not trusted: %s belongs to user 12345, expected root"):format(file, file), text)
    assert.equal(0, check(file, 12345))
    assert.equal(0, check(file, ffi.C.TRUST_OWN_FILE))
    C.lchown(dir .. "/sub", 54321, 0)
    status, text = check(file, 12345)
    assert.equal(-EPERM, status)
    assert.equal(("%s: not trusted: %s/sub belongs to user 54321, expected root or user 12345"):format(file, dir), text)
  end)

  needs_root("is writable by nobody else", function()
    C.chmod(file, tonumber("664", 8))
    local status, text = check(file)
    assert.equal(-EPERM, status)
    assert.equal(("%s: not trusted: %s can be written by its group (mode 0664): chmod go-w %s"):format(file, file, file), text)
    C.chmod(file, tonumber("646", 8))
    status, text = check(file)
    assert.equal(-EPERM, status)
    assert.equal(("%s: not trusted: %s can be written by everybody (mode 0646): chmod go-w %s"):format(file, file, file),
      text)
    -- The sticky bit of a file means nothing.
    C.chmod(file, tonumber("1646", 8))
    assert.equal(-EPERM, check(file))
  end)

  needs_root("is in no directory that others may write, unless it is sticky", function()
    C.chmod(dir, tonumber("777", 8))
    local status, text = check(file)
    assert.equal(-EPERM, status)
    assert.equal(("%s: not trusted: %s can be written by everybody (mode 0777): chmod go-w %s"):format(file, dir, dir), text)
    C.chmod(dir, tonumber("1777", 8))
    assert.equal(0, check(file))
    C.lchown(dir .. "/sub", 54321, 0)
    assert.equal(-EPERM, check(file))
  end)

  needs_root("may be reached through links that are trusted themselves", function()
    C.symlink("sub/conf.lua", dir .. "/relative")
    C.symlink(file, dir .. "/absolute")
    C.symlink("../absolute", dir .. "/sub/chain")
    for _, name in ipairs({ "/relative", "/absolute", "/sub/chain" }) do assert.equal(0, check(dir .. name)) end
    C.lchown(dir .. "/absolute", 12345, 0)
    local status, text = check(dir .. "/sub/chain")
    assert.equal(-EPERM, status)
    assert.equal(("%s/sub/chain: not trusted: %s/absolute belongs to user 12345, expected root"):format(dir, dir), text)
    -- What a link points to is checked as well.
    C.chmod(file, tonumber("666", 8))
    status, text = check(dir .. "/relative")
    assert.equal(-EPERM, status)
    assert.truthy(text:find(file .. " can be written by everybody", 1, true))
    C.symlink("loop", dir .. "/loop")
    assert.equal(-ELOOP, check(dir .. "/loop"))
  end)

  needs_root("is found from the working directory, whose parents count", function()
    local here = ffi.string(C.getcwd(ffi.new("char[4096]"), 4096))
    C.chdir(dir .. "/sub")
    local ok = check("conf.lua")
    C.chmod(dir, tonumber("777", 8))
    local status = check("conf.lua")
    C.chdir(here)
    assert.equal(0, ok)
    assert.equal(-EPERM, status)
  end)

  it("is read whole or not at all", function()
    assert.same({ 9, "return {}" }, { read(file, 100) })
    assert.same({ 9, "return {}" }, { read(file, 9) })
    local got, text = read(file, 8)
    assert.equal(-EFBIG, got)
    assert.equal(file .. ": 9 octets, expected at most 8", text)
    assert.equal(9, tonumber(api.trust_read(file, 0, nil, 0, message, 4608)))
  end)

  it("is there, and is a file", function()
    local got, text = read(dir .. "/none", 10)
    assert.equal(-ENOENT, got)
    assert.equal(dir .. "/none: No such file or directory", text)
    got, text = read(dir .. "/none/conf.lua", 10)
    assert.equal(-ENOENT, got)
    assert.equal(("%s/none/conf.lua: %s/none: No such file or directory"):format(dir, dir), text)
    got, text = read(dir .. "/sub", 10)
    assert.equal(-EPERM, got)
    assert.equal(dir .. "/sub: not a regular file", text)
    C.mkfifo(dir .. "/fifo", tonumber("600", 8))
    got, text = read(dir .. "/fifo", 10)
    assert.equal(-EPERM, got)
    assert.equal(dir .. "/fifo: not a regular file", text)
    assert.equal(-ENOENT, check(dir .. "/none"))
    assert.equal(-ENOENT, tonumber(api.trust_file_owner(dir .. "/none")))
  end)

  it("has a path of bearable length", function()
    assert.is_true(check("/" .. ("x"):rep(5000)) < 0)
    assert.is_true(check("/" .. ("x/"):rep(3000)) < 0)
    assert.is_true(check(("/" .. ("x"):rep(300))) < 0)
  end)
end)
