---@meta
-- SPDX-License-Identifier: Apache-2.0
-- The configuration, for editors with a Lua language server. Made by `make conf`.

--- Reads flow lines from named pipes: "start|end tcp|udp SRC-IP SRC-PORT DST-IP DST-PORT EXPERIMENT ACTIVITY". Experiment and activity are ids (0: a rule decides) or names of the registry, with _ for a blank. A line that is refused is counted and logged with the reason. When the daemon is busy its writers wait; nothing is lost.
---@class flowd.Configuration.plugins.pipe
---@field paths? string[] Where the pipes are. A pipe that is not there is made, and removed when the daemon stops; one that is there is used and stays, if root or the daemon's user owns it. Other software writes to fixed paths: /var/run/flowd (flowd, StoRM), /var/run/flowd-go/np (flowd-go). Expects a list, each a path; 1 or more.
---@field mode? string Mode of a pipe that is made: who may write. Expects a file mode in octal, such as "0660".
---@field owner? string Owner of a pipe that is made, a name or a number; "": the daemon's user.
---@field group? string Group of a pipe that is made, a name or a number; "": the daemon's group.
---@field replace_regular_file? boolean A regular file at a pipe's path, as programs leave there that write while no daemon runs, is renamed (a name with the time is appended). Otherwise it is an error.
---@field use? string Which plugin or backend this is, when the key is a name of your own. Expects the name of a plugin or backend.
---@field required? boolean true: the daemon does not start without it. Otherwise a failure to start is logged and counted, and the others run.

---@class flowd.Configuration.plugins
---@field pipe? flowd.Configuration.plugins.pipe
---@field [string] table a site's own, or another instance: { use = NAME, … }

---@class flowd.Configuration.backends.firefly.collectors.item.2
---@field host string A name or an address. Expects a host name or an address.
---@field port? integer Default: the option `port` of the backend. Expects a port from 1 to 65535.

--- Sends a firefly, the SciTags UDP message (syslog header and JSON, version 1), when a flow starts and when it ends: to the flow's destination and to any number of collectors. Nothing here ever waits: a receiver that is slow, down or has no address yet keeps a bounded queue of its own.
---@class flowd.Configuration.backends.firefly
---@field to_destination? boolean Send to the destination of each flow.
---@field port? integer The port at the destinations, and at collectors that name none. Expects a port from 1 to 65535.
---@field collectors? (string|flowd.Configuration.backends.firefly.collectors.item.2)[] Collectors, each `"host"`, `"host:port"`, `"[IPv6 address]:port"` or `{ host = …, port = … }`. A name is resolved without delaying the start, and again when it fails and every `resolve_interval`. When it has several addresses, one that refuses is left for the next. Expects a list, each a collector, such as "collector.example.org:10514", or a table of options.
---@field syslog_header? boolean Begin each message with a syslog header (RFC 5424). Off: the JSON object alone.
---@field hostname? string What the header names as the sender; "" is the system's host name. Expects a host name without blanks.
---@field queue_length? integer How many fireflies may wait for each collector, and for the destinations of each address family. A full queue drops its oldest. Expects an integer from 1 to 1000000 fireflies.
---@field resolve_interval? number|string How often the collectors' names are resolved again. Expects seconds, 1 or more (a number, or "500ms", "30s", "5m", "1h", "1d").
---@field segmentation? boolean Let the kernel cut many fireflies for one receiver out of one long buffer (UDP_SEGMENT), which halves the cost of a large batch. They are padded with blanks to equal length. Where it does not work it is not used.
---@field use? string Which plugin or backend this is, when the key is a name of your own. Expects the name of a plugin or backend.
---@field required? boolean true: the daemon does not start without it. Otherwise a failure to start is logged and counted, and the others run.

--- Writes the experiment and activity of a flow into the flow label of its IPv6 packets, TCP and UDP, as they leave an interface. An eBPF program does that: it changes nothing else in a packet, never drops one, and lives beside the programs, filters and qdiscs of others. IPv4 has no flow label: such flows are left alone. So are all fragments of a packet but the first, which alone has the ports. Program and marks are pinned in a BPF file system (/sys/fs/bpf/flowd-lua): a killed or replaced daemon's flows stay marked, and the next start takes them over. A stop removes them, unless on_stop = "keep".
---@class flowd.Configuration.backends.marker
---@field interfaces? string[] Network interfaces whose outgoing packets are marked. One that is not there, or goes and comes back, is marked when it is there, within milliseconds after the kernel tells of it; it is an error when none is there at the start. Expects a list, each the name of a network interface; 1 or more.
---@field strategy? "label" How packets are marked. label: by the IPv6 flow label. Expects one of label.
---@field method? "auto"|"tcx"|"clsact" How the program is attached. tcx: by a link, before the interface's other egress programs (Linux 6.6 and later). clsact: by a filter on the clsact qdisc, which is made if there is none, and then removed at the end unless others use it. auto: tcx where the kernel has it, else clsact. Expects one of auto, tcx, clsact.
---@field lease? number|string How long packets are marked after the daemon was killed and did not come back; 0 is for ever. While it runs it renews this all the time, and the next start finds its flows as they were. Expects seconds from 0 to 2147483647 (a number, or "500ms", "30s", "5m", "1h", "1d").
---@field use? string Which plugin or backend this is, when the key is a name of your own. Expects the name of a plugin or backend.
---@field required? boolean true: the daemon does not start without it. Otherwise a failure to start is logged and counted, and the others run.

---@class flowd.Configuration.backends
---@field firefly? flowd.Configuration.backends.firefly
---@field marker? flowd.Configuration.backends.marker
---@field [string] table a site's own, or another instance: { use = NAME, … }

