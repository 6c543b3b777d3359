-- SPDX-License-Identifier: Apache-2.0
--- Every policy of the cookbook, loaded as a site would and run on flows.
local bit = require("bit")
local cleanup = require("spec.support.cleanup")
local config = require("flowd.config")
local process = require("spec.support.process")
local rules = require("flowd.rules")
local state = require("flowd.state")
local support = require("spec.support.policy")
local temp = require("spec.support.temp")

local FOLDER = "conf/cookbook"
local LINES_MAX = 10

local CONFIGURATION = [[
return {
  plugins = { pipe = {} },
  backends = { firefly = {}, ["firefly.cms"] = { use = "firefly", collectors = { "127.0.0.1" } }, marker = { interfaces = { "lo" } } },
  rules = { %q },
}
]]

-- The files of rules: not what they read, and not plugins and backends.
local function policies()
  local names = {}
  for name in (process.must({ "ls", FOLDER })):gmatch("([%w_]+)%.lua\n") do
    local text = temp.read(("%s/%s.lua"):format(FOLDER, name))
    if not text:find("\nreturn [%w_]+%s*$") and not text:find("on_events", 1, true) then names[#names + 1] = name end
  end
  return names
end

-- A function that runs the rules of a file on a flow; what became of it.
local function open(name, change)
  local dir = temp.dir()
  process.must({ "cp", "-r", FOLDER .. "/.", dir })
  if change then temp.write(("%s/%s.lua"):format(dir, name), (change(temp.read(("%s/%s.lua"):format(dir, name))))) end
  temp.write(dir .. "/conf.lua", CONFIGURATION:format(name .. ".lua"))
  local loaded, errors = config.load(dir .. "/conf.lua")
  if not loaded then error(table.concat(errors, "\n"), 2) end
  local bits = config.backend_bits(loaded)
  local chain = assert(rules.compile(loaded.rules, {
    registry = loaded.registry, backends = bits, plugins = loaded.values.plugins,
    source_id = function() return 1 end, source_name = function() return "pipe" end,
  }))
  return function(fields)
    local result = support.run(chain, fields)
    for _, rule in ipairs(chain.rules) do assert.equal(0, rule.errors, rule.name) end
    local names = {}
    for _, backend in ipairs({ "firefly", "firefly.cms", "marker" }) do
      if bit.band(result.route, bits[backend]) ~= 0 then names[#names + 1] = backend end
    end
    result.to = table.concat(names, " ")
    result.tag = result.experiment .. "/" .. result.activity
    return result
  end
end

local EVERYWHERE = "firefly firefly.cms marker"
local TUESDAY = 1700006400 -- 15 November 2023, 00:00 UTC, was a Wednesday: the day before

local cases = {}

function cases.site_local(run)
  assert.is_true(run({ src = "2001:db8:10::1", dst = "2001:db8:1f::1" }).dropped)
  assert.is_false(run({ src = "2001:db8:10::1", dst = "2001:db8:20::1" }).dropped)
  assert.is_false(run({ src = "2001:db8:20::1", dst = "2001:db8:10::1" }).dropped)
  assert.is_true(run({ src = "192.0.2.1", dst = "192.0.2.2" }).dropped)
end

function cases.public_only(run)
  assert.is_true(run({ src = "10.0.0.1", dst = "192.0.2.1" }).dropped)
  assert.is_true(run({ src = "192.0.2.1", dst = "198.51.100.7" }).dropped)
  assert.is_true(run({ dst = "fd00::1" }).dropped)
  assert.is_false(run({ src = "192.0.2.1", dst = "198.51.100.200" }).dropped)
end

function cases.by_server(run)
  assert.equal("2/0", run({ src = "2001:db8:10:101::1" }).tag)
  assert.equal("2/26", run({ src = "2001:db8:10:1f1::1" }).tag)
  assert.equal("3/0", run({ dst = "2001:db8:10:200::1" }).tag)
  assert.equal("5/0", run({ src = "2001:db8:10:101::1", experiment = 5 }).tag)
  assert.equal("3/0", run({ src = "192.0.2.64", dst = "198.51.100.1" }).tag)
  assert.equal("0/0", run({ src = "2001:db8:11::1" }).tag)
end

function cases.by_port(run)
  assert.equal("2/0", run({ src_port = 1094 }).tag)
  assert.equal("3/0", run({ src_port = 7, dst_port = 1095 }).tag)
  assert.equal("5/4", run({ src_port = 20999 }).tag)
  assert.equal("0/0", run({ src_port = 21000 }).tag)
  assert.equal("4/1", run({ src_port = 1094, experiment = 4, activity = 1 }).tag)
end

function cases.default(run)
  assert.equal("2/15", run({}).tag)
  assert.equal("2/3", run({ experiment = 2, activity = 3 }).tag)
  assert.equal("3/0", run({ experiment = 3 }).tag)
end

function cases.by_user(run)
  -- Nobody knows the user yet.
  assert.equal("0/0", run({}).tag)
  local run_named = open("by_user", function(text)
    local changed, count = text:gsub("flow%.user", "flow.application")
    assert(count == 1)
    return changed
  end)
  assert.equal("2/15", run_named({ application = "prodatlas" }).tag)
  assert.equal("2/17", run_named({ application = "atlas007" }).tag)
  assert.equal("3/0", run_named({ application = "cms001" }).tag)
  assert.equal("0/0", run_named({ application = "cms0001" }).tag)
end

function cases.xrootd(run)
  assert.equal("3/0", run({ src = "2001:db8:10:2ff::1", application = "xrootd-alice" }).tag)
  assert.equal("5/0", run({ application = "xrootd-alice-7" }).tag)
  assert.equal("2/15", run({}).tag)
  assert.equal("7/3", run({ experiment = 7, activity = 3 }).tag)
end

function cases.by_application(run)
  assert.equal("2/26", run({ application = "fts3-atlas-prod" }).tag)
  assert.equal("3/0", run({ application = "gfal-cms" }).tag)
  assert.equal("2/0", run({ application = "rucio2" }).tag)
  assert.equal("0/0", run({ application = "rucio" }).tag)
end

function cases.time_of_day(run)
  local function at(hour, days) return run({ src = "2001:db8:10:700::1", time = TUESDAY + (days * 24 + hour) * 3600 }).experiment end
  assert.equal(3, at(8, 0))
  assert.equal(3, at(17.99, 0))
  assert.equal(2, at(18, 0))
  assert.equal(4, at(8, 3)) -- Saturday
  assert.equal(2, at(7.99, 5))
  assert.equal(0, run({ time = TUESDAY }).experiment)
end

function cases.sampling(run)
  local reported = 0
  for _ = 1, 4000 do
    local to = run({}).to
    if to == EVERYWHERE then reported = reported + 1 else assert.equal("marker", to) end
  end
  assert.is_true(reported > 5 and reported < 120, reported)
end

function cases.backends(run)
  assert.equal("firefly marker", run({ experiment = 3 }).to)
  assert.equal("firefly", run({ experiment = 5 }).to)
  assert.equal("marker", run({ experiment = 2 }).to)
end

function cases.collectors(run)
  assert.equal("firefly.cms marker", run({ experiment = 3 }).to)
  assert.equal("firefly marker", run({ experiment = 2 }).to)
end

function cases.rename_activity(run)
  assert.equal("2/26", run({ experiment = 2, activity = 50 }).tag)
  assert.equal("2/49", run({ experiment = 2, activity = 49 }).tag)
  assert.equal("3/14", run({ src = "2001:db8:10:300::1", experiment = 3 }).tag)
  assert.equal("3/14", run({ src = "2001:db8:10:300::1", experiment = 3, activity = 12 }).tag)
  assert.equal("3/4", run({ src = "2001:db8:10:300::1", experiment = 3, activity = 4 }).tag)
end

function cases.drop_unknown(run)
  local before = state.counter("unknown ids"):get()
  assert.is_true(run({ experiment = 400 }).dropped)
  assert.is_true(run({ experiment = 2, activity = 60 }).dropped)
  assert.is_false(run({ experiment = 2, activity = 26 }).dropped)
  assert.is_false(run({ experiment = 2 }).dropped)
  assert.is_false(run({}).dropped)
  assert.equal(before + 2, state.counter("unknown ids"):get())
end

function cases.rate_limit(run)
  local time = TUESDAY
  for _ = 1, 1000 do assert.equal(EVERYWHERE, run({ experiment = 2, time = time }).to) end
  assert.equal("marker", run({ experiment = 2, time = time + 59 }).to)
  assert.equal(EVERYWHERE, run({ experiment = 3, time = time + 59 }).to)
  assert.equal(EVERYWHERE, run({ experiment = 2, time = time + 60 }).to)
end

function cases.first_seen(run)
  local function alarms(fields)
    return table.concat(support.logged(function() run(fields) end), "\n")
  end
  assert.equal("warn first flow of atlas from 2001:db8:aa::1", alarms({ src = "2001:db8:aa::1", experiment = 2 }))
  assert.equal("", alarms({ src = "2001:db8:aa::1", experiment = 2 }))
  assert.equal("warn first flow of cms from 2001:db8:aa::1", alarms({ src = "2001:db8:aa::1", experiment = 3 }))
  assert.equal("warn first flow of 400 from 2001:db8:aa::2", alarms({ src = "2001:db8:aa::2", experiment = 400 }))
end

function cases.quarantine(run)
  local time = TUESDAY
  local function dropped(seconds, src) return run({ src = src or "2001:db8:bb::1", time = time + seconds }).dropped end
  for _ = 1, 600 do assert.is_false(dropped(1)) end
  assert.is_true(dropped(2))
  assert.is_false(dropped(2, "2001:db8:bb::2"))
  assert.is_true(dropped(601))
  assert.is_false(dropped(602.5))
end

function cases.ipv4(run)
  assert.equal("firefly", run({ src = "192.0.2.1", dst = "192.0.2.2" }).to)
  assert.equal(EVERYWHERE, run({}).to)
end

function cases.test_tags(run)
  local tags = {}
  for i = 1, 5 do tags[i] = run({ dst_port = 5200 + i }).tag end
  assert.same({ "2/26", "3/4", "4/0", "5/1", "2/26" }, tags)
  assert.equal("0/0", run({ dst_port = 5300 }).tag)
end

function cases.one_tag(run) assert.equal("1/2", run({ experiment = 5, activity = 6 }).tag) end

function cases.partners(run)
  assert.equal(EVERYWHERE, run({ dst = "2001:db8:1ff::1" }).to)
  assert.equal("firefly", run({ dst = "2001:db8:200::1" }).to)
end

function cases.udp_noise(run)
  assert.is_true(run({ dst_port = 9 }).dropped)
  assert.is_true(run({ dst_port = 33500, protocol = "udp" }).dropped)
  assert.is_false(run({ dst_port = 33535 }).dropped)
end

describe("the cookbook", function()
  after_each(cleanup.all)

  for _, name in ipairs(policies()) do
    it(name .. ".lua does what it says", function()
      local case = cases[name]
      if not case then error(("%s/%s.lua has no test in %s"):format(FOLDER, name, "spec/unit/cookbook_spec.lua")) end
      case(open(name))
    end)

    it(name .. ".lua is short, and says first what it is for", function()
      local text, lines = temp.read(("%s/%s.lua"):format(FOLDER, name)), 0
      assert.matches("^%-%- SPDX%-License%-Identifier: Apache%-2.0\n%-%- %u", text)
      for line in text:gmatch("[^\n]+") do
        if not line:find("^%s*%-%-") then lines = lines + 1 end
      end
      assert.is_true(lines <= LINES_MAX, lines .. " lines")
    end)
  end

  it("has at least fifteen policies, and no test of one that is not there", function()
    local there = {}
    for _, name in ipairs(policies()) do there[name] = true end
    assert.is_true(#policies() >= 15)
    for name in pairs(cases) do assert.truthy(there[name], name) end
  end)
end)
