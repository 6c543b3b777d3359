/* SPDX-License-Identifier: Apache-2.0 */
#include "console_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_SIZE = CONSOLE_HEAD_SIZE + CONSOLE_REPLY_MAX };

struct console_client {
	int fd;
	size_t length;
	size_t consumed;
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

int console_client_receive(struct console_client *c, int timeout_ms, struct console_frame *frame)
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
		status = poll(&p, 1, timeout_ms);
		if (status <= 0)
			return status < 0 ? -errno : 0;
		n = recv(c->fd, c->buffer + c->length, sizeof(c->buffer) - c->length, 0);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			c->length += (size_t)n;
	}
}
