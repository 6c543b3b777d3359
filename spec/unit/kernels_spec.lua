-- SPDX-License-Identifier: Apache-2.0
-- The kernel matrix without kernels: what is made of the guests' reports.
local cleanup = require("spec.support.cleanup")
local frames = require("scripts.kernels.frames")
local process = require("spec.support.process")
local result = require("scripts.kernels.result")
local temp = require("spec.support.temp")

local function hex(octets)
  return (octets:gsub(".", function(ch) return ("%02x"):format(ch:byte()) end))
end

-- A directory as scripts/kernels/boot leaves it.
local function run_of(checks, options)
  options = options or {}
  local dir = temp.dir()
  local report = result.writer(dir .. "/results")
  report.kernel("6.1.0-test")
  for _, check in ipairs(checks) do report.check(check[1], check[2], check[3]) end
  if options.finish ~= false then report.finish() end
  if options.version then temp.write(dir .. "/version", options.version .. "\n") end
  if options.reason then temp.write(dir .. "/reason", options.reason .. "\n") end
  return dir
end

local function report(readme, ...)
  return process.run({ "luajit", "scripts/kernels/report.lua", readme, ... })
end

describe("kernel matrix", function()
  after_each(cleanup.all)

  it("shows a column for each kernel and a row for each check", function()
    local old = run_of({ { "attached by", "fallback", "clsact" }, { "veth", "pass", "12 packets" } }, { version = "5.10.1-1" })
    local new = run_of({ { "attached by", "pass", "TCX" }, { "veth", "pass", "13 packets" }, { "vlan", "absent", "none" } })
    local out = report("", "Debian 11=" .. old, "this machine=" .. new)
    assert.equal(0, out.code)
    assert.equal([[
|  | Debian 11, 5.10.1-1 | this machine, 6.1.0-test |
| --- | --- | --- |
| attached by | clsact (fallback) | TCX |
| veth | 12 packets | 13 packets |
| vlan | **did not run** | not tried |
]], out.stdout)
  end)

  it("fails when a check failed, and says where and why", function()
    local out = report("", "Debian 12=" .. run_of({ { "veth", "pass", "" }, { "vlan", "fail", "label | gone\nat once" } }))
    assert.equal(1, out.code)
    assert.truthy(out.stdout:find("| vlan | **failed:** label \\| gone at once |", 1, true))
    assert.truthy(out.stderr:find("Debian 12: vlan: label | gone at once", 1, true))
  end)

  it("fails when a guest stopped before its end, by its reason", function()
    local out = report("", "Debian 12=" .. run_of({ { "veth", "pass", "" } }, { finish = false, reason = "deadline of 170 s" }))
    assert.equal(1, out.code)
    assert.truthy(out.stderr:find("Debian 12: ended early, after 1 checks: deadline of 170 s", 1, true))
  end)

  it("fails when a guest reported nothing", function()
    assert.equal(1, report("", "Debian 12=" .. temp.dir()).code)
    assert.equal(1, report("", "Debian 12=" .. run_of({})).code)
  end)

  it("reads what came through a serial line", function()
    local dir = run_of({ { "veth", "pass", "1 packet" } })
    local path = temp.write(dir .. "/serial", (temp.read(dir .. "/results"):gsub("\n", "\r\n")))
    assert.same(result.read(dir .. "/results"), result.read(path))
    assert.is_true(result.read(path).complete)
  end)

  it("puts the table between the markers of the README, and only when all is well", function()
    local dir = temp.dir()
    local before = "# Text\n<!-- kernels: begin -->\nold\n<!-- kernels: end -->\nmore\n"
    local readme = temp.write(dir .. "/README.md", before)
    assert.equal(1, report(readme, "A=" .. run_of({ { "veth", "fail", "" } })).code)
    assert.equal(before, temp.read(readme))
    assert.equal(0, report(readme, "A=" .. run_of({ { "veth", "pass", "1 packet" } })).code)
    assert.equal([[
# Text
<!-- kernels: begin -->
|  | A, 6.1.0-test |
| --- | --- |
| veth | 1 packet |
<!-- kernels: end -->
more
]], temp.read(readme))
  end)

  it("computes a datagram as the standards have it", function()
    local got = frames.udp({ src = "2001:db8::1", dst = "2001:db8::2", src_port = 5000, dst_port = 443, class = 0x42,
      label = 0x10008, data = "abc", src_mac = "02:00:00:00:00:01", dst_mac = "02:00:00:00:00:02" })
    assert.equal("020000000002" .. "020000000001" .. "86dd" .. "64210008" .. "000b" .. "11" .. "40"
      .. "20010db8000000000000000000000001" .. "20010db8000000000000000000000002"
      .. "1388" .. "01bb" .. "000b", hex(got):sub(1, 2 * (14 + 40 + 6)))
    -- The sum over pseudo header, header and data is all ones (RFC 1071), the missing octet as 0.
    local sum, covered = 17 + 11, got:sub(14 + 8 + 1) .. "\0"
    for at = 1, #covered, 2 do sum = sum + covered:byte(at) * 256 + covered:byte(at + 1) end
    while sum > 0xffff do sum = sum % 65536 + math.floor(sum / 65536) end
    assert.equal(0xffff, sum)
  end)
end)
