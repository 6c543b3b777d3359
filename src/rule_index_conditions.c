// SPDX-License-Identifier: Apache-2.0
/* rule_index_conditions.c - an index before it answers: rules, their conditions and effects. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

struct rule_index *rule_index_new(uint32_t count)
{
	struct rule_index *x;

	if (count == 0 || count > RULE_INDEX_MAX)
		return NULL;
	x = calloc(1, sizeof(*x));
	if (!x)
		return NULL;
	x->count = count;
	x->words = (count + 63) / 64;
	x->rules = aligned_alloc(__alignof__(struct indexed_rule), count * sizeof(*x->rules));
	x->briefs = calloc(count, sizeof(*x->briefs));
	if (!x->rules || !x->briefs) {
		rule_index_free(x);
		return NULL;
	}
	memset(x->rules, 0, count * sizeof(*x->rules));
	return x;
}

void rule_index_free(struct rule_index *x)
{
	if (!x)
		return;
	rule_builder_free(x->builder);
	for (uint32_t i = 0; i < 2; i++) {
		free(x->port[i]);
		prefix_map_free(x->prefixes[i]);
		free(x->prefix_set[i]);
	}
	free(x->activity);
	free(x->texts_table);
	free(x->texts);
	free(x->conditions);
	free(x->late);
	free(x->rules);
	free(x->briefs);
	free(x->summary);
	free(x->pool);
	free(x);
}

static int add_condition(struct rule_index *x, const struct condition *c)
{
	if (x->conditions_count && c->rule < x->conditions[x->conditions_count - 1].rule)
		return -EINVAL;
	if (x->conditions_count == x->conditions_room) {
		uint32_t room = x->conditions_room ? 2 * x->conditions_room : 64;
		struct condition *more = reallocarray(x->conditions, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		x->conditions = more;
		x->conditions_room = room;
	}
	x->conditions[x->conditions_count++] = *c;
	return 0;
}

static uint64_t value_max(uint32_t field)
{
	switch (field) {
	case RULE_PROTOCOL:
	case RULE_FAMILY:
		return 255;
	case RULE_STATE:
		return FLOW_END;
	case RULE_PLUGIN:
		return PLUGINS - 1;
	case RULE_SRC_PORT:
	case RULE_DST_PORT:
		return PORTS - 1;
	case RULE_EXPERIMENT:
		return EXPERIMENTS - 1;
	case RULE_ACTIVITY:
		return ACTIVITIES - 1;
	default:
		return UINT64_MAX;
	}
}

int rule_index_range(struct rule_index *x, uint32_t rule, uint32_t field, uint64_t first, uint64_t last)
{
	if (rule >= x->count || field >= RULE_FIELDS || field == RULE_SRC || field == RULE_DST ||
	    field == RULE_APPLICATION || first > last || last > value_max(field))
		return -EINVAL;
	return add_condition(x, &(struct condition){.rule = (uint16_t)rule,
						    .field = (uint16_t)field,
						    .kind = CONDITION_RANGE,
						    .first = first,
						    .last = last});
}

int rule_index_prefix(struct rule_index *x, uint32_t rule, uint32_t field, const struct flow_address *address,
		      uint32_t bits)
{
	if (rule >= x->count || (field != RULE_SRC && field != RULE_DST) || bits > 128)
		return -EINVAL;
	return add_condition(x, &(struct condition){.rule = (uint16_t)rule,
						    .field = (uint16_t)field,
						    .kind = CONDITION_PREFIX,
						    .bits = bits,
						    .address = *address});
}

int rule_index_set(struct rule_index *x, uint32_t rule, uint32_t field, const struct prefix_map *set)
{
	if (rule >= x->count || (field != RULE_SRC && field != RULE_DST))
		return -EINVAL;
	return add_condition(x, &(struct condition){.rule = (uint16_t)rule,
						    .field = (uint16_t)field,
						    .kind = CONDITION_SET,
						    .set = set});
}

int rule_index_pair(struct rule_index *x, uint32_t rule, uint32_t experiment, uint32_t activity)
{
	if (rule >= x->count || experiment >= EXPERIMENTS || activity >= ACTIVITIES)
		return -EINVAL;
	return add_condition(x, &(struct condition){.rule = (uint16_t)rule,
						    .field = RULE_ACTIVITY,
						    .kind = CONDITION_PAIR,
						    .first = experiment,
						    .last = activity});
}

int rule_index_application(struct rule_index *x, uint32_t rule, const char *text, size_t length, bool start)
{
	struct condition c = {.rule = (uint16_t)rule,
			      .field = RULE_APPLICATION,
			      .kind = CONDITION_TEXT,
			      .bits = start,
			      .first = length,
			      .text = x->texts_used};
	int err;

	if (rule >= x->count || length >= FLOW_APPLICATION_SIZE || memchr(text, '\0', length))
		return -EINVAL;
	if (x->texts_room - x->texts_used < FLOW_APPLICATION_SIZE) {
		uint32_t room = x->texts_room ? 2 * x->texts_room : 4096;
		char *more = realloc(x->texts, room);

		if (!more)
			return -ENOMEM;
		x->texts = more;
		x->texts_room = room;
	}
	err = add_condition(x, &c);
	if (err)
		return err;
	memcpy(x->texts + x->texts_used, text, length);
	x->texts_used += (uint32_t)length;
	return 0;
}

int rule_index_set_run(struct rule_index *x, uint32_t first, uint32_t last, uint32_t run)
{
	if (first > last || last >= x->count || run > 15)
		return -EINVAL;
	for (uint32_t i = first; i <= last; i++)
		x->briefs[i].run = run;
	return 0;
}

int rule_index_effect(struct rule_index *x, uint32_t rule, const struct rule_effect *effect)
{
	if (rule >= x->count || !effect->hits || effect->experiment >= EXPERIMENTS ||
	    effect->activity >= ACTIVITIES)
		return -EINVAL;
	x->rules[rule].effect = *effect;
	x->briefs[rule].hits = effect->hits;
	x->rules[rule].effect.application[FLOW_APPLICATION_SIZE - 1] = '\0';
	return 0;
}
