/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marker_flows.h - the table of marked flows: what the daemon writes and the program reads, one
 * array map that both have in their address space. Written once, for both.
 *
 * Capacity is a power of two. The array holds elements of 64 octets: first the tags, one octet for
 * each entry, then the entries. Eight entries are a bucket, and their tags one word. A flow's hash tells
 * its own entry, where most flows are; else the flow is elsewhere in that bucket, or in another one that
 * the hash tells too. The tag is of the hash as well, 7 bits and never 0, which is the tag of a free
 * entry. The eighth bits of a word count the flows of the bucket that are in the other ones of theirs. So
 * a packet of a marked flow costs a look at one entry mostly, and one of no marked flow a look at a word of
 * tags as well, rarely two. A flow for which neither bucket has room makes the table grow.
 *
 * The daemon alone writes keys and tags. An entry is filled before its tag is set, and its tag is
 * cleared before it is emptied. Its generation changes with each flow, so a program that compares
 * a key while that is being changed notices.
 */
#ifndef MARKER_FLOWS_H
#define MARKER_FLOWS_H

#include <stdbool.h>

#include "flow_abi.h"

/* A marked flow. All 0: free. */
struct marker_entry {
	uint64_t src[2]; /* octets as on the wire, as `ports` */
	uint64_t dst[2];
	uint32_t ports;	   /* source port, then destination port */
	uint32_t word;	   /* label, MARKER_WORD_UDP, generation; label 0: nothing is here */
	uint64_t identity; /* of the socket: cookie, and the generation that it was noted in */
	uint64_t packets;  /* on the wire; above MARKER_CLASS_SHIFT the number of the flow's totals */
	uint64_t octets;   /* from the IPv6 headers on */
};

enum {
	MARKER_ENTRY_SIZE = 64, /* a cache line */
	MARKER_BUCKET = 8,	/* entries, as tags in a word */
	MARKER_TAG = 0x7F,	/* the tag's bits of an octet */
	MARKER_TAG_SHARED = 3,	/* as many of a bucket may have the same tag: the program looks at no more */
	MARKER_CAPACITY_MIN = 2048,
	MARKER_CAPACITY_START = 16384,

	MARKER_WORD_LABEL = 0xFFFFF,
	MARKER_WORD_UDP = 1 << 20,
	MARKER_GENERATION_SHIFT = 21, /* of `word` */
	MARKER_GENERATIONS = 1 << 11, /* 0 is that of no flow */
	MARKER_IDENTITY_SHIFT = 53,   /* of the generation in `identity` */
	MARKER_CLASS_SHIFT = 48,      /* in `packets` */
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

/* What each CPU has for itself. */
struct marker_cpu {
	struct marker_count count[MARKER_COUNTS];
	struct {
		uint64_t packet; /* address of the context of the one that is written to */
		uint64_t word;
		uint64_t spare[6];
	} write;
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
	return (uint32_t)(hash >> 28);
}

static inline __attribute__((always_inline)) uint32_t marker_tag(uint64_t hash)
{
	uint32_t tag = (uint32_t)(hash >> 57);

	return tag ? tag : 1;
}

/* The tags of a bucket that are `tag`: bit 7 of their octets. */
static inline __attribute__((always_inline)) uint64_t marker_tags_match(uint64_t tags, uint32_t tag)
{
	uint64_t differ = (tags & 0x7F7F7F7F7F7F7F7FULL) ^ tag * 0x0101010101010101ULL;

	/* No carry leaves an octet. */
	return ~((differ + 0x7F7F7F7F7F7F7F7FULL) | 0x7F7F7F7F7F7F7F7FULL);
}

/* Number of the octet with the lowest of these bits. */
static inline __attribute__((always_inline)) uint32_t marker_tags_first(uint64_t match)
{
	return (uint32_t)(((match & -match) >> 7) * 0x0001020304050607ULL >> 56);
}

/* May a flow of this bucket be in its other one? */
static inline __attribute__((always_inline)) bool marker_tags_elsewhere(uint64_t tags)
{
	return tags & 0x8080808080808080ULL;
}

#endif
