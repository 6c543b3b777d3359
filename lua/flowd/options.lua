-- SPDX-License-Identifier: Apache-2.0
--- The options of the configuration file that belong to no plugin or backend.
--
-- flowd.config checks a file against this and against the `schema` of each module that the file
-- names; the manual and `flowd-lua conf` come from the same tables.
local schema = require("flowd.schema")

local options = {}

local level = schema.one_of({
  "trace", "debug", "info", "warn", "error", default = "info",
  doc = "The least urgent messages that are logged. --log-level on the command line overrides it.",
})
local time = schema.boolean({
  default = false,
  doc = "Start each log line with the time (UTC). --log-time on the command line overrides it.",
})

--- The top level of the configuration.
options.global = {
  runtime_dir = schema.path({
    default = "/run/flowd-lua",
    doc = "Directory of what lives as long as the daemon: its state file, by default the pipe. Made when missing.",
  }),
  state_dir = schema.path({
    default = "/var/lib/flowd-lua", empty = true,
    doc = 'Directory of what outlives the daemon. Made when missing.',
  }),
  cache_dir = schema.path({
    default = "/var/cache/flowd-lua", empty = true,
    doc = 'Directory of what can be fetched again. Made when missing.',
  }),
  pid_file = schema.path({
    default = "",
    doc = 'File to write the process id to while the daemon runs.',
  }),
  user = schema.string({
    default = "",
    doc = "User to run as, a name or a number, when started as root. Directories, pipes, the pid file and the directory of "
      .. "pins are prepared before; then only CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are kept (CAP_SYS_ADMIN and CAP_NET_ADMIN "
      .. "before Linux 5.8). Without CAP_PERFMON (Linux 6.12 and later) packets of marked flows take two to three times as long to "
      .. 'mark; without one of the others nothing is marked. "": the user that starts it.',
  }),
  group = schema.string({
    default = "",
    doc = 'Group to run as, with user; "": that user\'s own. The user\'s other groups are kept.',
  }),
  max_flows = schema.integer({
    min = 1, max = 16777216, default = 1000000, unit = "flows",
    doc = "How many flows can be open at once. Memory is taken as flows come, at most 256 octets each. "
      .. "A flow beyond that is refused, counted and logged; no open flow is ever pushed out.",
  }),
  memory_limit = schema.integer({
    min = 16, max = 1048576, default = 256, unit = "MB",
    doc = "Memory that rules, maps and timers may use together, and each plugin and backend for itself. A script that "
      .. "asks for more gets an error, and the one that holds most is switched off. A reload needs as much again until "
      .. "the old configuration is gone.",
  }),
  slow_rule_percent = schema.number({
    min = 0, max = 100, default = 10, unit = "%",
    doc = "A rule that takes more of the daemon's time is named in the log, with its time for each event, and counted. "
      .. "The time of each rule is measured on a sample of the events, which takes less than half a percent of the time. "
      .. "0: nothing is measured.",
  }),
  load_timeout = schema.seconds({
    min = 0.1, max = 3600, default = 30,
    doc = "CPU time that loading this file with all its rules and maps may take. A reload that takes longer is given "
      .. "up; events are handled all the while.",
  }),
  stop_deadline = schema.seconds({
    max = 3600, default = 10,
    doc = "How long ending all open flows and sending their last messages may take when the daemon stops. "
      .. "What is not done by then is counted and logged.",
  }),
  on_stop = schema.one_of({
    "end", "keep", default = "end",
    doc = 'What SIGTERM and SIGINT mean for open flows. "end": each is reported as ended and its mark removed, and '
      .. 'nothing of ours is left. "keep": they stay as they are for the next start, which takes them over.',
  }),
  log = schema.table({
    fields = { level = level, time = time },
    doc = "Logging, on standard error.",
  }),
  console = schema.table({
    fields = {
      enabled = schema.boolean({
        default = true,
        doc = "Whether `flowd-lua console`, `eval` and `reapply` can reach the daemon.",
      }),
      path = schema.path({
        default = "", empty = true,
        doc = 'The socket, at most 107 octets; "" for "console" in runtime_dir.',
      }),
      mode = schema.mode({
        doc = "Mode of the socket. By default 0600; 0660 when one of the groups is given, 0666 when both are: who may is "
          .. "checked at each connection, whatever the mode.",
      }),
      group = schema.string({
        default = "",
        doc = 'A group, name or number, whose members may do everything that root may do here; "" for none.',
      }),
      readonly_group = schema.string({
        default = "",
        doc = 'A group whose members may ask, but change nothing; "" for none.',
      }),
      patience = schema.seconds({
        min = 1, max = 3600, default = 10,
        doc = "A client that does not take its output for so long is dropped.",
      }),
    },
    doc = "The console: a Lua prompt into the running daemon, flowd-lua-console(7). It is for root, the daemon's user and these "
      .. "groups.",
  }),
  plugin_dirs = schema.list({
    of = schema.path({}), default = { "/etc/flowd-lua/plugins" },
    doc = "Directories with a site's own plugins, searched in order before the built-in ones. "
      .. "Relative to the directory of this file.",
  }),
  backend_dirs = schema.list({
    of = schema.path({}), default = { "/etc/flowd-lua/backends" },
    doc = "Directories with a site's own backends, searched in order before the built-in ones. "
      .. "Relative to the directory of this file.",
  }),
  registry = schema.table({
    fields = {
      file = schema.path({
        default = "",
        doc = 'Names of experiments and activities, a file in the published form (api.json). "" for the copy '
          .. "inside the binary. Relative to the directory of this file.",
      }),
      url = schema.string({
        default = "", expects = "an https:// URL", max_length = 2000,
        check = function(url)
          if url ~= "" and not url:find("^https://[^%s%c]+$") then return "expected a URL that begins with https://" end
        end,
        doc = 'Where the registry is published; "" for nowhere. It is fetched in the background, checked, kept in cache_dir '
          .. "and taken as a reload would take it; the start never waits for it, and the last good one stays in use. "
          .. "Until the first one has come, `file` holds. https_proxy and no_proxy of the environment are heeded.",
      }),
      refresh = schema.seconds({
        default = "1d", min = 60,
        doc = "How often the URL is asked whether there is a new one. After a failure it is asked again earlier.",
      }),
      timeout = schema.seconds({
        default = 60, min = 1, max = 3600,
        doc = "How long fetching may take, redirects included.",
      }),
      ca = schema.path({
        default = "",
        doc = "Certificates of the authorities that may vouch for the URL's server: a PEM file, or a directory of them "
          .. 'under hashed names; "" for those of the system. Relative to the directory of this file.',
      }),
      strict = schema.boolean({
        default = false,
        doc = "true: an event whose experiment or activity is not in the registry loses its tag, and is neither marked nor "
          .. "reported. Otherwise it passes. It is counted either way.",
      }),
    },
    doc = "Where the names of experiments and activities come from.",
  }),
  plugins = schema.map({
    keys = schema.any({}), of = schema.any({}), default = {},
    doc = "Sources of events: a plugin runs when its name is a key here; {} stands for all its defaults. A key may "
      .. 'be any name when use = "NAME" names the plugin, so that one plugin can run several times. Options are data; '
      .. "functions appear only in rules.",
  }),
  backends = schema.map({
    keys = schema.any({}), of = schema.any({}), default = {},
    doc = "What acts on events: a backend runs when its name is a key here, as for plugins.",
  }),
  rules = schema.rules({
    default = {},
    doc = "Site policy, in order: rules, and names of files of rules, relative to the directory of this "
      .. 'file; "rules.d/*.lua" stands for all that match, sorted by name.',
  }),
}

--- What every plugin and backend has besides its own options.
options.instance = {
  use = schema.string({
    pattern = "^[%a_][%w_]*$", expects = "the name of a plugin or backend",
    doc = "Which plugin or backend this is, when the key is a name of your own.",
  }),
  required = schema.boolean({
    default = false,
    doc = "true: the daemon does not start without it. Otherwise a failure to start is logged and counted, "
      .. "and the others run.",
  }),
}

--- The complete schema of one plugin or backend: its own options and those that all have.
---@param module table
---@return table field of kind "table"
function options.of_module(module)
  local field = schema.as_field(module.schema)
  local fields = {}
  -- A module's own options come first, whichever was loaded first.
  for name, f in pairs(options.instance) do
    fields[name] = setmetatable({ order = 1e9 + f.order }, { __index = f })
  end
  for name, f in pairs(field.fields) do fields[name] = f end
  return { kind = "table", fields = fields, check = field.check, order = 0 }
end

return options
