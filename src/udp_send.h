/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp_send.h - the system calls below udp_out.h: a queue into one sendmmsg, and the errors
 * that came back out of a socket's error queue.
 */
#ifndef UDP_SEND_H
#define UDP_SEND_H

#include <stdbool.h>
#include <sys/socket.h>

#include "udp_queue.h"

enum {
	UDP_SEND_MESSAGES = 1024,   /* UIO_MAXIOV: the most that sendmmsg takes */
	UDP_SEND_SEGMENTS = 64,	    /* UDP_MAX_SEGMENTS of every kernel so far */
	UDP_SEND_GROUP_MAX = 65487, /* octets of one segmented message: fits both families */
	UDP_SEND_WHOLE = 64,	    /* peers remembered: a power of two */
	UDP_SEND_DISCARD = 64,	    /* datagrams thrown away at once that somebody sent to us */
};

/* Unconnected peers to which segmented messages did not get through: a small hash table,
 * where the newest wins. */
struct udp_send_whole {
	bool any;
	struct flow_address peer[UDP_SEND_WHOLE];
	bool used[UDP_SEND_WHOLE];
};

/* Outcome of one udp_send. */
struct udp_sent {
	uint32_t datagrams; /* taken by the kernel: the oldest ones of the queue */
	uint32_t segmented; /* of them in segmented messages */
	uint64_t octets;
	uint32_t planned; /* datagrams offered */
	uint32_t head;	  /* datagrams in the first message that was not taken; 0: all were */
	bool head_segmented;
};

/*
 * Offer the queue's oldest datagrams, at most `limit`, in one sendmmsg; none is removed.
 * whole: peers that get single datagrams; NULL: connected. segments: UDP_SEGMENT may be used.
 * Returns 0 when at least one message was taken, else -errno.
 */
int udp_send(int fd, const struct udp_queue *queue, uint32_t limit, bool segments,
	     const struct udp_send_whole *whole, struct udp_sent *sent);

void udp_send_whole_add(struct udp_send_whole *whole, const struct flow_address *peer);

/* True when the kernel knows UDP_SEGMENT: an older one ignores it and would send one long
 * datagram instead. */
bool udp_send_has_segments(int fd);

/* A socket address from an address and a port in host order. Returns its length. */
socklen_t udp_send_address(struct sockaddr_storage *out, const struct flow_address *address, uint16_t port);

/* What udp_send_errors found. */
struct udp_errors {
	uint32_t count; /* errors that the network reported */
	int down;	/* errno of one that means: nobody gets there what we send; 0: none */
};

/* Empty the socket's error queue (IP_RECVERR), its pending error, and whatever datagrams
 * somebody sent to it. */
void udp_send_errors(int fd, struct udp_errors *errors);

#endif
