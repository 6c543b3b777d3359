/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule_index_builder.h - an index in the making: shared by the files that build its parts.
 *
 * It is made in stages, one after the other, and each in steps: a stage is a function that is called until it
 * returns 0, and that comes back with 1 when it has done enough for one step (rule_builder_enough()). What a
 * stage keeps from step to step are `phase`, `at`, `place` and `memory`, which are zero when it begins.
 */
#ifndef RULE_INDEX_BUILDER_H
#define RULE_INDEX_BUILDER_H

#include "rule_index_internal.h"
#include "step_sort.h"

/* What is done in one step, in words of sets or conditions that are looked at. */
#define RULE_BUILDER_STEP 32768u

struct known_set {
	uint32_t number; /* + 1; 0: none */
	uint32_t hash;
};

/* The conditions of one field at a time, in the order of their rules. */
struct rule_builder {
	struct rule_index *x;
	uint32_t stage; /* the one that is at work */
	uint32_t phase, at, place;
	void *memory[3]; /* from malloc(): freed behind the stage */
	struct step_sort sort;
	uint32_t done; /* in this step */

	uint32_t first[RULE_FIELDS + 1]; /* where each field's conditions begin */
	const struct condition *c;	 /* of the field at hand */
	uint32_t count;
	uint64_t *set;		 /* of the value at hand: words */
	uint64_t *untested;	 /* rules that say nothing about the field at hand */
	uint64_t *keyed;	 /* rules that are found by an axis: words of each */
	uint32_t axis;		 /* at hand; AXES: none */
	struct known_set *known; /* sets of the axis that are in the pool already, by hash */
	uint32_t known_mask;
	uint32_t known_count;
};

/* So much was done: enough for one step? */
static inline bool rule_builder_enough(struct rule_builder *b, uint32_t work)
{
	b->done += work;
	return b->done >= RULE_BUILDER_STEP;
}

static inline void rule_set_add(uint64_t *set, uint32_t rule)
{
	set[rule / 64] |= 1ULL << rule % 64;
}

static inline void rule_set_remove(uint64_t *set, uint32_t rule)
{
	set[rule / 64] &= ~(1ULL << rule % 64);
}

/* For an index with all its conditions. NULL: out of memory. */
struct rule_builder *rule_builder_new(struct rule_index *x);
void rule_builder_free(struct rule_builder *b);

/* A step: 1: there is more to do; 0: the index is complete; -ENOMEM. */
int rule_builder_step(struct rule_builder *b);

void rule_builder_copy(const struct rule_builder *b, uint64_t *to, const uint64_t *from);

/* The number of a set of the axis equal to b->set: 0 or -ENOMEM. */
int rule_builder_intern(struct rule_builder *b, uint32_t *place);

/* Append b->set to the pool, whether there is an equal one or not. */
int rule_builder_append(struct rule_builder *b, uint32_t *place);

/* Take the conditions of a field at hand, but for those that are tried late. False: there are none. */
bool rule_builder_select(struct rule_builder *b, uint32_t field);

/* b->set: the rules that a value of the field at hand satisfies, by ranges. */
void rule_builder_collect(struct rule_builder *b, uint64_t value);

/* The field has sets: those that follow are of this axis. */
void rule_builder_use(struct rule_builder *b, uint32_t axis);

/* Stages. */
int rule_builder_late(struct rule_builder *b);
int rule_builder_fields(struct rule_builder *b);
int rule_builder_keys(struct rule_builder *b);
int rule_builder_kind(struct rule_builder *b);
int rule_builder_plugins(struct rule_builder *b);
int rule_builder_src_ports(struct rule_builder *b);
int rule_builder_dst_ports(struct rule_builder *b);
int rule_builder_src(struct rule_builder *b);
int rule_builder_dst(struct rule_builder *b);
int rule_builder_experiments(struct rule_builder *b);
int rule_builder_activities(struct rule_builder *b);
int rule_builder_applications(struct rule_builder *b);

#endif
