/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_connection.h - one client of the console's server: octets in and out of bounded buffers. For
 * console_server.c only.
 */
#ifndef CONSOLE_CONNECTION_H
#define CONSOLE_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "console_server.h"

struct console_connection {
	int fd; /* -1: the place is free, or its end is not told yet (gone) */
	int epoll;
	uint32_t position; /* among the clients, and in epoll's data */
	uint32_t number;
	uint32_t interest; /* of epoll */
	struct console_peer peer;
	bool ended;   /* sends no more */
	bool busy;    /* a request is in hand */
	bool wants;   /* an OUTPUT was refused */
	bool closing; /* goes when its output has left */
	bool gone;    /* to be told */
	uint8_t *in;
	size_t in_size, in_from, in_length;
	uint8_t *out;
	size_t out_size, out_from, out_length;
	uint64_t moved_ns; /* when output last left, or began to wait */
};

/* flowd_console_… */
void console_count(const char *series);

/* Close; gone is set. reason: counted and logged, NULL when the client left by itself. */
void console_connection_end(struct console_connection *c, const char *reason);

/* Give what the socket takes. May end the connection. */
void console_connection_flush(struct console_connection *c);

/* Put a frame behind what waits, whatever the limits. Returns 0 or -ENOMEM. */
int console_connection_queue(struct console_connection *c, uint8_t type, uint8_t status, const char *body,
			     size_t length);

/* Say why, and close when that has left. */
void console_connection_dismiss(struct console_connection *c, uint8_t status, const char *text);

/* The socket is readable. */
void console_connection_read(struct console_connection *c);

/* May an OUTPUT that was refused be tried again? */
static inline bool console_connection_has_room(const struct console_connection *c)
{
	return c->wants && c->out_length <= CONSOLE_PENDING_LOW;
}

/* Is there something to tell? */
bool console_connection_pending(struct console_connection *c);

/* Something to tell of what came in, taken out. */
bool console_connection_next(struct console_connection *c, struct console_news *news);

#endif
