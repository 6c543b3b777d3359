-- SPDX-License-Identifier: Apache-2.0
-- Builds other than the usual one: without eBPF, static, by clang.
local bpf = require("spec.support.bpf")
local cleanup = require("spec.support.cleanup")
local daemon = require("spec.support.daemon")
local make = require("spec.support.make")
local netns = require("spec.support.netns")
local process = require("spec.support.process")
local temp = require("spec.support.temp")

local marked_it = require("spec.support.marked")(it)

-- What it shows is not how fast the result is.
local function build_in(dir, prefix, option)
  make(prefix, "-j2", "CFLAGS=-O0", "BUILD=" .. dir, "BIN=" .. dir, option, dir .. "/flowd-lua")
  return dir .. "/flowd-lua"
end

-- Names of the libraries that a binary asks for.
local function needed(binary)
  local list = {}
  for name in process.must({ "objdump", "-p", binary }):gmatch("NEEDED%s+(%S+)") do list[#list + 1] = name end
  return table.concat(list, " ")
end

describe("a build", function()
  after_each(cleanup.all)

  describe("without eBPF", function()
    local binary, dir

    -- Where neither libbpf nor libelf nor the tools for BPF are.
    local hide = [[
      mount --make-rprivate /
      for file in /usr/include/bpf/*.h /usr/include/libelf.h /usr/include/gelf.h $(find /usr/lib /usr/lib64 -name 'libbpf.*' \
        -o -name 'libelf.*' -o -name 'libelf-*' | sort -u) "$(command -v clang)" "$(command -v bpftool || echo /usr/sbin/bpftool)"; do
        test ! -f "$file" || mount --bind /dev/null "$file"
      done
      exec "$@"]]

    lazy_setup(function()
      dir = process.must({ "mktemp", "-d" }):gsub("\n", "")
      binary = dir .. "/flowd-lua"
      build_in(dir, { "unshare", "-m", "sh", "-ec", hide, "sh" }, "EBPF=0")
    end)
    lazy_teardown(function() process.must({ "rm", "-rf", dir }) end)

    it("needs neither libbpf nor libelf", function()
      local libraries = needed(binary)
      assert.matches("libluajit", libraries)
      assert.is_nil(libraries:find("libbpf"))
      assert.is_nil(libraries:find("libelf"))
    end)

    it("passes its tests, those of marking left out", function()
      -- Those that wait for nothing, and one from end to end.
      local out = process.must({ "sh", "-c", 'FLOWD_BIN="$0" exec "$0" lua spec/run.lua spec/unit/*_spec.lua spec/unit/rules '
        .. "spec/core/pipeline_spec.lua spec/core/marker_spec.lua spec/core/programs_spec.lua spec/system/end_to_end_spec.lua",
        binary, seconds = 300 })
      local passed, skipped = out:match("\n(%d+) passed, 0 failed, (%d+) skipped\n$")
      assert.is_true((tonumber(passed) or 0) > 300, out)
      assert.is_true(tonumber(skipped) > 0)
      assert.matches("this binary was built without eBPF (make EBPF=0): it cannot mark packets", out, 1, true)
    end)

    it("says so when it is to mark, and does the rest unless marking is required", function()
      local reason = "on lo: this binary was built without eBPF (make EBPF=0): it cannot mark packets\n"
      local d = daemon.start({ binary = binary, config = { backends = { marker = { interfaces = { "lo" } }, firefly = {} } } })
      assert.matches("error backend 'marker' did not start: " .. reason, d:log(), 1, true)
      d:write("start tcp ::1 1 ::1 2 atlas 1\n")
      d:wait_for_counter("flowd_fireflies_sent_total", 1)
      assert.equal(1, d:counter('flowd_modules_failed{kind="backend",name="marker"}'))
      assert.same({ code = 0 }, d:stop())

      d = daemon.start({ binary = binary, ready = false, log_level = "info",
        config = { backends = { marker = { interfaces = { "lo" }, required = true } } } })
      assert.same({ code = 1 }, d:wait(10))
      assert.equal("error backend 'marker' is required and did not start: " .. reason, d:log())
    end)
  end)

  -- In a file system where there is nothing but the binary, its directory, and what the kernel shows.
  marked_it("that is static marks packets with no file beside it", function()
    local binary = build_in(temp.dir(), {}, "STATIC=1")
    assert.equal("", needed(binary))
    assert.is_nil(process.must({ "objdump", "-p", binary }):find("INTERP"))
    local root, dir = temp.dir(), temp.dir()
    local alone = { "unshare", "-m", "sh", "-ec", [[
      mount --make-rprivate /
      mkdir -p "$0/sys" "$0/proc" "$0/$1"
      mount --rbind /sys "$0/sys"; mount --rbind /proc "$0/proc"; mount --bind "$1" "$0/$1"
      shift; exec chroot "$0" "$@"]], root, dir }
    process.must({ "mv", binary, dir .. "/flowd-lua" })
    binary = dir .. "/flowd-lua"
    local ns = netns.new()
    local conf = daemon.write_config(dir, { backends = { marker = { interfaces = { "lo" }, required = true } } },
      'rule "not udp" { match = { protocol = "udp" }, drop = true }')
    local function run(...)
      local command = { unpack(alone) }
      for _, word in ipairs({ binary, "--conf", conf, ... }) do command[#command + 1] = word end
      command.namespace = ns
      return process.must(command)
    end
    assert.matches("^flowd%-lua %d", run("version"))
    assert.matches("configuration is valid", run("check"))
    assert.matches("Data Challenge", run("registry", "atlas"))
    local d = daemon.start({ namespace = ns, dir = dir, conf = conf, prefix = alone, binary = binary })
    assert.equal(1, #ns:enter(bpf.egress_programs, "lo"))
    assert.matches("marks", run("marker", "test", "lo"))
    assert.same({ code = 0 }, d:stop())
    assert.equal(0, #ns:enter(bpf.egress_programs, "lo"))
  end)

  it("by clang has no warning either", function()
    local binary = build_in(temp.dir(), {}, "CC=clang")
    assert.matches("clang version", process.must({ "readelf", "-p", ".comment", binary }))
    local out = process.must({ "env", "FLOWD_BIN=" .. binary, binary, "lua", "spec/run.lua", "spec/core/label_spec.lua",
      "spec/core/firefly_spec.lua", "spec/core/flow_table_spec.lua", "spec/core/line_reader_spec.lua", seconds = 120 })
    assert.matches("\n%d%d+ passed, 0 failed\n$", out)
  end)
end)
