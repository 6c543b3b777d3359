/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marking.h - what a packet of a marked flow needs, whichever way it goes: who sends it, its label, and how
 * it is counted.
 */
#ifndef MARKING_H
#define MARKING_H

#include "flows.h"

/* -- who sends it ----------------------------------------------------------------------- */

static __always_inline __u64 this_cpu_as_sender(void)
{
	return 1ULL << MARKER_IDENTITY_CPU | bpf_get_smp_processor_id();
}

/* A flow is of the socket that sent its first packet; packets of another socket are of another connection. Is
 * this packet, which the entry's owner has not sent, of the flow? */
static __always_inline bool sent_by_another(struct marker_entry *entry, __u64 generation, __u64 who)
{
	__u64 known = *(volatile __u64 *)&entry->identity, is_cpu = 1ULL << MARKER_IDENTITY_CPU;

	if ((known ^ generation) >> MARKER_KEY_GENERATION == 0) {
		if (who & is_cpu)
			return true;
		if (!(known & is_cpu))
			return false;
		/* A socket takes it from a CPU. */
	}
	*(volatile __u64 *)&entry->identity = who;
	return true;
}

/* -- marking -------------------------------------------------------------------------- */

/* How many packets this will be on the wire, and their octets. */
static __always_inline struct marker_count on_wire(struct __sk_buff *skb, __u32 network)
{
	struct marker_count c = {.packets = 1, .octets = skb->len - network};

	/* It will be cut, and each piece has headers. */
	if (unlikely(skb->wire_len > skb->len)) {
		if (skb->gso_segs)
			c.packets = skb->gso_segs;
		c.octets = skb->wire_len - c.packets * network;
	}
	return c;
}

/* The first word of an IPv6 header, with the label of an entry. Version and traffic class (DSCP, ECN) share
 * it: they stay. */
static __always_inline __u32 with_label(__u32 first, __u64 key)
{
	return (first & bpf_htonl(0xFFF00000)) | bpf_htonl((__u32)(key >> MARKER_KEY_LABEL) & MARKER_LABEL);
}

static __always_inline bool is_expired(void)
{
	return bpf_jiffies64() > *(volatile __u64 *)&deadline;
}

static __always_inline void count_marked(struct __sk_buff *skb, __u32 network, struct marker_entry *entry,
					 __u64 at, bool by_owner, bool flat)
{
	struct marker_count more;
	struct marker_rest *rest;

	if (likely(by_owner)) {
		more = on_wire(skb, network);
		entry->packets += more.packets;
		entry->octets += more.octets;
		return;
	}
	more = on_wire(skb, network);
	rest = rest_of(entry, at, flat);
	if (rest) {
		__sync_fetch_and_add(&rest->packets, more.packets);
		__sync_fetch_and_add(&rest->octets, more.octets);
	}
}

#endif
