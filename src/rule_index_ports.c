// SPDX-License-Identifier: Apache-2.0
/* rule_index_ports.c - an index in the making: ports. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* Where a range begins or is over, by port. */
struct edge {
	uint16_t rule;
	int16_t step;
};

/* The edges of port p stand from edges[begin[p]] on, up to those of the next; in front of the last port are
 * those of ranges that begin or end there. */
struct walk {
	uint32_t table[PORTS];	   /* the set of each port */
	uint32_t begin[PORTS + 2]; /* PORTS: behind the last port */
	uint32_t depth[RULE_INDEX_MAX];
};

static int begin(struct rule_builder *b, uint32_t field, uint32_t axis)
{
	if (!rule_builder_select(b, field))
		return 0;
	rule_builder_use(b, axis);
	b->memory[0] = calloc(1, sizeof(struct walk));
	b->memory[1] = calloc(b->count, 2 * sizeof(struct edge));
	b->phase = 1;
	return b->memory[0] && b->memory[1] ? 1 : -ENOMEM;
}

/* How many edges each port has; then where they begin: for now where they end, as they are put in place from
 * behind. */
static int count_edges(struct rule_builder *b, struct walk *w)
{
	while (b->at < b->count) {
		const struct condition *c = &b->c[b->at++];

		w->begin[c->first]++;
		w->begin[c->last + 1]++;
		if (rule_builder_enough(b, 1))
			return 1;
	}
	for (uint32_t port = 1; port < PORTS + 2; port++)
		w->begin[port] += w->begin[port - 1];
	b->phase = 2;
	b->at = 0;
	return 1;
}

static int put_edges(struct rule_builder *b, struct walk *w, struct edge *edges)
{
	while (b->at < b->count) {
		const struct condition *c = &b->c[b->at++];

		edges[--w->begin[c->first]] = (struct edge){c->rule, 1};
		edges[--w->begin[c->last + 1]] = (struct edge){c->rule, -1};
		if (rule_builder_enough(b, 2))
			return 1;
	}
	rule_builder_copy(b, b->set, b->untested);
	b->phase = 3;
	b->at = 0;
	return rule_builder_intern(b, &b->place) == 0 ? 1 : -ENOMEM;
}

/* Walk along the edges: between two of them the set is the same. */
static int sweep(struct rule_builder *b, struct walk *w, const struct edge *edges)
{
	while (b->at < PORTS) {
		uint32_t port = b->at++, from = w->begin[port], to = w->begin[port + 1];

		for (uint32_t i = from; i < to; i++) {
			uint32_t rule = edges[i].rule;

			w->depth[rule] += (uint32_t)(int32_t)edges[i].step;
			if (w->depth[rule])
				rule_set_add(b->set, rule);
			else
				rule_set_remove(b->set, rule);
		}
		if (from != to && rule_builder_intern(b, &b->place) != 0)
			return -ENOMEM;
		w->table[port] = b->place;
		if (rule_builder_enough(b, to - from + (from != to ? b->x->words : 1)))
			return 1;
	}
	return 0;
}

/* The same in pages, of which there are few that differ: what lies close together in the processor's caches.
 */
static int fold(const uint32_t *table, struct port_table **out)
{
	struct port_table *t = calloc(1, sizeof(*t) + PORTS * sizeof(*table));
	struct port_table *smaller;

	if (!t)
		return -ENOMEM;
	for (uint32_t i = 0; i < PORTS / PORT_PAGE; i++) {
		const uint32_t *page = table + i * PORT_PAGE;
		uint32_t same = 0;

		while (same < t->pages && memcmp(t->set[same], page, sizeof(t->set[0])) != 0)
			same++;
		if (same == t->pages)
			memcpy(t->set[t->pages++], page, sizeof(t->set[0]));
		t->page[i] = (uint8_t)same;
	}
	smaller = realloc(t, sizeof(*t) + t->pages * sizeof(t->set[0]));
	*out = smaller ? smaller : t;
	return 0;
}

static int ports(struct rule_builder *b, uint32_t which)
{
	struct walk *w = b->memory[0];
	int status;

	switch (b->phase) {
	case 0:
		return begin(b, which ? RULE_DST_PORT : RULE_SRC_PORT, which ? AXIS_DST_PORT : AXIS_SRC_PORT);
	case 1:
		return count_edges(b, w);
	case 2:
		return put_edges(b, w, b->memory[1]);
	default:
		status = sweep(b, w, b->memory[1]);
		return status ? status : fold(w->table, &b->x->port[which]);
	}
}

int rule_builder_src_ports(struct rule_builder *b)
{
	return ports(b, 0);
}

int rule_builder_dst_ports(struct rule_builder *b)
{
	return ports(b, 1);
}
