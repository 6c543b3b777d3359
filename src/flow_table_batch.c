/* SPDX-License-Identifier: Apache-2.0 */
/* flow_table_batch.c - the three steps that a batch passes: resolve, commit, release. */
#include <string.h>

#include "flow_table_internal.h"
#include "label.h"
#include "log.h"

/* How many events ahead memory is asked for: long enough for it to come. */
#define AHEAD 8

static void log_refusal(const struct flow_table *t, bool full)
{
	static struct log_limit limit = {.burst = 1, .interval_ns = 10000000000ULL};

	if (full)
		log_limited(&limit, LOG_LEVEL_ERROR,
			    "flow table: full with %u flows (max_flows = %u): starts are refused", t->live,
			    t->flows_max);
	else
		log_limited(
			&limit, LOG_LEVEL_ERROR,
			"flow table: no space for more than %u flows in the state file: starts are refused",
			t->live);
}

/* A free slot, or FLOW_SLOT_NONE (counted). */
static int32_t take_slot(struct flow_table *t)
{
	if (t->live >= t->flows_max) {
		t->refused_full->value++;
		log_refusal(t, true);
		return FLOW_SLOT_NONE;
	}
	if (t->free_count > 0) {
		if (t->free_count > AHEAD)
			__builtin_prefetch(&t->slots[t->free[t->free_count - 1 - AHEAD]], 1);
		return (int32_t)t->free[--t->free_count];
	}
	if (t->header->slots_used == t->header->slots_reserved && state_slots_grow(t->state) != 0) {
		t->refused_space->value++;
		log_refusal(t, false);
		return FLOW_SLOT_NONE;
	}
	return (int32_t)t->header->slots_used++;
}

static uint32_t random_entropy(struct flow_table *t)
{
	/* Knuth's 64-bit linear congruential generator; its high bits are the good ones. */
	t->random = t->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(t->random >> 40) & LABEL_ENTROPY_MASK;
}

/* -- resolve -------------------------------------------------------------------- */

static bool had_stray(const struct flow_table *t, uint32_t hash)
{
	for (uint32_t i = 0; i < t->stray_count; i++) {
		if (t->stray[i] == hash)
			return true;
	}
	return false;
}

/* `entry`: of the flow with the same 5-tuple that ends in this batch, or NULL. */
static void reserve(struct flow_table *t, struct flow_event *e, uint32_t hash, struct flow_index_entry *entry)
{
	int32_t slot = take_slot(t);
	struct flow_slot *f;

	e->start_us = e->time_us;
	if (slot < 0) {
		e->flags |= EVENT_DECIDED | EVENT_DROPPED;
		return;
	}
	if (entry || (t->stray_count && had_stray(t, hash)))
		e->flags |= EVENT_REOPENED;
	f = &t->slots[slot];
	f->commit = FLOW_SLOT_FREE;
	f->phase = 0;
	f->hash = hash;
	f->key = e->key;
	f->start_us = e->time_us;
	f->socket_cookie = 0;
	f->label = random_entropy(t);
	if (entry)
		entry->slot = (uint32_t)slot + 1;
	else
		flow_index_insert(&t->index, hash, (uint32_t)slot);
	t->reserved[t->reserved_count++] = (uint32_t)slot;
	t->live++;
	e->slot = slot;
	e->label = f->label;
}

static void join(struct flow_table *t, struct flow_event *e, uint32_t slot)
{
	const struct flow_slot *f = &t->slots[slot];

	e->slot = (int32_t)slot;
	e->start_us = f->start_us;
	e->label = f->label;
	e->flags |= EVENT_KNOWN;
}

/* True when the event belongs to a flow that waits for replayed input after a crash. */
static bool join_replayed(struct flow_table *t, struct flow_event *e, uint32_t hash,
			  struct flow_index_entry *entry)
{
	int32_t slot = t->replay_count ? flow_table_replayed(t, &e->key, hash) : FLOW_SLOT_NONE;

