/* SPDX-License-Identifier: Apache-2.0 */
#include "udp_out.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "udp_send.h"

#define SECOND_NS 1000000000ULL
/* Between two attempts to reach a peer that refuses. */
#define RETRY_NS SECOND_NS
/* A refusal that has not come back within this is taken for none. */
#define VERDICT_NS (300 * 1000000ULL)
/* After the device's queue was full (ENOBUFS): nothing tells when it no longer is. */
#define NO_ROOM_NS (10 * 1000000ULL)
/* System calls of one flush: a long backlog must not hold the loop's other callers. */
#define CALLS_MAX 16
/* Room in the socket for a few batches: more waits in our own queue. */
#define SEND_BUFFER (1024 * 1024)

struct udp_out {
	struct udp_queue queue;
	struct udp_out_counters count;
	int fd;
	int state;	    /* enum udp_out_state */
	uint64_t retry_ns;  /* clock_monotonic_ns of the next attempt: WAITING, DOWN, PROBING */
	bool connected;	    /* one peer */
	bool may_segment;   /* by the caller */
	bool can_segment;   /* by the kernel and, when connected, the path */
	bool probe_dropped; /* PROBING, and a full queue dropped the datagram that was sent to try */
	bool told;	    /* that it is down */
	uint16_t port;
	struct flow_address peer;
	struct udp_send_whole whole;
	char name[96];
};

struct udp_out *udp_out_new(const char *name, uint32_t queue_max, const struct udp_out_counters *counters)
{
	struct udp_out *out = calloc(1, sizeof(*out));

	if (!out)
		return NULL;
	if (queue_max < 1 || queue_max > UDP_OUT_QUEUE_MAX || udp_queue_init(&out->queue, queue_max) != 0) {
		free(out);
		return NULL;
	}
	strncpy(out->name, name, sizeof(out->name) - 1);
	out->count = *counters;
	out->fd = -1;
	out->state = UDP_OUT_CLOSED;
	out->may_segment = true;
	return out;
}

static void close_socket(struct udp_out *out)
{
	if (out->fd >= 0)
		close(out->fd);
	out->fd = -1;
	out->state = UDP_OUT_CLOSED;
}

void udp_out_free(struct udp_out *out)
{
	if (!out)
		return;
	close_socket(out);
	udp_queue_free(&out->queue);
	free(out);
}

static int open_socket(struct udp_out *out, int family)
{
	int size = SEND_BUFFER;

	close_socket(out);
	out->fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (out->fd < 0) {
		int error = errno;

		log_warn("%s: no %s socket: %s", out->name, family == AF_INET ? "IPv4" : "IPv6",
			 strerror(error));
		return -error;
	}
	/* Beyond the system's limit only with CAP_NET_ADMIN; less is no error. */
	if (setsockopt(out->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0)
		(void)setsockopt(out->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	udp_out_segments(out, out->may_segment);
	out->state = UDP_OUT_READY;
	return 0;
}

/* Connect, or connect anew: to let go of a route and source address that are gone, the
 * socket is disconnected first. 0 or -errno. */
static int connect_peer(struct udp_out *out)
{
	static const struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct sockaddr_storage address;
	socklen_t size = udp_send_address(&address, &out->peer, out->port);

	(void)connect(out->fd, &none, sizeof(none));
	return connect(out->fd, (struct sockaddr *)&address, size) == 0 ? 0 : -errno;
}

static int retry_at(struct udp_out *out, int state, uint64_t delay_ns)
{
	out->state = state;
	out->retry_ns = clock_monotonic_ns() + delay_ns;
	return state;
}

int udp_out_connect(struct udp_out *out, const struct flow_address *address, uint16_t port, bool try_first)
{
	struct sockaddr_storage text;
	int on = 1, result;

	out->peer = *address;
	out->port = port;
	out->connected = true;
	(void)udp_send_address(&text, address, port);
	result = open_socket(out, text.ss_family);
	if (result != 0)
		return result;
	/* Every error that the network reports, not only "port unreachable". */
	if (text.ss_family == AF_INET)
		(void)setsockopt(out->fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on));
	else
		(void)setsockopt(out->fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on));
	if (connect_peer(out) != 0 || try_first || out->queue.count > 0)
		retry_at(out, UDP_OUT_DOWN, 0);
	return 0;
}

