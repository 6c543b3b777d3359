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

/* ---- ports ---------------------------------------------------------------------------- */

/* Where a range begins or is over. */
struct edge {
	uint32_t port;
	uint16_t rule;
	int16_t step;
};

static int by_port(const void *left, const void *right)
{
	const struct edge *a = left, *b = right;

	return (a->port > b->port) - (a->port < b->port);
}

/* Walk along the edges: between two of them the set is the same. */
static int sweep(struct rule_builder *b, const struct edge *edges, uint32_t count, uint32_t *depth,
		 uint32_t *table)
{
	uint32_t place, i = 0;
	int err;

	rule_builder_copy(b, b->set, b->untested);
	err = rule_builder_intern(b, &place);
	for (uint32_t port = 0; port < PORTS && err == 0; port++) {
		uint32_t before = i;

		for (; i < count && edges[i].port == port; i++) {
			uint32_t rule = edges[i].rule;

			depth[rule] += (uint32_t)(int32_t)edges[i].step;
			if (depth[rule])
				rule_set_add(b->set, rule);
			else
				rule_set_remove(b->set, rule);
		}
		if (i != before)
			err = rule_builder_intern(b, &place);
		table[port] = place;
	}
	return err;
}

static int build_ports(struct rule_builder *b, uint32_t which)
{
	struct rule_index *x = b->x;
	struct edge *edges;
	uint32_t *depth;
	int err = -ENOMEM;

	if (!rule_builder_select(b, which ? RULE_DST_PORT : RULE_SRC_PORT))
		return 0;
	rule_builder_use(b, which ? AXIS_DST_PORT : AXIS_SRC_PORT);
	edges = calloc(b->count, 2 * sizeof(*edges));
	depth = calloc(x->count, sizeof(*depth));
	x->port[which] = calloc(PORTS, sizeof(*x->port[which]));
	if (edges && depth && x->port[which]) {
		for (uint32_t i = 0; i < b->count; i++) {
			const struct condition *c = &b->c[i];

			edges[2 * i] = (struct edge){(uint32_t)c->first, c->rule, 1};
			edges[2 * i + 1] = (struct edge){(uint32_t)c->last + 1, c->rule, -1};
		}
		qsort(edges, 2 * (size_t)b->count, sizeof(*edges), by_port);
		err = sweep(b, edges, 2 * b->count, depth, x->port[which]);
	}
	free(edges);
	free(depth);
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
	rule_builder_select(b, RULE_FIELDS); /* nothing: all rules are untested */
	rule_builder_copy(b, b->set, b->untested);
	err = rule_builder_append(b, &x->enabled); /* its own: it changes */
	err = err ? err : build_kind(b);
	err = err ? err : build_table(b, RULE_PLUGIN, AXIS_PLUGIN, x->plugin, PLUGINS);
	err = err ? err : build_ports(b, 0);
	err = err ? err : build_ports(b, 1);
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
	size_t size = sizeof(*x) + x->pool_room * sizeof(*x->pool) + x->count * sizeof(*x->rules) +
		      x->late_count * sizeof(*x->late) + x->texts_room;

	for (uint32_t i = 0; i < 2; i++) {
		size += x->port[i] ? PORTS * sizeof(*x->port[i]) : 0;
		size += x->prefixes[i] ? prefix_map_memory(x->prefixes[i]) : 0;
	}
	size += x->activity ? EXPERIMENTS * ACTIVITIES * sizeof(*x->activity) : 0;
	return size + (x->texts_table ? (x->texts_mask + 1) * sizeof(*x->texts_table) : 0);
}