	if (slot < 0)
		return false;
	if (entry) {
		entry->slot = (uint32_t)slot + 1;
		e->flags |= EVENT_REOPENED;
	} else {
		flow_index_insert(&t->index, hash, (uint32_t)slot);
	}
	join(t, e, (uint32_t)slot);
	return true;
}

static void mark_ending(struct flow_table *t, uint32_t slot)
{
	t->slots[slot].phase |= FLOW_PHASE_ENDING;
	t->ending[t->ending_count++] = slot;
	t->live--;
}

/* Does a start find a flow whose socket is gone? That one ends here: its own end was missed. */
static bool succeed(struct flow_table *t, struct flow_event *e)
{
	struct flow_slot *f = &t->slots[e->slot];

	if (e->state != FLOW_START || f->socket_cookie == 0 || f->commit != FLOW_SLOT_OPEN ||
	    t->succeeded_count == FLOW_BATCH_MAX || !flow_table_socket_gone(t, f))
		return false;
	t->succeeded[t->succeeded_count++] = (uint32_t)e->slot;
	mark_ending(t, (uint32_t)e->slot);
	t->missed_succeeded->value++;
	e->slot = FLOW_SLOT_NONE;
	e->flags &= (uint16_t)~EVENT_KNOWN;
	return true;
}

static void resolve_start(struct flow_table *t, struct flow_event *e, uint32_t hash)
{
	struct flow_index_entry *entry;

	do {
		entry = flow_index_find(&t->index, t->slots, &e->key, hash);
		if (entry && !(t->slots[entry->slot - 1].phase & FLOW_PHASE_ENDING)) {
			join(t, e, entry->slot - 1);
		} else if (!join_replayed(t, e, hash, entry)) {
			reserve(t, e, hash, entry);
			return;
		}
	} while (succeed(t, e));
	if (e->state == FLOW_ONGOING)
		e->flags |= EVENT_DECIDED;
}

static void resolve_end(struct flow_table *t, struct flow_event *e, uint32_t hash)
{
	struct flow_index_entry *entry = flow_index_find(&t->index, t->slots, &e->key, hash);

	if (entry && !(t->slots[entry->slot - 1].phase & FLOW_PHASE_ENDING)) {
		join(t, e, entry->slot - 1);
	} else if (!join_replayed(t, e, hash, entry)) {
		e->start_us = e->time_us;
		e->label = random_entropy(t);
		t->strays->value++;
		t->stray[t->stray_count++] = hash;
		return;
	}
	e->flags |= EVENT_DECIDED;
	mark_ending(t, (uint32_t)e->slot);
}

static void resolve_event(struct flow_table *t, struct flow_event *e, uint32_t hash)
{
	e->slot = FLOW_SLOT_NONE;
	e->announced = (uint16_t)(e->experiment << 6 | e->activity);
	e->flags &=
		(uint16_t) ~(EVENT_KNOWN | EVENT_DECIDED | EVENT_DROPPED | EVENT_DELIVER | EVENT_REOPENED);
	if (e->state == FLOW_END)
		resolve_end(t, e, hash);
	else
		resolve_start(t, e, hash);
}

static void prefetch_slot(const struct flow_table *t, uint32_t hash)
{
	uint32_t guess = flow_index_guess(&t->index, hash);

	if (guess) {
		const char *f = (const char *)&t->slots[guess - 1];

		__builtin_prefetch(f, 1);
		__builtin_prefetch(f + 64, 1);
		__builtin_prefetch(f + 128);
	}
}