int udp_out_open(struct udp_out *out, int family)
{
	out->connected = false;
	return open_socket(out, family == 4 ? AF_INET : AF_INET6);
}

void udp_out_segments(struct udp_out *out, bool allowed)
{
	out->may_segment = allowed;
	out->can_segment = allowed && out->fd >= 0 && udp_send_has_segments(out->fd);
	memset(&out->whole, 0, sizeof(out->whole));
}

static void count_sent(struct udp_out *out, const struct udp_sent *sent)
{
	out->count.sent->value += sent->datagrams;
	out->count.octets->value += sent->octets;
	out->count.segmented->value += sent->segmented;
	out->count.calls->value += sent->datagrams > 0;
}

/* The peer, or the way to it, refuses: wait. */
static int go_down(struct udp_out *out, int error)
{
	if (!out->told)
		log_warn("%s: %s: up to %u datagrams are kept while it is tried again every second",
			 out->name, strerror(error), out->queue.max);
	out->told = true;
	return retry_at(out, UDP_OUT_DOWN, RETRY_NS);
}

/* Take in what came back. Returns the errno that tells of a refusal, or 0. */
static int read_errors(struct udp_out *out)
{
	struct udp_errors errors;

	udp_send_errors(out->fd, &errors);
	out->count.refused->value += errors.count;
	return errors.down;
}

/* DOWN, and time to try: send the oldest datagram, which stays in the queue. */
static int probe(struct udp_out *out)
{
	struct udp_sent sent;
	int error;

	/* Nothing to try with: the next datagram does. */
	if (out->queue.count == 0)
		return out->state;
	error = connect_peer(out);
	if (error == 0)
		error = udp_send(out->fd, &out->queue, 1, false, NULL, &sent);
	if (error != 0) {
		out->count.failed->value++;
		return go_down(out, -error);
	}
	count_sent(out, &sent);
	out->probe_dropped = false;
	return retry_at(out, UDP_OUT_PROBING, VERDICT_NS);
}

/* PROBING, and time enough for a refusal to come back. */
static int judge(struct udp_out *out)
{
	int error = read_errors(out);

	if (error != 0)
		return go_down(out, error);
	if (!out->probe_dropped)
		udp_queue_pop(&out->queue, 1);
	if (out->told)
		log_info("%s: no longer refuses", out->name);
	out->told = false;
	return out->state = UDP_OUT_READY;
}

/* Segmented messages do not get through to the head's peer. */
static void stop_segmenting(struct udp_out *out)
{
	if (out->connected) {
		out->can_segment = false;
		log_debug("%s: segmentation offload does not work on this path", out->name);
	} else {
		udp_send_whole_add(&out->whole, &udp_queue_at(&out->queue, 0)->to);
	}
}

/*
 * The queue's first message was not taken because of `error`, an error of its own. Returns
 * UDP_OUT_READY when the flush can go on.
 */
static int handle_failure(struct udp_out *out, int error, const struct udp_sent *sent)
{
	if (sent->head_segmented && (error == EINVAL || error == EMSGSIZE || error == EIO)) {
		stop_segmenting(out);
		return UDP_OUT_READY;
	}
	out->count.failed->value++;
	if (error == EMSGSIZE) {
		out->count.dropped_too_big->value += sent->head;
		udp_queue_pop(&out->queue, sent->head);
		return UDP_OUT_READY;
	}
	if (out->connected)
		return go_down(out, error);
	out->count.dropped_unsendable->value += sent->head;
	udp_queue_pop(&out->queue, sent->head);
	return UDP_OUT_READY;
}

