// SPDX-License-Identifier: Apache-2.0
/* rule_index_build.c - from conditions to the sets of rules that each value of a field satisfies. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* A table with a set for each value of a field. */
static int build_table(struct rule_builder *b, uint32_t field, uint32_t axis, uint32_t *table, uint32_t size)
{
	uint32_t other;
	int err;

	if (!rule_builder_select(b, field))
		return 0;
	rule_builder_use(b, axis);
	rule_builder_copy(b, b->set, b->untested);
	err = rule_builder_intern(b, &other);
	for (uint32_t i = 0; i < size; i++)
		table[i] = other;
	for (uint32_t i = 0; i < b->count && err == 0; i++) {
		for (uint64_t value = b->c[i].first; value <= b->c[i].last && err == 0; value++) {
			rule_builder_collect(b, value);
			err = rule_builder_intern(b, &table[value]);
		}
	}
	return err;
}

/* Protocol, family and state are one number. */
static int build_kind(struct rule_builder *b)
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

static int build_activities(struct rule_builder *b)
{
	struct rule_index *x = b->x;
	struct condition *pairs;
	uint32_t ranges = 0, count;
	int err = 0;

	if (!rule_builder_select(b, RULE_ACTIVITY))
		return 0;
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
	while (ranges < b->count && b->c[ranges].kind == CONDITION_RANGE)
		ranges++;
	/* Pairs stand behind the ranges. */
	pairs = x->conditions + (b->c - x->conditions) + ranges;
	count = b->count - ranges;
	if (count)
		qsort(pairs, count, sizeof(*pairs), by_pair);
	for (uint32_t i = 0; i < count && err == 0;) {
		const struct condition *pair = &pairs[i];

		rule_builder_collect(b, pair->last);
		for (; i < count && by_pair(pair, &pairs[i]) == 0; i++)
			rule_set_add(b->set, pairs[i].rule);
		err = rule_builder_intern(b, &x->activity[pair->first * ACTIVITIES + pair->last]);
	}
	return err;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static int by_rule(const void *left, const void *right)
{
	const struct condition *a = left, *b = right;

	if (a->rule != b->rule)
		return a->rule < b->rule ? -1 : 1;
	return (a->field > b->field) - (a->field < b->field);
}

static int build_late(struct rule_index *x)
{
	uint32_t count = 0;

	x->late = calloc(x->conditions_count ? x->conditions_count : 1, sizeof(*x->late));
	if (!x->late)
		return -ENOMEM;
	if (x->conditions_count)
		qsort(x->conditions, x->conditions_count, sizeof(*x->conditions), by_rule);
	for (uint32_t i = 0; i < x->conditions_count; i++) {
		const struct condition *c = &x->conditions[i];
		struct indexed_rule *rule = &x->rules[c->rule];

		if (c->field < RULE_TIME && c->kind != CONDITION_SET)
			continue;
		if (rule->late_count++ == 0)
			rule->late = count;
		x->late[count++] = (struct late_test){
			.field = c->field, .first = c->first, .last = c->last, .set = c->set};
	}
	x->late_count = count;
	return 0;
}

static int by_field(const void *left, const void *right)
{
	const struct condition *a = left, *b = right;

	if (a->field != b->field)
		return a->field < b->field ? -1 : 1;
	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	return (a->rule > b->rule) - (a->rule < b->rule);
}

static int build(struct rule_builder *b)
{
	struct rule_index *x = b->x;
	int err;

	if (x->conditions_count)
		qsort(x->conditions, x->conditions_count, sizeof(*x->conditions), by_field);
	err = rule_builder_keys(b);
	if (err)
		return err;
	rule_builder_select(b, RULE_FIELDS); /* nothing: all rules are untested */
	rule_builder_copy(b, b->set, b->untested);
	err = rule_builder_append(b, &x->enabled); /* its own: it changes */
	err = err ? err : build_kind(b);
	err = err ? err : build_table(b, RULE_PLUGIN, AXIS_PLUGIN, x->plugin, PLUGINS);
	err = err ? err : rule_builder_ports(b, 0);
	err = err ? err : rule_builder_ports(b, 1);
	err = err ? err : rule_builder_addresses(b, 0);
	err = err ? err : rule_builder_addresses(b, 1);
	err = err ? err : build_table(b, RULE_EXPERIMENT, AXIS_EXPERIMENT, x->experiment, EXPERIMENTS);
	err = err ? err : build_activities(b);
	err = err ? err : rule_builder_applications(b);
	if (err == 0 && x->axes == 0) {
		/* No rule has a condition of these: all of them. */
		x->axis[x->axes++] = AXIS_KIND;
		x->staying = 1;
		for (uint32_t kind = 0; kind < KINDS; kind++)
			x->kind[kind] = x->enabled;
	}
	return err ? err : build_late(x);
}

int rule_index_build(struct rule_index *x)
{
	struct rule_builder b;
	int err = rule_builder_init(&b, x);

	err = err ? err : build(&b);
	rule_builder_free(&b);
	free(x->conditions);
	x->conditions = NULL;
	x->conditions_count = x->conditions_room = 0;
	return err;
}

size_t rule_index_memory(const struct rule_index *x)
{
	size_t size = sizeof(*x) + (size_t)x->sets_room * (x->words + 1) * sizeof(*x->pool) +
		      x->count * (sizeof(*x->rules) + sizeof(*x->briefs)) + x->late_count * sizeof(*x->late) +
		      x->texts_room;

	for (uint32_t i = 0; i < 2; i++) {
		size += x->port[i] ? sizeof(*x->port[i]) + x->port[i]->pages * sizeof(x->port[i]->set[0]) : 0;
		size += x->prefixes[i] ? prefix_map_memory(x->prefixes[i]) : 0;
	}
	size += x->activity ? EXPERIMENTS * ACTIVITIES * sizeof(*x->activity) : 0;
	return size + (x->texts_table ? (x->texts_mask + 1) * sizeof(*x->texts_table) : 0);
}
