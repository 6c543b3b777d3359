// SPDX-License-Identifier: Apache-2.0
/*
 * prefix_map_build.c - from prefixes to the structure that find walks, step by step.
 *
 * The prefixes are sorted (step_sort.h). Then what leads to a range of them is a task, which makes a node or
 * a check and leaves a task for each smaller range below.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "prefix_map_internal.h"
#include "step_sort.h"

enum {
	STEP = 16384, /* prefixes that a step looks at, about */
};

/* What leads to the sorted prefixes [from, to), which share their first `depth` bits and are at least that
 * long; `inherited` is the value of the prefix around them. */
struct task {
	uint32_t from, to;
	uint32_t depth;
	uint32_t inherited;
	/* Where it is to be entered: REF_NODE or REF_CHECK with a number, and the branch of a node; 0: root4,
	 * 1: root6. */
	uint32_t place;
	uint32_t branch;
};

struct prefix_building {
	enum { SORT, CHECK, BUILD } phase;
	struct step_sort sort;

	struct task *tasks; /* the next one last */
	uint32_t tasks_count, tasks_room;
	struct node *nodes;
	struct check *checks;
	uint32_t nodes_count, nodes_room;
	uint32_t checks_count, checks_room;
	uint32_t root4, root6;
};

int prefix_map_reserve(void **array, size_t size, uint32_t count, uint32_t *room)
{
	uint32_t wanted = *room ? *room * 2 : 16;
	void *grown;

	if (count < *room)
		return 0;
	if (count >= REF_INDEX)
		return -ENOMEM;
	grown = reallocarray(*array, wanted, size);
	if (!grown)
		return -ENOMEM;
	*array = grown;
	*room = wanted;
	return 0;
}

void prefix_map_abandon(struct prefix_map *m)
{
	struct prefix_building *b = m->building;

	if (!b)
		return;
	step_sort_end(&b->sort);
	free(b->tasks);
	free(b->nodes);
	free(b->checks);
	free(b);
	m->building = NULL;
}

/* ---- the structure -------------------------------------------------------------------- */

static void enter(struct prefix_building *b, const struct task *t, uint32_t ref)
{
	if (t->place & REF_NODE)
		b->nodes[t->place & REF_INDEX].ref[t->branch] = ref;
	else if (t->place & REF_CHECK)
		b->checks[t->place & REF_INDEX].match = ref;
	else
		*(t->place ? &b->root6 : &b->root4) = ref;
}

static int push(struct prefix_building *b, struct task t)
{
	int err = prefix_map_reserve((void **)&b->tasks, sizeof(*b->tasks), b->tasks_count, &b->tasks_room);

	if (err == 0)
		b->tasks[b->tasks_count++] = t;
	return err;
}

static int new_check(struct prefix_building *b, struct check check, uint32_t *ref)
{
	int err =
		prefix_map_reserve((void **)&b->checks, sizeof(*b->checks), b->checks_count, &b->checks_room);

	if (err)
		return err;
	*ref = REF_CHECK | b->checks_count;
	b->checks[b->checks_count++] = check;
	return 0;
}

/* A node for the prefixes of the task, at least two, all longer than its depth. */
static int build_node(struct prefix_building *b, const struct prefix *prefixes, const struct task *t)
{
	struct task below[BRANCHES];
	uint32_t count = 0, index = b->nodes_count;
	int err = prefix_map_reserve((void **)&b->nodes, sizeof(*b->nodes), index, &b->nodes_room);
	struct node *node;

	if (err)
		return err;
	b->nodes_count++;
	node = &b->nodes[index];
	for (uint32_t i = 0; i < BRANCHES; i++)
		node->ref[i] = t->inherited;

	/* Prefixes that end inside this node cover some of its branches. One that holds
	 * another stands before it in the order, so that the longer one is written last. */
	for (uint32_t i = t->from; i < t->to; i++) {
		const struct prefix *p = &prefixes[i];
		uint32_t first = branch_of(p->address, t->depth);

		if (p->bits >= t->depth + STRIDE)
			continue;
		for (uint32_t k = 0; k < 1u << (t->depth + STRIDE - p->bits); k++)
			node->ref[first + k] = p->value;
	}

	/* The others go below, one branch's after the next. */
	for (uint32_t i = t->from; i < t->to;) {
		uint32_t branch = branch_of(prefixes[i].address, t->depth);
		uint32_t end = i;

		while (end < t->to && branch_of(prefixes[end].address, t->depth) == branch)
			end++;
		while (i < end && prefixes[i].bits < t->depth + STRIDE)
			i++;
		if (i < end)
			below[count++] = (struct task){
				i, end, t->depth + STRIDE, node->ref[branch], REF_NODE | index, branch};
		i = end;
	}
	enter(b, t, REF_NODE | index);
	while (count && err == 0)
		err = push(b, below[--count]);
	return err;
}

