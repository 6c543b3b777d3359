/* SPDX-License-Identifier: Apache-2.0 */
#include "sock_diag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ANSWER_SIZE = 512,   /* what counts stands at its beginning */
	PROBE_TIMEOUT_S = 2, /* the module may have to be loaded */
};

struct request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 diag;
};

struct sock_diag {
	int fd;
	uint32_t sequence;
	struct request request[SOCK_DIAG_BATCH];
	char answer[SOCK_DIAG_BATCH][ANSWER_SIZE] __attribute__((aligned(8)));
	struct iovec vector[SOCK_DIAG_BATCH];
	struct mmsghdr message[SOCK_DIAG_BATCH];
};

static void fill_header(struct nlmsghdr *h, uint32_t sequence, uint16_t flags)
{
	h->nlmsg_len = sizeof(struct request);
	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = flags;
	h->nlmsg_seq = sequence;
}

/* Without its module the kernel says "no such socket" to every question. A dump of the sockets that are in
 * no state at all costs nothing and tells. */
static int probe(const struct sock_diag *d)
{
	struct request r = {.diag = {.sdiag_family = AF_INET6, .sdiag_protocol = IPPROTO_TCP}};
	struct timeval timeout = {.tv_sec = PROBE_TIMEOUT_S};
	char answer[ANSWER_SIZE] __attribute__((aligned(8)));
	const struct nlmsghdr *h = (const void *)answer;
	ssize_t n;
	int error;

	fill_header(&r.header, 0, NLM_F_REQUEST | NLM_F_DUMP);
	setsockopt(d->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (send(d->fd, &r, sizeof(r), 0) < 0)
		return -errno;
	n = recv(d->fd, answer, sizeof(answer), 0);
	if (n < 0)
		return -errno;
	if ((size_t)n < NLMSG_LENGTH(sizeof(error)))
		return -EPROTO;
	if (h->nlmsg_type != NLMSG_DONE && h->nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	memcpy(&error, NLMSG_DATA(h), sizeof(error));
	return error;
}

struct sock_diag *sock_diag_open(char *error, size_t error_size)
{
	struct sock_diag *d = calloc(1, sizeof(*d));
	int r = -ENOMEM;

	if (!d)
		goto fail;
	d->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	r = d->fd < 0 ? -errno : probe(d);
	if (r < 0)
		goto fail;
	for (int i = 0; i < SOCK_DIAG_BATCH; i++) {
		d->vector[i].iov_base = d->answer[i];
		d->vector[i].iov_len = ANSWER_SIZE;
		d->message[i].msg_hdr.msg_iov = &d->vector[i];
		d->message[i].msg_hdr.msg_iovlen = 1;
	}
	return d;
fail:
	snprintf(error, error_size, "the kernel cannot be asked about TCP sockets: %s",
		 r == -ENOENT ? "it has no tcp_diag" : strerror(-r));
	sock_diag_close(d);
	return NULL;
}

void sock_diag_close(struct sock_diag *d)
{
	if (!d)
		return;
	if (d->fd >= 0)
		close(d->fd);
	free(d);
}

static void fill_request(struct request *r, const struct sock_diag_question *q, uint32_t sequence)
{
	struct inet_diag_sockid *id = &r->diag.id;

	memset(r, 0, sizeof(*r));
	fill_header(&r->header, sequence, NLM_F_REQUEST);
	r->diag.sdiag_family = q->key.family == 4 ? AF_INET : AF_INET6;
	r->diag.sdiag_protocol = IPPROTO_TCP;
	r->diag.idiag_states = ~0U;
	id->idiag_sport = htons(q->key.src_port);
	id->idiag_dport = htons(q->key.dst_port);
	if (q->key.family == 4) {
		id->idiag_src[0] = q->key.src.word[3];
		id->idiag_dst[0] = q->key.dst.word[3];
	} else {
		memcpy(id->idiag_src, q->key.src.word, sizeof(q->key.src.word));
		memcpy(id->idiag_dst, q->key.dst.word, sizeof(q->key.dst.word));
	}
	id->idiag_cookie[0] = q->cookie ? (uint32_t)q->cookie : INET_DIAG_NOCOOKIE;
	id->idiag_cookie[1] = q->cookie ? (uint32_t)(q->cookie >> 32) : INET_DIAG_NOCOOKIE;
}

static void take_socket(const struct inet_diag_msg *m, struct sock_diag_question *q)
{
	switch (m->idiag_state) {
	case TCP_LISTEN: /* of the same port: found when there is no connection */
	case TCP_TIME_WAIT:
	case TCP_CLOSE:
		q->answer = SOCK_DIAG_GONE;
		return;
	case TCP_SYN_RECV: /* not yet the socket that it becomes */
		return;
	}
	if (m->idiag_state > TCP_CLOSING)
		return;
	q->answer = SOCK_DIAG_THERE;
	if (q->cookie == 0)
		q->cookie = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32;
}

static void take_answer(const char *answer, size_t size, uint32_t first, struct sock_diag_question *questions,
			uint32_t count)
{
	const struct nlmsghdr *h = (const void *)answer;
	struct sock_diag_question *q;

	/* Those that were not answered in time last time are of no interest. */
	if (size < sizeof(*h) || h->nlmsg_seq - first >= count)
		return;
	q = &questions[h->nlmsg_seq - first];
	if (h->nlmsg_type == NLMSG_ERROR && size >= NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
		int error = ((const struct nlmsgerr *)NLMSG_DATA(h))->error;

		/* ESTALE: that 5-tuple is another socket's now. */
		if (error == -ENOENT || error == -ESTALE)
			q->answer = SOCK_DIAG_GONE;
	} else if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
		   size >= NLMSG_LENGTH(sizeof(struct inet_diag_msg))) {
		take_socket(NLMSG_DATA(h), q);
	}
}

/* The kernel answers before send() returns: what is not there then does not come. */
static void ask(struct sock_diag *d, struct sock_diag_question *questions, uint32_t count)
{
	uint32_t first = d->sequence;
	int n;

	for (uint32_t i = 0; i < count; i++) {
		questions[i].answer = SOCK_DIAG_UNKNOWN;
		fill_request(&d->request[i], &questions[i], first + i);
	}
	d->sequence += count;
	if (send(d->fd, d->request, count * sizeof(d->request[0]), 0) < 0)
		return;
	while ((n = recvmmsg(d->fd, d->message, SOCK_DIAG_BATCH, MSG_DONTWAIT, NULL)) > 0) {
		for (int i = 0; i < n; i++)
			take_answer(d->answer[i], d->message[i].msg_len, first, questions, count);
		if (n < SOCK_DIAG_BATCH)
			break;
	}
}

void sock_diag_ask(struct sock_diag *d, struct sock_diag_question *questions, uint32_t count)
{
	for (uint32_t at = 0; at < count; at += SOCK_DIAG_BATCH)
		ask(d, questions + at, count - at < SOCK_DIAG_BATCH ? count - at : SOCK_DIAG_BATCH);
}
