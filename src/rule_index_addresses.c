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

static struct prefix_rule prefix_rule(const struct condition *c)
{
	struct prefix_rule p = {.address = c->address, .bits = c->bits, .rule = c->rule};

	prefix_mask(&p.address, p.bits);
	p.high = be64toh(p.address.half[0]);
	p.low = be64toh(p.address.half[1]);
	p.ipv4 = p.bits >= 96 && p.high == 0 && p.low >> 32 == 0xffff;
	return p;
}

/* Prefixes around the one at hand, outermost first, with their sets: at most one of each length. */
struct around {
	const struct prefix_rule *prefix[130];
	uint32_t depth;
	uint64_t set[];
};

static int begin(struct rule_builder *b, uint32_t which)
{
	struct rule_index *x = b->x;

	if (!rule_builder_select(b, which ? RULE_DST : RULE_SRC))
		return 0;
	rule_builder_use(b, which ? AXIS_DST : AXIS_SRC);
	b->memory[0] = calloc(b->count, sizeof(struct prefix_rule));
	b->memory[1] = calloc(1, sizeof(struct around) + 130 * (size_t)x->words * sizeof(uint64_t));
	x->prefixes[which] = prefix_map_new();
	x->prefix_set[which] = calloc(b->count, sizeof(*x->prefix_set[which]));
	if (!b->memory[0] || !b->memory[1] || !x->prefixes[which] || !x->prefix_set[which])
		return -ENOMEM;
	rule_builder_copy(b, b->set, b->untested);
	b->phase = 1;
	return rule_builder_intern(b, &x->prefix_other[which]) == 0 ? 1 : -ENOMEM;
}

static int list_prefixes(struct rule_builder *b, struct prefix_rule *list)
{
	while (b->at < b->count) {
		list[b->at] = prefix_rule(&b->c[b->at]);
		b->at++;
		if (rule_builder_enough(b, 2))
			return 1;
	}
	b->phase = 2;
	return step_sort_begin(&b->sort, list, sizeof(*list), b->count, b->count, by_prefix) == 0 ? 1
												  : -ENOMEM;
}

static int sort_prefixes(struct rule_builder *b)
{
	if (step_sort_step(&b->sort) == 0) {
		b->phase = 3;
		b->at = b->place = 0;
	}
	b->memory[0] = b->sort.array;
	rule_builder_enough(b, RULE_BUILDER_STEP);
	return 1;
}

static int add_prefixes(struct rule_builder *b, const struct prefix_rule *list, struct around *around,
			uint32_t which)
{
	struct rule_index *x = b->x;

	while (b->at < b->count) {
		const struct prefix_rule *p = &list[b->at];
		int err;

		while (around->depth && !holds(around->prefix[around->depth - 1], p))
			around->depth--;
		rule_builder_copy(b, b->set,
				  around->depth ? around->set + (around->depth - 1) * x->words : b->untested);
		for (; b->at < b->count && same_prefix(p, &list[b->at]); b->at++)
			rule_set_add(b->set, list[b->at].rule);
		rule_builder_copy(b, around->set + around->depth * x->words, b->set);
		around->prefix[around->depth++] = p;
		err = rule_builder_intern(b, &x->prefix_set[which][b->place]);
		err = err ? err : prefix_map_add(x->prefixes[which], &p->address, p->bits, ++b->place);
		if (err)
			return err;
		if (rule_builder_enough(b, 2 * x->words))
			return 1;
	}
	b->phase = 4;
	return 1;
}

static int addresses(struct rule_builder *b, uint32_t which)
{
	uint32_t first, second;

	switch (b->phase) {
	case 0:
		return begin(b, which);
	case 1:
		return list_prefixes(b, b->memory[0]);
	case 2:
		return sort_prefixes(b);
	case 3:
		return add_prefixes(b, b->memory[0], b->memory[1], which);
	default:
		rule_builder_enough(b, RULE_BUILDER_STEP);
		return prefix_map_build_step(b->x->prefixes[which], &first, &second);
	}
}

int rule_builder_src(struct rule_builder *b)
{
	return addresses(b, 0);
}

int rule_builder_dst(struct rule_builder *b)
{
	return addresses(b, 1);
}
