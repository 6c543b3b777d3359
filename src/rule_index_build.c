// SPDX-License-Identifier: Apache-2.0
/* rule_index_build.c - from conditions to an index that answers: stage by stage, in steps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* ---- conditions -------------------------------------------------------------------------- */

static int by_field(const void *left, const void *right)
{
	const struct late_test *a = left, *b = right;

	return (a->field > b->field) - (a->field < b->field);
}

/* What is tried late, rule by rule, as it was told; those of one rule by field. */
int rule_builder_late(struct rule_builder *b)
{
	struct rule_index *x = b->x;

	if (!x->late)
		x->late = calloc(x->conditions_count ? x->conditions_count : 1, sizeof(*x->late));
	if (!x->late)
		return -ENOMEM;
	while (b->at < x->conditions_count) {
		uint32_t number = x->conditions[b->at].rule, from = x->late_count;
		struct indexed_rule *rule = &x->rules[number];
		uint32_t before = b->at;

		for (; b->at < x->conditions_count && x->conditions[b->at].rule == number; b->at++) {
			const struct condition *c = &x->conditions[b->at];

			if (c->field < RULE_TIME && c->kind != CONDITION_SET)
				continue;
			x->late[x->late_count++] = (struct late_test){
				.field = c->field, .first = c->first, .last = c->last, .set = c->set};
		}
		rule->late = from;
		rule->late_count = x->late_count - from;
		if (rule->late_count > 1)
			qsort(&x->late[from], rule->late_count, sizeof(*x->late), by_field);
		if (rule_builder_enough(b, b->at - before))
			return 1;
	}
	return 0;
}

/* Where the conditions of each field and kind begin. */
struct heads {
	uint32_t at[RULE_FIELDS * CONDITION_KINDS];
};

static uint32_t head_of(const struct condition *c)
{
	return c->field * CONDITION_KINDS + c->kind;
}

static int count_fields(struct rule_builder *b, struct heads *heads)
{
	struct rule_index *x = b->x;
	uint32_t sum = 0;

	while (b->at < x->conditions_count) {
		heads->at[head_of(&x->conditions[b->at++])]++;
		if (rule_builder_enough(b, 1))
			return 1;
	}
	for (uint32_t i = 0; i < RULE_FIELDS * CONDITION_KINDS; i++) {
		uint32_t count = heads->at[i];

		if (i % CONDITION_KINDS == 0)
			b->first[i / CONDITION_KINDS] = sum;
		heads->at[i] = sum;
		sum += count;
	}
	b->first[RULE_FIELDS] = sum;
	b->phase = 1;
	b->at = 0;
	return 1;
}

/* By field and kind, and then as they were told. */
int rule_builder_fields(struct rule_builder *b)
{
	struct rule_index *x = b->x;
	struct condition *sorted = b->memory[1];

	if (!b->memory[0]) {
		b->memory[0] = calloc(1, sizeof(struct heads));
		b->memory[1] = sorted = calloc(x->conditions_count + 1, sizeof(*sorted));
	}
	if (!b->memory[0] || !sorted)
		return -ENOMEM;
	if (b->phase == 0)
		return count_fields(b, b->memory[0]);
	while (b->at < x->conditions_count) {
		const struct condition *c = &x->conditions[b->at++];

		sorted[((struct heads *)b->memory[0])->at[head_of(c)]++] = *c;
		if (rule_builder_enough(b, 2))
			return 1;
	}
	b->memory[1] = x->conditions;
	x->conditions = sorted;
	return 0;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static int enabled(struct rule_builder *b)
{
	rule_builder_select(b, RULE_FIELDS); /* nothing: all rules are untested */
	rule_builder_copy(b, b->set, b->untested);
	return rule_builder_append(b, &b->x->enabled); /* its own: it changes */
}

static int without_axes(struct rule_builder *b)
{
	struct rule_index *x = b->x;

	if (x->axes)
		return 0;
	/* No rule has a condition of these: all of them. */
	x->axis[x->axes++] = AXIS_KIND;
	x->staying = 1;
	for (uint32_t kind = 0; kind < KINDS; kind++)
		x->kind[kind] = x->enabled;
	return 0;
}

static int (*const stages[])(struct rule_builder *b) = {
	rule_builder_late,	   rule_builder_fields,	 rule_builder_keys,	   enabled,
	rule_builder_kind,	   rule_builder_plugins, rule_builder_src_ports,   rule_builder_dst_ports,
	rule_builder_src,	   rule_builder_dst,	 rule_builder_experiments, rule_builder_activities,
	rule_builder_applications, without_axes,
};

enum { STAGES = sizeof(stages) / sizeof(stages[0]) };

static void end_stage(struct rule_builder *b)
{
	for (uint32_t i = 0; i < sizeof(b->memory) / sizeof(b->memory[0]); i++) {
		free(b->memory[i]);
		b->memory[i] = NULL;
	}
	step_sort_end(&b->sort);
	b->phase = b->at = b->place = 0;
}

struct rule_builder *rule_builder_new(struct rule_index *x)
{
	struct rule_builder *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->x = x;
	b->axis = AXES;
	b->set = calloc(x->words, sizeof(*b->set));
	b->untested = calloc(x->words, sizeof(*b->untested));
	b->keyed = calloc(AXES, x->words * sizeof(*b->keyed));
	if (b->set && b->untested && b->keyed)
		return b;
	rule_builder_free(b);
	return NULL;
}

void rule_builder_free(struct rule_builder *b)
{
	if (!b)
		return;
	end_stage(b);
	free(b->set);
	free(b->untested);
	free(b->keyed);
	free(b->known);
	free(b);
}

int rule_builder_step(struct rule_builder *b)
{
	b->done = 0;
	while (b->stage < STAGES && !rule_builder_enough(b, 0)) {
		int status = stages[b->stage](b);

		if (status < 0)
			return status;
		if (status > 0)
			continue;
		end_stage(b);
		b->stage++;
	}
	return b->stage < STAGES;
}

int rule_index_build_step(struct rule_index *x)
{
	int status;

	if (!x->builder)
		x->builder = rule_builder_new(x);
	if (!x->builder)
		return -ENOMEM;
	status = rule_builder_step(x->builder);
	if (status > 0)
		return 1;
	rule_builder_free(x->builder);
	x->builder = NULL;
	free(x->conditions);
	x->conditions = NULL;
	x->conditions_count = x->conditions_room = 0;
	return status;
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
