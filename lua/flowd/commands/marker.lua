-- SPDX-License-Identifier: Apache-2.0
local ffi = require("ffi")
local api = require("flowd.api")
local cli = require("flowd.cli")
local pins = require("flowd.pins")

local ERROR_SIZE = 512
local LINKS_MAX = 1024
local MARKS_MAX = 4096
local ENOENT, ENOTEMPTY = 2, 39

local method_names = { [tonumber(ffi.C.MARKER_TCX)] = "tcx", [tonumber(ffi.C.MARKER_CLSACT)] = "clsact" }

-- The state file's counters by series, and whether a daemon runs; nil when there is no such file.
local function read_state(path)
  local message = ffi.new("char[?]", ERROR_SIZE)
  local view = api.state_view(path, message, ERROR_SIZE)
  if view == nil then return nil, false, 0 end
  local counters = {}
  for i = 0, ffi.C.COUNTERS_MAX - 1 do
    local c = api.state_counter(view, i)
    if c ~= nil then counters[ffi.string(c.name)] = tonumber(c.value) end
  end
  local running, pid = api.state_owned(view), tonumber(api.state_header(view).pid)
  api.state_close(view, false)
  return counters, running, pid
end

-- Without a configuration at the default place: the daemon with all defaults.
local function runtime_dir(options)
  local default = io.open(cli.default_conf)
  if default then default:close() end
  if options.conf or default then return cli.load_config(options).values.runtime_dir end
  return "/run/flowd-lua"
end

local function count_marks(directory)
  local marks = api.marker_marks_open(directory)
  if marks == nil then return nil end
  local buffer, total = ffi.new("struct marker_mark[?]", MARKS_MAX), 0
  while true do
    local n = api.marker_marks_read(marks, buffer, MARKS_MAX)
    if n <= 0 then break end
    total = total + n
  end
  api.marker_marks_close(marks)
  return total
end

local function list_pins(directory)
  local list = ffi.new("struct marker_pin[?]", LINKS_MAX)
  local count = api.marker_pins_list(directory, list, LINKS_MAX)
  if count < 0 and count ~= -ENOENT then
    cli.fail("%s: %s", directory, ffi.string(api.error_text(count)))
  end
  return list, count
end

local function status(directory, dir)
  local counters, running, pid = read_state(dir .. "/state")
  local list, count = list_pins(directory)
  print(("daemon      %s"):format(running and ("runs, pid %d"):format(pid) or "does not run"))
  print(("pins        %s%s"):format(directory, count < 0 and " (there are none)" or ""))
  local marks = count_marks(directory)
  if marks then print(("marks       %d"):format(marks)) end
  if counters and counters.flowd_marker_adopted then
    print(("taken over  %s"):format(counters.flowd_marker_adopted == 1 and "from the process before" or "no: a fresh start"))
  end
  for i = 0, count - 1 do
    local pin = list[i]
    local name = ffi.string(pin.name)
    if not pin.here then
      name = ("number %d of another network namespace"):format(pin.ifindex)
    elseif name == "" then
      name = ("number %d, which is gone"):format(pin.ifindex)
    end
    print(("interface   %s: %s, %s"):format(name, method_names[pin.method],
      pin.program ~= 0 and ("program %d"):format(pin.program) or "nothing is attached"))
  end
  local names = {}
  for name in pairs(counters or {}) do
    if name:find("^flowd_marker_") then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do print(("%s %d"):format(name, counters[name])) end
  return 0
end

local protocols = { [tonumber(ffi.C.FLOW_TCP)] = "tcp", [tonumber(ffi.C.FLOW_UDP)] = "udp" }

local function flows(directory, options)
  local registry = require("flowd.registry")
  local default = io.open(cli.default_conf)
  if default then default:close() end
  local names = (options.conf or default) and cli.load_config(options).registry or registry.load_embedded()
  local marks = api.marker_marks_open(directory)
  if marks == nil then cli.fail("%s: no marks are pinned there", directory) end
  local buffer, text = ffi.new("struct marker_mark[?]", MARKS_MAX), ffi.new("char[64]")
  local function address(a) return ffi.string(text, api.address_format(a, text)) end
  local n
  repeat
    n = api.marker_marks_read(marks, buffer, MARKS_MAX)
    for i = 0, n - 1 do
      local mark = buffer[i]
      local key, label = mark.key, mark.label
      io.write(("%s [%s]:%d [%s]:%d label 0x%05x %s, %.0f packets, %.0f octets\n"):format(protocols[key.protocol] or key.protocol,
        address(key.src), key.src_port, address(key.dst), key.dst_port, label,
        names:describe(api.label_experiment(label), api.label_activity(label)), tonumber(mark.packets),
        tonumber(mark.octets)))
    end
  until n <= 0
  api.marker_marks_close(marks)
  if n < 0 then cli.fail("%s: %s", directory, ffi.string(api.error_text(n))) end
  return 0
end

