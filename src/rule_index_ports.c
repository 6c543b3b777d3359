// SPDX-License-Identifier: Apache-2.0
/* rule_index_ports.c - an index in the making: ports. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rule_index_builder.h"

/* Where a range begins or is over. */
struct edge {
	uint32_t port;
	uint16_t rule;
	int16_t step;
};

static int by_port(const void *left, const void *right)
{
	const struct edge *a = left, *b = right;

	return (a->port > b->port) - (a->port < b->port);
}

/* Walk along the edges: between two of them the set is the same. */
static int sweep(struct rule_builder *b, const struct edge *edges, uint32_t count, uint32_t *depth,
		 uint32_t *table)
{
	uint32_t place, i = 0;
	int err;

	rule_builder_copy(b, b->set, b->untested);
	err = rule_builder_intern(b, &place);
	for (uint32_t port = 0; port < PORTS && err == 0; port++) {
		uint32_t before = i;

		for (; i < count && edges[i].port == port; i++) {
			uint32_t rule = edges[i].rule;

			depth[rule] += (uint32_t)(int32_t)edges[i].step;
			if (depth[rule])
				rule_set_add(b->set, rule);
			else
				rule_set_remove(b->set, rule);
		}
		if (i != before)
			err = rule_builder_intern(b, &place);
		table[port] = place;
	}
	return err;
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

int rule_builder_ports(struct rule_builder *b, uint32_t which)
{
	struct rule_index *x = b->x;
	struct edge *edges;
	uint32_t *depth, *table;
	int err = -ENOMEM;

	if (!rule_builder_select(b, which ? RULE_DST_PORT : RULE_SRC_PORT))
		return 0;
	rule_builder_use(b, which ? AXIS_DST_PORT : AXIS_SRC_PORT);
	edges = calloc(b->count, 2 * sizeof(*edges));
	depth = calloc(x->count, sizeof(*depth));
	table = calloc(PORTS, sizeof(*table));
	if (edges && depth && table) {
		for (uint32_t i = 0; i < b->count; i++) {
			const struct condition *c = &b->c[i];

			edges[2 * i] = (struct edge){(uint32_t)c->first, c->rule, 1};
			edges[2 * i + 1] = (struct edge){(uint32_t)c->last + 1, c->rule, -1};
		}
		qsort(edges, 2 * (size_t)b->count, sizeof(*edges), by_port);
		err = sweep(b, edges, 2 * b->count, depth, table);
		err = err ? err : fold(table, &x->port[which]);
	}
	free(edges);
	free(depth);
	free(table);
	return err;
}
