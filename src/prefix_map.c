// SPDX-License-Identifier: Apache-2.0
#include "prefix_map_internal.h"

#include <errno.h>
#include <stdlib.h>

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
	prefix_map_abandon(m);
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
	prefix_map_abandon(m);
	err = prefix_map_reserve((void **)&m->prefixes, sizeof(*m->prefixes), m->count, &m->room);
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
