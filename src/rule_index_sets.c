// SPDX-License-Identifier: Apache-2.0
/* rule_index_sets.c - an index in the making: sets of rules, and the conditions of one field. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* ---- sets ------------------------------------------------------------------------ */

static uint64_t hash_set(const uint64_t *set, uint32_t words)
{
	uint64_t hash = 0x9e3779b97f4a7c15ULL;

	for (uint32_t i = 0; i < words; i++) {
		hash = (hash ^ set[i]) * 0xff51afd7ed558ccdULL;
		hash ^= hash >> 32;
	}
	return hash;
}

static int grow_known(struct rule_builder *b)
{
	uint32_t size = b->known ? 2 * (b->known_mask + 1) : 1024;
	struct known_set *table = calloc(size, sizeof(*table));

	if (!table)
		return -ENOMEM;
	for (uint32_t i = 0; b->known && i <= b->known_mask; i++) {
		const struct known_set *k = &b->known[i];
		uint32_t at = k->hash;

		if (!k->number)
			continue;
		while (table[at & (size - 1)].number)
			at++;
		table[at & (size - 1)] = *k;
	}
	free(b->known);
	b->known = table;
	b->known_mask = size - 1;
	return 0;
}

/* The words in which the set at hand has rules that are found by the axis at hand. */
static uint64_t summary(const struct rule_builder *b)
{
	const uint64_t *keyed = b->keyed + b->axis * b->x->words;
	uint64_t words = 0;

	for (uint32_t i = 0; i < b->x->words && b->axis < AXES; i++)
		words |= (uint64_t)((b->set[i] & keyed[i]) != 0) << i;
	return words;
}

int rule_builder_append(struct rule_builder *b, uint32_t *number)
{
	struct rule_index *x = b->x;

	if (x->sets == x->sets_room) {
		uint32_t room = x->sets_room ? 2 * x->sets_room : 64;
		uint64_t *more = reallocarray(x->pool, (size_t)room * x->words, sizeof(*more));

		if (!more)
			return -ENOMEM;
		x->pool = more;
		more = reallocarray(x->summary, room, sizeof(*more));
		if (!more)
			return -ENOMEM;
		x->summary = more;
		x->sets_room = room;
	}
	x->summary[x->sets] = summary(b);
	rule_builder_copy(b, x->pool + (size_t)x->sets * x->words, b->set);
	*number = x->sets++;
	return 0;
}

/* The number of a set equal to b->set. */
int rule_builder_intern(struct rule_builder *b, uint32_t *place)
{
	size_t size = b->x->words * sizeof(*b->set);
	uint32_t hash, at;
	int err;

	if (2 * (b->known_count + 1) > (b->known ? b->known_mask : 0)) {
		err = grow_known(b);
		if (err)
			return err;
	}
	hash = (uint32_t)hash_set(b->set, b->x->words);
	for (at = hash; b->known[at & b->known_mask].number; at++) {
		const struct known_set *k = &b->known[at & b->known_mask];

		if (k->hash == hash && memcmp(set_words(b->x, k->number - 1), b->set, size) == 0) {
			*place = k->number - 1;
			return 0;
		}
	}
	err = rule_builder_append(b, place);
	if (err)
		return err;
	b->known[at & b->known_mask] = (struct known_set){*place + 1, hash};
	b->known_count++;
	return 0;
}

void rule_builder_copy(const struct rule_builder *b, uint64_t *to, const uint64_t *from)
{
	memcpy(to, from, b->x->words * sizeof(*to));
}

/* ---- the conditions of one field ---------------------------------------------------- */

/* Take the conditions of a field at hand; those that are tried late are none. False: there are none. */
bool rule_builder_select(struct rule_builder *b, uint32_t field)
{
	const struct rule_index *x = b->x;
	uint32_t first = b->first[field], end = field < RULE_FIELDS ? b->first[field + 1] : first;

	b->c = x->conditions + first;
	b->count = 0;
	memset(b->untested, 0xff, x->words * sizeof(*b->untested));
	for (uint32_t i = first; i < end; i++) {
		if (x->conditions[i].kind == CONDITION_SET)
			continue;
		rule_set_remove(b->untested, x->conditions[i].rule);
		/* Sets stand behind prefixes. */
		b->count++;
	}
	/* Bits behind the last rule stay 0. */
	for (uint32_t rule = x->count; rule < x->words * 64; rule++)
		rule_set_remove(b->untested, rule);
	return b->count > 0;
}

/* b->set: the rules that a value satisfies, by ranges. */
void rule_builder_collect(struct rule_builder *b, uint64_t value)
{
	rule_builder_copy(b, b->set, b->untested);
	for (uint32_t i = 0; i < b->count; i++) {
		const struct condition *c = &b->c[i];

		if (c->kind == CONDITION_RANGE && value >= c->first && value <= c->last)
			rule_set_add(b->set, c->rule);
	}
}

void rule_builder_use(struct rule_builder *b, uint32_t axis)
{
	struct rule_index *x = b->x;

	b->axis = axis;
	if (b->known)
		memset(b->known, 0, (b->known_mask + 1) * sizeof(*b->known));
	b->known_count = 0;
	x->axis[x->axes++] = (uint8_t)axis;
	if (axis < CHANGEABLE)
		x->staying++;
	if (axis == AXIS_APPLICATION)
		x->tests |= RULE_SETS_APPLICATION;
	if (axis == AXIS_EXPERIMENT || axis == AXIS_ACTIVITY)
		x->tests |= RULE_SETS_EXPERIMENT;
	if (axis == AXIS_ACTIVITY)
		x->tests |= RULE_SETS_ACTIVITY;
}
