/* SPDX-License-Identifier: Apache-2.0 */
#include "firefly_sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "udp_queue.h"

struct firefly_sender {
	struct firefly_style style;
	struct udp_out *collector[FIREFLY_COLLECTORS_MAX];
	uint32_t collectors;
	uint16_t port;
	struct udp_out *ipv4; /* NULL: nothing to the destinations */
	struct udp_out *ipv6;
	struct counter *skipped;
};

_Static_assert((int)FIREFLY_ENCODED_MAX <= (int)UDP_PAYLOAD_MAX, "a queue's room is too small for a firefly");

struct firefly_sender *firefly_sender_new(const struct firefly_style *style)
{
	struct firefly_sender *sender = calloc(1, sizeof(*sender));

	if (sender)
		sender->style = *style;
	return sender;
}

void firefly_sender_free(struct firefly_sender *sender)
{
	free(sender);
}

int firefly_sender_add(struct firefly_sender *sender, struct udp_out *collector)
{
	if (sender->collectors == FIREFLY_COLLECTORS_MAX)
		return -ENOSPC;
	sender->collector[sender->collectors++] = collector;
	return 0;
}

void firefly_sender_destinations(struct firefly_sender *sender, uint16_t port, struct udp_out *ipv4,
				 struct udp_out *ipv6, struct counter *skipped)
{
	sender->port = port;
	sender->ipv4 = ipv4;
	sender->ipv6 = ipv6;
	sender->skipped = skipped;
}

static bool is_host(const struct flow_key *key)
{
	const uint8_t *octet = key->dst.octet;

	if (key->family == 4) /* 0/8 (RFC 1122, 3.2.1.3), multicast and what lies beyond */
		return octet[12] != 0 && octet[12] < 224;
	return octet[0] != 0xff && (key->dst.half[0] | key->dst.half[1]) != 0;
}

/* The output for the flow's destination, or NULL. */
static struct udp_out *destination(struct firefly_sender *sender, const struct flow_key *key)
{
	if (!sender->ipv4)
		return NULL;
	if (!is_host(key)) {
		sender->skipped->value++;
		return NULL;
	}
	return key->family == 4 ? sender->ipv4 : sender->ipv6;
}

static void queue_event(struct firefly_sender *sender, const struct flow_event *event, uint64_t now_us)
{
	struct udp_out *to_host = destination(sender, &event->key);
	char *text = NULL;
	size_t length = 0;

	/* The first output's queue is where it is written; the others get copies. */
	if (to_host) {
		text = udp_out_reserve(to_host);
		length = firefly_encode(text, UDP_PAYLOAD_MAX, &sender->style, event, now_us);
		udp_out_commit(to_host, length, &event->key.dst, sender->port);
	}
	for (uint32_t i = 0; i < sender->collectors; i++) {
		char *room = udp_out_reserve(sender->collector[i]);

		if (text) {
			memcpy(room, text, length);
		} else {
			text = room;
			length = firefly_encode(text, UDP_PAYLOAD_MAX, &sender->style, event, now_us);
		}
		udp_out_commit(sender->collector[i], length, NULL, 0);
	}
}

void firefly_queue(struct firefly_sender *sender, const struct flow_event *events, uint32_t count,
		   uint64_t now_us, uint32_t route_bit)
{
	for (uint32_t i = 0; i < count; i++) {
		if ((events[i].flags & EVENT_DELIVER) && ((uint32_t)events[i].route & route_bit))
			queue_event(sender, &events[i], now_us);
	}
}

static uint32_t flush(struct udp_out *out)
{
	udp_out_flush(out);
	return udp_out_queued(out) > 0;
}

uint32_t firefly_flush(struct firefly_sender *sender)
{
	uint32_t unfinished = 0;

	for (uint32_t i = 0; i < sender->collectors; i++)
		unfinished += flush(sender->collector[i]);
	if (sender->ipv4)
		unfinished += flush(sender->ipv4) + flush(sender->ipv6);
	return unfinished;
}