static int do_task(struct prefix_building *b, const struct prefix *p, struct task t)
{
	uint32_t shared, ref;
	int err;

	for (; t.from < t.to && p[t.from].bits == t.depth; t.from++)
		t.inherited = p[t.from].value;
	if (t.from == t.to) {
		enter(b, &t, t.inherited);
		return 0;
	}
	if (t.to - t.from == 1) {
		const struct prefix *one = &p[t.from];

		err = new_check(b, (struct check){one->address, one->bits, one->value, t.inherited}, &ref);
		if (err == 0)
			enter(b, &t, ref);
		return err;
	}

	shared = shared_bits(p[t.from].address, p[t.to - 1].address);
	for (uint32_t i = t.from; i < t.to; i++)
		shared = p[i].bits < shared ? p[i].bits : shared;
	shared -= shared % STRIDE;
	if (shared < t.depth + SKIP_MIN)
		return build_node(b, p, &t);

	err = new_check(b, (struct check){p[t.from].address, shared, 0, t.inherited}, &ref);
	if (err)
		return err;
	enter(b, &t, ref);
	return push(b, (struct task){t.from, t.to, shared, t.inherited, ref, 0});
}

/* ---- sorting ------------------------------------------------------------------------------ */

/* By address, the shorter prefix first, IPv6 before IPv4; then as they were added. */
static int compare(const void *left, const void *right)
{
	const struct prefix *a = left, *b = right;
	bool mapped_a = a->bits >= 96 && is_mapped(a->address);
	bool mapped_b = b->bits >= 96 && is_mapped(b->address);

	if (mapped_a != mapped_b)
		return mapped_a ? 1 : -1;
	if (a->address.high != b->address.high)
		return a->address.high < b->address.high ? -1 : 1;
	if (a->address.low != b->address.low)
		return a->address.low < b->address.low ? -1 : 1;
	if (a->bits != b->bits)
		return a->bits < b->bits ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

static int find_conflict(const struct prefix *p, uint32_t count, uint32_t *first, uint32_t *second)
{
	for (uint32_t i = 1; i < count; i++) {
		if (p[i].bits == p[i - 1].bits && p[i].address.high == p[i - 1].address.high &&
		    p[i].address.low == p[i - 1].address.low && p[i].value != p[i - 1].value) {
			*first = p[i - 1].order;
			*second = p[i].order;
			return -EEXIST;
		}
	}
	return 0;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static int begin(struct prefix_map *m)
{
	struct prefix_building *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	m->building = b;
	return step_sort_begin(&b->sort, m->prefixes, sizeof(*m->prefixes), m->count, m->room, compare);
}

static void sort(struct prefix_map *m, struct prefix_building *b)
{
	if (step_sort_step(&b->sort) == 0)
		b->phase = CHECK;
	m->prefixes = (struct prefix *)(void *)b->sort.array;
}

/* They are in order: none may be there twice, and the tasks are two. */
static int check(struct prefix_map *m, struct prefix_building *b, uint32_t *first, uint32_t *second)
{
	uint32_t ipv6 = 0;
	int err = find_conflict(m->prefixes, m->count, first, second);

	while (ipv6 < m->count && !(m->prefixes[ipv6].bits >= 96 && is_mapped(m->prefixes[ipv6].address)))
		ipv6++;
	err = err ? err : push(b, (struct task){.from = ipv6, .to = m->count, .depth = 96, .place = 0});
	err = err ? err : push(b, (struct task){.from = 0, .to = ipv6, .depth = 0, .place = 1});
	b->phase = BUILD;
	return err;
}

/* Some tasks. 1: there are more. */
static int build(struct prefix_map *m, struct prefix_building *b)
{
	for (uint32_t n = 0; n < STEP && b->tasks_count;) {
		struct task t = b->tasks[--b->tasks_count];
		int err = do_task(b, m->prefixes, t);

		if (err)
			return err;
		n += t.to - t.from + 1;
	}
	if (b->tasks_count)
		return 1;
	free(m->nodes);
	free(m->checks);
	m->nodes = b->nodes;
	m->checks = b->checks;
	m->nodes_room = b->nodes_room;
	m->checks_room = b->checks_room;
	m->root6 = b->root6;
	m->root4 = b->root4;
	b->nodes = NULL;
	b->checks = NULL;
	return 0;
}

int prefix_map_build_step(struct prefix_map *m, uint32_t *first, uint32_t *second)
{
	int status = m->building ? 0 : begin(m);

	if (status == 0) {
		switch (m->building->phase) {
		case SORT:
			sort(m, m->building);
			return 1;
		case CHECK:
			status = check(m, m->building, first, second);
			status = status ? status : 1;
			break;
		default:
			status = build(m, m->building);
		}
	}
	if (status <= 0)
		prefix_map_abandon(m);
	return status;
}

int prefix_map_build(struct prefix_map *m, uint32_t *first, uint32_t *second)
{
	int status;

	do
		status = prefix_map_build_step(m, first, second);
	while (status > 0);
	return status;
}