void flow_table_resolve(struct flow_table *t, struct flow_batch *b)
{
	uint32_t n = b->count;

	/* A batch that failed between its steps leaves nothing behind. */
	flow_table_release(t, b);
	flow_table_empty_limbo(t);
	flow_table_fence();
	t->header->batch += n > 0;
	t->stray_count = 0;
	t->succeeded_count = 0;

	/* Three stages run through the batch one behind the other, so that the index's line
	 * and then the slot's lines are there when their event's turn comes. */
	for (uint32_t i = 0; i < n + 2 * AHEAD; i++) {
		if (i < n) {
			t->hash[i] = flow_index_hash(&t->index, &b->event[i].key);
			flow_index_prefetch(&t->index, t->hash[i]);
		}
		if (i >= AHEAD && i - AHEAD < n)
			prefetch_slot(t, t->hash[i - AHEAD]);
		if (i >= 2 * AHEAD)
			resolve_event(t, &b->event[i - 2 * AHEAD], t->hash[i - 2 * AHEAD]);
	}
}

/* -- commit --------------------------------------------------------------------- */

uint32_t flow_table_label(struct flow_table *t, const struct flow_event *e)
{
	if (e->experiment != t->label_experiment || e->activity != t->label_activity) {
		t->label = label_encode(e->experiment, e->activity, 0);
		t->label_experiment = e->experiment;
		t->label_activity = e->activity;
	}
	return t->label | (e->label & LABEL_ENTROPY_MASK);
}

/* False, and counted, when the event goes no further: dropped by a rule or without experiment. */
static bool settle_tag(struct flow_table *t, struct flow_event *e, uint32_t known_backends, uint8_t *phase)
{
	if (e->flags & EVENT_DROPPED) {
		t->dropped->value++;
		*phase = FLOW_PHASE_DROPPED;
		return false;
	}
	if (e->experiment == 0) {
		t->unmapped->value++;
		*phase = FLOW_PHASE_UNMAPPED;
		return false;
	}
	if (e->activity == 0)
		e->activity = FLOW_ACTIVITY_DEFAULT;
	e->label = flow_table_label(t, e);
	e->route &= (int32_t)known_backends;
	return true;
}

static void write_flow(const struct flow_table *t, struct flow_slot *f, const struct flow_event *e)
{
	f->rules = t->rules;
	f->label = e->label;
	f->route = e->route;
	f->experiment = e->experiment;
	f->activity = e->activity;
	f->source = e->source;
	f->announced = e->announced;
	f->rule = e->rule;
	f->seen_us = e->time_us;
	if (e->flags & EVENT_HAS_BYTES) {
		f->bytes_sent = e->bytes_sent;
		f->bytes_received = e->bytes_received;
	}
	if (e->application[0])
		memcpy(f->application, e->application, sizeof(f->application));
}

static void open_flow(struct flow_table *t, struct flow_slot *f, struct flow_event *e)
{
	/* An earlier start in this batch may have reserved the slot and been dropped. */
	if (e->flags & EVENT_KNOWN) {
		e->flags &= (uint16_t)~EVENT_KNOWN;
		e->start_us = e->time_us;
	}
	f->id = ++t->header->sequence;
	f->start_us = e->start_us;
	f->bytes_sent = 0;
	f->bytes_received = 0;
	f->socket_cookie = 0;
	memset(&f->uid, 0, sizeof(*f) - offsetof(struct flow_slot, uid));
	write_flow(t, f, e);
	f->phase &= FLOW_PHASE_ENDING;
	flow_table_fence();
	f->commit = FLOW_SLOT_OPEN;
	t->started->value++;
	if (t->diag && f->key.protocol == FLOW_TCP && t->young_count < FLOW_TABLE_YOUNG)
		t->young[t->young_count++] = (uint32_t)e->slot;
}

void flow_table_change(struct flow_table *t, struct flow_slot *f, const struct flow_event *e)
{
	struct state_header *h = t->header;

	/* A kill in the middle must not leave half of each tag. */
	h->undo = *f;
	flow_table_fence();
	h->undo_slot = (uint32_t)(f - t->slots) + 1;
	flow_table_fence();
	write_flow(t, f, e);
	flow_table_fence();
	h->undo_slot = 0;
}

