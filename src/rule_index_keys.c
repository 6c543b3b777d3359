// SPDX-License-Identifier: Apache-2.0
/*
 * rule_index_keys.c - an index in the making: the field by which each rule is found.
 *
 * The fewer values satisfy a condition, and the fewer other rules have the same one, the fewer events
 * come to its rule in vain.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* Of so many events, about one satisfies a condition of weight 1. */
#define ALL 65536u

static uint32_t axis_of(uint32_t field)
{
	static const uint8_t axes[] = {
		[RULE_PROTOCOL] = AXIS_KIND,
		[RULE_FAMILY] = AXIS_KIND,
		[RULE_STATE] = AXIS_KIND,
		[RULE_PLUGIN] = AXIS_PLUGIN,
		[RULE_SRC_PORT] = AXIS_SRC_PORT,
		[RULE_DST_PORT] = AXIS_DST_PORT,
		[RULE_SRC] = AXIS_SRC,
		[RULE_DST] = AXIS_DST,
		[RULE_EXPERIMENT] = AXIS_EXPERIMENT,
		[RULE_ACTIVITY] = AXIS_ACTIVITY,
		[RULE_APPLICATION] = AXIS_APPLICATION,
	};

	return field < sizeof(axes) ? axes[field] : AXES;
}

/* How many events of ALL satisfy it: a guess, as nobody knows a site's events beforehand. */
static uint32_t weight(const struct condition *c)
{
	switch (c->field) {
	case RULE_PROTOCOL:
	case RULE_FAMILY:
	case RULE_STATE:
		return ALL - ALL / 4;
	case RULE_PLUGIN:
		return ALL / 2;
	case RULE_SRC_PORT:
	case RULE_DST_PORT:
		return (uint32_t)(c->last - c->first) + 1;
	case RULE_SRC:
	case RULE_DST:
		/* IPv4 from bit 96 on; the first bits of IPv6 are the same for whole continents. */
		return c->bits >= 112  ? 1
		       : c->bits >= 96 ? ALL >> (c->bits - 96)
		       : c->bits >= 48 ? 1
		       : c->bits <= 16 ? ALL
				       : ALL >> (c->bits - 16) / 2;
	case RULE_EXPERIMENT:
		return (uint32_t)(c->last - c->first + 1) * (ALL / 8);
	case RULE_ACTIVITY:
		return c->kind == CONDITION_PAIR ? ALL / 64 : (uint32_t)(c->last - c->first + 1) * (ALL / 16);
	default:
		return ALL / 256;
	}
}

static uint64_t hash_condition(const struct rule_index *x, const struct condition *c)
{
	uint64_t hash = c->field * 0x9e3779b97f4a7c15ULL + c->bits;

	if (c->kind == CONDITION_TEXT) {
		for (uint64_t i = 0; i < c->first; i++)
			hash = text_hash(hash, x->texts[c->text + i]);
		return hash;
	}
	hash = (hash ^ c->first) * 0xff51afd7ed558ccdULL;
	hash = (hash ^ hash >> 32 ^ c->last) * 0xff51afd7ed558ccdULL;
	hash = (hash ^ hash >> 32 ^ c->address.half[0]) * 0xff51afd7ed558ccdULL;
	return (hash ^ hash >> 32 ^ c->address.half[1]) * 0xff51afd7ed558ccdULL;
}

static int begin(struct rule_builder *b)
{
	const struct rule_index *x = b->x;

	b->place = 64;
	while (b->place < 2 * x->conditions_count)
		b->place *= 2;
	/* Conditions by hash: two that meet there count as equal. */
	b->memory[0] = calloc(b->place, sizeof(uint32_t));
	b->memory[1] = calloc((size_t)x->count * AXES, sizeof(uint64_t));
	b->phase = 1;
	return b->memory[0] && b->memory[1] ? 1 : -ENOMEM;
}

/* How often each condition is there. */
static int count_same(struct rule_builder *b, uint32_t *same)
{
	const struct rule_index *x = b->x;

	while (b->at < x->conditions_count) {
		same[hash_condition(x, &x->conditions[b->at++]) >> 20 & (b->place - 1)]++;
		if (rule_builder_enough(b, 4))
			return 1;
	}
	b->phase = 2;
	b->at = 0;
	return 1;
}

/* What finding each rule by each axis costs. */
static int add_costs(struct rule_builder *b, const uint32_t *same, uint64_t *cost)
{
	const struct rule_index *x = b->x;

	while (b->at < x->conditions_count) {
		const struct condition *c = &x->conditions[b->at++];
		uint32_t axis = axis_of(c->field);

		if (axis < AXES && c->kind != CONDITION_SET)
			cost[c->rule * AXES + axis] +=
				(uint64_t)weight(c) * same[hash_condition(x, c) >> 20 & (b->place - 1)];
		if (rule_builder_enough(b, 4))
			return 1;
	}
	return 0;
}

static void choose(struct rule_builder *b, const uint64_t *cost)
{
	struct rule_index *x = b->x;

	for (uint32_t rule = 0; rule < x->count; rule++) {
		uint32_t best = AXES;

		for (uint32_t axis = 0; axis < AXES; axis++) {
			uint64_t its = cost[rule * AXES + axis];

			if (its && (best == AXES || its < cost[rule * AXES + best]))
				best = axis;
		}
		if (best < AXES)
			rule_set_add(b->keyed + best * x->words, rule);
		else
			x->always |= 1ULL << rule / 64;
	}
}

/* b->keyed: for each axis, the rules that are found by it. */
int rule_builder_keys(struct rule_builder *b)
{
	if (b->phase == 0)
		return begin(b);
	if (b->phase == 1)
		return count_same(b, b->memory[0]);
	if (add_costs(b, b->memory[0], b->memory[1]))
		return 1;
	choose(b, b->memory[1]);
	return 0;
}
