/* SPDX-License-Identifier: Apache-2.0 */
/*
 * firefly_sender.h - a batch of flow events as fireflies into the outputs: each event is
 * encoded once, whatever the number of receivers.
 */
#ifndef FIREFLY_SENDER_H
#define FIREFLY_SENDER_H

#include "firefly.h"
#include "flow_event.h"
#include "udp_out.h"
#include "ffi_export.h"

enum { FIREFLY_COLLECTORS_MAX = 64 };

struct firefly_sender;

/* A sender without receivers. `style` is copied. NULL: out of memory. */
FFI_EXPORT struct firefly_sender *firefly_sender_new(const struct firefly_style *style);
/* The outputs are the caller's. NULL is allowed. */
FFI_EXPORT void firefly_sender_free(struct firefly_sender *sender);

/* Send to this collector, a connected output: borrowed. 0, or -ENOSPC beyond FIREFLY_COLLECTORS_MAX. */
FFI_EXPORT int firefly_sender_add(struct firefly_sender *sender, struct udp_out *collector);

/* Also send to each flow's own destination at `port`, through unconnected outputs, one
 * for each family: borrowed. Addresses that are no host's (multicast, broadcast, unspecified)
 * get none: counted in `skipped`. */
FFI_EXPORT void firefly_sender_destinations(struct firefly_sender *sender, uint16_t port,
					    struct udp_out *ipv4, struct udp_out *ipv6,
					    struct counter *skipped);

/* Encode and queue those of the `count` events that are to be delivered (EVENT_DELIVER) on this
 * route. now_us: the wall clock, which every one of them tells as current-time. */
FFI_EXPORT void firefly_queue(struct firefly_sender *sender, const struct flow_event *events, uint32_t count,
			      uint64_t now_us, uint32_t route_bit);

/* Flush every output. Returns how many of them still have something queued. */
FFI_EXPORT uint32_t firefly_flush(struct firefly_sender *sender);

#endif
