/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "clock.h"
#include "flow_table_internal.h"
#include "log.h"

static void get_counters(struct flow_table *t)
{
	t->gauge_open = counter_get("flowd_flows_open");
	t->started = counter_get("flowd_flows_started_total");
	t->ended_total = counter_get("flowd_flows_ended_total");
	t->strays = counter_get("flowd_flows_end_without_start_total");
	t->dropped = counter_get("flowd_events_dropped_total");
	t->unmapped = counter_get("flowd_events_unmapped_total");
	t->refused_full = counter_get("flowd_flows_refused_total{reason=\"table_full\"}");
	t->refused_space = counter_get("flowd_flows_refused_total{reason=\"no_space\"}");
	t->adopted = counter_get("flowd_flows_adopted_total");
	t->damaged = counter_get("flowd_flows_not_adopted_total{reason=\"damaged\"}");
	t->duplicate = counter_get("flowd_flows_not_adopted_total{reason=\"duplicate\"}");
	t->recorded = counter_get("flowd_flows_sockets_total");
	t->missed_restart = counter_get("flowd_flows_missed_ends_total{reason=\"restart\"}");
	t->missed_succeeded = counter_get("flowd_flows_missed_ends_total{reason=\"succeeded\"}");
}

static int reserve_memory(struct flow_table *t)
{
	uint32_t slots = state_slots_limit(t->state);

	t->free_size = slots * (uint32_t)sizeof(*t->free);
	t->free = mmap(NULL, t->free_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->free == MAP_FAILED) {
		t->free = NULL;
		return -ENOMEM;
	}
	return flow_index_open(&t->index, slots);
}

struct flow_table *flow_table_open(struct state *s)
{
	struct flow_table *t = calloc(1, sizeof(*t));
	int error;

	if (!t)
		return NULL;
	t->state = s;
	t->header = state_header(s);
	t->slots = state_slots(s);
	t->flows_max = t->header->flows_max;
	get_counters(t);
	error = reserve_memory(t);
	if (!error && getrandom(&t->random, sizeof(t->random), 0) != (ssize_t)sizeof(t->random))
		error = -EIO;
	if (!error)
		error = flow_table_adopt(t);
	if (error) {
		log_error("flow table: %s", strerror(-error));
		flow_table_close(t);
		return NULL;
	}
	t->gauge_open->value = t->live;
	return t;
}

void flow_table_close(struct flow_table *t)
{
	if (!t)
		return;
	if (t->free)
		munmap(t->free, t->free_size);
	flow_index_close(&t->index);
	free(t->replay);
	free(t);
}

int32_t flow_table_find(const struct flow_table *t, const struct flow_key *key)
{
	const struct flow_index_entry *entry =
		flow_index_find(&t->index, t->slots, key, flow_index_hash(&t->index, key));

	return entry && flow_table_is_open(t, entry->slot - 1) ? (int32_t)(entry->slot - 1) : FLOW_SLOT_NONE;
}

const struct flow_slot *flow_table_slot(const struct flow_table *t, int32_t slot)
{
	if (slot < 0 || (uint32_t)slot >= t->header->slots_used || !flow_table_is_open(t, (uint32_t)slot))
		return NULL;
	return &t->slots[slot];
}

uint32_t flow_table_count(const struct flow_table *t)
{
	return t->live;
}

int32_t flow_table_next(const struct flow_table *t, int32_t from)
{
	for (uint32_t i = from < 0 ? 0 : (uint32_t)from; i < t->header->slots_used; i++) {
		if (flow_table_is_open(t, i))
			return (int32_t)i;
	}
	return FLOW_SLOT_NONE;
}

uint64_t flow_table_memory(const struct flow_table *t)
{
	return (uint64_t)t->header->slots_reserved * sizeof(struct flow_slot) + flow_index_memory(&t->index) +
	       t->free_size;
}

void flow_table_append(struct flow_batch *b, const struct flow_slot *f, uint32_t slot, uint8_t state)
{
	struct flow_event *e = &b->event[b->count++];

	memset(e, 0, sizeof(*e));
	e->key = f->key;
	e->time_us = b->now_us;
	e->start_us = f->start_us;
	e->route = f->route;
	e->slot = (int32_t)slot;
	e->label = f->label;
	e->flags = EVENT_KNOWN | EVENT_DECIDED | EVENT_DELIVER;
	e->state = state;
	e->activity = f->activity;
	e->experiment = f->experiment;
	e->source = f->source;
	e->rule = f->rule;
	e->announced = f->announced;
	memcpy(e->application, f->application, sizeof(e->application));
}

int32_t flow_table_list(const struct flow_table *t, int32_t from, struct flow_batch *b)
{
	int32_t slot = flow_table_next(t, from);

	b->now_us = clock_realtime_us();
	b->count = 0;
	while (slot != FLOW_SLOT_NONE && b->count < FLOW_BATCH_MAX) {
		flow_table_append(b, &t->slots[slot], (uint32_t)slot, FLOW_ONGOING);
		slot = flow_table_next(t, slot + 1);
	}
	return slot;
}

void flow_table_end(struct flow_table *t, uint32_t slot, struct flow_batch *b)
{
	struct flow_slot *f = &t->slots[slot];

	flow_table_append(b, f, slot, FLOW_END);
	f->phase = FLOW_PHASE_ENDING;
	t->ending[t->ending_count++] = slot;
	t->live--;
}

uint32_t flow_table_drain(struct flow_table *t, struct flow_batch *b)
{
	flow_table_release(t, b);
	flow_table_settle(t);
	b->now_us = clock_realtime_us();
	b->count = 0;
	while (b->count < FLOW_BATCH_MAX && t->drain_from < t->header->slots_used) {
		uint32_t slot = t->drain_from++;

		if (flow_table_is_open(t, slot))
			flow_table_end(t, slot, b);
	}
	if (b->count == 0)
		t->drain_from = 0;
	return b->count;
}

void flow_table_set_rules(struct flow_table *t, uint16_t rules)
{
	t->rules = rules;
}

uint16_t flow_table_rules(const struct flow_table *t)
{
	return t->rules;
}
