// SPDX-License-Identifier: Apache-2.0
/* flow_table_reapply.c - open flows under rules that have changed since their start. */
#include <string.h>

#include "clock.h"
#include "flow_table_internal.h"

uint64_t flow_table_newest(const struct flow_table *t)
{
	return t->header->sequence;
}

int32_t flow_table_announced(const struct flow_table *t, int32_t from, uint64_t newest, struct flow_batch *b)
{
	int32_t slot = flow_table_next(t, from);

	b->now_us = clock_realtime_us();
	b->count = 0;
	for (; slot != FLOW_SLOT_NONE && b->count < FLOW_BATCH_MAX; slot = flow_table_next(t, slot + 1)) {
		const struct flow_slot *f = &t->slots[slot];
		struct flow_event *e = &b->event[b->count];

		if (f->id > newest)
			continue;
		flow_table_append(b, f, (uint32_t)slot, FLOW_START);
		e->flags = EVENT_KNOWN;
		e->experiment = f->announced >> 6 & FLOW_EXPERIMENT_MAX;
		e->activity = f->announced & FLOW_ACTIVITY_MAX;
		e->route = FLOW_ROUTE_ALL;
		e->rule = 0;
	}
	return slot;
}

/* Tell the backends in `route` that the flow has ended for them. */
static void append_end(struct flow_batch *ended, const struct flow_slot *f, uint32_t slot, int32_t route)
{
	if (!route)
		return;
	flow_table_append(ended, f, slot, FLOW_END);
	ended->event[ended->count - 1].route = route;
}

static void end_flow(struct flow_table *t, struct flow_slot *f, uint32_t slot, struct flow_batch *ended)
{
	append_end(ended, f, slot, f->route);
	f->phase = FLOW_PHASE_ENDING;
	t->ending[t->ending_count++] = slot;
	t->live--;
}

static void change(struct flow_table *t, struct flow_slot *f, struct flow_event *e, struct flow_batch *ended,
		   bool tag)
{
	int32_t before = f->route;
	struct flow_event now = *e;

	append_end(ended, f, (uint32_t)e->slot, before & ~e->route);
	/* Nothing was heard of the flow itself. */
	now.time_us = f->seen_us;
	flow_table_change(t, f, &now);
	if (!tag)
		e->route &= ~before;
	if (e->route)
		e->flags |= EVENT_DELIVER;
}

static void reapply(struct flow_table *t, struct flow_event *e, struct flow_batch *ended,
		    uint32_t known_backends, bool dry, struct flow_reapplied *counts)
{
	struct flow_slot *f = &t->slots[e->slot];
	bool tag;

	counts->flows++;
	if (e->flags & EVENT_DROPPED || e->experiment == 0) {
		if (e->flags & EVENT_DROPPED)
			counts->dropped++;
		else
			counts->unmapped++;
		if (!dry)
			end_flow(t, f, (uint32_t)e->slot, ended);
		return;
	}
	if (e->activity == 0)
		e->activity = FLOW_ACTIVITY_DEFAULT;
	e->label = flow_table_label(t, e);
	e->route &= (int32_t)known_backends;
	tag = e->experiment != f->experiment || e->activity != f->activity ||
	      memcmp(e->application, f->application, sizeof(e->application)) != 0;
	if (tag)
		counts->changed++;
	else if (e->route != f->route)
		counts->rerouted++;
	else
		counts->unchanged++;
	if (!dry)
		f->rules = t->rules;
	if (!dry && (tag || e->route != f->route || e->rule != f->rule))
		change(t, f, e, ended, tag);
}

void flow_table_reapply(struct flow_table *t, struct flow_batch *b, struct flow_batch *ended,
			uint32_t known_backends, bool dry, struct flow_reapplied *counts)
{
	flow_table_release(t, b);
	ended->now_us = b->now_us;
	ended->count = 0;
	for (uint32_t i = 0; i < b->count; i++)
		reapply(t, &b->event[i], ended, known_backends, dry, counts);
	t->gauge_open->value = t->live;
}
