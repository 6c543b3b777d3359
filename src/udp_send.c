/* SPDX-License-Identifier: Apache-2.0 */
#include "udp_send.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>

#include "address.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h */
#endif

union segment_control {
	struct cmsghdr header;
	char octets[CMSG_SPACE(sizeof(uint16_t))];
};

/* One sendmmsg's arguments. The daemon has one thread: one set serves every socket. */
static struct {
	struct mmsghdr message[UDP_SEND_MESSAGES];
	uint8_t datagrams[UDP_SEND_MESSAGES]; /* of each message */
	struct iovec piece[2 * UDP_SEND_MESSAGES];
	struct sockaddr_storage to[UDP_SEND_MESSAGES];
	union segment_control control[UDP_SEND_MESSAGES / 2];
	char blanks[UDP_PAYLOAD_MAX];
} plan;

socklen_t udp_send_address(struct sockaddr_storage *out, const struct flow_address *address, uint16_t port)
{
	if (address_family(address) == 4) {
		struct sockaddr_in *in = (struct sockaddr_in *)out;

		memset(in, 0, sizeof(*in));
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, address->octet + 12, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;

	memset(in6, 0, sizeof(*in6));
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, address->octet, 16);
	return sizeof(*in6);
}

bool udp_send_has_segments(int fd)
{
	int value;
	socklen_t size = sizeof(value);

	return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &size) == 0;
}

static bool same_peer(const struct udp_datagram *a, const struct udp_datagram *b)
{
	return a->to.half[0] == b->to.half[0] && a->to.half[1] == b->to.half[1] && a->port == b->port;
}

static uint32_t whole_index(const struct flow_address *peer)
{
	uint32_t hash = (peer->word[0] ^ peer->word[1] ^ peer->word[2] ^ peer->word[3]) * 2654435769u;

	return hash >> 26; /* UDP_SEND_WHOLE == 1 << 6 */
}

void udp_send_whole_add(struct udp_send_whole *whole, const struct flow_address *peer)
{
	uint32_t i = whole_index(peer);

	whole->any = true;
	whole->used[i] = true;
	whole->peer[i] = *peer;
}

static bool is_whole(const struct udp_send_whole *whole, const struct flow_address *peer)
{
	uint32_t i;

	if (!whole || !whole->any)
		return false;
	i = whole_index(peer);
	return whole->used[i] && memcmp(&whole->peer[i], peer, sizeof(*peer)) == 0;
}

/* How many datagrams from the n-th on make one message, and the longest one's length. */
static uint32_t group(const struct udp_queue *queue, uint32_t n, uint32_t end, bool connected,
		      uint32_t *longest)
{
	const struct udp_datagram *first = udp_queue_at(queue, n);
	uint32_t count = 1;

	*longest = first->length;
	if (end - n > UDP_SEND_SEGMENTS)
		end = n + UDP_SEND_SEGMENTS;
	for (n++; n < end; n++) {
		const struct udp_datagram *d = udp_queue_at(queue, n);
		uint32_t length = d->length > *longest ? d->length : *longest;

		if (length * (count + 1) > UDP_SEND_GROUP_MAX || (!connected && !same_peer(first, d)))
			break;
		*longest = length;
		count++;
	}
	return count;
}

/* Append octets to a message; what follows in memory lengthens its last piece. */
static void add_piece(struct msghdr *message, char *octets, size_t length)
{
	struct iovec *last = message->msg_iov + message->msg_iovlen - 1;

	if (message->msg_iovlen > 0 && (char *)last->iov_base + last->iov_len == octets) {
		last->iov_len += length;
		return;
	}
	message->msg_iov[message->msg_iovlen++] = (struct iovec){octets, length};
}

static void add_group(struct msghdr *message, const struct udp_queue *queue, uint32_t n, uint32_t count,
		      uint32_t longest)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct udp_datagram *d = udp_queue_at(queue, n + i);

		add_piece(message, queue->data + d->offset, d->length);
		if (i + 1 < count && d->length < longest)
			add_piece(message, plan.blanks, longest - d->length);
	}
}

static void set_segment_size(struct msghdr *message, union segment_control *control, uint32_t size)
{
	uint16_t value = (uint16_t)size;

	message->msg_control = control;
	message->msg_controllen = sizeof(*control);
	control->header.cmsg_level = IPPROTO_UDP;
	control->header.cmsg_type = UDP_SEGMENT;
	control->header.cmsg_len = CMSG_LEN(sizeof(value));
	memcpy(CMSG_DATA(&control->header), &value, sizeof(value));
}