local function clean_directory(directory)
  local r = api.marker_pins_clean(directory)
  if r == 0 then
    print(("removed %s"):format(directory))
  elseif r == -ENOTEMPTY then
    print(("removed what is ours in %s; something else is there"):format(directory))
  elseif r ~= -ENOENT then
    cli.fail("%s: %s", directory, ffi.string(api.error_text(r)))
  end
end

-- Directories that daemons pin in, each with its runtime_dir: their names say whose they are.
local function all_directories()
  local buffer = ffi.new("char[65536]")
  local n = api.process_glob(pins.mount .. "/flowd-lua*", buffer, 65536)
  if n < 0 then cli.fail("%s: %s", pins.mount, ffi.string(api.error_text(n))) end
  local list = {}
  local at = ffi.cast("const char *", buffer)
  for _ = 1, n do
    local path = ffi.string(at)
    at = at + #path + 1
    local owner = pins.runtime_dir(path)
    if owner then list[#list + 1] = { path = path, runtime_dir = owner } end
  end
  return list
end

local function clean(directory, dir, options)
  local function refuse_running(of)
    local _, running, pid = read_state(of .. "/state")
    if running and not options.force then
      cli.fail("the daemon of %s runs (pid %d): stop it, or use --force, and flows are unmarked under it", of, pid)
    end
  end
  refuse_running(dir)
  clean_directory(directory)
  if not options.all then return 0 end
  local list = all_directories()
  for _, each in ipairs(list) do refuse_running(each.runtime_dir) end
  for _, each in ipairs(list) do clean_directory(each.path) end
  local filters = api.marker_filters_clean()
  if filters > 0 then print(("removed %d clsact filters"):format(filters)) end
  return 0
end

-- What the daemon has attached to an interface.
local function attached_to(directory, interface)
  local list, count = list_pins(directory)
  for i = 0, count - 1 do
    local pin = list[i]
    if pin.here and ffi.string(pin.name) == interface and pin.program ~= 0 then
      return { method = method_names[pin.method], program = pin.program }
    end
  end
end

local function test(directory, interface)
  local function say(what, text) print(("%-11s %s"):format(what, text)) end
  local attached = attached_to(directory, interface)
  say("daemon", attached and ("marks %s: program %d, %s"):format(interface, attached.program, attached.method)
    or ("does not mark %s"):format(interface))
  local ok, problem = require("flowd.marker_test").run(interface, attached, say)
  if not ok then cli.fail("marker test: %s", problem) end
  say("result", ("what leaves %s can be marked"):format(interface))
  return 0
end

local actions = { status = true, flows = true, clean = true, test = true }

return {
  summary = "show or remove what the marker has in the kernel",
  doc = [[
status: the interfaces that are marked, how, by which program, the number of marks and the marker's counters.

flows: every mark, with its label and what that means, and the packets on the wire and octets (from the IPv6 header on) that
carried it.

clean: detach the programs and remove the tables that a daemon with this configuration left in the kernel when it was
killed, or stopped with on_stop = "keep". Nothing of others is touched. Refused while that daemon runs.

test INTERFACE: can what leaves an interface be marked? For a second, a program and table of its own are attached there,
beside the daemon's. Five datagrams of 64 octets are sent before their flow is marked and five after, and captured as
they leave. They go from an IPv6 address of the interface to ff02::114, the link-local multicast group for experiments
(RFC 4727), port 9 (discard), hop limit 1: no router forwards them and nobody answers; on the loopback interface, to
::1. The last line and the exit status tell the result. 0: the first five carry another label, the others theirs; 1: not
so, or it cannot be tried, and why. No flow of the daemon's is touched, nothing is left.

All four work whether a daemon runs or not. They need root.]],
  arguments = {
    { name = "ACTION", doc = "status, flows, clean or test" },
    { name = "INTERFACE", optional = true, doc = "test: the network interface" },
  },
  options = {
    { name = "--all", doc = "clean: also what daemons with another runtime_dir left, and clsact filters that nothing tells of "
      .. "(in this network namespace; their qdiscs stay, others may use them)." },
    { name = "--force", doc = "clean: even while a daemon runs. Its flows are unmarked until it is started anew." },
  },
  run = function(arguments, options)
    local action = arguments[1]
    if not actions[action] then
      error({ usage = ('marker: expected status, flows, clean or test, got "%s"'):format(action) }, 0)
    end
    if (action == "test") ~= (arguments[2] ~= nil) then
      error({ usage = action == "test" and "marker test: missing INTERFACE"
        or ('marker %s: unexpected argument "%s"'):format(action, arguments[2]) }, 0)
    end
    if action ~= "clean" and (options.all or options.force) then
      error({ usage = ("marker %s: --all and --force are for clean"):format(action) }, 0)
    end
    local dir = runtime_dir(options)
    local directory = pins.directory(dir)
    if action == "status" then return status(directory, dir) end
    if action == "test" then return test(directory, arguments[2]) end
    if action == "flows" then return flows(directory, options) end
    return clean(directory, dir, options)
  end,
}
