/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule_index.h - many declared rules at the price of a few.
 *
 * An index holds runs of declared rules, in order, as numbers 0..count-1. For each field that
 * rules test it knows, from a value of the field, the set of all rules that the value satisfies: a
 * bit for each rule. The rules that match an event are the intersection of one set per field, of which only
 * the words are looked at that have rules which a field of few values finds.
 *
 *   ports             a table of 65,536 entries
 *   addresses         a prefix map (prefix_map.h); a longer prefix's set holds that of the shorter
 *   protocol, family, state, plugin, experiment, activity   tables
 *   application       a hash of the texts, and of the starts of texts
 *   everything else   is tried for those rules only that are left
 *
 * Semantics are those of the list: rules act in order, and a rule that follows sees what those
 * before it changed. What rules can change is experiment, activity and application. Which rules
 * match is found for a whole batch by rule_index_begin(), and again for an event of which one of
 * these has changed.
 *
 * Making one: new, conditions and effects of each rule, steps of building. An index belongs to whoever made
 * it and borrows the counters and the prefix maps that it was given.
 */
#ifndef RULE_INDEX_H
#define RULE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "counter.h"
#include "ffi_export.h"
#include "flow_event.h"
#include "prefix_map.h"

enum {
	RULE_INDEX_MAX = 4096,	/* rules of one index */
	RULE_RUNS_ALL = 0xffff, /* flow_event.runs of an event that was changed: look again */
};

/* What a condition is about. */
enum rule_field {
	RULE_PROTOCOL, /* FLOW_TCP, FLOW_UDP */
	RULE_FAMILY,   /* 4, 6 */
	RULE_STATE,    /* enum flow_state */
	RULE_PLUGIN,   /* name id, below STATE_NAMES_MAX */
	RULE_SRC_PORT, /* a range */
	RULE_DST_PORT,
	RULE_SRC, /* rule_index_prefix() */
	RULE_DST,
	RULE_EXPERIMENT,  /* 0..511 */
	RULE_ACTIVITY,	  /* 0..63 of any experiment, or rule_index_pair() */
	RULE_APPLICATION, /* rule_index_application() */
	/* Ranges of numbers that are tried last. */
	RULE_TIME, /* microseconds */
	RULE_START_TIME,
	RULE_END_TIME,	 /* of ends only */
	RULE_DURATION,	 /* microseconds from start_us to time_us */
	RULE_BYTES_SENT, /* where they are known */
	RULE_BYTES_RECEIVED,
	RULE_FIELDS,
};

/* What a rule does when it matches. */
enum {
	RULE_SETS_EXPERIMENT = 1 << 0,
	RULE_SETS_ACTIVITY = 1 << 1,
	RULE_SETS_APPLICATION = 1 << 2,
	RULE_SETS_ROUTE = 1 << 3,
	RULE_DROPS = 1 << 4,
	RULE_ACCEPTS = 1 << 5,
};

struct rule_effect {
	struct counter *hits; /* borrowed */
	int32_t route;
	uint16_t number; /* of the rule, for flow_event.rule */
	uint16_t experiment;
	uint8_t activity;
	uint8_t what; /* RULE_SETS_* and the verdict */
	uint16_t zero;
	char application[48]; /* FLOW_APPLICATION_SIZE; NUL-terminated */
};

struct rule_index;

/* For `count` (1..RULE_INDEX_MAX) rules, which match everything and do nothing. NULL: out of memory. */
FFI_EXPORT struct rule_index *rule_index_new(uint32_t count);
FFI_EXPORT void rule_index_free(struct rule_index *x);

/*
 * Conditions of rule `rule`, rule by rule. Several of one field: any of them is enough. Each returns 0,
 * -EINVAL for a rule, field or value out of range or a rule before the last one, or -ENOMEM.
 */
/* A value from `first` to `last`, both included. Every field but SRC, DST and APPLICATION. */
FFI_EXPORT int rule_index_range(struct rule_index *x, uint32_t rule, uint32_t field, uint64_t first,
				uint64_t last);
/* An address within a prefix; bits as prefix_map_add() takes them. */
FFI_EXPORT int rule_index_prefix(struct rule_index *x, uint32_t rule, uint32_t field,
				 const struct flow_address *address, uint32_t bits);
/* An address that the map has a value for: for sets too large to be taken apart. Borrowed. Not together
 * with rule_index_prefix() on one field of a rule. */
FFI_EXPORT int rule_index_set(struct rule_index *x, uint32_t rule, uint32_t field,
			      const struct prefix_map *set);
/* An activity of one experiment only. */
FFI_EXPORT int rule_index_pair(struct rule_index *x, uint32_t rule, uint32_t experiment, uint32_t activity);
/* A text, or with `start` any text that starts with it; at most FLOW_APPLICATION_SIZE-1 octets. */
FFI_EXPORT int rule_index_application(struct rule_index *x, uint32_t rule, const char *text, size_t length,
				      bool start);

FFI_EXPORT int rule_index_effect(struct rule_index *x, uint32_t rule, const struct rule_effect *effect);

/* Make it answer, behind all conditions: in steps, none of which takes long. Returns 1 when there is more to
 * do, 0 at the end, or -ENOMEM: then it can only be freed. */
FFI_EXPORT int rule_index_build_step(struct rule_index *x);

/* Octets that it takes, so far while it is made. */
FFI_EXPORT size_t rule_index_memory(const struct rule_index *x);

/* A rule that is off matches nothing. At first all are on. */
FFI_EXPORT void rule_index_switch(struct rule_index *x, uint32_t rule, bool on);

/* Rules that follow one another without others between them are a run, `run` 0..15: numbers may be
 * given twice. All rules are in run 0 at first. -EINVAL when something is out of range. */
FFI_EXPORT int rule_index_set_run(struct rule_index *x, uint32_t first, uint32_t last, uint32_t run);

/* A batch: 1..FLOW_BATCH_MAX events, until the next call. For those that are not decided, sets bit n of
 * flow_event.runs when rules of run n may match; where it is 0, running them does nothing. Whoever changes
 * experiment, activity or application then, and is not rule_index_run(), sets runs to RULE_RUNS_ALL.
 * `first`: of the indexes that see this batch; `alone`: the only one. */
FFI_EXPORT void rule_index_begin(struct rule_index *x, struct flow_event *events, uint32_t count, bool first,
				 bool alone);

/*
 * Run the rules from `first` to `last`, both included, on an event of that batch: those that match
 * act in order, and their hits are counted. Returns 1 when one dropped or accepted the event, else 0.
 */
FFI_EXPORT int32_t rule_index_run(struct rule_index *x, struct flow_event *event, uint32_t first,
				  uint32_t last);

#endif
