-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local cleanup = require("spec.support.cleanup")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local function gone(pid)
  return ffi.C.kill(pid, 0) ~= 0
end

describe("a child process", function()
  after_each(cleanup.all)

  it("gives its output and exit status", function()
    local result = process.run({ "sh", "-c", "echo out; echo err >&2; exit 3" })
    assert.same({ code = 3, stdout = "out\n", stderr = "err\n" }, result)
  end)

  it("tells the signal that ended it", function()
    local child = process.start({ "sleep", "1000" })
    child:signal("TERM")
    assert.same({ signal = "TERM" }, child:wait(5))
  end)

  it("gets standard input, variables and a working directory", function()
    local dir = temp.dir()
    local out = process.must({ "sh", "-c", 'read line; echo "$line $GREETING $(pwd) ${HOME-none}"', cwd = dir,
      input = "hello\n", env = { GREETING = "world", HOME = false } })
    assert.equal("hello world " .. dir .. " none\n", out)
  end)

  it("that cannot be set up is an error here, and nothing goes on there", function()
    local ok, message = pcall(process.start, { "true", cwd = {}, name = "the child" })
    assert.is_false(ok)
    assert.truthy(message:find("cannot start the child: .*chdir"))
  end)

  it("may write more than a pipe holds before anyone reads", function()
    local out = process.must({ "head", "-c", "3000000", "/dev/zero" })
    assert.equal(3000000, #out)
  end)

  it("has both streams in one place, in order, if asked to", function()
    local result = process.run({ "sh", "-c", "echo 1; echo 2 >&2; echo 3", stderr = "stdout" })
    assert.equal("1\n2\n3\n", result.stdout)
  end)

  it("inherits only the descriptors it was given", function()
    local file = temp.write(temp.dir() .. "/secret", "given")
    local fd = ffi.C.open(file, 0)
    local out = process.must({ "sh", "-c", "cat <&7; ls /proc/self/fd | wc -l", fds = { [7] = fd } })
    ffi.C.close(fd)
    -- 0, 1, 2, 7 and the directory that ls reads
    assert.equal("given5\n", out)
  end)

  it("is waited for by what it writes", function()
    local child = process.start({ "sh", "-c", "echo port 4711; exec sleep 1000" })
    assert.equal("4711", child:expect("port (%d+)"))
  end)

  it("that ends without writing what was expected fails at once, with what it wrote", function()
    local child = process.start({ "echo", "something else" })
    local ok, message = pcall(child.expect, child, "port (%d+)", 60)
    assert.is_false(ok)
    assert.matches("ended without writing", message)
    assert.matches("something else", message)
  end)

  it("that cannot be started is an error which tells why", function()
    local ok, message = pcall(process.start, { "no-such-program" })
    assert.is_false(ok)
    assert.matches("no%-such%-program: No such file or directory", message)
  end)

  it("is stopped with everything it started", function()
    local child = process.start({ "sh", "-c", "sleep 1000 & echo $!; wait" })
    local grandchild = tonumber((child:expect("(%d+)\n")))
    child:stop()
    assert.is_true(gone(child.pid))
    process.wait_for("end of the grandchild", 5, function()
      local file = io.open("/proc/" .. grandchild .. "/stat")
      local text = file and file:read("*a") or ""
      if file then file:close() end
      return text == "" or text:find("%) Z")
    end)
  end)

  it("dies with the test, even if that is killed", function()
    local script = temp.write(temp.dir() .. "/parent.lua", [[
      package.path = "./?.lua"
      local process = require("spec.support.process")
      io.write(process.start({ "sleep", "1000" }).pid, "\n")
      io.flush()
      process.wait_for("the end", 1000, function() end)
    ]])
    local parent = process.start({ os.getenv("FLOWD_BIN") or "bin/flowd-lua", "lua", script })
    local pid = tonumber((parent:expect("(%d+)\n")))
    parent:signal("KILL")
    parent:wait()
    process.wait_for("end of the orphan", 5, function()
      local file = io.open("/proc/" .. pid .. "/stat")
      local text = file and file:read("*a") or ""
      if file then file:close() end
      return text == "" or text:find("%) Z")
    end)
  end)

  it("tells its CPU time and memory", function()
    local child = process.start({ "sh", "-c", "while :; do :; done" })
    process.wait_for("CPU time", 10, function() return child:cpu_seconds() >= 0.05 end)
    assert.is_true(child:memory() > 200000 and child:memory() < 1e8)
  end)
end)

describe("waiting for a condition", function()
  it("returns what the condition gave", function()
    local n = 0
    assert.equal(5, process.wait_for("five", 5, function()
      n = n + 1
      return n == 5 and n
    end))
  end)

  it("ends with an error that names the condition", function()
    local ok, message = pcall(process.wait_for, "the moon", 0.01, function() end)
    assert.is_false(ok)
    assert.matches("waited 0.01 s in vain for the moon", message)
  end)
end)

describe("clean-up", function()
  local function run_script(text)
    local dir = temp.dir()
    return process.start({ os.getenv("FLOWD_BIN") or "bin/flowd-lua", "lua", temp.write(dir .. "/script.lua", [[
      package.path = "./?.lua"
      local cleanup = require("spec.support.cleanup")
      local process = require("spec.support.process")
      cleanup.add(function() print("first made") end)
      cleanup.add(function() print("last made") end)
    ]] .. text) })
  end
  after_each(cleanup.all)

  for name, text in pairs({ ["returns"] = "return 0", ["raises"] = "error('x')", ["calls os.exit"] = "os.exit(0)" }) do
    it("happens when the script " .. name, function()
      local child = run_script(text)
      child:wait()
      assert.equal("last made\nfirst made\n", child:stdout())
    end)
  end

  for _, signal in ipairs({ "INT", "TERM" }) do
    it("happens on SIG" .. signal, function()
      local child = run_script([[
        cleanup.catch_interrupts()
        io.write("waiting\n") io.flush()
        process.wait_for("the end", 1000, function() end)
      ]])
      child:expect("waiting")
      child:signal(signal)
      assert.same({ code = 128 + process.signals[signal] }, child:wait())
      assert.equal("waiting\nlast made\nfirst made\n", child:stdout())
    end)
  end

  it("of a scope takes down what the scope made, and nothing else", function()
    local order = {}
    local outer = cleanup.add(function() order[#order + 1] = "outer" end)
    local result = cleanup.scope(function(x)
      cleanup.add(function() order[#order + 1] = "inner" end)
      return x + 1
    end, 1)
    assert.equal(2, result)
    assert.same({ "inner" }, order)
    assert.has_error(function()
      cleanup.scope(function()
        cleanup.add(function() order[#order + 1] = "inner again" end)
        error({ "raised" })
      end)
    end, { "raised" })
    assert.same({ "inner", "inner again" }, order)
    cleanup.forget(outer)
  end)
end)
