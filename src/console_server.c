/* SPDX-License-Identifier: Apache-2.0 */
#include "console_connection.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

enum {
	TURN_EVENTS = 64,
	TURN_ACCEPTS = 32,
	/* Room that output leaves for END. */
	OUTPUT_SIZE = CONSOLE_PENDING_MAX + 2 * (CONSOLE_HEAD_SIZE + CONSOLE_REPLY_MAX),
	LISTENER = CONSOLE_CLIENTS_MAX, /* in epoll's data */
	POSITION_BITS = 8,
};

_Static_assert(CONSOLE_CLIENTS_MAX == 1 << POSITION_BITS, "a position fits its bits");

struct console_server {
	int epoll;
	int listener;
	bool deaf; /* out of descriptors: nobody is accepted until the next tick */
	uint32_t generation;
	uint32_t turn; /* whose news are told next */
	uint32_t group, readonly_group;
	uint64_t patience_ns;
	dev_t device;
	ino_t inode;
	char path[108];
	struct console_connection client[CONSOLE_CLIENTS_MAX];
	struct log_limit refusals;
};

static void admit(struct console_server *s, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct console_connection *c = NULL;
	uint32_t position;

	for (position = 0; position < CONSOLE_CLIENTS_MAX; position++) {
		if (s->client[position].fd < 0 && !s->client[position].gone) {
			c = &s->client[position];
			break;
		}
	}
	if (!c) {
		struct console_connection full = {.fd = fd};

		console_count("flowd_console_refused_total{reason=\"clients\"}");
		if (console_connection_queue(&full, CONSOLE_END, CONSOLE_BUSY, "too many clients", 16) == 0)
			(void)!send(fd, full.out, full.out_length, MSG_NOSIGNAL | MSG_DONTWAIT);
		free(full.out);
		close(fd);
		return;
	}
	memset(c, 0, sizeof(*c));
	c->fd = fd;
	c->epoll = s->epoll;
	c->position = position;
	c->number = ++s->generation << POSITION_BITS | position;
	c->interest = EPOLLIN;
	event.data.u32 = position;
	if (console_socket_peer(fd, s->group, s->readonly_group, &c->peer) != 0 ||
	    epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
		close(fd);
		c->fd = -1;
		return;
	}
	console_count("flowd_console_connections_total");
	if (c->peer.access == CONSOLE_ACCESS_NONE) {
		console_count("flowd_console_refused_total{reason=\"user\"}");
		log_limited(&s->refusals, LOG_LEVEL_WARN, "console: uid %u (pid %d) is refused", c->peer.uid,
			    c->peer.pid);
		console_connection_dismiss(
			c, CONSOLE_REFUSED,
			"this user may not use the console: it is for root, the daemon's user and the groups "
			"of the options "
			"console.group and console.readonly_group");
	}
}

static void accept_clients(struct console_server *s)
{
	for (int i = 0; i < TURN_ACCEPTS; i++) {
		int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			admit(s, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			s->deaf = true;
			epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->listener, NULL);
			console_count("flowd_console_refused_total{reason=\"descriptors\"}");
		}
		return;
	}
}

void console_server_turn(struct console_server *s)
{
	struct epoll_event events[TURN_EVENTS];
	int n = epoll_wait(s->epoll, events, TURN_EVENTS, 0);

	for (int i = 0; i < n; i++) {
		struct console_connection *c;

		if (events[i].data.u32 == LISTENER) {
			accept_clients(s);
			continue;
		}
		c = &s->client[events[i].data.u32];
		if (c->fd < 0)
			continue;
		if (events[i].events & EPOLLOUT)
			console_connection_flush(c);
		if (c->fd >= 0 && events[i].events & EPOLLIN)
			console_connection_read(c);
		/* Both ways are closed: nobody waits for an answer. */
		if (c->fd >= 0 && events[i].events & (EPOLLHUP | EPOLLERR))
			console_connection_end(c, NULL);
	}
}

void console_server_tick(struct console_server *s)
{
	uint64_t now = clock_monotonic_ns();

	if (s->deaf) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = LISTENER};

		s->deaf = epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &event) != 0;
	}
	for (uint32_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
		struct console_connection *c = &s->client[i];

		if (c->fd >= 0 && c->out_length > 0 && now - c->moved_ns > s->patience_ns)
			console_connection_end(c, "does_not_read");
	}
}