static void commit_start(struct flow_table *t, struct flow_event *e, uint32_t known_backends)
{
	struct flow_slot *f = &t->slots[e->slot];
	bool opens = f->commit == FLOW_SLOT_FREE;
	uint8_t phase = 0;

	if (!settle_tag(t, e, known_backends, &phase)) {
		if (opens)
			f->phase = (uint8_t)((f->phase & FLOW_PHASE_ENDING) | phase);
		e->slot = FLOW_SLOT_NONE;
		return;
	}
	if (opens) {
		open_flow(t, f, e);
	} else {
		e->start_us = f->start_us;
		flow_table_change(t, f, e);
	}
	e->flags |= EVENT_DELIVER;
}

/* An end or ongoing event of a flow whose start may stand in the same batch. */
static void commit_known(struct flow_table *t, struct flow_event *e)
{
	struct flow_slot *f = &t->slots[e->slot];

	if (f->commit != FLOW_SLOT_OPEN) {
		if (f->phase & FLOW_PHASE_UNMAPPED)
			t->unmapped->value++;
		else
			t->dropped->value++;
		e->flags |= EVENT_DROPPED;
		e->slot = FLOW_SLOT_NONE;
		return;
	}
	e->start_us = f->start_us;
	e->route = f->route;
	e->label = f->label;
	e->experiment = f->experiment;
	e->activity = f->activity;
	e->rule = f->rule;
	if (!e->application[0])
		memcpy(e->application, f->application, sizeof(e->application));
	f->seen_us = e->time_us;
	if (e->flags & EVENT_HAS_BYTES) {
		f->bytes_sent = e->bytes_sent;
		f->bytes_received = e->bytes_received;
	}
	e->flags |= EVENT_DELIVER;
}

/* Slots whose starts were all dropped or unmapped. */
static void give_back(struct flow_table *t)
{
	for (uint32_t i = 0; i < t->reserved_count; i++) {
		uint32_t slot = t->reserved[i];
		struct flow_slot *f = &t->slots[slot];

		if (f->commit != FLOW_SLOT_FREE)
			continue;
		flow_index_remove(&t->index, f->hash, slot);
		if (!(f->phase & FLOW_PHASE_ENDING)) {
			t->live--;
			flow_table_push_free(t, slot);
		}
	}
	t->reserved_count = 0;
}

void flow_table_commit(struct flow_table *t, struct flow_batch *b, uint32_t known_backends)
{
	uint8_t phase = 0;

	for (uint32_t i = 0; i < b->count; i++) {
		struct flow_event *e = &b->event[i];

		if (e->slot >= 0) {
			if (e->state == FLOW_START || !(e->flags & EVENT_DECIDED))
				commit_start(t, e, known_backends);
			else
				commit_known(t, e);
		} else if (!(e->flags & EVENT_DECIDED)) {
			/* The end of a flow that was not open. */
			if (settle_tag(t, e, known_backends, &phase))
				e->flags |= EVENT_DELIVER;
		}
	}
	give_back(t);
	t->gauge_open->value = t->live;
}

/* -- release -------------------------------------------------------------------- */

void flow_table_release(struct flow_table *t, struct flow_batch *b)
{
	(void)b;
	/* Without a commit nothing was opened. */
	give_back(t);
	if (t->young_count > 0)
		flow_table_record_young(t);
	if (t->ending_count == 0)
		return;
	flow_table_empty_limbo(t);
	for (uint32_t i = 0; i < t->ending_count; i++) {
		uint32_t slot = t->ending[i];
		struct flow_slot *f = &t->slots[slot];

		if (f->commit != FLOW_SLOT_OPEN) {
			flow_table_push_free(t, slot);
			continue;
		}
		flow_index_remove(&t->index, f->hash, slot);
		f->ended_batch = (uint32_t)t->header->batch;
		flow_table_fence();
		f->commit = FLOW_SLOT_ENDED;
		t->limbo[t->limbo_count++] = slot;
		t->ended_total->value++;
	}
	t->ending_count = 0;
	t->gauge_open->value = t->live;
}
