/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_event.h - one flow event, and the batch of them that readers fill and
 * Lua walks. Shared by C and Lua (see flow_abi.h for how).
 */
#ifndef FLOW_EVENT_H
#define FLOW_EVENT_H

#include "flow_abi.h"

/* flow_event.flags */
enum {
	EVENT_HAS_BYTES = 1 << 0, /* bytes_sent, bytes_received are known */
	EVENT_KNOWN = 1 << 1,	  /* the flow was open before this event */
	EVENT_DECIDED = 1 << 2,	  /* tag and route come from the flow: no rules */
	EVENT_DROPPED = 1 << 3,	  /* a rule said drop */
	EVENT_DELIVER = 1 << 4,	  /* backends act on it (set by flow_table_commit) */
	EVENT_REOPENED = 1 << 5,  /* an end for the same 5-tuple precedes it in the batch */
	EVENT_HAS_SENT = 1 << 6,  /* bytes_sent is known, bytes_received is not */
};

struct flow_event {
	struct flow_key key;
	uint64_t time_us;	 /* when it happened */
	uint64_t start_us;	 /* when the flow began: set by the flow table */
	uint64_t bytes_sent;	 /* by src */
	uint64_t bytes_received; /* by src */
	int32_t route;		 /* bit N: backend N; FLOW_ROUTE_ALL unless a rule chose */
	int32_t slot;		 /* of the flow table, or FLOW_SLOT_NONE */
	uint32_t label;		 /* 20-bit flow label with the flow's entropy */
	uint16_t flags;		 /* EVENT_* */
	uint8_t state;		 /* enum flow_state */
	uint8_t activity;	 /* 0..63 */
	uint16_t experiment;	 /* 0..511 */
	uint16_t source;	 /* name id of the plugin that emitted it */
	uint16_t rule;		 /* 1-based number of the last rule that set something; 0 = none */
	/* The rule that is running, and what its first assignment overwrote, so
	 * that a rule which raises leaves no trace in the event. */
	uint16_t cursor;
	uint16_t undo_cursor;
	uint16_t undo_experiment;
	uint16_t undo_rule;
	uint8_t undo_activity;
	uint8_t spare;
	int32_t undo_route;
	char application[48]; /* FLOW_APPLICATION_SIZE: NUL-terminated, "" = unknown */
	uint16_t announced;   /* experiment * 64 + activity before the rules: set by the flow table */
	uint16_t runs;	      /* bit n: rules of run n of an index may match (rule_index.h) */
};

enum { FLOW_BATCH_MAX = 1024 };

/* One batch. Owned by the pipeline; valid for one call. */
struct flow_batch {
	uint32_t count;
	uint32_t spare;
	uint64_t now_us;	       /* wall clock when the batch was read */
	struct flow_event event[1024]; /* FLOW_BATCH_MAX */
};

#endif
