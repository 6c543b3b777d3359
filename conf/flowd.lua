-- flowd-lua: configuration. Every option is here with its default; what is left out has it, too.
-- flowd-lua check tells all that is wrong with it; flowd-lua.conf(5) says more.
return {
  -- Directory of what lives as long as the daemon: its state file, by default the pipe. Made when
  -- missing.
  runtime_dir = "/run/flowd-lua",

  -- Directory of what outlives the daemon. Made when missing. Expects a path, or "" for none.
  state_dir = "/var/lib/flowd-lua",

  -- Directory of what can be fetched again. Made when missing. Expects a path, or "" for none.
  cache_dir = "/var/cache/flowd-lua",

  -- File to write the process id to while the daemon runs. Expects a path, or "" for none.
  pid_file = "",

  -- User to run as, a name or a number, when started as root. Directories, pipes, the pid file and
  -- the directory of pins are prepared before; then only CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are
  -- kept (CAP_SYS_ADMIN and CAP_NET_ADMIN before Linux 5.8). Without CAP_PERFMON (Linux 6.12 and
  -- later) packets of marked flows take two to three times as long to mark; without one of the
  -- others nothing is marked. "": the user that starts it.
  user = "",

  -- Group to run as, with user; "": that user's own. The user's other groups are kept.
  group = "",

  -- How many flows can be open at once. Memory is taken as flows come, at most 256 octets each. A
  -- flow beyond that is refused, counted and logged; no open flow is ever pushed out. Expects an
  -- integer from 1 to 16777216 flows.
  max_flows = 1000000,

  -- Memory that rules, maps and timers may use together, and each plugin and backend for itself. A
  -- script that asks for more gets an error, and the one that holds most is switched off. A reload
  -- needs as much again until the old configuration is gone. Expects an integer from 16 to 1048576
  -- MB.
  memory_limit = 256,

  -- A rule that takes more of the daemon's time is named in the log, with its time for each event,
  -- and counted. The time of each rule is measured on a sample of the events, which takes less than
  -- half a percent of the time. 0: nothing is measured. Expects a number from 0 to 100 %.
  slow_rule_percent = 10,

  -- CPU time that loading this file with all its rules and maps may take. A reload that takes
  -- longer is given up; events are handled all the while. Expects seconds from 0.1 to 3600 (a
  -- number, or "500ms", "30s", "5m", "1h", "1d").
  load_timeout = 30,

  -- How long ending all open flows and sending their last messages may take when the daemon stops.
  -- What is not done by then is counted and logged. Expects seconds from 0 to 3600 (a number, or
  -- "500ms", "30s", "5m", "1h", "1d").
  stop_deadline = 10,

  -- What SIGTERM and SIGINT mean for open flows. "end": each is reported as ended and its mark
  -- removed, and nothing of ours is left. "keep": they stay as they are for the next start, which
  -- takes them over. Expects one of end, keep.
  on_stop = "end",

  -- Logging, on standard error.
  log = {
    -- The least urgent messages that are logged. --log-level on the command line overrides it.
    -- Expects one of trace, debug, info, warn, error.
    level = "info",

    -- Start each log line with the time (UTC). --log-time on the command line overrides it.
    time = false,
  },

  -- The console: a Lua prompt into the running daemon, flowd-lua-console(7). It is for root, the
  -- daemon's user and these groups.
  console = {
    -- Whether `flowd-lua console`, `eval` and `reapply` can reach the daemon.
    enabled = true,

    -- The socket, at most 107 octets; "" for "console" in runtime_dir. Expects a path, or "" for
    -- none.
    path = "",

    -- Mode of the socket. By default 0600; 0660 when one of the groups is given, 0666 when both
    -- are: who may is checked at each connection, whatever the mode. Expects a file mode in octal,
    -- such as "0660".
    -- mode = (none)

    -- A group, name or number, whose members may do everything that root may do here; "" for none.
    group = "",

    -- A group whose members may ask, but change nothing; "" for none.
    readonly_group = "",

    -- A client that does not take its output for so long is dropped. Expects seconds from 1 to 3600
    -- (a number, or "500ms", "30s", "5m", "1h", "1d").
    patience = 10,
  },

  -- Directories with a site's own plugins, searched in order before the built-in ones. Relative to
  -- the directory of this file.
  plugin_dirs = { "/etc/flowd-lua/plugins" },

  -- Directories with a site's own backends, searched in order before the built-in ones. Relative to
  -- the directory of this file.
  backend_dirs = { "/etc/flowd-lua/backends" },

  -- Where the names of experiments and activities come from.
  registry = {
    -- Names of experiments and activities, a file in the published form (api.json). "" for the copy
    -- inside the binary. Relative to the directory of this file. Expects a path, or "" for none.
    file = "",

    -- Where the registry is published; "" for nowhere. It is fetched in the background, checked,
    -- kept in cache_dir and taken as a reload would take it; the start never waits for it, and the
    -- last good one stays in use. Until the first one has come, `file` holds. https_proxy and
    -- no_proxy of the environment are heeded. Expects an https:// URL.
    url = "",

    -- How often the URL is asked whether there is a new one. After a failure it is asked again
    -- earlier. Expects seconds, 60 or more (a number, or "500ms", "30s", "5m", "1h", "1d").
    refresh = "1d",

    -- How long fetching may take, redirects included. Expects seconds from 1 to 3600 (a number, or
    -- "500ms", "30s", "5m", "1h", "1d").
    timeout = 60,

    -- Certificates of the authorities that may vouch for the URL's server: a PEM file, or a
    -- directory of them under hashed names; "" for those of the system. Relative to the directory
    -- of this file. Expects a path, or "" for none.
    ca = "",

    -- true: an event whose experiment or activity is not in the registry loses its tag, and is
    -- neither marked nor reported. Otherwise it passes. It is counted either way.
    strict = false,
  },

  -- Sources of events: a plugin runs when its name is a key here; {} stands for all its defaults. A
  -- key may be any name when use = "NAME" names the plugin, so that one plugin can run several
  -- times. Options are data; functions appear only in rules.
  plugins = {
    -- Reads flow lines from named pipes: "start|end tcp|udp SRC-IP SRC-PORT DST-IP DST-PORT
    -- EXPERIMENT ACTIVITY". Experiment and activity are ids (0: a rule decides) or names of the
    -- registry, with _ for a blank. A line that is refused is counted and logged with the reason.
    -- When the daemon is busy its writers wait; nothing is lost.
    pipe = {
      -- Where the pipes are. A pipe that is not there is made, and removed when the daemon stops;
      -- one that is there is used and stays, if root or the daemon's user owns it. Other software
      -- writes to fixed paths: /var/run/flowd (flowd, StoRM), /var/run/flowd-go/np (flowd-go).
      -- Expects a list, each a path; 1 or more.
      paths = { "/run/flowd-lua/np" },

      -- Mode of a pipe that is made: who may write. Expects a file mode in octal, such as "0660".
      mode = "0660",

      -- Owner of a pipe that is made, a name or a number; "": the daemon's user.
      owner = "",

      -- Group of a pipe that is made, a name or a number; "": the daemon's group.
      group = "",

      -- A regular file at a pipe's path, as programs leave there that write while no daemon runs,
      -- is renamed (a name with the time is appended). Otherwise it is an error.
      replace_regular_file = false,

      -- true: the daemon does not start without it. Otherwise a failure to start is logged and
      -- counted, and the others run.
      required = false,
    },
  },

  -- What acts on events: a backend runs when its name is a key here, as for plugins.
  backends = {
    -- Sends a firefly, the SciTags UDP message (syslog header and JSON, version 1), when a flow
    -- starts and when it ends: to the flow's destination and to any number of collectors. Nothing
    -- here ever waits: a receiver that is slow, down or has no address yet keeps a bounded queue of
    -- its own.
    firefly = {
      -- Send to the destination of each flow.
      to_destination = true,

      -- The port at the destinations, and at collectors that name none. Expects a port from 1 to
      -- 65535.
      port = 10514,

      -- Collectors, each `"host"`, `"host:port"`, `"[IPv6 address]:port"` or `{ host = …, port =
      -- … }`. A name is resolved without delaying the start, and again when it fails and every
      -- `resolve_interval`. When it has several addresses, one that refuses is left for the next.
      -- Expects a list, each a collector, such as "collector.example.org:10514", or a table of
      -- options.
      collectors = {},

      -- Begin each message with a syslog header (RFC 5424). Off: the JSON object alone.
      syslog_header = true,

      -- What the header names as the sender; "" is the system's host name. Expects a host name
      -- without blanks.
      hostname = "",

      -- How many fireflies may wait for each collector, and for the destinations of each address
      -- family. A full queue drops its oldest. Expects an integer from 1 to 1000000 fireflies.
      queue_length = 10000,

      -- How often the collectors' names are resolved again. Expects seconds, 1 or more (a number,
      -- or "500ms", "30s", "5m", "1h", "1d").
      resolve_interval = "5m",

      -- Let the kernel cut many fireflies for one receiver out of one long buffer (UDP_SEGMENT),
      -- which halves the cost of a large batch. They are padded with blanks to equal length. Where
      -- it does not work it is not used.
      segmentation = true,

      -- true: the daemon does not start without it. Otherwise a failure to start is logged and
      -- counted, and the others run.
      required = false,
    },

    -- Writes the experiment and activity of a flow into the flow label of its IPv6 packets, TCP and
    -- UDP, as they leave an interface. An eBPF program does that: it changes nothing else in a
    -- packet, never drops one, and lives beside the programs, filters and qdiscs of others. IPv4
    -- has no flow label: such flows are left alone. So are all fragments of a packet but the first,
    -- which alone has the ports. Program and marks are pinned in a BPF file system
    -- (/sys/fs/bpf/flowd-lua): a killed or replaced daemon's flows stay marked, and the next start
    -- takes them over. A stop removes them, unless on_stop = "keep".
    marker = {
      -- Network interfaces whose outgoing packets are marked. One that is not there, or goes and
      -- comes back, is marked when it is there, within milliseconds after the kernel tells of it;
      -- it is an error when none is there at the start. Expects a list, each the name of a network
      -- interface; 1 or more.
      interfaces = { "lo" },

      -- How packets are marked. label: by the IPv6 flow label. Expects one of label.
      strategy = "label",

      -- How the program is attached. tcx: by a link, before the interface's other egress programs
      -- (Linux 6.6 and later). clsact: by a filter on the clsact qdisc, which is made if there is
      -- none, and then removed at the end unless others use it. auto: tcx where the kernel has it,
      -- else clsact. Expects one of auto, tcx, clsact.
      method = "auto",

      -- How long packets are marked after the daemon was killed and did not come back; 0 is for
      -- ever. While it runs it renews this all the time, and the next start finds its flows as they
      -- were. Expects seconds from 0 to 2147483647 (a number, or "500ms", "30s", "5m", "1h", "1d").
      lease = "5m",

      -- true: the daemon does not start without it. Otherwise a failure to start is logged and
      -- counted, and the others run.
      required = false,
    },
  },

  -- Site policy, in order: rules, and names of files of rules, relative to the directory of this
  -- file; "rules.d/*.lua" stands for all that match, sorted by name.
  rules = {
    -- rule "what the storage servers send is ATLAS" {
    --   match = { src = "2001:db8:1::/48", experiment = 0 },
    --   set = { experiment = "atlas" },
    -- },
  },
}
