/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_server.h - the daemon's end of the console: connections, frames in and out, nothing of Lua.
 *
 * Nothing here blocks. One descriptor (console_server_fd) becomes readable when there is something to do;
 * then console_server_turn() moves octets and console_server_next() tells what came of it, one thing a call.
 * A client has one request in hand at a time: the next one is told when its END was sent.
 *
 * Every connection's memory is bounded: one request (CONSOLE_REQUEST_MAX) coming in, CONSOLE_PENDING_MAX
 * going out. A client that does not take its output for `patience_ms` is dropped. Counters: flowd_console_*.
 */
#ifndef CONSOLE_SERVER_H
#define CONSOLE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "console_frame.h"
#include "console_socket.h"
#include "ffi_export.h"

enum {
	CONSOLE_CLIENTS_MAX = 256,
	CONSOLE_PENDING_MAX = 1 << 20, /* octets of output that wait for one client */
	CONSOLE_PENDING_LOW = 1 << 16, /* as few as this: there is room again */
};

struct console_options {
	const char *path; /* borrowed until console_server_open() returns */
	uint32_t mode;
	uint32_t group;		 /* full access; CONSOLE_NOBODY: none */
	uint32_t readonly_group; /* questions only; CONSOLE_NOBODY: none */
	uint32_t owner_group;	 /* of the file; CONSOLE_NOBODY: as it comes */
	uint32_t patience_ms;
	int32_t listener; /* a listening socket of a process before this one; now the server's. -1: none */
};

enum console_happening {
	CONSOLE_REQUEST = 1, /* type and body; body valid until the next call of console_server_next() */
	CONSOLE_BREAK = 2,   /* the client interrupts its request */
	CONSOLE_ROOM = 3,    /* console_server_send() had refused, and may be tried again */
	CONSOLE_GONE = 4,    /* the client left or was dropped: its number means nothing any more */
};

struct console_news {
	uint32_t happening; /* enum console_happening */
	uint32_t client;
	uint32_t type;	 /* CONSOLE_REQUEST: CONSOLE_EVAL or CONSOLE_COMPLETE */
	uint32_t length; /* of the body */
	const uint8_t *body;
};

struct console_server;

/* NULL with a sentence in `error`. */
FFI_EXPORT struct console_server *console_server_open(const struct console_options *options, char *error,
						      size_t error_size);

/* Drop all clients. remove: the socket file too, if it is still ours. NULL is allowed. */
FFI_EXPORT void console_server_close(struct console_server *s, bool remove);

/* Readable when there is something to do. Borrowed. */
FFI_EXPORT int console_server_fd(const struct console_server *s);

/* The listening socket, to be handed over to the next image. Borrowed. */
FFI_EXPORT int console_server_listener(const struct console_server *s);

/* Take and give octets and connections, as many as are ready and a bounded number at most. */
FFI_EXPORT void console_server_turn(struct console_server *s);

/* Once a second or so: drop who has not read for too long. */
FFI_EXPORT void console_server_tick(struct console_server *s);

/* What happened; false: nothing more. */
FFI_EXPORT bool console_server_next(struct console_server *s, struct console_news *news);

/* Would console_server_next() tell something, without a turn? */
FFI_EXPORT bool console_server_pending(struct console_server *s);

/*
 * Send a frame; an END ends the request in hand. Returns 0; -EAGAIN when an OUTPUT has no room (ROOM comes
 * when it has); -ENOENT when there is no such client; -EMSGSIZE above CONSOLE_REPLY_MAX. An END always has
 * room.
 */
FFI_EXPORT int console_server_send(struct console_server *s, uint32_t client, uint8_t type, uint8_t status,
				   const char *body, size_t length);

/* Who that is; false: no such client. */
FFI_EXPORT bool console_server_peer(const struct console_server *s, uint32_t client,
				    struct console_peer *peer);

/* Drop a client; GONE follows. */
FFI_EXPORT void console_server_drop(struct console_server *s, uint32_t client);

FFI_EXPORT uint32_t console_server_count(const struct console_server *s);

#endif
