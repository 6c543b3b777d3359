/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_table.h - the open flows, by 5-tuple.
 *
 * A flow is one slot of the state file (state.h): its tag, entropy, times, route
 * and counters survive a killed daemon. The index, seeded and in anonymous memory, is
 * rebuilt when the file is opened. Lookup, insert and delete take the same time at
 * any fill; a full table refuses the start, counts and logs it, and evicts nothing.
 *
 * A batch of events passes four steps, one call each:
 *
 *   resolve   before the rules: finds each event's flow or reserves a slot for it
 *   (rules decide tag and route of events that are not DECIDED)
 *   commit    writes the decisions down and says which events are delivered
 *   (backends act)
 *   release   frees the flows that ended
 *
 * Inside a batch order counts: start, end, start of one 5-tuple are two flows, and the
 * end has the first one's tag. What a process leaves when it is killed between two
 * instructions is either the flow as it was or as it became. A flow that
 * ended keeps its slot until the next batch begins: when the input of the last batch
 * is read again after a crash, its end still finds the flow's start time.
 *
 * Counters: flowd_flows_*, flowd_events_dropped_total, flowd_events_unmapped_total.
 */
#ifndef FLOW_TABLE_H
#define FLOW_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"
#include "flow_abi.h"
#include "flow_event.h"

/* flow_slot.commit: its life as seen by the next process. Odd patterns, so that
 * damage is not taken for one of them. */
enum {
	FLOW_SLOT_FREE = 0,
	FLOW_SLOT_OPEN = 0x4E45504F,  /* "OPEN" */
	FLOW_SLOT_ENDED = 0x53444E45, /* "ENDS": delivered, kept until the next batch */
};

/* flow_slot.phase, bits: what the batch in hand does with it. Means nothing to the next process. */
enum {
	FLOW_PHASE_DROPPED = 1,	 /* its start was dropped by a rule */
	FLOW_PHASE_UNMAPPED = 2, /* its start got no experiment */
	FLOW_PHASE_ENDING = 4,	 /* an end was found */
	/* Of the flow: it has no socket here. */
	FLOW_PHASE_NO_SOCKET = 8,
};

/* Three cache lines. Order: what look-ups need, what an end needs, what backends print. */
struct flow_slot {
	uint32_t commit; /* FLOW_SLOT_*: written last */
	uint32_t hash;	 /* of the key, under this process's seed */
	uint64_t id;	 /* grows with each flow; never 0, never used again */
	struct flow_key key;
	uint32_t label; /* 20 bits, with the flow's entropy */
	int32_t route;	/* bit N: backend N */

	uint64_t start_us;
	uint64_t seen_us; /* last event */
	uint64_t bytes_sent;
	uint64_t bytes_received;
	uint64_t socket_cookie; /* of the local TCP socket, seen in our network namespace; 0: was not */
	uint16_t experiment;	/* 1..511 */
	uint8_t activity;	/* 1..63 */
	uint8_t phase;		/* FLOW_PHASE_* */
	uint16_t source;	/* name id of the plugin */
	uint16_t rule;		/* as in flow_event */
	uint32_t uid;		/* reserved: owner of the socket */
	uint32_t pid;
	uint16_t announced;   /* experiment * 64 + activity before the rules */
	uint16_t rules;	      /* which rules `rule` is one of: flow_table_set_rules */
	uint32_t ended_batch; /* ENDED: state_header.batch, its low bits */

	char application[48]; /* FLOW_APPLICATION_SIZE; NUL-terminated */
	char comm[16];	      /* reserved */
};

struct state;
struct flow_table;

/* Build the index; take over the open flows that the state file holds. Slots that do not
 * validate are freed, counted and logged. NULL when there is no memory. `s` is borrowed and must
 * outlive the table. */
FFI_EXPORT struct flow_table *flow_table_open(struct state *s);

/* The flows stay in the state file. NULL is allowed. */
FFI_EXPORT void flow_table_close(struct flow_table *t);

/* Give each event its flow, in order:
 * - start: the open flow (KNOWN; start_us and label are its) or a new slot with fresh entropy;
 *   REOPENED when an end for the same 5-tuple stands before it in the batch.
 * - ongoing: as an end when the flow is open, as a start when it is not.
 * - end of an open flow: KNOWN, DECIDED; the 5-tuple is free for the next start.
 * - end of any other: no slot; start_us = time_us.
 * - no room: no slot; DECIDED and DROPPED; counted in flowd_flows_refused_total.
 * Sets slot, start_us, label and the flags named here; leaves the others. */
FFI_EXPORT void flow_table_resolve(struct flow_table *t, struct flow_batch *b);

/* From now on rules are numbered anew: what flows remember of them is a number in this list. 0: no list. */
FFI_EXPORT void flow_table_set_rules(struct flow_table *t, uint16_t rules);
FFI_EXPORT uint16_t flow_table_rules(const struct flow_table *t);

/* Write down what was decided, in order, and set DELIVER on what backends get:
 * - a dropped start gives its slot back; of an open flow it changes nothing;
 * - experiment 0 likewise (unmapped); activity 0 becomes 1;
 * - the flow gets tag, route & known_backends, label, application (unless the event has
 *   none), source, rule, counters (when the event has them);
 * - an end or ongoing event of an open flow gets tag, route, label, start_us, rule and,
 *   if it has none, application from the flow; it is dropped when the flow's start was. */
FFI_EXPORT void flow_table_commit(struct flow_table *t, struct flow_batch *b, uint32_t known_backends);

