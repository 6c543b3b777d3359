/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_totals.c - what was marked of each experiment's activity, added up from the flows' own counters: a
 * packet is counted in one place only.
 *
 * A class is an experiment and activity. Its total is what its flows in the table have counted, and what was
 * moved out of the table: by flows that have ended or have another tag now. The table is looked at a part at
 * a time; what is moved from a part that was looked at already is in the look too, so it is noted (`late`)
 * and comes in with the next one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "label.h"
#include "marker_internal.h"

enum {
	PART = 32768, /* entries: within a millisecond */
};

int marker_totals_open(struct marker_totals *t)
{
	t->class_of = calloc(MARKER_TAGS, sizeof(*t->class_of));
	t->seen = calloc(MARKER_CLASSES, sizeof(*t->seen));
	t->late = calloc(MARKER_CLASSES, sizeof(*t->late));
	if (!t->class_of || !t->seen || !t->late)
		return -ENOMEM;
	t->used = 1;
	while (t->used < MARKER_CLASSES && t->classes[t->used] != 0) {
		t->class_of[t->classes[t->used] % MARKER_TAGS] = (uint16_t)t->used;
		t->used++;
	}
	return 0;
}

void marker_totals_close(struct marker_totals *t)
{
	free(t->class_of);
	free(t->seen);
	free(t->late);
}

static uint32_t class_of(struct marker_totals *t, uint32_t label)
{
	uint32_t tag = label_experiment(label) << 6 | label_activity(label);

	if (t->class_of[tag] == 0 && tag != 0 && t->used < MARKER_CLASSES) {
		t->class_of[tag] = (uint16_t)t->used;
		t->classes[t->used++] = (uint16_t)tag;
	}
	return t->class_of[tag];
}

static void add(struct marker_count *total, struct marker_count more)
{
	total->packets += more.packets;
	total->octets += more.octets;
}

static struct marker_count less(struct marker_count total, struct marker_count part)
{
	return (struct marker_count){total.packets - part.packets, total.octets - part.octets};
}

static void move(struct marker_totals *t, uint32_t class, uint32_t at, struct marker_count counted)
{
	add(&t->moved[class], counted);
	if (at < t->at)
		add(&t->late[class], counted);
}

void marker_totals_moved(struct marker_totals *t, uint32_t label, uint32_t at, struct marker_count counted)
{
	move(t, class_of(t, label), at, counted);
}

void marker_totals_changed(struct marker_totals *t, const struct marker_flows *f, uint32_t at, uint32_t label)
{
	struct marker_count counted = marker_flows_counted(f, at);
	uint32_t from = class_of(t, marker_flows_label(f, at)), to = class_of(t, label);

	if (from == to)
		return;
	move(t, from, at, counted);
	/* All that the flow has counted will be looked at as the other's. */
	move(t, to, at, less((struct marker_count){0}, counted));
}

static void look(struct marker_totals *t, const struct marker_flows *f, uint32_t end)
{
	for (; t->at < end; t->at++) {
		if (marker_flows_taken(f, t->at))
			add(&t->seen[class_of(t, marker_flows_label(f, t->at))],
			    marker_flows_counted(f, t->at));
	}
}

bool marker_totals_look(struct marker_totals *t, const struct marker_flows *f)
{
	/* A larger table has other places. */
	if (t->at >= f->capacity || t->capacity != f->capacity) {
		memset(t->seen, 0, MARKER_CLASSES * sizeof(*t->seen));
		memset(t->late, 0, MARKER_CLASSES * sizeof(*t->late));
		t->capacity = f->capacity;
		t->at = 0;
	}
	look(t, f, t->at + PART < f->capacity ? t->at + PART : f->capacity);
	return t->at == f->capacity;
}

/* What has moved since the table became a larger one says nothing of a look at the smaller one. */
bool marker_totals_known(const struct marker_totals *t, const struct marker_flows *f)
{
	return t->capacity == f->capacity && t->at == t->capacity;
}

struct marker_count marker_totals_account(struct marker_totals *t, uint32_t class)
{
	struct marker_count total = less(t->moved[class], t->late[class]), more;

	add(&total, t->seen[class]);
	more = less(total, t->counted[class]);
	/* Never back, whatever a process that was killed has left here. */
	if (more.packets > INT64_MAX || more.octets > INT64_MAX)
		return (struct marker_count){0};
	t->counted[class] = total;
	return more;
}

uint64_t marker_totals_packets(const struct marker_totals *t, const struct marker_flows *f)
{
	uint64_t packets = 0;

	for (uint32_t class = 0; class < t->used; class ++)
		packets += t->moved[class].packets;
	for (uint32_t at = 0; at < f->capacity; at++) {
		if (marker_flows_taken(f, at))
			packets += marker_flows_counted(f, at).packets;
	}
	return packets;
}
