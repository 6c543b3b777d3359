/* SPDX-License-Identifier: Apache-2.0 */
#include "console_client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

enum {
	BUFFER_SIZE = CONSOLE_HEAD_SIZE + CONSOLE_REPLY_MAX,
	LOOK_MS = 200, /* for a signal */
};

struct console_client {
	int fd;
	size_t length;
	size_t consumed;
	unsigned int unwanted; /* answers, each up to its END */
	uint8_t buffer[BUFFER_SIZE];
};

struct console_client *console_client_new(int fd)
{
	struct console_client *c = calloc(1, sizeof(*c));

	if (c)
		c->fd = fd;
	return c;
}

void console_client_free(struct console_client *c)
{
	if (!c)
		return;
	close(c->fd);
	free(c);
}

static int send_all(int fd, const void *data, size_t size)
{
	const uint8_t *at = data;

	while (size > 0) {
		ssize_t n = send(fd, at, size, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

int console_client_send(struct console_client *c, uint8_t type, const char *body, size_t length)
{
	uint8_t head[CONSOLE_HEAD_SIZE];
	int status;

	if (length > CONSOLE_REQUEST_MAX)
		return -EMSGSIZE;
	console_frame_head(head, type, 0, (uint32_t)length);
	status = send_all(c->fd, head, sizeof(head));
	return status != 0 ? status : send_all(c->fd, body, length);
}

void console_client_forgo(struct console_client *c)
{
	if (console_client_send(c, CONSOLE_INTERRUPT, NULL, 0) == 0)
		c->unwanted++;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
}

void console_client_catch_interrupt(void)
{
	struct sigaction action = {.sa_handler = on_interrupt};

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
}

/* As poll(2), -EINTR for SIGINT only: one that came a moment before poll() is noticed soon. */
static int wait_for_input(struct pollfd *p, int timeout_ms)
{
	uint64_t start = clock_monotonic_ns();

	for (;;) {
		int passed = (int)((clock_monotonic_ns() - start) / 1000000);
		int left = timeout_ms < 0 ? LOOK_MS : timeout_ms - passed;
		int status;

		if (interrupted) {
			interrupted = 0;
			return -EINTR;
		}
		if (left < 0)
			return 0;
		status = poll(p, 1, left < LOOK_MS ? left : LOOK_MS);
		if (status > 0)
			return status;
		if (status < 0 && errno != EINTR)
			return -errno;
	}
}

static int receive(struct console_client *c, int timeout_ms, struct console_frame *frame)
{
	if (c->consumed > 0) {
		c->length -= c->consumed;
		memmove(c->buffer, c->buffer + c->consumed, c->length);
		c->consumed = 0;
	}
	for (;;) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		int status = console_frame_parse(c->buffer, c->length, CONSOLE_REPLY_MAX, frame);
		ssize_t n;

		if (status < 0)
			return status;
		if (status == 1) {
			c->consumed = CONSOLE_HEAD_SIZE + frame->length;
			return 1;
		}
		status = wait_for_input(&p, timeout_ms);
		if (status <= 0)
			return status;
		n = recv(c->fd, c->buffer + c->length, sizeof(c->buffer) - c->length, 0);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			c->length += (size_t)n;
	}
}

int console_client_receive(struct console_client *c, int timeout_ms, struct console_frame *frame)
{
	for (;;) {
		int status = receive(c, timeout_ms, frame);

		if (status != 1 || c->unwanted == 0)
			return status;
		if (frame->type == CONSOLE_END)
			c->unwanted--;
	}
}