/*
 * The rules have changed: run them over open flows again, in three steps of a slice of the table each.
 *
 * announced: fill `b` with starts (KNOWN, not DECIDED; time_us = now) of open flows from slot `from` on with
 * an id of at most `newest`, as they were announced: experiment and activity from before the rules, the
 * application as it is. At most FLOW_BATCH_MAX. Returns the slot to go on with; FLOW_SLOT_NONE behind the
 * last.
 *
 * (rules decide)
 *
 * reapply: write down what is different now. A flow that is dropped, or has no experiment any more, ends.
 * `ended` is filled with ends (DELIVER) for the backends that lose a flow: all of them when it ends, else
 * those that are not in its route any more. Events of `b` get DELIVER when a backend has to know: one that is
 * new in the route, or all of them when tag or application are others; the label is changed, its entropy
 * stays. `dry`: only count. Follow it by the backends, first for `ended`, and by release. Not while another
 * batch is in hand.
 */
struct flow_reapplied {
	uint64_t flows;
	uint64_t unchanged;
	uint64_t changed;  /* tag or application */
	uint64_t rerouted; /* another route, the same tag */
	uint64_t dropped;
	uint64_t unmapped;
};
FFI_EXPORT int32_t flow_table_announced(const struct flow_table *t, int32_t from, uint64_t newest,
					struct flow_batch *b);
FFI_EXPORT void flow_table_reapply(struct flow_table *t, struct flow_batch *b, struct flow_batch *ended,
				   uint32_t known_backends, bool dry, struct flow_reapplied *counts);

/* The id of the newest flow. */
FFI_EXPORT uint64_t flow_table_newest(const struct flow_table *t);

/* The backends are done: free the flows that ended in the batch; record the sockets of those that began,
 * some thousands in a second at most. */
FFI_EXPORT void flow_table_release(struct flow_table *t, struct flow_batch *b);

/* Fill `b` with ends (KNOWN, DECIDED, DELIVER; time_us = now) of open flows, at most
 * FLOW_BATCH_MAX. Returns how many; 0 when no flow is open. Follow each call by backends and
 * release. */
FFI_EXPORT uint32_t flow_table_drain(struct flow_table *t, struct flow_batch *b);

/* Fill `b` with ongoing events (KNOWN, DECIDED, DELIVER; time_us = now) of open flows from slot
 * `from` on, at most FLOW_BATCH_MAX: nothing changes in the table. Returns the slot to go on with;
 * FLOW_SLOT_NONE behind the last. */
FFI_EXPORT int32_t flow_table_list(const struct flow_table *t, int32_t from, struct flow_batch *b);

/* After a crash: the input that the last process had not consumed has been read again. Until
 * then, flows that ended in its last batch are kept, so that an end that comes again finds its flow's
 * start time; now they are freed. Call it when the events of the inherited octets are
 * committed, before other input is read. Where nothing is to be read again it does nothing. */
FFI_EXPORT void flow_table_settle(struct flow_table *t);

/*
 * Local TCP sockets (sock_diag.h). `d` is borrowed and NULL until it is set: then no socket is ever asked
 * for, and none is found to be gone.
 *
 * A start of an open flow whose recorded socket is gone is the start of another one: the old flow's end was
 * missed. It ends with that batch; flow_table_succeeded() has its event.
 */
struct sock_diag;
FFI_EXPORT void flow_table_use_sockets(struct flow_table *t, struct sock_diag *d);

/* Find and record the sockets of open flows that have none yet and whose last event is from before_us or
 * earlier: at most `slots` slots from `from` on are looked at, in a fraction of a millisecond. Returns the
 * slot to go on with; FLOW_SLOT_NONE behind the last. */
FFI_EXPORT int32_t flow_table_record_sockets(struct flow_table *t, int32_t from, uint32_t slots,
					     uint64_t before_us);

/* Fill `b` with ends, as flow_table_drain(), of the flows whose recorded socket is gone: of `slots` slots at
 * most, from `from` on. Returns as flow_table_record_sockets(). Between two batches of input, after
 * flow_table_settle(); if any were found, follow it by backends and release. */
FFI_EXPORT int32_t flow_table_end_missed(struct flow_table *t, int32_t from, uint32_t slots,
					 struct flow_batch *b);

/* After commit: fill `b` with the ends of flows that were succeeded by another one in the batch that was
 * resolved. Returns how many. For the backends, before the batch itself; the release is common to both. */
FFI_EXPORT uint32_t flow_table_succeeded(struct flow_table *t, struct flow_batch *b);

/* Slot number of an open flow, or FLOW_SLOT_NONE. */
FFI_EXPORT int32_t flow_table_find(const struct flow_table *t, const struct flow_key *key);

/* Borrowed; valid until the flow ends. NULL when the number is no open flow's. */
FFI_EXPORT const struct flow_slot *flow_table_slot(const struct flow_table *t, int32_t slot);

/* Open flows; between resolve and commit also those whose start is not decided. */
FFI_EXPORT uint32_t flow_table_count(const struct flow_table *t);

/* The next open flow's slot number, from `from` on; FLOW_SLOT_NONE behind the last. Flows that
 * start or end meanwhile may or may not be met. */
FFI_EXPORT int32_t flow_table_next(const struct flow_table *t, int32_t from);

/* Octets of memory and file in use: reserved slots, index, free list. */
FFI_EXPORT uint64_t flow_table_memory(const struct flow_table *t);

#endif
