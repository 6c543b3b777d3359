// SPDX-License-Identifier: Apache-2.0
/* rule_index_values.c - an index in the making: fields of few values, each of which has a set. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* A table with a set for each value of a field. */
static int table_of(struct rule_builder *b, uint32_t field, uint32_t axis, uint32_t *table, uint32_t size)
{
	uint8_t *told;
	int err = 0;

	if (b->phase == 0) {
		if (!rule_builder_select(b, field))
			return 0;
		rule_builder_use(b, axis);
		b->phase = 1;
		b->memory[0] = told = calloc(size, 1);
		if (!told)
			return -ENOMEM;
		for (uint32_t i = 0; i < b->count; i++) {
			for (uint64_t value = b->c[i].first; value <= b->c[i].last; value++)
				told[value] = 1;
		}
		rule_builder_copy(b, b->set, b->untested);
		err = rule_builder_intern(b, &b->place);
	}
	told = b->memory[0];
	while (b->at < size && err == 0) {
		uint32_t value = b->at++;

		table[value] = b->place;
		if (!told[value])
			continue;
		rule_builder_collect(b, value);
		err = rule_builder_intern(b, &table[value]);
		if (err == 0 && rule_builder_enough(b, b->count + b->x->words))
			return 1;
	}
	return err;
}

int rule_builder_plugins(struct rule_builder *b)
{
	return table_of(b, RULE_PLUGIN, AXIS_PLUGIN, b->x->plugin, PLUGINS);
}

int rule_builder_experiments(struct rule_builder *b)
{
	return table_of(b, RULE_EXPERIMENT, AXIS_EXPERIMENT, b->x->experiment, EXPERIMENTS);
}

/* Protocol, family and state are one number. */
int rule_builder_kind(struct rule_builder *b)
{
	static const uint8_t fields[] = {RULE_PROTOCOL, RULE_FAMILY, RULE_STATE};
	struct rule_index *x = b->x;
	uint64_t *all = calloc(KINDS, x->words * sizeof(*all));
	bool used = false;
	int err = 0;

	if (!all)
		return -ENOMEM;
	memset(all, 0xff, KINDS * x->words * sizeof(*all));
	for (uint32_t f = 0; f < sizeof(fields); f++) {
		used = rule_builder_select(b, fields[f]) || used;
		for (uint32_t kind = 0; kind < KINDS; kind++) {
			uint32_t value = f == 0	  ? (kind & 8 ? FLOW_UDP : FLOW_TCP)
					 : f == 1 ? (kind & 4 ? 6 : 4)
						  : kind & 3;

			rule_builder_collect(b, value);
			for (uint32_t w = 0; w < x->words; w++)
				all[kind * x->words + w] &= b->set[w];
		}
	}
	if (used)
		rule_builder_use(b, AXIS_KIND);
	for (uint32_t kind = 0; kind < KINDS && used && err == 0; kind++) {
		rule_builder_copy(b, b->set, all + kind * x->words);
		err = rule_builder_intern(b, &x->kind[kind]);
	}
	free(all);
	return err;
}

/* ---- activities ------------------------------------------------------------------------- */

static int by_pair(const void *left, const void *right)
{
	const struct condition *a = left, *b = right;

	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return (a->last > b->last) - (a->last < b->last);
}

static int begin_activities(struct rule_builder *b)
{
	struct rule_index *x = b->x;
	struct condition *pairs;
	uint32_t count;
	int err = 0;

	rule_builder_use(b, AXIS_ACTIVITY);
	x->activity = calloc(EXPERIMENTS * ACTIVITIES, sizeof(*x->activity));
	if (!x->activity)
		return -ENOMEM;
	for (uint32_t activity = 0; activity < ACTIVITIES && err == 0; activity++) {
		rule_builder_collect(b, activity);
		err = rule_builder_intern(b, &x->activity[activity]);
	}
	for (uint32_t i = ACTIVITIES; i < EXPERIMENTS * ACTIVITIES; i++)
		x->activity[i] = x->activity[i % ACTIVITIES];
	while (b->at < b->count && b->c[b->at].kind == CONDITION_RANGE)
		b->at++;
	/* Pairs stand behind the ranges. */
	pairs = x->conditions + (b->c - x->conditions) + b->at;
	count = b->count - b->at;
	if (count)
		qsort(pairs, count, sizeof(*pairs), by_pair);
	b->phase = 1;
	return err;
}

int rule_builder_activities(struct rule_builder *b)
{
	int err = 0;

	if (b->phase == 0) {
		if (!rule_builder_select(b, RULE_ACTIVITY))
			return 0;
		err = begin_activities(b);
	}
	while (b->at < b->count && err == 0) {
		const struct condition *pair = &b->c[b->at];

		rule_builder_collect(b, pair->last);
		for (; b->at < b->count && by_pair(pair, &b->c[b->at]) == 0; b->at++)
			rule_set_add(b->set, b->c[b->at].rule);
		err = rule_builder_intern(b, &b->x->activity[pair->first * ACTIVITIES + pair->last]);
		if (err == 0 && rule_builder_enough(b, b->count + b->x->words))
			return 1;
	}
	return err;
}
