/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_table_internal.h - for the flow_table*.c files only.
 *
 * A slot's life: free -> reserved (in the index; commit still FREE) -> open -> ending (a batch
 * has its end; still in the index until the release or until a new flow of the same 5-tuple takes
 * the entry over) -> ended (in `limbo` until the next batch) -> free.
 */
#ifndef FLOW_TABLE_INTERNAL_H
#define FLOW_TABLE_INTERNAL_H

#include <stdatomic.h>

#include "counter.h"
#include "flow_table.h"
#include "flow_table_index.h"
#include "sock_diag.h"
#include "state.h"

enum { FLOW_TABLE_YOUNG = SOCK_DIAG_BATCH };

struct flow_table {
	struct state *state;
	struct state_header *header;
	struct flow_slot *slots;
	struct flow_index index;

	/* Slots that were used and are free, the next one on top. */
	uint32_t *free;
	uint32_t free_count;
	uint32_t free_size;

	uint32_t flows_max;
	uint32_t live; /* 5-tuples taken: open or reserved, not ending */
	uint64_t random;
	uint16_t rules; /* written into flows that are decided */

	struct sock_diag *diag; /* borrowed, or NULL */
	/* New TCP flows, whose sockets are asked for at the end of the batch, and how many more may be at
	 * that time: flow_table_record_young. */
	uint32_t young[FLOW_TABLE_YOUNG];
	uint32_t young_count;
	uint32_t young_allowance;
	uint64_t young_us;

	/* The batch in hand. Each event adds at most one to each list, a start to `ending` by way of
	 * `succeeded`. */
	uint32_t hash[FLOW_BATCH_MAX];
	uint32_t reserved[FLOW_BATCH_MAX];
	uint32_t ending[2 * FLOW_BATCH_MAX];
	uint32_t succeeded[FLOW_BATCH_MAX]; /* flows whose missed end a start showed */
	uint32_t stray[FLOW_BATCH_MAX];	    /* hashes of ends that found no flow */
	uint32_t reserved_count;
	uint32_t ending_count;
	uint32_t succeeded_count;
	uint32_t stray_count;
	/* Flows that the batch before ended. */
	uint32_t limbo[2 * FLOW_BATCH_MAX];
	uint32_t limbo_count;

	uint32_t drain_from;

	/* Adopted flows that had ended, and open ones of the same 5-tuples, the oldest first: not in
	 * the index. Replayed input meets them in this order. Until flow_table_settle(). */
	uint32_t *replay;
	uint32_t replay_count;

	/* The last label made: neighbours in a batch mostly have the same tag. */
	uint32_t label;
	uint16_t label_experiment;
	uint8_t label_activity;

	struct counter *gauge_open;
	struct counter *started;
	struct counter *ended_total;
	struct counter *strays;
	struct counter *dropped;
	struct counter *unmapped;
	struct counter *refused_full;
	struct counter *refused_space;
	struct counter *adopted;
	struct counter *damaged;
	struct counter *duplicate;
	struct counter *recorded;
	struct counter *missed_restart;
	struct counter *missed_succeeded;
};

/* Only the order of this process's stores counts: the next process sees the
 * file as it was when the kill came. */
static inline void flow_table_fence(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void flow_table_push_free(struct flow_table *t, uint32_t slot)
{
	t->slots[slot].commit = FLOW_SLOT_FREE;
	t->slots[slot].phase = 0;
	t->free[t->free_count++] = slot;
}

/* The label of an event's tag, with the entropy of the label that it has. */
uint32_t flow_table_label(struct flow_table *t, const struct flow_event *e);

/* Give an open flow what the event says, so that a kill in the middle leaves it as it was. */
void flow_table_change(struct flow_table *t, struct flow_slot *f, const struct flow_event *e);

/* Slots of the last batch's ends become free. */
static inline void flow_table_empty_limbo(struct flow_table *t)
{
	for (uint32_t i = 0; i < t->limbo_count; i++)
		flow_table_push_free(t, t->limbo[i]);
	t->limbo_count = 0;
}

static inline bool flow_table_is_open(const struct flow_table *t, uint32_t slot)
{
	return t->slots[slot].commit == FLOW_SLOT_OPEN && !(t->slots[slot].phase & FLOW_PHASE_ENDING);
}

/* Append an event about an open flow, as it was decided. */
void flow_table_append(struct flow_batch *b, const struct flow_slot *f, uint32_t slot, uint8_t state);

/* End an open flow: append its end, which the next release brings about. */
void flow_table_end(struct flow_table *t, uint32_t slot, struct flow_batch *b);

/* Has the flow a recorded socket that does not exist any more? One question to the kernel. */
bool flow_table_socket_gone(const struct flow_table *t, const struct flow_slot *f);

/* Record the sockets of flows that the batch has begun, as many as may be asked for now. */
void flow_table_record_young(struct flow_table *t);

/* Fill index, free list and `replay` from the slots in the file. 0 or -ENOMEM. */
int flow_table_adopt(struct flow_table *t);

/* Take the oldest flow of that key out of `replay`: it is open again, and in no index.
 * FLOW_SLOT_NONE when there is none. */
int32_t flow_table_replayed(struct flow_table *t, const struct flow_key *key, uint32_t hash);

#endif
