---@meta
-- SPDX-License-Identifier: Apache-2.0
-- What plugins and backends are given, for editors with a Lua language server (LuaLS): point Lua.workspace.library of its
-- settings at this folder. flowd-lua-plugins(7) is made from this file.

-- == PLUGINS AND BACKENDS ==
-- A plugin is where events come from, a backend acts on them. Both are a Lua file that returns a table, in /etc/flowd-lua/plugins or
-- /etc/flowd-lua/backends (plugin_dirs, backend_dirs); it runs when the configuration has a key with its name. The built-in
-- ones use nothing else than what is described here.
--
--     local schema = require("flowd.schema")
--
--     local counting = {
--       name = "counting",
--       doc = "Counts the flows that start.",
--       schema = { every = schema.seconds{ default = 60, doc = "How often the number is logged." } },
--     }
--
--     function counting:start(ctx)
--       self.count = 0
--       ctx.every(self.options.every, function() ctx:log("info", "%d flows", self.count) end)
--     end
--
--     function counting:on_events(events, n)
--       for i = 0, n - 1 do
--         if events[i].state == 1 then self.count = self.count + 1 end
--       end
--     end
--
--     return counting
--
-- They are trusted code: all of Lua and its FFI are there. The file, and every directory above it, must belong to root or to the
-- owner of the configuration, and nobody else may be able to write there.
--
-- Nothing may block: there is one thread, and while a function of a plugin runs, no event is handled. A function that does not
-- return within 0.6 seconds of CPU time, or 1.2 seconds of sleep, is taken for one that never will: the process replaces
-- itself and goes on without that plugin.
--
-- Everything that is made through ctx ends with the plugin: a reload that changes it, or the daemon's end, closes it, and no callback
-- comes after that. An error in a callback is logged with a traceback and counted in flowd_callback_errors_total, by kind and
-- name; everything goes on. An error in start is the reason why the plugin is not there: error("words for the operator", 0) has
-- it logged without traceback, as `return nil, "words"` does, and flowd-lua stats lists it.

--- What the file returns.
---@class flowd.Module
---@field name string Its name, that of the file.
---@field doc string A paragraph about it.
---@field schema table Its options: flowd.schema has the kinds of option, each with doc and default.
---@field start fun(self: table, ctx: flowd.Context): any, string? Begin. self.options has the options, complete and checked. nil and a reason: it cannot.
---@field stop? fun(self: table) End; what ctx made is closed afterwards.
---@field on_events? fun(self: table, events: any, n: integer) Of a backend: the events 0 to n-1 of a batch, struct flow_event of src/flow_event.h. It is concerned with those whose flags have EVENT_DELIVER and whose route has ctx.route_bit.
---@field flush? fun(self: table) Of a backend: all backends have seen the batch, send what was queued.
---@field pending? fun(self: table): integer Of a backend: how many messages wait that can be expected to leave soon; asked when the daemon stops.

-- == OPTIONS ==
-- A schema has a field for each option, made by a kind of option: schema.port{ default = 10514, doc = "Where it listens." }. What a
-- configuration gives is checked against it when it is loaded, and `flowd-lua check` tells all that is wrong; an option that is not in the schema
-- is an error. A field may have doc (sentences), default, required = true, optional = true (of a table: nil when it is not given) and
-- check, a function that gets the value and returns what is wrong with it, or nil. The kinds:
--
--     boolean                  true or false
--     integer, number          with min, max and unit
--     port                     1 to 65535
--     seconds                  a number, or "500ms", "30s", "5m", "1h", "1d"; with min and max; given as a number
--     string                   with one_of, pattern, expects (the pattern in words), max_length, empty = false
--     one_of                   schema.one_of{ "tcp", "udp", default = "tcp" }
--     path                     with absolute = true
--     mode                     of a file, in octal: "0660"
--     address, host            an address, with family = 4 or 6; an address or a name
--     experiment, activity     names or ids; given as ids; an activity's name belongs to the option experiment beside it
--     list                     of = FIELD, with min and max
--     map                      keys = FIELD, of = FIELD
--     table                    fields = { NAME = FIELD, ... }
--     any_of                   schema.any_of{ FIELD, FIELD }: the first that fits
--     any                      whatever it is
--
-- Options are data: texts, numbers, booleans, and tables of them. A function is refused, whatever the kind: in a configuration functions
-- appear in rules only, which live in memory of their own. What is to be decided by a function is decided by a rule, before the event comes
-- to a backend, or by the plugin's own file.

