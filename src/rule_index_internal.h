/* SPDX-License-Identifier: Apache-2.0 */
/* rule_index_internal.h - what rule_index.c (running) and the others (making) share. */
#ifndef RULE_INDEX_INTERNAL_H
#define RULE_INDEX_INTERNAL_H

#include "rule_index.h"

enum {
	EXPERIMENTS = FLOW_EXPERIMENT_MAX + 1,
	ACTIVITIES = FLOW_ACTIVITY_MAX + 1,
	PORTS = 65536,
	PLUGINS = 1024,
	KINDS = 16, /* protocol, family, state in one number: kind_of() */
};

/* The fields that have sets. Those before CHANGEABLE stay what they are while rules run. */
enum rule_axis {
	AXIS_KIND,
	AXIS_PLUGIN,
	AXIS_SRC_PORT,
	AXIS_DST_PORT,
	AXIS_SRC,
	AXIS_DST,
	CHANGEABLE,
	AXIS_EXPERIMENT = CHANGEABLE,
	AXIS_ACTIVITY,
	AXIS_APPLICATION,
	AXES,
};

/* A condition as it was told. */
struct condition {
	uint16_t rule;
	uint16_t field; /* enum rule_field */
	uint32_t bits;	/* of a prefix; for an application 1: a start */
	uint64_t first; /* range; experiment of a pair; length of an application */
	uint64_t last;	/* range; activity of a pair */
	uint32_t kind;	/* CONDITION_* */
	uint32_t text;	/* of an application: offset in rule_index.texts */
	struct flow_address address;
	const struct prefix_map *set;
};

enum { CONDITION_RANGE, CONDITION_PREFIX, CONDITION_SET, CONDITION_PAIR, CONDITION_TEXT, CONDITION_KINDS };

/* A text of an application and the rules that it satisfies. */
struct text_entry {
	uint64_t hash;
	uint32_t set;
	uint32_t text; /* offset */
	uint8_t length;
	bool start;
	bool used;
};

/* A test that is tried for rules that are left: those of one rule stand together, by field. */
struct late_test {
	uint16_t field;
	uint16_t spare;
	uint32_t zero;
	uint64_t first, last;
	const struct prefix_map *set;
};

/* What is read when it acts stands in one cache line. */
struct indexed_rule {
	uint32_t late; /* its first late test, and how many */
	uint32_t late_count;
	struct rule_effect effect;
} __attribute__((aligned(64)));

/* What is read when it is found. */
struct rule_brief {
	struct counter *hits; /* borrowed */
	uint32_t run;	      /* bit of flow_event.runs */
};

enum {
	FOUND_MAX = 9,
	FOUND_MANY = 0xffff,
};

/* What an event of the batch matches: one cache line. */
struct found {
	uint64_t words;	    /* in which rules may match, by the fields that stay */
	uint32_t set[AXES]; /* by axis; those of fields that rules change are the event's when it was noted */
	uint16_t count;	    /* FOUND_MANY: too many to note */
	uint16_t rule[FOUND_MAX];
};

struct rule_builder; /* rule_index_builder.h */

enum { PORT_PAGE = 256 };

/* The sets of all ports, in pages. */
struct port_table {
	uint8_t page[PORTS / PORT_PAGE];
	uint32_t pages;
	uint32_t set[][PORT_PAGE];
};

static inline uint32_t port_set(const struct port_table *t, uint32_t port)
{
	return t->set[t->page[port / PORT_PAGE]][port % PORT_PAGE];
}

/*
 * Sets have numbers: set n is `words` words of rules in `pool`, from n * words on.
 *
 * Each rule is found by one of the axes that it tests. A set has a summary: a bit for each word that has
 * rules which are found by the set's axis. Rules that match an event are in a word of which one of the
 * event's sets has a bit: only these words are intersected.
 */
struct rule_index {
	uint32_t count;
	uint32_t words;	 /* at most 64: a summary is one word */
	uint64_t always; /* a bit for each word with rules that test no axis */
	uint64_t *pool;
	uint64_t *summary;
	uint32_t sets, sets_room;

	/* Axes that some rule tests, those that stay first. */
	uint8_t axis[AXES];
	uint32_t axes, staying;
	uint32_t tests; /* RULE_SETS_*: rules test what such an effect changes */

	uint32_t kind[KINDS];
	uint32_t plugin[PLUGINS];
	struct port_table *port[2];	/* source, destination; or NULL */
	struct prefix_map *prefixes[2]; /* value: number of a set + 1 */
	uint32_t *prefix_set[2];
	uint32_t prefix_other[2]; /* the set of an address in no prefix */
	uint32_t experiment[EXPERIMENTS];
	uint32_t *activity; /* by experiment * ACTIVITIES + activity, or NULL */
	struct text_entry *texts_table;
	uint32_t texts_mask;
	uint32_t text_other;
	uint64_t start_lengths; /* bit n: there are starts of n octets */

	struct indexed_rule *rules;
	struct rule_brief *briefs;
	struct late_test *late;
	uint32_t late_count;
	uint32_t enabled; /* the set of rules that are on */

	const struct flow_event *events; /* the batch */
	bool alone;			 /* no other index sees it */
	struct found found[FLOW_BATCH_MAX];

	/* While it is made. */
	struct rule_builder *builder;
	struct condition *conditions;
	uint32_t conditions_count;
	uint32_t conditions_room;
	char *texts;
	uint32_t texts_used;
	uint32_t texts_room;
};

static inline const uint64_t *set_words(const struct rule_index *x, uint32_t set)
{
	return x->pool + (size_t)set * x->words;
}

static inline uint32_t kind_of(uint32_t protocol, uint32_t family, uint32_t state)
{
	return (protocol == FLOW_UDP ? 8u : 0) | (family == 6 ? 4u : 0) | (state & 3);
}

/* FNV-1a, octet by octet: the hash of a start is met on the way to that of the text. */
#define TEXT_HASH_SEED 0xcbf29ce484222325ULL

static inline uint64_t text_hash(uint64_t hash, char octet)
{
	return (hash ^ (uint8_t)octet) * 0x100000001b3ULL;
}

/* The place in the table where that text is, or would be. */
static inline uint32_t text_place(const struct rule_index *x, uint64_t hash, const char *text,
				  uint32_t length, bool start)
{
	uint32_t i = (uint32_t)(hash ^ hash >> 29 ^ (start ? 0x9e3779b9u : 0)) & x->texts_mask;

	for (;; i = (i + 1) & x->texts_mask) {
		const struct text_entry *t = &x->texts_table[i];

		if (!t->used)
			return i;
		if (t->hash == hash && t->start == start && t->length == length &&
		    __builtin_memcmp(x->texts + t->text, text, length) == 0)
			return i;
	}
}

#endif
