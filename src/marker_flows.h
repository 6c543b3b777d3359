/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * marker_flows.h - the table of marked flows: what the daemon writes and the program reads, one
 * array map that both have in their address space. Written once, for both.
 *
 * Capacity is a power of two. The array holds elements of 64 octets: first the tags, one octet for
 * each entry, then the entries. Eight entries are a bucket, and their tags one word. A flow is in one
 * of two buckets, which its hash tells; its entry's tag is of that hash too and never 0, which is the
 * tag of a free entry. So a packet of no marked flow costs a look at two words, and one of a marked flow
 * a look at its entry as well. A flow for which neither bucket has room makes the table grow.
 *
 * The daemon alone writes keys and tags. An entry is filled before its tag is set, and its tag is
 * cleared before it is emptied. Its generation changes with each flow, so a program that compares
 * a key while that is being changed notices.
 */
#ifndef MARKER_FLOWS_H
#define MARKER_FLOWS_H

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
	MARKER_TAG_SHARED = 2,	/* as many of a bucket may have the same tag: the program looks at no more */
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
		uint64_t print; /* of the packet that is written to */
		uint64_t word;
		uint64_t spare[6];
	} write;
};

static inline __attribute__((always_inline)) uint64_t
marker_hash(const uint64_t src[2], const uint64_t dst[2], uint32_t ports, uint32_t udp, uint64_t seed)
{
	uint64_t hash = (dst[1] ^ seed) * 0x9E3779B97F4A7C15ULL;

	hash += dst[0] ^ src[0] ^ (src[1] << 32 | src[1] >> 32);
	hash ^= ports * 0xD6E8FEB86659FD93ULL + udp;
	hash ^= hash >> 32;
	hash *= 0xC2B2AE3D27D4EB4FULL;
	return hash ^ hash >> 32;
}

/* Its buckets. Bits beyond the number of buckets mean nothing. */
static inline __attribute__((always_inline)) uint32_t marker_bucket(uint64_t hash)
{
	return (uint32_t)hash >> 8;
}

static inline __attribute__((always_inline)) uint32_t marker_bucket_other(uint64_t hash)
{
	return (uint32_t)(hash >> 32);
}

static inline __attribute__((always_inline)) uint32_t marker_tag(uint64_t hash)
{
	return (hash & 0xFF) ? (hash & 0xFF) : 1;
}

/* The tags of a bucket that may be equal to `tag`: bit 7 of their octets. The lowest one is equal. */
static inline __attribute__((always_inline)) uint64_t marker_tags_match(uint64_t tags, uint32_t tag)
{
	uint64_t differ = tags ^ tag * 0x0101010101010101ULL;

	/* No carry leaves an octet: nothing but the tag matches. */
	return ~(((differ & 0x7F7F7F7F7F7F7F7FULL) + 0x7F7F7F7F7F7F7F7FULL) | differ | 0x7F7F7F7F7F7F7F7FULL);
}

/* Number of the octet with the lowest of these bits. */
static inline __attribute__((always_inline)) uint32_t marker_tags_first(uint64_t match)
{
	/* Octets below the bit give 1 each, its own too. */
	return (uint32_t)((((match & -match) - 1) & 0x0101010101010101ULL) * 0x0101010101010101ULL >> 56) - 1;
}

#endif