/* Some message was not taken. Returns the state; READY: go on. */
static int handle_error(struct udp_out *out, int error, const struct udp_sent *sent, bool *again)
{
	int refusal;

	if (error == EAGAIN || error == EWOULDBLOCK)
		return out->state = UDP_OUT_BLOCKED;
	if (error == ENOBUFS || error == ENOMEM) {
		out->count.failed->value++;
		return retry_at(out, UDP_OUT_WAITING, NO_ROOM_NS);
	}
	if (!out->connected)
		return handle_failure(out, error, sent);
	/* An error that came back for something sent earlier fails the send at hand. */
	refusal = read_errors(out);
	if (refusal != 0)
		return go_down(out, refusal);
	*again = !*again;
	return *again ? UDP_OUT_READY : handle_failure(out, error, sent);
}

static int send_queue(struct udp_out *out)
{
	bool again = false;

	out->state = UDP_OUT_READY;
	for (int calls = 0; out->queue.count > 0; calls++) {
		struct udp_sent sent;
		int error;

		if (calls >= CALLS_MAX)
			return out->state = UDP_OUT_BLOCKED;
		error = udp_send(out->fd, &out->queue, UDP_SEND_MESSAGES, out->can_segment,
				 out->connected ? NULL : &out->whole, &sent);
		if (sent.datagrams > 0) {
			count_sent(out, &sent);
			udp_queue_pop(&out->queue, sent.datagrams);
			again = false;
		} else if (error != 0 && handle_error(out, -error, &sent, &again) != UDP_OUT_READY) {
			return out->state;
		}
	}
	return out->state;
}

char *udp_out_reserve(struct udp_out *out)
{
	uint64_t dropped = 0;
	char *room;

	/* A batch may be longer than the queue. */
	if (out->queue.count == out->queue.max && out->state == UDP_OUT_READY)
		send_queue(out);
	room = udp_queue_reserve(&out->queue, &dropped);
	if (dropped) {
		out->count.dropped_full->value += dropped;
		out->probe_dropped = true;
	}
	return room;
}

void udp_out_commit(struct udp_out *out, size_t length, const struct flow_address *to, uint16_t port)
{
	udp_queue_commit(&out->queue, length, to, port);
}

void udp_out_push(struct udp_out *out, const char *data, size_t length, const struct flow_address *to,
		  uint16_t port)
{
	if (length > UDP_PAYLOAD_MAX) {
		out->count.dropped_too_big->value++;
		return;
	}
	memcpy(udp_out_reserve(out), data, length);
	udp_out_commit(out, length, to, port);
}

static int flush(struct udp_out *out)
{
	if (out->state == UDP_OUT_CLOSED)
		return out->state;
	if (out->state >= UDP_OUT_WAITING && clock_monotonic_ns() < out->retry_ns)
		return out->state;
	if (out->state == UDP_OUT_DOWN)
		return probe(out);
	if (out->state == UDP_OUT_PROBING && judge(out) != UDP_OUT_READY)
		return out->state;
	return send_queue(out);
}

int udp_out_flush(struct udp_out *out)
{
	int state = flush(out);

	out->count.queued->value = out->queue.count;
	return state;
}

int udp_out_notice(struct udp_out *out)
{
	int error;

	if (out->state == UDP_OUT_CLOSED)
		return out->state;
	error = read_errors(out);
	if (error != 0 && out->connected)
		return go_down(out, error);
	return out->state;
}

int udp_out_state(const struct udp_out *out)
{
	return out->state;
}

double udp_out_retry_in(const struct udp_out *out)
{
	uint64_t now = clock_monotonic_ns();

	return out->retry_ns > now ? (double)(out->retry_ns - now) / (double)SECOND_NS : 0;
}

int udp_out_fd(const struct udp_out *out)
{
	return out->fd;
}

uint32_t udp_out_queued(const struct udp_out *out)
{
	return out->queue.count;
}

uint32_t udp_out_give_up(struct udp_out *out)
{
	uint32_t left;

	if (out->state == UDP_OUT_PROBING && !out->probe_dropped)
		udp_queue_pop(&out->queue, 1);
	if (out->state != UDP_OUT_CLOSED)
		send_queue(out);
	left = out->queue.count;
	out->count.dropped_stopped->value += left;
	udp_queue_pop(&out->queue, left);
	out->count.queued->value = 0;
	return left;
}