-- == THE CONTEXT ==
-- What start is given. Functions may be called as ctx.after(1, fn) or ctx:after(1, fn). Seconds are numbers and may have a
-- fraction. What returns a handle can be ended early by its close().

--- The fields of ctx.
---@class flowd.Context
---@field name string The key in the configuration.
---@field kind "plugin"|"backend" "plugin" or "backend".
---@field options table The options.
---@field registry table Names of experiments and activities: experiment_name(id), activity_name(experiment, id), experiment_id(name), activity_id(experiment, name).
---@field route_bit integer Of a backend: its bit in an event's route.
local ctx = {}

--- Write a line to the log.
---@param level "trace"|"debug"|"info"|"warn"|"error"
---@param format string as for string.format
---@param ... any
function ctx.log(level, format, ...) end

--- A counter, which flowd-lua stats shows: add to its field value. A site's own counters are best called flowd_site_events_total and
--- flowd_site_events_dropped_total.
---@param base string "flowd_" and lower-case words
---@param labels? table<string, string>
---@return { value: integer } counter
function ctx.counter(base, labels) end

--- Emit an event. It goes through the rules with all others of this turn of the loop. Raises when a field is wrong.
---@param event flowd.Emitted
function ctx.emit(event) end

--- What ctx.emit takes.
---@class flowd.Emitted
---@field state "start"|"ongoing"|"end" "start", "ongoing" or "end".
---@field protocol "tcp"|"udp" "tcp" or "udp".
---@field src string Address of this host's end.
---@field src_port integer Its port.
---@field dst string Address of the other end.
---@field dst_port integer Its port.
---@field experiment? integer|string Id or name; left out, the rules decide.
---@field activity? integer|string Id or name.
---@field application? string At most 47 octets.
---@field time? number Seconds of UNIX time; left out, now.
---@field bytes_sent? integer Octets sent by src so far.
---@field bytes_received? integer Octets received by src so far.

-- == TIME AND TASKS ==
-- Inside of ctx.spawn a plugin is written in a straight line: what takes a callback may be called without one, waits without
-- blocking anything, and returns what the callback would have been given.
--
--     ctx.spawn(function()
--       while true do
--         local response, message = ctx.http.get("https://example.org/state")
--         if response then ctx:log("info", "%s", response.body) else ctx:log("warn", "%s", message) end
--         ctx.sleep(60)
--       end
--     end)

--- Call back once.
---@param seconds number
---@param callback fun()
---@return { close: fun(self: table) } handle
function ctx.after(seconds, callback) end

--- Call back again and again.
---@param seconds number
---@param callback fun()
---@return { close: fun(self: table) } handle
function ctx.every(seconds, callback) end

--- Run a function that may wait. Returns when it waits for the first time. An error in it is logged and counted.
---@param fn function
---@param ... any its arguments
---@return { close: fun(self: table) } handle
function ctx.spawn(fn, ...) end

--- Wait, inside of ctx.spawn.
---@param seconds number
function ctx.sleep(seconds) end

--- Wait, inside of ctx.spawn, until the function that start is given is called; returns what that was called with.
---@param start fun(wake: fun(...))
---@return any ...
function ctx.wait(start) end

-- == FILES AND PROGRAMS ==

--- Follow a log file, which need not be there yet. When it is renamed and made anew, the old one is read to its end, and for as long as
--- its writer still writes to it. When it is copied and truncated, what was not read yet comes from the copy. The position outlives the daemon; after
--- a crash some lines may come twice, and none is missed.
---@param options flowd.FollowOptions
---@return { close: fun(self: table) } handle
function ctx.follow(options) end

--- What ctx.follow takes.
---@class flowd.FollowOptions
---@field path string The file.
---@field on_line fun(line: string) Gets each whole line, without its end.
---@field from? "start"|"end" Where to begin in a file that was never followed: "end" unless given.
---@field line_max? integer Octets of the longest line, 16384 unless given. Longer ones are refused and counted.
---@field remember? boolean false: do not keep the position for the next start.
---@field linger? number Seconds without a new line after which a renamed file is left, 10 unless given.

