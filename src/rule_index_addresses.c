// SPDX-License-Identifier: Apache-2.0
/*
 * rule_index_addresses.c - an index in the making: addresses.
 *
 * All prefixes of all rules go into one prefix map. An address finds the longest of them, so each
 * prefix's set holds the rules of the shorter ones around it too.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

struct prefix_rule {
	uint64_t high, low;
	uint32_t bits;
	uint16_t rule;
	bool ipv4; /* ::/0 holds no IPv4 address: see prefix_map.h */
	struct flow_address address;
};

/* By address, the shorter prefix first: what is around a prefix stands before it. */
static int by_prefix(const void *left, const void *right)
{
	const struct prefix_rule *a = left, *b = right;

	if (a->ipv4 != b->ipv4)
		return a->ipv4 ? 1 : -1;
	if (a->high != b->high)
		return a->high < b->high ? -1 : 1;
	if (a->low != b->low)
		return a->low < b->low ? -1 : 1;
	return (a->bits > b->bits) - (a->bits < b->bits);
}

static bool same_prefix(const struct prefix_rule *a, const struct prefix_rule *b)
{
	return by_prefix(a, b) == 0;
}

static bool holds(const struct prefix_rule *around, const struct prefix_rule *p)
{
	struct flow_address a = p->address;

	prefix_mask(&a, around->bits);
	return around->ipv4 == p->ipv4 && around->bits <= p->bits && a.half[0] == around->address.half[0] &&
	       a.half[1] == around->address.half[1];
}

static struct prefix_rule *sorted_prefixes(const struct rule_builder *b)
{
	struct prefix_rule *list = calloc(b->count, sizeof(*list));

	for (uint32_t i = 0; list && i < b->count; i++) {
		const struct condition *c = &b->c[i];
		struct prefix_rule *p = &list[i];

		p->address = c->address;
		p->bits = c->bits;
		p->rule = c->rule;
		prefix_mask(&p->address, p->bits);
		p->high = be64toh(p->address.half[0]);
		p->low = be64toh(p->address.half[1]);
		p->ipv4 = p->bits >= 96 && p->high == 0 && p->low >> 32 == 0xffff;
	}
	if (list)
		qsort(list, b->count, sizeof(*list), by_prefix);
	return list;
}

/* Prefixes around the one at hand, outermost first, with their sets: at most one of each length. */
struct around {
	const struct prefix_rule *prefix[130];
	uint64_t *set;
	uint32_t depth;
};

static int add_prefixes(struct rule_builder *b, const struct prefix_rule *list, struct around *around,
			uint32_t which)
{
	struct rule_index *x = b->x;
	uint32_t value = 0;

	for (uint32_t i = 0; i < b->count;) {
		const struct prefix_rule *p = &list[i];
		int err;

		while (around->depth && !holds(around->prefix[around->depth - 1], p))
			around->depth--;
		rule_builder_copy(b, b->set,
				  around->depth ? around->set + (around->depth - 1) * x->words : b->untested);
		for (; i < b->count && same_prefix(p, &list[i]); i++)
			rule_set_add(b->set, list[i].rule);
		rule_builder_copy(b, around->set + around->depth * x->words, b->set);
		around->prefix[around->depth++] = p;
		err = rule_builder_intern(b, &x->prefix_set[which][value]);
		err = err ? err : prefix_map_add(x->prefixes[which], &p->address, p->bits, ++value);
		if (err)
			return err;
	}
	return 0;
}

int rule_builder_addresses(struct rule_builder *b, uint32_t which)
{
	struct rule_index *x = b->x;
	struct prefix_rule *list;
	struct around around = {.depth = 0};
	uint32_t first, second;
	int err = -ENOMEM;

	if (!rule_builder_select(b, which ? RULE_DST : RULE_SRC))
		return 0;
	rule_builder_use(b, which ? AXIS_DST : AXIS_SRC);
	list = sorted_prefixes(b);
	around.set = calloc(130, x->words * sizeof(*around.set));
	x->prefixes[which] = prefix_map_new();
	x->prefix_set[which] = calloc(b->count, sizeof(*x->prefix_set[which]));
	if (list && around.set && x->prefixes[which] && x->prefix_set[which]) {
		rule_builder_copy(b, b->set, b->untested);
		err = rule_builder_intern(b, &x->prefix_other[which]);
		err = err ? err : add_prefixes(b, list, &around, which);
		err = err ? err : prefix_map_build(x->prefixes[which], &first, &second);
	}
	free(list);
	free(around.set);
	return err;
}