---@class flowd.Configuration.log
---@field level? "trace"|"debug"|"info"|"warn"|"error" The least urgent messages that are logged. --log-level on the command line overrides it. Expects one of trace, debug, info, warn, error.
---@field time? boolean Start each log line with the time (UTC). --log-time on the command line overrides it.

---@class flowd.Configuration.console
---@field enabled? boolean Whether `flowd-lua console`, `eval` and `reapply` can reach the daemon.
---@field path? string The socket, at most 107 octets; "" for "console" in runtime_dir. Expects a path, or "" for none.
---@field mode? string Mode of the socket. By default 0600; 0660 when one of the groups is given, 0666 when both are: who may is checked at each connection, whatever the mode. Expects a file mode in octal, such as "0660".
---@field group? string A group, name or number, whose members may do everything that root may do here; "" for none.
---@field readonly_group? string A group whose members may ask, but change nothing; "" for none.
---@field patience? number|string A client that does not take its output for so long is dropped. Expects seconds from 1 to 3600 (a number, or "500ms", "30s", "5m", "1h", "1d").

---@class flowd.Configuration.registry
---@field file? string Names of experiments and activities, a file in the published form (api.json). "" for the copy inside the binary. Relative to the directory of this file. Expects a path, or "" for none.
---@field url? string Where the registry is published; "" for nowhere. It is fetched in the background, checked, kept in cache_dir and taken as a reload would take it; the start never waits for it, and the last good one stays in use. Until the first one has come, `file` holds. https_proxy and no_proxy of the environment are heeded. Expects an https:// URL.
---@field refresh? number|string How often the URL is asked whether there is a new one. After a failure it is asked again earlier. Expects seconds, 60 or more (a number, or "500ms", "30s", "5m", "1h", "1d").
---@field timeout? number|string How long fetching may take, redirects included. Expects seconds from 1 to 3600 (a number, or "500ms", "30s", "5m", "1h", "1d").
---@field ca? string Certificates of the authorities that may vouch for the URL's server: a PEM file, or a directory of them under hashed names; "" for those of the system. Relative to the directory of this file. Expects a path, or "" for none.
---@field strict? boolean true: an event whose experiment or activity is not in the registry loses its tag, and is neither marked nor reported. Otherwise it passes. It is counted either way.

--- What a configuration returns: `---@type flowd.Configuration` before `local configuration = { … }`.
---@class flowd.Configuration
---@field runtime_dir? string Directory of what lives as long as the daemon: its state file, by default the pipe. Made when missing.
---@field state_dir? string Directory of what outlives the daemon. Made when missing. Expects a path, or "" for none.
---@field cache_dir? string Directory of what can be fetched again. Made when missing. Expects a path, or "" for none.
---@field pid_file? string File to write the process id to while the daemon runs. Expects a path, or "" for none.
---@field user? string User to run as, a name or a number, when started as root. Directories, pipes, the pid file and the directory of pins are prepared before; then only CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are kept (CAP_SYS_ADMIN and CAP_NET_ADMIN before Linux 5.8). Without CAP_PERFMON (Linux 6.12 and later) packets of marked flows take two to three times as long to mark; without one of the others nothing is marked. "": the user that starts it.
---@field group? string Group to run as, with user; "": that user's own. The user's other groups are kept.
---@field max_flows? integer How many flows can be open at once. Memory is taken as flows come, at most 256 octets each. A flow beyond that is refused, counted and logged; no open flow is ever pushed out. Expects an integer from 1 to 16777216 flows.
---@field memory_limit? integer Memory that rules, maps and timers may use together, and each plugin and backend for itself. A script that asks for more gets an error, and the one that holds most is switched off. A reload needs as much again until the old configuration is gone. Expects an integer from 16 to 1048576 MB.
---@field slow_rule_percent? number A rule that takes more of the daemon's time is named in the log, with its time for each event, and counted. The time of each rule is measured on a sample of the events, which takes less than half a percent of the time. 0: nothing is measured. Expects a number from 0 to 100 %.
---@field load_timeout? number|string CPU time that loading this file with all its rules and maps may take. A reload that takes longer is given up; events are handled all the while. Expects seconds from 0.1 to 3600 (a number, or "500ms", "30s", "5m", "1h", "1d").
---@field stop_deadline? number|string How long ending all open flows and sending their last messages may take when the daemon stops. What is not done by then is counted and logged. Expects seconds from 0 to 3600 (a number, or "500ms", "30s", "5m", "1h", "1d").
---@field on_stop? "end"|"keep" What SIGTERM and SIGINT mean for open flows. "end": each is reported as ended and its mark removed, and nothing of ours is left. "keep": they stay as they are for the next start, which takes them over. Expects one of end, keep.
---@field log? flowd.Configuration.log Logging, on standard error.
---@field console? flowd.Configuration.console The console: a Lua prompt into the running daemon, flowd-lua-console(7). It is for root, the daemon's user and these groups.
---@field plugin_dirs? string[] Directories with a site's own plugins, searched in order before the built-in ones. Relative to the directory of this file.
---@field backend_dirs? string[] Directories with a site's own backends, searched in order before the built-in ones. Relative to the directory of this file.
---@field registry? flowd.Configuration.registry Where the names of experiments and activities come from.
---@field plugins? flowd.Configuration.plugins Sources of events: a plugin runs when its name is a key here; {} stands for all its defaults. A key may be any name when use = "NAME" names the plugin, so that one plugin can run several times. Options are data; functions appear only in rules.
---@field backends? flowd.Configuration.backends What acts on events: a backend runs when its name is a key here, as for plugins.
---@field rules? (string|flowd.Rule)[] Site policy, in order: rules, and names of files of rules, relative to the directory of this file; "rules.d/*.lua" stands for all that match, sorted by name.
