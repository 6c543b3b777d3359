/* SPDX-License-Identifier: Apache-2.0 */
/* rule_index_builder.h - an index in the making: shared by the files that build its parts. */
#ifndef RULE_INDEX_BUILDER_H
#define RULE_INDEX_BUILDER_H

#include "rule_index_internal.h"

/* The conditions of one field at a time, in the order of their rules. */
struct rule_builder {
	struct rule_index *x;
	const struct condition *c; /* of the field at hand */
	uint32_t count;
	uint64_t *set;	    /* of the value at hand: words */
	uint64_t *untested; /* rules that say nothing about the field at hand */
	uint64_t *keyed;    /* rules that are found by an axis: words of each */
	uint32_t axis;	    /* at hand; AXES: none */
	/* Sets of the axis that are in the pool already: numbers + 1 by hash. */
	uint32_t *known;
	uint32_t known_mask;
	uint32_t known_count;
};

static inline void rule_set_add(uint64_t *set, uint32_t rule)
{
	set[rule / 64] |= 1ULL << rule % 64;
}

static inline void rule_set_remove(uint64_t *set, uint32_t rule)
{
	set[rule / 64] &= ~(1ULL << rule % 64);
}

/* Room for the builder's sets. 0 or -ENOMEM. */
int rule_builder_init(struct rule_builder *b, struct rule_index *x);
void rule_builder_free(struct rule_builder *b);

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

/* The parts of rule_index_build() that have files of their own. */
int rule_builder_keys(struct rule_builder *b);
int rule_builder_ports(struct rule_builder *b, uint32_t which);
int rule_builder_addresses(struct rule_builder *b, uint32_t which);
int rule_builder_applications(struct rule_builder *b);

#endif
