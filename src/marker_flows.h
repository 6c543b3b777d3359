/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marker_flows.h - the table of marked flows: what the daemon writes and the program reads, one
 * array map that both have in their address space. Written once, for both.
 *
 * Capacity is a power of two. The array holds, in elements of 64 octets or all in one, first the tags, one
 * octet for each entry, then the entries, then a struct marker_rest for each. A flow's hash tells its own
 * entry, and that is where most flows are. Of others their own entry notes that there are some, and they are
 * found by tags: eight entries are a bucket, their tags are one word, and the flow is in its own entry's
 * bucket or in another one that the hash tells too. The tag is of the hash as well, 7 bits and never 0, which
 * is the tag of a free entry. So nearly every packet costs a look at one entry, whether it is of a marked
 * flow or not. A flow for which neither bucket has room makes the table grow.
 *
 * The daemon alone writes keys and tags. An entry is filled before its tag is set, and its tag is
 * cleared before it is emptied. Its generation changes with each flow, so a program that compares
 * a key while that is being changed notices.
 */
#ifndef MARKER_FLOWS_H
#define MARKER_FLOWS_H

#include <stdbool.h>

#include "flow_abi.h"

/* A marked flow. */
struct marker_entry {
	uint64_t src[2]; /* octets as on the wire, as `ports` */
	uint64_t dst[2];
	uint32_t ports;	   /* source port, then destination port */
	uint32_t word;	   /* label, MARKER_WORD_*, generation; label 0: nothing is here */
	uint64_t identity; /* who sends it, below; and the generation that this was noted in */
	uint64_t packets;  /* on the wire; above MARKER_CLASS_SHIFT the number of the flow's totals */
	uint64_t octets;   /* from the IPv6 headers on */
};

/*
 * A TCP socket's packets are sent with the socket locked; others mostly come from one CPU, as its queue of
 * the interface has them. So whoever sent the flow's first packet, the socket by its cookie or else the CPU,
 * is noted, and has the entry's counters for itself. Those that are sent by anyone else are counted here,
 * where it takes atomic operations: they cost as much as all else that is done for a packet.
 */
struct marker_rest {
	uint64_t packets;
	uint64_t octets;
};

enum {
	MARKER_ENTRY_SIZE = 64, /* a cache line */
	MARKER_BUCKET = 8,	/* entries, as tags in a word */
	MARKER_TAG = 0x7F,	/* the tag's bits of an octet */
	MARKER_TAG_SHARED = 3,	/* as many of a bucket may have the same tag: the program looks at no more */
	MARKER_CAPACITY_MIN = 2048,
	MARKER_CAPACITY_START = 16384,

	MARKER_WORD_LABEL = 0xFFFFF,
	MARKER_WORD_ELSEWHERE =
		1 << 20, /* of this entry, a flow or not: some whose own entry it is are elsewhere */
	MARKER_WORD_UDP = 1 << 21,
	MARKER_GENERATION_SHIFT = 22, /* of `word` */
	MARKER_GENERATIONS = 1 << 10, /* 0 is that of no flow */
	MARKER_IDENTITY_SHIFT = 54,   /* of the generation in `identity` */
	MARKER_IDENTITY_CPU = 53,     /* bit: the rest is the number of a CPU, not a cookie */
	MARKER_CLASS_SHIFT = 48,      /* in `packets` */

	MARKER_OTHER_SHIFT = 28, /* of the other bucket's number in the hash */
};

/* What packets are counted by. */
struct marker_count {
	uint64_t packets;
	uint64_t octets; /* of classes only */
};

enum {
	/* Numbers below are enum marker_packet; the rest are classes, an experiment and activity each.
	 * Flows of those for which there is none left have class MARKER_MARKED. */
	MARKER_CLASS_FIRST = 16,
	MARKER_COUNTS = 1024,
};

/* What each CPU has for itself: a power of two of octets. */
struct marker_cpu {
	struct marker_count count[MARKER_COUNTS];
};

static inline __attribute__((always_inline)) uint64_t
marker_hash(const uint64_t src[2], const uint64_t dst[2], uint32_t ports, uint32_t udp, uint64_t seed)
{
	uint64_t hash = (dst[1] ^ seed) * 0x9E3779B97F4A7C15ULL;

	hash += dst[0] ^ src[0] ^ __builtin_bswap64(src[1]);
	hash ^= ports * 0xD6E8FEB86659FD93ULL + udp;
	hash ^= hash >> 32;
	hash *= 0xC2B2AE3D27D4EB4FULL;
	return hash ^ hash >> 32;
}

/* A flow's own entry, and its other bucket. Bits beyond the number of those mean nothing. */
static inline __attribute__((always_inline)) uint32_t marker_own(uint64_t hash)
{
	return (uint32_t)hash;
}

static inline __attribute__((always_inline)) uint32_t marker_bucket_other(uint64_t hash)
{
	return (uint32_t)(hash >> MARKER_OTHER_SHIFT);
}

static inline __attribute__((always_inline)) uint32_t marker_tag(uint64_t hash)
{
	uint32_t tag = (uint32_t)(hash >> 57);

	return tag ? tag : 1;
}

/* The tags of a bucket that are `tag`: bit 7 of their octets. */
static inline __attribute__((always_inline)) uint64_t marker_tags_match(uint64_t tags, uint32_t tag)
{
	uint64_t differ = tags ^ tag * 0x0101010101010101ULL;

	/* No carry leaves an octet. */
	return ~((differ + 0x7F7F7F7F7F7F7F7FULL) | 0x7F7F7F7F7F7F7F7FULL);
}

/* Number of the octet with the lowest of these bits. */
static inline __attribute__((always_inline)) uint32_t marker_tags_first(uint64_t match)
{
	return (uint32_t)(((match & -match) >> 7) * 0x0001020304050607ULL >> 56);
}

#endif
