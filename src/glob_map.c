// SPDX-License-Identifier: Apache-2.0
#include "glob_map.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

enum { EDGES_MIN = 64 };

/* A place in the trie; 0 is the root, and as a child: none. */
struct node {
	uint32_t value; /* of the pattern that ends here; 0: none does */
	uint32_t any;	/* behind ? */
	uint32_t star;	/* behind * */
	uint16_t own;	/* octets of the pattern so far that stand for themselves */
	bool loops;	/* it stands behind *: any octet leads back to it */
};

/* An octet's way from one node to another; to == 0: a free place. */
struct edge {
	uint32_t from;
	uint32_t to;
	uint32_t octet;
};

struct glob_map {
	struct node *nodes;
	uint32_t count;
	uint32_t room;
	struct edge *edges; /* open addressing, a power of two */
	uint32_t edges_count;
	uint32_t edges_room;
	/* What a find works with, in one piece: where it may be, before and behind an octet, and when a node
	 * was last put there. */
	uint32_t *work;
	uint32_t *here;
	uint32_t *next;
	uint32_t *seen;
	uint32_t prepared; /* nodes for which there is room in these; 0: none */
	uint32_t turn;
};

struct glob_map *glob_map_new(void)
{
	struct glob_map *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->room = 16;
	m->count = 1;
	m->edges_room = EDGES_MIN;
	m->nodes = calloc(m->room, sizeof(*m->nodes));
	m->edges = calloc(m->edges_room, sizeof(*m->edges));
	if (!m->nodes || !m->edges) {
		glob_map_free(m);
		return NULL;
	}
	return m;
}

void glob_map_free(struct glob_map *m)
{
	if (!m)
		return;
	free(m->nodes);
	free(m->edges);
	free(m->work);
	free(m);
}

/* ---- adding --------------------------------------------------------------- */

static struct edge *edge_of(struct edge *edges, uint32_t room, uint32_t from, uint32_t octet)
{
	uint64_t hash = (((uint64_t)from << 8) | octet) * 0x9e3779b97f4a7c15ULL;
	uint32_t at = (uint32_t)(hash >> 32) & (room - 1);

	while (edges[at].to != 0 && (edges[at].from != from || edges[at].octet != octet))
		at = (at + 1) & (room - 1);
	return &edges[at];
}

static int grow_edges(struct glob_map *m)
{
	uint32_t room = m->edges_room * 2;
	struct edge *edges = calloc(room, sizeof(*edges));

	if (!edges)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->edges_room; i++) {
		const struct edge *e = &m->edges[i];

		if (e->to != 0)
			*edge_of(edges, room, e->from, e->octet) = *e;
	}
	free(m->edges);
	m->edges = edges;
	m->edges_room = room;
	return 0;
}

/* A new node; 0: out of memory. */
static uint32_t new_node(struct glob_map *m, uint32_t own, bool loops)
{
	if (m->count == m->room) {
		struct node *nodes = realloc(m->nodes, 2 * (size_t)m->room * sizeof(*nodes));

		if (!nodes)
			return 0;
		m->nodes = nodes;
		m->room *= 2;
	}
	m->nodes[m->count] = (struct node){.own = (uint16_t)own, .loops = loops};
	return m->count++;
}

/* The node behind an octet, made when there is none; 0: out of memory. */
static uint32_t take_octet(struct glob_map *m, uint32_t from, unsigned char octet)
{
	struct edge *e;

	if (2 * (m->edges_count + 1) > m->edges_room && grow_edges(m) != 0)
		return 0;
	e = edge_of(m->edges, m->edges_room, from, octet);
	if (e->to == 0) {
		uint32_t to = new_node(m, m->nodes[from].own + 1u, false);

		if (to == 0)
			return 0;
		*e = (struct edge){from, to, octet};
		m->edges_count++;
	}
	return e->to;
}

static uint32_t take_any(struct glob_map *m, uint32_t from)
{
	if (m->nodes[from].any == 0) {
		uint32_t to = new_node(m, m->nodes[from].own, false);

		m->nodes[from].any = to;
	}
	return m->nodes[from].any;
}

