/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marker_flows.h - the table of marked flows: what the daemon writes and the program reads, one
 * array map that both have in their address space. Written once, for both.
 *
 * Capacity is a power of two. The array holds, in elements of 64 octets or all in one, first the tags, one
 * octet for each entry, then the entries, then a struct marker_rest for each. A flow's hash tells its own
 * entry, and that is where most flows are. Of others their own entry notes that there are some: most of them
 * are in the entry beside it, and all are found by tags. Eight entries are a bucket, their tags are one word,
 * and the flow is in its own entry's bucket or in another one that the hash tells too. The tag is of the hash
 * as well, 7 bits and never 0, which is the tag of a free entry. So nearly every packet costs a look at one
 * entry, whether it is of a marked flow or not. A flow for which neither bucket has room makes the table
 * grow.
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
	uint64_t src[2]; /* octets as on the wire, as the ports */
	uint64_t dst[2];
	uint64_t key; /* ports, MARKER_KEY_*, label, generation; all but ELSEWHERE and generation 0: nothing
			 is here */
	uint64_t identity; /* who sends it, below; and the generation that this was noted in */
	uint64_t packets;  /* on the wire */
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

	/* `key`: the ports as they are in the packet, source port first, in its low half; and bits */
	MARKER_KEY_UDP = 32,
	MARKER_KEY_BITS = 33, /* so many low ones tell, with the addresses, whose packet it is */
	MARKER_KEY_ELSEWHERE =
		33,	       /* of this entry, a flow or not: some whose own entry it is are elsewhere */
	MARKER_KEY_LABEL = 34, /* 20 bits */
	MARKER_KEY_GENERATION = 54, /* 10 bits, in `identity` too; 0 is that of no flow */
	MARKER_GENERATIONS = 1 << 10,
	MARKER_LABEL = 0xFFFFF,
	MARKER_IDENTITY_CPU = 53, /* bit: the rest is the number of a CPU, not a cookie */
};

enum {
	MARKER_KINDS = 16,     /* at least so many as enum marker_packet; the last one is the programs' own */
	MARKER_CLASSES = 1024, /* an experiment and activity each; 0: those for which none was left */
};

/* What each CPU has for itself: packets of each kind that are not of marked flows (enum marker_packet). A
 * power of two of octets. */
struct marker_cpu {
	uint64_t packets[MARKER_KINDS];
};

/* What some flows have counted together. */
struct marker_count {
	uint64_t packets;
	uint64_t octets;
};

/* Of the table: nobody knows it who might want flows to collide. Odd. */
enum { MARKER_FACTOR = -0x61C8864F, MARKER_FACTOR_RANDOM = 0x0FFFFFFE };

/*
 * `product`: dst[1] times the table's factor; `key`: the low MARKER_KEY_BITS of an entry's. Factors of 32
 * bits, with their sign, are part of an instruction; the last one has 64, which makes the high bits the best
 * ones.
 */
static inline __attribute__((always_inline)) uint64_t marker_hash(uint64_t product, const uint64_t src[2],
								  const uint64_t dst[2], uint64_t key)
{
	uint64_t hash = product + (dst[0] ^ src[0] ^ __builtin_bswap64(src[1]));

	hash ^= key * (uint64_t)-0x29170149;
	hash ^= hash >> 32;
	return hash * 0xC2B2AE3D27D4EB4FULL;
}

/* A flow's own entry, in a table of 2^bits. */
static inline __attribute__((always_inline)) uint64_t marker_own(uint64_t hash, uint32_t bits)
{
	return hash >> (64 - bits);
}

/* The entry beside: the first to be looked at when it is not there. */
static inline __attribute__((always_inline)) uint64_t marker_beside(uint64_t own)
{
	return own ^ 1;
}

/* And its other bucket. Bits beyond the number of those mean nothing. */
static inline __attribute__((always_inline)) uint64_t marker_bucket_other(uint64_t hash)
{
	return hash ^ hash >> 32;
}

static inline __attribute__((always_inline)) uint32_t marker_tag(uint64_t hash)
{
	uint32_t tag = (uint32_t)(hash >> 32) & MARKER_TAG;

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
