/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "heap.h"
#include "tls_library.h"
#include "udp_send.h"

/* Callbacks come from the loop, never from within a call: Lua calls these functions from compiled code. */
#define OPTIONS (BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS)

struct stream {
	struct bufferevent *bev;
	uint32_t id;
	uint32_t input_max;
	uint32_t output_max;
	struct heap *heap; /* NULL: what waits is not counted */
	uint32_t owner;
	size_t held[2]; /* of what waits in input and output */
	bool starved;
	bool reading;
	bool tell_drained;
	bool secured; /* TLS is established */
	char error[200];
};

static struct event_base *base;
static void (*tell)(uint32_t id, uint32_t event);

void stream_setup(struct event_base *event_base, void (*function)(uint32_t id, uint32_t event))
{
	base = event_base;
	tell = function;
}

/* After telling, the stream may be gone. */

/* NULL: it does not speak TLS. */
static struct ssl_st *session_of(struct bufferevent *bev)
{
	return openssl.bufferevent_openssl_get_ssl ? openssl.bufferevent_openssl_get_ssl(bev) : NULL;
}

static void on_input(struct bufferevent *bev, void *arg)
{
	const struct stream *s = arg;

	/* Whoever is told needs some memory for it. */
	if (s->starved)
		evbuffer_drain(bufferevent_get_input(bev), stream_waiting(s));
	tell(s->id, s->starved ? STREAM_STARVED : STREAM_INPUT);
}

static void on_drained(struct bufferevent *bev, void *arg)
{
	const struct stream *s = arg;

	if (s->tell_drained && evbuffer_get_length(bufferevent_get_output(bev)) == 0)
		tell(s->id, STREAM_DRAINED);
}

static void note_error(struct stream *s, int err)
{
	struct ssl_st *ssl = session_of(s->bev);

	if (ssl) {
		tls_session_error(ssl, openssl.bufferevent_get_openssl_error(s->bev), err, s->error,
				  sizeof(s->error));
		/* What is left over must not be taken for the next session's. */
		openssl.ERR_clear_error();
	} else {
		snprintf(s->error, sizeof(s->error), "%s", strerror(err ? err : ECONNRESET));
	}
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct stream *s = arg;
	int err = errno;

	if (what & BEV_EVENT_CONNECTED) {
		s->secured = session_of(bev) != NULL;
		tell(s->id, STREAM_CONNECTED);
	} else if (what & BEV_EVENT_ERROR) {
		note_error(s, err);
		tell(s->id, STREAM_FAILED);
	} else if ((what & BEV_EVENT_EOF) && session_of(bev) && !s->secured) {
		snprintf(s->error, sizeof(s->error),
			 "TLS: the peer closed the connection before TLS was established");
		tell(s->id, STREAM_FAILED);
	} else if (what & BEV_EVENT_EOF) {
		tell(s->id, STREAM_END);
	}
}

/* What waits has changed. What is written was counted by stream_write(), before it was taken. */
static void count(struct stream *s, int which, const struct evbuffer_cb_info *info)
{
	size_t less = info->n_deleted < s->held[which] ? info->n_deleted : s->held[which];

	if (which == 0 && info->n_added > 0) {
		if (heap_hold(s->heap, s->owner, info->n_added))
			s->held[which] += info->n_added;
		else
			s->starved = true;
	}
	heap_discharge(s->heap, (int32_t)s->owner, less);
	s->held[which] -= less;
}

static void count_input(struct evbuffer *buffer, const struct evbuffer_cb_info *info, void *arg)
{
	(void)buffer;
	count(arg, 0, info);
}

static void count_output(struct evbuffer *buffer, const struct evbuffer_cb_info *info, void *arg)
{
	(void)buffer;
	count(arg, 1, info);
}

static void begin_to_count(struct stream *s)
{
	if (!s->heap)
		return;
	evbuffer_add_cb(bufferevent_get_input(s->bev), count_input, s);
	evbuffer_add_cb(bufferevent_get_output(s->bev), count_output, s);
}

/* The buffers may live on until the loop has told what it had to tell. */
static void end_to_count(struct stream *s)
{
	if (!s->heap)
		return;
	evbuffer_remove_cb(bufferevent_get_input(s->bev), count_input, s);
	evbuffer_remove_cb(bufferevent_get_output(s->bev), count_output, s);
	heap_discharge(s->heap, (int32_t)s->owner, s->held[0] + s->held[1]);
	s->held[0] = s->held[1] = 0;
}

void stream_own(struct stream *s, struct heap *heap, uint32_t owner)
{
	s->heap = heap;
	s->owner = owner;
	begin_to_count(s);
}

static void adopt(struct stream *s, struct bufferevent *bev)
{
	s->bev = bev;
	bufferevent_setcb(bev, on_input, on_drained, on_event, s);
	bufferevent_setwatermark(bev, EV_READ, 0, s->input_max);
	bufferevent_set_max_single_read(bev, s->input_max);
	bufferevent_set_max_single_write(bev, 65536);
	bufferevent_enable(bev, (short)(EV_WRITE | (s->reading ? EV_READ : 0)));
	if (!s->reading)
		bufferevent_disable(bev, EV_READ);
}

struct stream *stream_new(uint32_t input_max, uint32_t output_max)
{
	static uint32_t last;
	struct stream *s = calloc(1, sizeof(*s));
	struct bufferevent *bev = bufferevent_socket_new(base, -1, OPTIONS);