/* Fill `plan`. Returns the number of messages. */
static uint32_t make_plan(const struct udp_queue *queue, uint32_t end, bool segments,
			  const struct udp_send_whole *whole)
{
	uint32_t messages = 0, pieces = 0, controls = 0;

	if (plan.blanks[0] == '\0')
		memset(plan.blanks, ' ', sizeof(plan.blanks));
	for (uint32_t n = 0; n < end; messages++) {
		const struct udp_datagram *first = udp_queue_at(queue, n);
		struct msghdr *message = &plan.message[messages].msg_hdr;
		uint32_t count = 1, longest = first->length;

		memset(message, 0, sizeof(*message));
		message->msg_iov = &plan.piece[pieces];
		if (first->port != 0) {
			message->msg_name = &plan.to[messages];
			message->msg_namelen = udp_send_address(&plan.to[messages], &first->to, first->port);
		}
		if (segments && !is_whole(whole, &first->to))
			count = group(queue, n, end, whole == NULL, &longest);
		add_group(message, queue, n, count, longest);
		if (count > 1)
			set_segment_size(message, &plan.control[controls++], longest);
		plan.datagrams[messages] = (uint8_t)count;
		pieces += (uint32_t)message->msg_iovlen;
		n += count;
	}
	return messages;
}

int udp_send(int fd, const struct udp_queue *queue, uint32_t limit, bool segments,
	     const struct udp_send_whole *whole, struct udp_sent *sent)
{
	uint32_t messages;
	int taken, error;

	if (limit > queue->count)
		limit = queue->count;
	if (limit > UDP_SEND_MESSAGES)
		limit = UDP_SEND_MESSAGES;
	memset(sent, 0, sizeof(*sent));
	sent->planned = limit;
	messages = make_plan(queue, limit, segments, whole);
	do {
		taken = sendmmsg(fd, plan.message, messages, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (taken < 0 && errno == EINTR);
	error = taken < 0 ? -errno : 0;
	if (taken < 0)
		taken = 0;
	for (int i = 0; i < taken; i++) {
		sent->datagrams += plan.datagrams[i];
		sent->octets += plan.message[i].msg_len;
		if (plan.datagrams[i] > 1)
			sent->segmented += plan.datagrams[i];
	}
	if ((uint32_t)taken < messages) {
		sent->head = plan.datagrams[taken];
		sent->head_segmented = plan.datagrams[taken] > 1;
	}
	return error;
}

/* Errors that mean: what is sent there now is lost. Others, a smaller path MTU
 * for one, are the kernel's to act on. */
static bool means_down(int error)
{
	return error != 0 && error != EMSGSIZE;
}

void udp_send_errors(int fd, struct udp_errors *errors)
{
	union {
		struct cmsghdr header;
		char octets[512];
	} control;
	char octet;
	int pending = 0;
	socklen_t size = sizeof(pending);

	memset(errors, 0, sizeof(*errors));
	for (;;) {
		struct iovec piece = {&octet, sizeof(octet)};
		struct msghdr message = {.msg_iov = &piece,
					 .msg_iovlen = 1,
					 .msg_control = &control,
					 .msg_controllen = sizeof(control)};

		if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			break;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
			struct sock_extended_err e;

			if (!((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
			      (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)))
				continue;
			memcpy(&e, CMSG_DATA(c), sizeof(e));
			if (e.ee_origin != SO_EE_ORIGIN_ICMP && e.ee_origin != SO_EE_ORIGIN_ICMP6)
				continue;
			errors->count++;
			if (means_down((int)e.ee_errno))
				errors->down = (int)e.ee_errno;
		}
	}
	/* Where the error queue had no room the error stands here alone. */
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &pending, &size) == 0 && pending != 0 &&
	    errors->count == 0) {
		errors->count = 1;
		if (means_down(pending))
			errors->down = pending;
	}
	/* A peer that sends without end must not hold us: the next notice goes on. */
	for (int i = 0; i < UDP_SEND_DISCARD && recv(fd, &octet, sizeof(octet), MSG_DONTWAIT) >= 0; i++)
		;
}