static uint32_t take_star(struct glob_map *m, uint32_t from)
{
	/* Two in a row are one. */
	if (m->nodes[from].loops)
		return from;
	if (m->nodes[from].star == 0) {
		uint32_t to = new_node(m, m->nodes[from].own, true);

		m->nodes[from].star = to;
	}
	return m->nodes[from].star;
}

int glob_map_add(struct glob_map *m, const char *pattern, size_t length, uint32_t value)
{
	uint32_t at = 0;

	if (length == 0 || length > GLOB_PATTERN_MAX || value == 0)
		return -EINVAL;
	for (size_t i = 0; i < length; i++) {
		if (pattern[i] == '*') {
			at = take_star(m, at);
		} else if (pattern[i] == '?') {
			at = take_any(m, at);
		} else {
			if (pattern[i] == '\\' && ++i == length)
				return -EINVAL;
			at = take_octet(m, at, (unsigned char)pattern[i]);
		}
		if (at == 0)
			return -ENOMEM;
	}
	if (m->nodes[at].value != 0 && m->nodes[at].value != value)
		return -EEXIST;
	m->nodes[at].value = value;
	return 0;
}

/* ---- finding -------------------------------------------------------------- */

static bool prepare(struct glob_map *m)
{
	uint32_t *work;

	if (m->prepared == m->count)
		return true;
	work = calloc(3 * (size_t)m->count, sizeof(*work));
	if (!work)
		return false;
	free(m->work);
	m->work = work;
	m->here = work;
	m->next = work + m->count;
	m->seen = work + 2 * (size_t)m->count;
	m->turn = 0;
	m->prepared = m->count;
	return true;
}

/* Put a node, and what * leads to from it, into a list that is being made. */
static inline uint32_t put(struct glob_map *m, uint32_t *list, uint32_t count, uint32_t node)
{
	while (m->seen[node] != m->turn) {
		m->seen[node] = m->turn;
		list[count++] = node;
		if (m->nodes[node].star == 0)
			break;
		node = m->nodes[node].star;
	}
	return count;
}

static inline void next_turn(struct glob_map *m)
{
	if (++m->turn != 0)
		return;
	for (uint32_t i = 0; i < m->count; i++)
		m->seen[i] = 0;
	m->turn = 1;
}

uint32_t glob_map_find(struct glob_map *m, const char *text, size_t length)
{
	uint32_t count, value = 0, order = 0;
	int own = -1;

	if (!prepare(m))
		return 0;
	next_turn(m);
	count = put(m, m->here, 0, 0);
	for (size_t i = 0; i < length && count > 0; i++) {
		unsigned char octet = (unsigned char)text[i];
		uint32_t *swap, more = 0;

		next_turn(m);
		for (uint32_t j = 0; j < count; j++) {
			uint32_t at = m->here[j];
			uint32_t to = edge_of(m->edges, m->edges_room, at, octet)->to;

			if (m->nodes[at].loops)
				more = put(m, m->next, more, at);
			if (m->nodes[at].any != 0)
				more = put(m, m->next, more, m->nodes[at].any);
			if (to != 0)
				more = put(m, m->next, more, to);
		}
		swap = m->here;
		m->here = m->next;
		m->next = swap;
		count = more;
	}
	/* Nodes are numbered as they are made: the lower number was added first. */
	for (uint32_t j = 0; j < count; j++) {
		uint32_t at = m->here[j];
		const struct node *n = &m->nodes[at];

		if (n->value != 0 && (n->own > own || (n->own == own && at < order))) {
			value = n->value;
			own = n->own;
			order = at;
		}
	}
	return value;
}

size_t glob_map_memory(const struct glob_map *m)
{
	return sizeof(*m) + (size_t)m->room * sizeof(*m->nodes) + (size_t)m->edges_room * sizeof(*m->edges) +
	       3 * (size_t)m->count * sizeof(*m->work);
}