bool console_server_next(struct console_server *s, struct console_news *news)
{
	memset(news, 0, sizeof(*news));
	for (uint32_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
		struct console_connection *c = &s->client[(s->turn + i) % CONSOLE_CLIENTS_MAX];

		news->client = c->number;
		if (c->gone) {
			c->gone = false;
			news->happening = CONSOLE_GONE;
		} else if (c->fd < 0) {
			continue;
		} else if (console_connection_has_room(c)) {
			c->wants = false;
			news->happening = CONSOLE_ROOM;
		} else if (!console_connection_next(c, news)) {
			continue;
		}
		/* The next one is told about first then. */
		s->turn = (s->turn + i + 1) % CONSOLE_CLIENTS_MAX;
		return true;
	}
	return false;
}

bool console_server_pending(struct console_server *s)
{
	for (uint32_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
		struct console_connection *c = &s->client[i];

		if (c->gone || (c->fd >= 0 && console_connection_pending(c)))
			return true;
	}
	return false;
}

static struct console_connection *find_client(const struct console_server *s, uint32_t number)
{
	const struct console_connection *c = &s->client[number % CONSOLE_CLIENTS_MAX];

	return c->fd >= 0 && c->number == number ? (struct console_connection *)c : NULL;
}

int console_server_send(struct console_server *s, uint32_t client, uint8_t type, uint8_t status,
			const char *body, size_t length)
{
	struct console_connection *c = find_client(s, client);

	if (!c || c->closing)
		return -ENOENT;
	if (length > CONSOLE_REPLY_MAX)
		return -EMSGSIZE;
	if (type != CONSOLE_END && c->out_length + length > CONSOLE_PENDING_MAX) {
		c->wants = true;
		return -EAGAIN;
	}
	if (c->out_length + CONSOLE_HEAD_SIZE + length > OUTPUT_SIZE ||
	    console_connection_queue(c, type, status, body, length) != 0) {
		console_connection_end(c, "no_memory");
		return -ENOENT;
	}
	if (type == CONSOLE_END)
		c->busy = false;
	console_connection_flush(c);
	return 0;
}

bool console_server_peer(const struct console_server *s, uint32_t client, struct console_peer *peer)
{
	const struct console_connection *c = find_client(s, client);

	if (c)
		*peer = c->peer;
	return c != NULL;
}

void console_server_drop(struct console_server *s, uint32_t client)
{
	struct console_connection *c = find_client(s, client);

	if (c)
		console_connection_end(c, NULL);
}

uint32_t console_server_count(const struct console_server *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		n += s->client[i].fd >= 0;
	return n;
}

int console_server_fd(const struct console_server *s)
{
	return s->epoll;
}

int console_server_listener(const struct console_server *s)
{
	return s->listener;
}

struct console_server *console_server_open(const struct console_options *o, char *error, size_t error_size)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = LISTENER};
	struct console_server *s = calloc(1, sizeof(*s));
	struct stat st;

	if (!s) {
		snprintf(error, error_size, "out of memory");
		return NULL;
	}
	for (uint32_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		s->client[i].fd = -1;
	s->group = o->group;
	s->readonly_group = o->readonly_group;
	s->patience_ns = o->patience_ms * 1000000ULL;
	s->refusals.burst = 10;
	s->refusals.interval_ns = 60ULL * 1000000000;
	s->listener = o->listener;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	/* A listener whose file was removed meanwhile is of no use to anybody. */
	if (s->listener >= 0 && (lstat(o->path, &st) != 0 || !S_ISSOCK(st.st_mode))) {
		close(s->listener);
		s->listener = -1;
	}
	if (s->listener < 0)
		s->listener = console_socket_listen(o->path, o->mode, o->owner_group, error, error_size);
	if (s->listener < 0) {
		console_server_close(s, false);
		return NULL;
	}
	snprintf(s->path, sizeof(s->path), "%s", o->path);
	if (s->epoll < 0 || lstat(o->path, &st) != 0 ||
	    epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &event) != 0) {
		snprintf(error, error_size, "%s: %s", o->path, strerror(errno));
		console_server_close(s, false);
		return NULL;
	}
	s->device = st.st_dev;
	s->inode = st.st_ino;
	return s;
}

void console_server_close(struct console_server *s, bool remove)
{
	struct stat st;

	if (!s)
		return;
	for (uint32_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		console_connection_end(&s->client[i], NULL);
	if (remove && s->path[0] && lstat(s->path, &st) == 0 && st.st_dev == s->device &&
	    st.st_ino == s->inode)
		unlink(s->path);
	if (s->listener >= 0)
		close(s->listener);
	if (s->epoll >= 0)
		close(s->epoll);
	free(s);
}
