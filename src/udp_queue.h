/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp_queue.h - datagrams that wait to be sent: first in, first out, bounded.
 *
 * The address space for the fullest queue is reserved at once, memory only as it is
 * used: an empty queue starts again at its beginning, so that in normal running the same few
 * pages, still in the processor's cache, serve every batch.
 */
#ifndef UDP_QUEUE_H
#define UDP_QUEUE_H

#include <stdint.h>

#include "flow_abi.h"

enum { UDP_PAYLOAD_MAX = 1472 };

struct udp_datagram {
	uint32_t offset; /* of its octets in udp_queue.data */
	uint16_t length;
	uint16_t port; /* host order; 0: the connected peer */
	struct flow_address to;
};

struct udp_queue {
	struct udp_datagram *item; /* ring; owned */
	char *data;		   /* ring of octets, each datagram in one piece; owned */
	size_t data_size;
	size_t item_size;
	uint32_t max;	/* datagrams */
	uint32_t count; /* datagrams now */
	uint32_t first; /* index of the oldest */
	uint32_t end;	/* where the next one's octets go */
	uint32_t reach; /* highest offset used since it was last empty */
};

/* Room for `max` datagrams (1..1,000,000) of up to UDP_PAYLOAD_MAX octets. 0 or -ENOMEM. */
int udp_queue_init(struct udp_queue *queue, uint32_t max);
void udp_queue_free(struct udp_queue *queue);

/* Room for one datagram of up to UDP_PAYLOAD_MAX octets; never NULL. In a full queue the
 * oldest datagram makes way: *dropped grows by one. Valid until the next call. */
char *udp_queue_reserve(struct udp_queue *queue, uint64_t *dropped);

/* What was written into the reserved room is a datagram of `length` octets. */
void udp_queue_commit(struct udp_queue *queue, size_t length, const struct flow_address *to, uint16_t port);

/* Forget the n oldest, n <= count. */
void udp_queue_pop(struct udp_queue *queue, uint32_t n);

/* The n-th oldest, n < count. */
static inline struct udp_datagram *udp_queue_at(const struct udp_queue *queue, uint32_t n)
{
	uint32_t index = queue->first + n;

	return &queue->item[index >= queue->max ? index - queue->max : index];
}

#endif