	if (!s || !bev) {
		free(s);
		if (bev)
			bufferevent_free(bev);
		return NULL;
	}
	s->id = ++last ? last : ++last;
	s->input_max = input_max;
	s->output_max = output_max;
	s->reading = true;
	adopt(s, bev);
	return s;
}

static void say_goodbye(struct stream *s)
{
	struct ssl_st *ssl = session_of(s->bev);

	if (!ssl || !s->secured || s->error[0])
		return;
	/* The peer's own goodbye is not waited for. */
	openssl.SSL_set_shutdown(ssl, openssl.SSL_get_shutdown(ssl) | SSL_RECEIVED_SHUTDOWN);
	openssl.SSL_shutdown(ssl);
	openssl.ERR_clear_error();
}

void stream_free(struct stream *s)
{
	if (!s)
		return;
	if (s->bev) {
		say_goodbye(s);
		end_to_count(s);
		bufferevent_free(s->bev);
	}
	free(s);
}

uint32_t stream_id(const struct stream *s)
{
	return s->id;
}

static int connect_to(struct stream *s, const void *address, socklen_t length)
{
	if (bufferevent_getfd(s->bev) >= 0)
		return -EISCONN;
	errno = 0;
	if (bufferevent_socket_connect(s->bev, address, (int)length) == 0)
		return 0;
	return errno ? -errno : -ECONNREFUSED;
}

int stream_connect(struct stream *s, const struct flow_address *address, uint16_t port)
{
	struct sockaddr_storage to;

	return connect_to(s, &to, udp_send_address(&to, address, port));
}

int stream_connect_unix(struct stream *s, const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	return connect_to(s, &to, sizeof(to));
}

int stream_take(struct stream *s, int fd)
{
	if (bufferevent_getfd(s->bev) >= 0) {
		close(fd);
		return -EISCONN;
	}
	if (evutil_make_socket_nonblocking(fd) != 0 || bufferevent_setfd(s->bev, fd) != 0) {
		close(fd);
		return -EINVAL;
	}
	adopt(s, s->bev);
	return 0;
}

int stream_start_tls(struct stream *s, const struct tls_context *tls, bool server, const char *host)
{
	int fd = bufferevent_getfd(s->bev);
	struct bufferevent *bev;
	struct ssl_st *ssl;

	if (fd < 0)
		return -ENOTCONN;
	if (session_of(s->bev) || stream_waiting(s) > 0 || stream_queued(s) > 0)
		return -EBUSY;
	ssl = tls_session(tls, server, host);
	if (!ssl)
		return -EINVAL;
	/* The descriptor moves on to a bufferevent that speaks TLS. */
	bufferevent_setfd(s->bev, -1);
	bev = openssl.bufferevent_openssl_socket_new(
		base, fd, ssl, server ? BUFFEREVENT_SSL_ACCEPTING : BUFFEREVENT_SSL_CONNECTING, OPTIONS);
	if (!bev) {
		close(fd);
		return -ENOMEM;
	}
	end_to_count(s);
	bufferevent_free(s->bev);
	adopt(s, bev);
	begin_to_count(s);
	return 0;
}

void stream_reading(struct stream *s, bool on)
{
	if (s->reading == on)
		return;
	s->reading = on;
	if (on)
		bufferevent_enable(s->bev, EV_READ);
	else
		bufferevent_disable(s->bev, EV_READ);
}

size_t stream_waiting(const struct stream *s)
{
	return evbuffer_get_length(bufferevent_get_input(s->bev));
}

size_t stream_read(struct stream *s, char *out, size_t size)
{
	return bufferevent_read(s->bev, out, size);
}

int64_t stream_read_line(struct stream *s, char *out, size_t size)
{
	struct evbuffer *input = bufferevent_get_input(s->bev);
	struct evbuffer_ptr at = evbuffer_search(input, "\n", 1, NULL);
	size_t length;

	if (at.pos < 0)
		return evbuffer_get_length(input) > size ? -EMSGSIZE : -EAGAIN;
	length = (size_t)at.pos;
	if (length > size)
		return -EMSGSIZE;
	evbuffer_remove(input, out, length);
	evbuffer_drain(input, 1);
	if (length > 0 && out[length - 1] == '\r')
		length--;
	return (int64_t)length;
}

int stream_write(struct stream *s, const char *data, size_t length)
{
	if (length > s->output_max || stream_queued(s) > s->output_max - length)
		return -ENOBUFS;
	if (s->heap && !heap_hold(s->heap, s->owner, length))
		return -EDQUOT;
	s->held[1] += s->heap ? length : 0;
	if (bufferevent_write(s->bev, data, length) == 0)
		return 0;
	if (s->heap)
		heap_discharge(s->heap, (int32_t)s->owner, length);
	s->held[1] -= s->heap ? length : 0;
	return -ENOMEM;
}

size_t stream_queued(const struct stream *s)
{
	return evbuffer_get_length(bufferevent_get_output(s->bev));
}

void stream_tell_drained(struct stream *s, bool on)
{
	s->tell_drained = on;
}

void stream_shutdown(struct stream *s)
{
	struct ssl_st *ssl = session_of(s->bev);

	if (ssl && s->secured) {
		openssl.SSL_shutdown(ssl);
		openssl.ERR_clear_error();
	}
	if (bufferevent_getfd(s->bev) >= 0)
		shutdown(bufferevent_getfd(s->bev), SHUT_WR);
}

const char *stream_error(const struct stream *s)
{
	return s->error;
}

int stream_fd(const struct stream *s)
{
	return bufferevent_getfd(s->bev);
}
