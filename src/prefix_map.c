// SPDX-License-Identifier: Apache-2.0
#include "prefix_map.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
};

/* A structure in the making. */
struct builder {
	const struct prefix *prefixes;
	struct node *nodes;
	struct check *checks;
	uint32_t nodes_count;
	uint32_t nodes_room;
	uint32_t checks_count;
	uint32_t checks_room;
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
static uint32_t shared_bits(struct wide a, struct wide b)
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

void prefix_mask(struct flow_address *address, uint32_t bits)
{
	struct wide mask = mask_of(bits);

	address->half[0] &= htobe64(mask.high);
	address->half[1] &= htobe64(mask.low);
}

/* ---- finding -------------------------------------------------------------- */

static inline uint32_t find(const struct prefix_map *m, struct wide a)
{
	bool mapped = is_mapped(a);
	uint32_t ref = mapped ? m->root4 : m->root6;
	uint32_t depth = mapped ? 96 : 0;

	for (;;) {
		if (ref & REF_NODE) {
			ref = m->nodes[ref & REF_INDEX].ref[branch_of(a, depth)];
			depth += STRIDE;
		} else if (ref & REF_CHECK) {
			const struct check *c = &m->checks[ref & REF_INDEX];

			if (!same_start(a, c->address, c->bits))
				return c->otherwise;
			depth = c->bits;
			ref = c->match;
		} else {
			return ref;
		}
	}
}

uint32_t prefix_map_find(const struct prefix_map *m, const struct flow_address *address)
{
	return find(m, widen(address));
}

uint32_t prefix_map_find_words(const struct prefix_map *m, uint32_t word0, uint32_t word1, uint32_t word2,
			       uint32_t word3)
{
	return find(m, (struct wide){(uint64_t)be32toh(word0) << 32 | be32toh(word1),
				     (uint64_t)be32toh(word2) << 32 | be32toh(word3)});
}

/* ---- building ------------------------------------------------------------- */

static int reserve(void **array, size_t size, uint32_t count, uint32_t *room)
{
	uint32_t wanted = *room ? *room * 2 : 16;
	void *grown;

	if (count < *room)
		return 0;
	if (count >= REF_INDEX)
		return -ENOMEM;
	grown = reallocarray(*array, wanted, size);
	if (!grown)
		return -ENOMEM;
	*array = grown;
	*room = wanted;
	return 0;
}

static int new_check(struct builder *b, struct check check, uint32_t *ref)
{
	int err = reserve((void **)&b->checks, sizeof(*b->checks), b->checks_count, &b->checks_room);

	if (err)
		return err;
	*ref = REF_CHECK | b->checks_count;
	b->checks[b->checks_count++] = check;
	return 0;
}

static int build_range(struct builder *b, uint32_t from, uint32_t to, uint32_t depth, uint32_t inherited,
		       uint32_t *ref);

/* A node for the prefixes [from, to), at least two, all longer than `depth`. */
static int build_node(struct builder *b, uint32_t from, uint32_t to, uint32_t depth, uint32_t inherited,
		      uint32_t *ref)
{
	struct node node;
	uint32_t index = b->nodes_count;
	int err = reserve((void **)&b->nodes, sizeof(*b->nodes), index, &b->nodes_room);

	if (err)
		return err;
	b->nodes_count++;
	for (uint32_t i = 0; i < BRANCHES; i++)
		node.ref[i] = inherited;

	/* Prefixes that end inside this node cover some of its branches. One that holds
	 * another stands before it in the order, so that the longer one is written last. */
	for (uint32_t i = from; i < to; i++) {
		const struct prefix *p = &b->prefixes[i];
		uint32_t first = branch_of(p->address, depth);

		if (p->bits >= depth + STRIDE)
			continue;
		for (uint32_t k = 0; k < 1u << (depth + STRIDE - p->bits); k++)
			node.ref[first + k] = p->value;
	}

	/* The others go below, one branch's after the next. */
	for (uint32_t i = from; i < to && err == 0;) {
		uint32_t branch = branch_of(b->prefixes[i].address, depth);
		uint32_t end = i;

		while (end < to && branch_of(b->prefixes[end].address, depth) == branch)
			end++;
		while (i < end && b->prefixes[i].bits < depth + STRIDE)
			i++;
		err = build_range(b, i, end, depth + STRIDE, node.ref[branch], &node.ref[branch]);
		i = end;
	}
	b->nodes[index] = node;
	*ref = REF_NODE | index;
	return err;
}

/* What leads to the sorted prefixes [from, to), which share their first `depth` bits and
 * are at least that long; `inherited` is the value of the prefix around them. */
static int build_range(struct builder *b, uint32_t from, uint32_t to, uint32_t depth, uint32_t inherited,
		       uint32_t *ref)
{
	const struct prefix *p = b->prefixes;
	uint32_t shared, below;
	int err;

	for (; from < to && p[from].bits == depth; from++)
		inherited = p[from].value;
	if (from == to) {
		*ref = inherited;
		return 0;
	}
	if (to - from == 1)
		return new_check(b, (struct check){p[from].address, p[from].bits, p[from].value, inherited},
				 ref);

	shared = shared_bits(p[from].address, p[to - 1].address);
	for (uint32_t i = from; i < to; i++)
		shared = p[i].bits < shared ? p[i].bits : shared;
	shared -= shared % STRIDE;
	if (shared < depth + SKIP_MIN)
		return build_node(b, from, to, depth, inherited, ref);

	err = build_range(b, from, to, shared, inherited, &below);
	if (err)
		return err;
	return new_check(b, (struct check){p[from].address, shared, below, inherited}, ref);
}

/* By address, the shorter prefix first, IPv6 before IPv4; then as they were added. */
static int compare(const void *left, const void *right)
{
	const struct prefix *a = left, *b = right;
	bool mapped_a = a->bits >= 96 && is_mapped(a->address);
	bool mapped_b = b->bits >= 96 && is_mapped(b->address);

	if (mapped_a != mapped_b)
		return mapped_a ? 1 : -1;
	if (a->address.high != b->address.high)
		return a->address.high < b->address.high ? -1 : 1;
	if (a->address.low != b->address.low)
		return a->address.low < b->address.low ? -1 : 1;
	if (a->bits != b->bits)
		return a->bits < b->bits ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

static int find_conflict(const struct prefix *p, uint32_t count, uint32_t *first, uint32_t *second)
{
	for (uint32_t i = 1; i < count; i++) {
		if (p[i].bits == p[i - 1].bits && p[i].address.high == p[i - 1].address.high &&
		    p[i].address.low == p[i - 1].address.low && p[i].value != p[i - 1].value) {
			*first = p[i - 1].order;
			*second = p[i].order;
			return -EEXIST;
		}
	}
	return 0;
}

int prefix_map_build(struct prefix_map *m, uint32_t *first, uint32_t *second)
{
	struct builder b = {.prefixes = m->prefixes};
	uint32_t root4, root6, ipv6 = 0;
	int err;

	if (m->count)
		qsort(m->prefixes, m->count, sizeof(*m->prefixes), compare);
	err = find_conflict(m->prefixes, m->count, first, second);
	if (err)
		return err;
	while (ipv6 < m->count && !(m->prefixes[ipv6].bits >= 96 && is_mapped(m->prefixes[ipv6].address)))
		ipv6++;
	err = build_range(&b, 0, ipv6, 0, 0, &root6);
	if (err == 0)
		err = build_range(&b, ipv6, m->count, 96, 0, &root4);
	if (err) {
		free(b.nodes);
		free(b.checks);
		return err;
	}

	free(m->nodes);
	free(m->checks);
	m->nodes = b.nodes;
	m->checks = b.checks;
	m->nodes_room = b.nodes_room;
	m->checks_room = b.checks_room;
	m->root6 = root6;
	m->root4 = root4;
	return 0;
}

/* ---- the map -------------------------------------------------------------- */

struct prefix_map *prefix_map_new(void)
{
	return calloc(1, sizeof(struct prefix_map));
}

void prefix_map_free(struct prefix_map *m)
{
	if (!m)
		return;
	free(m->nodes);
	free(m->checks);
	free(m->prefixes);
	free(m);
}

int prefix_map_add(struct prefix_map *m, const struct flow_address *address, uint32_t bits, uint32_t value)
{
	struct wide a = widen(address), mask;
	int err;

	if (bits > 128 || value == 0 || value > PREFIX_VALUE_MAX)
		return -EINVAL;
	mask = mask_of(bits);
	if ((a.high & ~mask.high) | (a.low & ~mask.low))
		return -ERANGE;
	err = reserve((void **)&m->prefixes, sizeof(*m->prefixes), m->count, &m->room);
	if (err)
		return err;
	m->prefixes[m->count] = (struct prefix){a, bits, value, m->count};
	m->count++;
	return 0;
}

uint32_t prefix_map_count(const struct prefix_map *m)
{
	return m->count;
}

size_t prefix_map_memory(const struct prefix_map *m)
{
	return sizeof(*m) + (size_t)m->room * sizeof(*m->prefixes) +
	       (size_t)m->nodes_room * sizeof(*m->nodes) + (size_t)m->checks_room * sizeof(*m->checks);
}
