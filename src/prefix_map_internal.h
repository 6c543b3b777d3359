/* SPDX-License-Identifier: Apache-2.0 */
/* prefix_map_internal.h - what prefix_map.c (finding) and prefix_map_build.c (making) share. */
#ifndef PREFIX_MAP_INTERNAL_H
#define PREFIX_MAP_INTERNAL_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>

#include "prefix_map.h"

enum {
	STRIDE = 4, /* bits of the address per node */
	BRANCHES = 1 << STRIDE,
	/* A skip costs a step as a node does: it must replace at least two. */
	SKIP_MIN = 2 * STRIDE,
};

/*
 * Where a walk goes next: a node, a comparison, or, with neither bit, the value found.
 */
enum {
	REF_NODE = 1u << 31,
	REF_CHECK = 1u << 30,
	REF_INDEX = REF_CHECK - 1,
};

/* An address as two numbers, so that bits are reached by shifting. */
struct wide {
	uint64_t high;
	uint64_t low;
};

struct prefix {
	struct wide address;
	uint32_t bits;
	uint32_t value;
	uint32_t order; /* of its addition */
};

struct node {
	uint32_t ref[BRANCHES];
};

/* The first `bits` bits are compared: equal goes on at `match`, from bit `bits` on. */
struct check {
	struct wide address;
	uint32_t bits;
	uint32_t match;
	uint32_t otherwise; /* a value */
};

struct prefix_map {
	/* What find walks. */
	struct node *nodes;
	struct check *checks;
	uint32_t root6; /* from bit 0 */
	uint32_t root4; /* from bit 96 */

	/* What was added. */
	struct prefix *prefixes;
	uint32_t count;
	uint32_t room;
	uint32_t nodes_room;
	uint32_t checks_room;

	struct prefix_building *building; /* of the next structure; NULL: none */
};

/* ---- addresses as numbers ------------------------------------------------- */

static inline struct wide widen(const struct flow_address *a)
{
	return (struct wide){be64toh(a->half[0]), be64toh(a->half[1])};
}

/* Ones in the first `bits` (0..64) bits of a half. */
static inline uint64_t half_mask(uint32_t bits)
{
	return bits == 0 ? 0 : ~0ULL << (64 - bits);
}

static inline struct wide mask_of(uint32_t bits)
{
	return bits <= 64 ? (struct wide){half_mask(bits), 0} : (struct wide){~0ULL, half_mask(bits - 64)};
}

/* The four bits that start at bit `depth`, a multiple of four. */
static inline uint32_t branch_of(struct wide a, uint32_t depth)
{
	return (depth < 64 ? a.high >> (60 - depth) : a.low >> (124 - depth)) & (BRANCHES - 1);
}

static inline bool same_start(struct wide a, struct wide b, uint32_t bits)
{
	struct wide mask = mask_of(bits);

	return (((a.high ^ b.high) & mask.high) | ((a.low ^ b.low) & mask.low)) == 0;
}

/* How many leading bits two addresses share. */
static inline uint32_t shared_bits(struct wide a, struct wide b)
{
	if (a.high != b.high)
		return (uint32_t)__builtin_clzll(a.high ^ b.high);
	if (a.low != b.low)
		return 64 + (uint32_t)__builtin_clzll(a.low ^ b.low);
	return 128;
}

static inline bool is_mapped(struct wide a)
{
	return a.high == 0 && a.low >> 32 == 0xffff;
}

/* Room for one more of `count`. 0 or -ENOMEM. */
int prefix_map_reserve(void **array, size_t size, uint32_t count, uint32_t *room);

/* Give up what is being built. */
void prefix_map_abandon(struct prefix_map *m);

#endif
