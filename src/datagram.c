/* SPDX-License-Identifier: Apache-2.0 */
#include "datagram.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "udp_send.h"

struct datagram_reader {
	uint32_t size;
	uint32_t lost;
	struct mmsghdr message[DATAGRAM_BATCH];
	struct iovec piece[DATAGRAM_BATCH];
	struct sockaddr_storage from[DATAGRAM_BATCH];
	/* Of the kernel's count of what it dropped. */
	char control[DATAGRAM_BATCH][CMSG_SPACE(sizeof(uint32_t))]
		__attribute__((aligned(__alignof__(struct cmsghdr))));
	struct datagram datagram[DATAGRAM_BATCH];
	char data[];
};

struct datagram_reader *datagram_reader_new(uint32_t size)
{
	struct datagram_reader *r;

	if (size < 1 || size > DATAGRAM_SIZE_MAX)
		return NULL;
	r = calloc(1, sizeof(*r) + (size_t)size * DATAGRAM_BATCH);
	if (r)
		r->size = size;
	return r;
}

void datagram_reader_free(struct datagram_reader *r)
{
	free(r);
}

static void prepare(struct datagram_reader *r, uint32_t n)
{
	struct msghdr *header = &r->message[n].msg_hdr;

	r->piece[n].iov_base = r->data + (size_t)n * r->size;
	r->piece[n].iov_len = r->size;
	header->msg_iov = &r->piece[n];
	header->msg_iovlen = 1;
	header->msg_name = &r->from[n];
	header->msg_namelen = sizeof(r->from[n]);
	header->msg_control = r->control[n];
	header->msg_controllen = sizeof(r->control[n]);
	r->from[n].ss_family = AF_UNSPEC;
}

static void note_lost(struct datagram_reader *r, struct msghdr *header)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL)
			memcpy(&r->lost, CMSG_DATA(c), sizeof(r->lost));
	}
}

static void finish(struct datagram_reader *r, uint32_t n)
{
	struct msghdr *header = &r->message[n].msg_hdr;
	struct datagram *d = &r->datagram[n];

	memset(d, 0, sizeof(*d));
	d->data = r->piece[n].iov_base;
	d->length = r->message[n].msg_len;
	d->cut = (header->msg_flags & MSG_TRUNC) != 0;
	if (header->msg_namelen >= sizeof(struct sockaddr_in) && r->from[n].ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&r->from[n];

		memset(d->from.octet + 10, 0xff, 2);
		memcpy(d->from.octet + 12, &in->sin_addr, 4);
		d->port = ntohs(in->sin_port);
	} else if (header->msg_namelen >= sizeof(struct sockaddr_in6) && r->from[n].ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&r->from[n];

		memcpy(d->from.octet, &in6->sin6_addr, 16);
		d->port = ntohs(in6->sin6_port);
	}
	note_lost(r, header);
}

int datagram_receive(struct datagram_reader *r, int fd)
{
	int count;

	for (uint32_t n = 0; n < DATAGRAM_BATCH; n++)
		prepare(r, n);
	do
		count = recvmmsg(fd, r->message, DATAGRAM_BATCH, MSG_DONTWAIT, NULL);
	while (count < 0 && errno == EINTR);
	if (count < 0)
		return errno == EAGAIN ? 0 : -errno;
	for (int n = 0; n < count; n++)
		finish(r, (uint32_t)n);
	return count;
}

const struct datagram *datagram_at(const struct datagram_reader *r, uint32_t n)
{
	return &r->datagram[n];
}

uint32_t datagram_lost(const struct datagram_reader *r)
{
	return r->lost;
}

static int send_to(int fd, const char *data, size_t length, const void *to, socklen_t to_length)
{
	ssize_t sent;

	do
		sent = sendto(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, to_length);
	while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return 0;
	return errno == ENOBUFS ? -EAGAIN : -errno;
}

/* An IPv4 address as a socket of IPv6 wants it. */
static socklen_t mapped(struct sockaddr_storage *out, const struct flow_address *address, uint16_t port)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;

	memset(in6, 0, sizeof(*in6));
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, address->octet, 16);
	return sizeof(*in6);
}

int datagram_send(int fd, const char *data, size_t length, const struct flow_address *to, uint16_t port)
{
	struct sockaddr_storage name;
	socklen_t name_length = sizeof(name);

	if (!to)
		return send_to(fd, data, length, NULL, 0);
	if (getsockname(fd, (struct sockaddr *)&name, &name_length) != 0)
		return -errno;
	if (name.ss_family == AF_INET6)
		name_length = mapped(&name, to, port);
	else
		name_length = udp_send_address(&name, to, port);
	return send_to(fd, data, length, &name, name_length);
}

int datagram_send_unix(int fd, const char *data, size_t length, const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	return send_to(fd, data, length, &to, sizeof(to));
}
