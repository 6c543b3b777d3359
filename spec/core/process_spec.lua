-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

ffi.cdef([[
unsigned int umask(unsigned int);
int chmod(const char *, unsigned int);
int lchown(const char *, unsigned int, unsigned int);
int symlink(const char *, const char *);
int getpid(void);
unsigned int geteuid(void);
]])
local C = ffi.C
local EPERM, ENOENT, ENOTDIR, E2BIG = 1, 2, 20, 7
local message = ffi.new("char[512]")

local function prepare(path)
  message[0] = 0
  return api.process_prepare_directory(path, message, 512), ffi.string(message)
end

local function stat(path, format) return (process.must({ "stat", "-c", format, path }):gsub("\n", "")) end
local needs_root = C.geteuid() == 0 and it or pending

describe("a directory of the daemon", function()
  local dir
  before_each(function() dir = temp.dir() end)
  after_each(cleanup.all)

  it("is made with its parents, whatever the umask", function()
    local old = C.umask(tonumber("077", 8))
    local status, text = prepare(dir .. "/a/b/")
    C.umask(old)
    assert.same({ 0, "" }, { status, text })
    assert.equal("755", stat(dir .. "/a", "%a"))
    assert.equal("755", stat(dir .. "/a/b", "%a"))
  end)

  it("is left as it is when it is there", function()
    C.chmod(dir, tonumber("750", 8))
    assert.equal(0, prepare(dir))
    assert.equal("750", stat(dir, "%a"))
    C.chmod(dir, tonumber("1777", 8))
    assert.equal(0, prepare(dir))
  end)

  it("may be none", function() assert.equal(0, prepare("")) end)

  it("must not be writable by others", function()
    C.chmod(dir, tonumber("775", 8))
    local status, text = prepare(dir)
    assert.equal(-EPERM, status)
    assert.equal(("%s: can be written by its group (mode 0775): chmod go-w %s"):format(dir, dir), text)
  end)

  needs_root("must belong to root or the daemon's user", function()
    C.lchown(dir, 12345, 0)
    local status, text = prepare(dir)
    assert.equal(-EPERM, status)
    assert.equal(dir .. ": belongs to user 12345, expected root or user 0", text)
  end)

  it("must be a directory that can be made", function()
    temp.write(dir .. "/file", "")
    local status, text = prepare(dir .. "/file")
    assert.equal(-ENOTDIR, status)
    assert.equal(dir .. "/file: Not a directory", text)
    status, text = prepare(dir .. "/file/below")
    assert.equal(-ENOTDIR, status)
    assert.equal(dir .. "/file/below: Not a directory", text)
    assert.is_true(prepare("/" .. ("x"):rep(5000)) < 0)
    assert.is_true(prepare("/proc/none/dir") < 0)
  end)
end)

describe("the pid file", function()
  local dir, path
  before_each(function()
    dir = temp.dir()
    path = dir .. "/pid"
  end)
  after_each(cleanup.all)

  it("holds the process id and goes at the end", function()
    assert.equal(0, api.process_write_pid_file(path, message, 512))
    assert.equal(C.getpid() .. "\n", temp.read(path))
    assert.equal("644", stat(path, "%a"))
    api.process_remove_pid_file(path)
    assert.equal("", process.must({ "ls", "-A", dir }))
  end)

  it("replaces one that was left, and a link instead of what it points to", function()
    temp.write(dir .. "/precious", "keep")
    C.symlink("precious", path)
    assert.equal(0, api.process_write_pid_file(path, message, 512))
    assert.equal(C.getpid() .. "\n", temp.read(path))
    assert.equal("regular file", stat(path, "%F"))
    assert.equal("keep", temp.read(dir .. "/precious"))
  end)

  it("is left alone when it is another process's", function()
    local other = C.getpid() + 1 .. "\n"
    temp.write(path, other)
    api.process_remove_pid_file(path)
    assert.equal(other, temp.read(path))
    api.process_remove_pid_file(dir .. "/none")
  end)

  it("that cannot be written is an error, and leaves nothing", function()
    assert.equal(-ENOENT, api.process_write_pid_file(dir .. "/no/pid", message, 512))
    assert.equal(dir .. "/no/pid: No such file or directory", ffi.string(message))
    process.must({ "mkdir", path })
    assert.is_true(api.process_write_pid_file(path, message, 512) < 0)
    assert.equal("pid\n", process.must({ "ls", "-A", dir }))
  end)
end)

describe("a file name pattern", function()
  after_each(cleanup.all)

  it("gives the matching paths, sorted", function()
    local dir = temp.dir()
    for _, name in ipairs({ "b.lua", "a.lua", "c.txt", ".hidden.lua" }) do temp.write(dir .. "/" .. name, "") end
    local out = ffi.new("char[4096]")
    assert.equal(2, api.process_glob(dir .. "/*.lua", out, 4096))
    assert.equal(dir .. "/a.lua\0" .. dir .. "/b.lua\0", ffi.string(out, 2 * #dir + 14))
    assert.equal(0, api.process_glob(dir .. "/*.none", out, 4096))
    assert.equal(-E2BIG, api.process_glob(dir .. "/*.lua", out, #dir + 8))
    assert.equal(-ENOENT, api.process_glob(dir .. "/none/*.lua", out, 4096))
  end)
end)
