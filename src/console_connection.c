/* SPDX-License-Identifier: Apache-2.0 */
#include "console_connection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "counter.h"
#include "log.h"

enum { INPUT_SIZE = CONSOLE_HEAD_SIZE + CONSOLE_REQUEST_MAX };

void console_count(const char *series)
{
	counter_get(series)->value++;
}

static void watch(struct console_connection *c)
{
	struct epoll_event event = {.data.u32 = c->position};

	/* Not read: what has ended, what is refused, and more than one request at a time. */
	if (!c->ended && !c->closing && c->in_length < INPUT_SIZE)
		event.events |= EPOLLIN;
	if (c->out_length > 0)
		event.events |= EPOLLOUT;
	if (event.events == c->interest)
		return;
	c->interest = event.events;
	epoll_ctl(c->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

void console_connection_end(struct console_connection *c, const char *reason)
{
	if (c->fd < 0)
		return;
	close(c->fd);
	free(c->in);
	free(c->out);
	c->fd = -1;
	c->in = c->out = NULL;
	c->in_size = c->in_from = c->in_length = 0;
	c->out_size = c->out_from = c->out_length = 0;
	c->gone = true;
	if (reason) {
		char series[COUNTER_NAME_SIZE];

		snprintf(series, sizeof(series), "flowd_console_dropped_total{reason=\"%s\"}", reason);
		console_count(series);
		log_warn("console: client of uid %u (pid %d) is dropped: %s", c->peer.uid, c->peer.pid,
			 reason);
	}
}

/* Give what the socket takes. */
void console_connection_flush(struct console_connection *c)
{
	while (c->out_length > 0) {
		ssize_t n = send(c->fd, c->out + c->out_from, c->out_length, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN) {
				console_connection_end(c, NULL);
				return;
			}
			break;
		}
		c->out_from += (size_t)n;
		c->out_length -= (size_t)n;
		c->moved_ns = clock_monotonic_ns();
	}
	if (c->out_length == 0) {
		c->out_from = 0;
		if (c->closing) {
			console_connection_end(c, NULL);
			return;
		}
	}
	watch(c);
}

/* Room for `size` octets behind what waits. Returns 0 or -ENOMEM. */
static int make_room(struct console_connection *c, size_t size)
{
	uint8_t *larger;
	size_t wanted = 4096;

	if (c->out_from + c->out_length + size <= c->out_size)
		return 0;
	if (c->out_from > 0) {
		memmove(c->out, c->out + c->out_from, c->out_length);
		c->out_from = 0;
	}
	while (wanted < c->out_length + size)
		wanted *= 2;
	if (wanted <= c->out_size)
		return 0;
	larger = realloc(c->out, wanted);
	if (!larger)
		return -ENOMEM;
	c->out = larger;
	c->out_size = wanted;
	return 0;
}

int console_connection_queue(struct console_connection *c, uint8_t type, uint8_t status, const char *body,
			     size_t length)
{
	uint8_t *at;

	if (make_room(c, CONSOLE_HEAD_SIZE + length) != 0)
		return -ENOMEM;
	if (c->out_length == 0)
		c->moved_ns = clock_monotonic_ns();
	at = c->out + c->out_from + c->out_length;
	console_frame_head(at, type, status, (uint32_t)length);
	if (length > 0)
		memcpy(at + CONSOLE_HEAD_SIZE, body, length);
	c->out_length += CONSOLE_HEAD_SIZE + length;
	return 0;
}

/* The last words. */
void console_connection_dismiss(struct console_connection *c, uint8_t status, const char *text)
{
	c->closing = true;
	c->in_from = c->in_length = 0;
	if (console_connection_queue(c, CONSOLE_END, status, text, strlen(text)) != 0)
		console_connection_end(c, "no_memory");
	else
		console_connection_flush(c);
}

void console_connection_read(struct console_connection *c)
{
	ssize_t n;

	if (c->in_from > 0) {
		memmove(c->in, c->in + c->in_from, c->in_length);
		c->in_from = 0;
	}
	if (c->in_length == c->in_size) {
		size_t wanted = c->in_size == 0 ? 2048 : INPUT_SIZE;
		uint8_t *larger = realloc(c->in, wanted);

		if (!larger) {
			console_connection_end(c, "no_memory");
			return;
		}
		c->in = larger;
		c->in_size = wanted;
	}
	n = recv(c->fd, c->in + c->in_length, c->in_size - c->in_length, MSG_DONTWAIT);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			console_connection_end(c, NULL);
		return;
	}
	if (n == 0)
		c->ended = true;
	c->in_length += (size_t)n;
	watch(c);
}

static void refuse_frame(struct console_connection *c, int why, const struct console_frame *f)
{
	char text[160];

	console_count("flowd_console_refused_total{reason=\"frame\"}");
	if (why == -EPROTONOSUPPORT)
		snprintf(text, sizeof(text), "frame of version %u: this daemon speaks version %d", f->version,
			 CONSOLE_VERSION);
	else if (why == -EMSGSIZE)
		snprintf(text, sizeof(text), "frame with a body of %u octets: at most %d are accepted",
			 f->length, CONSOLE_REQUEST_MAX);
	else
		snprintf(text, sizeof(text),
			 "frame of type %u, status %u, last octet %u: expected type 1, 2 or 3, and 0, 0",
			 f->type, f->status, f->spare);
	console_connection_dismiss(c, CONSOLE_MALFORMED, text);
}

static void consume(struct console_connection *c, const struct console_frame *f)
{
	c->in_from += CONSOLE_HEAD_SIZE + f->length;
	c->in_length -= CONSOLE_HEAD_SIZE + f->length;
	watch(c);
}

/* The frame that stands next. Interrupts of nothing are passed over. Returns as console_frame_parse(). */
static int look(struct console_connection *c, struct console_frame *f)
{
	int status;

	while (!c->closing && c->in_length > 0) {
		status = console_frame_parse(c->in + c->in_from, c->in_length, CONSOLE_REQUEST_MAX, f);
		if (status != 1)
			return status;
		if (f->status != 0 || f->type < CONSOLE_EVAL || f->type > CONSOLE_INTERRUPT)
			return -EPROTO;
		if (f->type != CONSOLE_INTERRUPT || c->busy)
			return 1;
		consume(c, f);
	}
	return 0;
}

bool console_connection_next(struct console_connection *c, struct console_news *news)
{
	struct console_frame f;
	int status = look(c, &f);

	/* What was asked before gets its answer first. */
	if (c->closing || (c->busy && (status != 1 || f.type != CONSOLE_INTERRUPT)))
		return false;
	if (status < 0) {
		refuse_frame(c, status, &f);
		return false;
	}
	if (status == 0) {
		if (c->ended) {
			if (c->in_length > 0)
				console_count("flowd_console_dropped_total{reason=\"in_a_frame\"}");
			c->closing = true;
			console_connection_flush(c);
		}
		return false;
	}
	consume(c, &f);
	if (f.type == CONSOLE_INTERRUPT) {
		news->happening = CONSOLE_BREAK;
		return true;
	}
	c->busy = true;
	news->happening = CONSOLE_REQUEST;
	news->type = f.type;
	news->length = f.length;
	news->body = f.body;
	console_count("flowd_console_requests_total");
	return true;
}

bool console_connection_pending(struct console_connection *c)
{
	struct console_frame f;
	int status = look(c, &f);

	if (console_connection_has_room(c))
		return true;
	if (c->closing)
		return false;
	if (c->busy)
		return status == 1 && f.type == CONSOLE_INTERRUPT;
	return status != 0 || c->ended;
}