--- Read a FIFO for as long as the plugin lives: writers come and go, the FIFO may be removed and made again. Raises when it cannot be had.
---@param options flowd.FifoOptions
---@return { close: fun(self: table) } handle
function ctx.fifo(options) end

--- What ctx.fifo takes.
---@class flowd.FifoOptions
---@field path string Where it is, or is made.
---@field on_line? fun(line: string) Gets each line; left out, the lines are flow lines and become events.
---@field mode? string Of a FIFO that is made, "0660" unless given.
---@field owner? string Of a FIFO that is made: a name or a number.
---@field group? string Of a FIFO that is made: a name or a number.
---@field replace_regular_file? boolean true: a regular file at the path is renamed.

--- Run a program.
---@param argv string[] argv[1] is its path
---@param options? flowd.RunOptions
---@param callback? fun(status: integer|nil, output: string) Gets the exit status (128 and the signal's number when a signal ended it, -1 when its time was up) and what it wrote; nil and why it could not be started.
---@return { close: fun(self: table) } handle
function ctx.run(argv, options, callback) end

--- What ctx.run takes.
---@class flowd.RunOptions
---@field seconds? number After which it is killed, 60 unless given.
---@field input? string What it reads on its standard input; left out: nothing.
---@field limit? integer Octets of its output that are kept, 1 MiB unless given.

--- Watch a descriptor, which stays the caller's.
---@param fd integer
---@param mode "r"|"w"|"rw"
---@param callback fun(readable: boolean, writable: boolean)
---@return { close: fun(self: table) } handle
function ctx.fd(fd, mode, callback) end

-- == CONNECTIONS ==
-- TCP and Unix sockets, with or without TLS (1.2 and newer). A client's TLS always verifies the certificate and that it is for the
-- host. Both directions are bounded: what is not read waits with the peer, and write() refuses what does not fit, which
-- flowd_writes_refused_total counts.

--- Resolve a host name, by the system's hosts file and name servers.
---@param host string a name or an address
---@param callback? fun(addresses: string[]|nil, message: string|nil)
---@return { close: fun(self: table) } handle
function ctx.resolve(host, callback) end

--- Connect. The callback gets the stream, or nil and why there is none.
---@param options flowd.ConnectOptions
---@param callback? fun(stream: flowd.Stream|nil, message: string|nil)
---@return { close: fun(self: table) } handle
function ctx.connect(options, callback) end

--- What ctx.connect takes: host and port, or path.
---@class flowd.ConnectOptions
---@field host? string A name or an address. Its addresses are tried in turn.
---@field port? integer 1 to 65535.
---@field path? string Of a Unix socket.
---@field tls? boolean|flowd.TlsClient true: TLS with the system's authorities.
---@field timeout? number Seconds for everything, 10 unless given.
---@field on_data? fun(stream: flowd.Stream, text: string) Gets input as it comes.
---@field on_line? fun(stream: flowd.Stream, line: string) Gets input by lines, without their ends.
---@field on_end? fun(stream: flowd.Stream, message: string|nil) The peer has ended, or, with a message, the connection broke.
---@field on_drained? fun(stream: flowd.Stream) Everything that was written has left, after a flush.
---@field line_max? integer Octets of the longest line, at most 65536; a longer one ends the connection with a message.
---@field output_max? integer Octets that may wait to be sent, 1 MiB unless given.

--- TLS of a client. All fields may be left out.
---@class flowd.TlsClient
---@field ca? string File, or directory, of the authorities that may vouch for the server; left out: the system's.
---@field certificate? string File with the certificate to present.
---@field key? string File with its key; left out: the same file.
---@field host? string Whom the server's certificate must be for, if not the host.

--- Listen. Raises when it cannot. The handle has the port, and in count the connections that are open.
---@param options flowd.ListenOptions
---@return { port: integer, count: integer, close: fun(self: table) } handle
function ctx.listen(options) end

--- What ctx.listen takes: address and port, or path; on_data and the others as ctx.connect.
---@class flowd.ListenOptions
---@field address? string "::1" unless given; "::" for every address, of both families.
---@field port? integer 0 or left out: any that is free.
---@field path? string Of a Unix socket. One that a dead process left is replaced.
---@field mode? string Of the Unix socket, "0660" unless given.
---@field owner? string Of the Unix socket: a name or a number.
---@field group? string Of the Unix socket: a name or a number.
---@field tls? flowd.TlsServer Speak TLS.
---@field max_connections? integer 1000 unless given. Further ones are closed at once and counted.
---@field on_connection fun(stream: flowd.Stream) A connection is there; with TLS, when it is established.

--- TLS of a server.
---@class flowd.TlsServer
---@field certificate string File with the certificate, and those of the authorities in between.
---@field key? string File with its key; left out: the same file.
---@field client_ca? string File, or directory: only clients with a certificate of these authorities are let in.

--- A connection.
---@class flowd.Stream
---@field peer_address string? The other end, nil for a Unix socket.
---@field peer_port integer? Its port.
---@field closed boolean? true when it is closed.
---@field ended boolean? true when the peer has ended.
local stream = {}

--- Write. Returns true; or nil and a message, and nothing was taken.
---@param text string
---@return boolean|nil
function stream:write(text) end

--- Octets that the system has not taken yet.
---@return integer
function stream:queued() end

--- Wait until the system has taken everything. nil and a message: the connection broke.
---@param callback? fun(ok: boolean|nil, message: string|nil)
function stream:flush(callback) end

--- Read what is there, for streams without on_data and on_line. Text; nil at the end; nil and a message when the connection broke.
---@param callback? fun(text: string|nil, message: string|nil)
function stream:read(callback) end

--- Read a line, without its end.
---@param callback? fun(line: string|nil, message: string|nil)
function stream:read_line(callback) end

--- Give no more input for now: the peer has to wait.
function stream:pause() end

--- Give input again.
function stream:resume() end

--- Close when everything that was written has left.
function stream:finish() end

--- Close at once. Nothing is called back any more.
function stream:close() end

-- == DATAGRAMS ==
-- Everything that is dropped is counted in flowd_datagrams_dropped_total, with the reason.

--- A UDP socket. Raises when it cannot be had. The handle has the port.
---@param options flowd.UdpOptions
---@return flowd.Datagrams handle
function ctx.udp(options) end

--- What ctx.udp takes.
---@class flowd.UdpOptions
---@field address? string "::" unless given, every address, of both families.
---@field port? integer 0 or left out: any that is free.
---@field to_address? string The only peer.
---@field to_port? integer Its port.
---@field on_datagram? fun(socket: flowd.Datagrams, text: string, address: string, port: integer) Gets each datagram.
---@field size? integer Octets of the longest datagram, 9216 unless given; longer ones are dropped.
---@field queue? integer Datagrams that may wait to be sent, 1000 unless given; a full queue drops its oldest.

--- A Unix socket of datagrams. Raises when it cannot be had.
---@param options flowd.UnixDatagramOptions
---@return flowd.Datagrams handle
function ctx.unix_datagrams(options) end

--- What ctx.unix_datagrams takes, besides size and queue.
---@class flowd.UnixDatagramOptions
---@field path? string Where it receives; left out, it only sends.
---@field mode? string Of the path, "0660" unless given.
---@field owner? string Of the path: a name or a number.
---@field group? string Of the path: a name or a number.
---@field to? string The path that send() means.
---@field on_datagram? fun(socket: flowd.Datagrams, text: string) Gets each datagram.
---@field size? integer As for UDP.
---@field queue? integer As for UDP.

--- A socket of datagrams.
---@class flowd.Datagrams
---@field port integer? Of a UDP socket.
local socket = {}

--- Send one. Returns true, also when it waits in the queue; or nil and why it was not sent.
---@param text string
---@param to string|nil the address, or path; left out, the peer that was named when it was opened
---@param port integer|nil
---@return boolean|nil
function socket:send(text, to, port) end

--- Datagrams that wait.
---@return integer
function socket:queued() end

--- Close it.
function socket:close() end

-- == HTTP ==
-- HTTP/1.1, over TCP, TLS and, for servers, Unix sockets. A client's connections are kept for a while and used again.

--- Ask a server. The callback gets the answer, of whatever status; or nil and why there is none that is complete.
---@param url string "https://…" or "http://…"
---@param options? flowd.HttpOptions
---@param callback? fun(response: flowd.HttpAnswer|nil, message: string|nil)
---@return { close: fun(self: table) } handle
function ctx.http.request(url, options, callback) end

--- The same with GET.
---@param url string
---@param options? flowd.HttpOptions
---@param callback? fun(response: flowd.HttpAnswer|nil, message: string|nil)
---@return { close: fun(self: table) } handle
function ctx.http.get(url, options, callback) end

--- The same with POST.
---@param url string
---@param body string
---@param options? flowd.HttpOptions
---@param callback? fun(response: flowd.HttpAnswer|nil, message: string|nil)
---@return { close: fun(self: table) } handle
function ctx.http.post(url, body, options, callback) end

--- What requests take.
---@class flowd.HttpOptions
---@field method? string "GET" unless given.
---@field headers? table<string, string> Headers to send.
---@field body? string What to send.
---@field timeout? number Seconds for everything, redirects included; 30 unless given.
---@field connect_timeout? number Seconds to connect.
---@field limit? integer Octets of the longest body of an answer, 1 MiB unless given.
---@field redirects? integer How many are followed, 5 unless given; never one from https to http.
---@field ca? string File, or directory, of the authorities that may vouch for the server.
---@field certificate? string File with the certificate to present.
---@field key? string File with its key.
---@field proxy? string|false "http://[USER:PASSWORD@]HOST:PORT", or false for none. Left out: https_proxy, http_proxy, all_proxy and no_proxy of the environment.

--- An answer.
---@class flowd.HttpAnswer
---@field status integer 200 and so on.
---@field reason string The words behind it.
---@field headers table<string, string> With names in lower case; what came several times is joined by ", ".
---@field body string The whole body.
---@field url string Where it is from, after redirects.

--- Serve HTTP. Raises when it cannot listen. The handle has the port.
---@param options flowd.HttpServerOptions
---@return { port: integer, close: fun(self: table) } handle
function ctx.http.serve(options) end

--- What ctx.http.serve takes, besides where to listen and tls, as for ctx.listen.
---@class flowd.HttpServerOptions
---@field on_request fun(request: flowd.HttpRequest, response: flowd.HttpResponse): integer?, string?, table? Runs as a task, may wait. Returns status, body and headers; or nothing, and calls response:send later.
---@field body_max? integer Octets of the longest body, 1 MiB unless given; more is refused with 413.
---@field head_max? integer Octets of the longest head, 32 KiB unless given; more is refused with 431.
---@field request_timeout? number Seconds for a request to arrive, 30 unless given; then 408.
---@field idle_timeout? number Seconds between two requests of a connection, 60 unless given.
---@field answer_timeout? number Seconds for the answer, 60 unless given; then 503.
---@field max_connections? integer 256 unless given.
---@field output_max? integer Octets of answers that may wait to be sent on a connection, 16 MiB unless given.

--- A request.
---@class flowd.HttpRequest
---@field method string "GET" and so on.
---@field target string As it was sent.
---@field path string The target without its query.
---@field query string What is behind the question mark, "" when there is none.
---@field headers table<string, string> With names in lower case.
---@field body string The whole body.
---@field peer_address string? Who asks; nil for a Unix socket.
---@field peer_port integer? The port.

--- The answer to a request.
---@class flowd.HttpResponse
---@field closed boolean? true when it was sent, or the client has gone.
local response = {}

--- Answer, once. Returns true; or nil and a message when it was answered already or the client has gone.
---@param status integer 200 to 999
---@param body? string
---@param headers? table<string, string>
---@return boolean|nil
function response:send(status, body, headers) end

-- == OTHERS ==

--- Tie something that has a close method to the plugin's life.
---@param handle table
---@return table handle
function ctx.own(handle) end

--- Close a handle, of whatever kind.
---@param handle table
function ctx.release(handle) end

--- A callback for something of the plugin's own: errors in it are logged and counted, and after the plugin has stopped it does nothing.
---@param callback function
---@return function
function ctx.watched(callback) end

--- Call a function; an error in it is logged and counted.
---@param fn function
---@param ... any
---@return boolean ok
function ctx.protected(fn, ...) end
