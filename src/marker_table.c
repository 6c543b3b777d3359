/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_table.c - which flows are marked: queued per batch, one change a flow, and brought
 * into the table and the program's set of local ports.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "label.h"
#include "log.h"
#include "marker_internal.h"

enum {
	RETRY_NS = 1000000000,
};

int marker_table_open(struct marker_table *t, uint32_t marks_max)
{
	t->marks_max = marks_max;
	t->port_flows = calloc(65536, sizeof(*t->port_flows));
	if (!t->port_flows)
		return -ENOMEM;
	return marker_totals_open(&t->totals);
}

void marker_table_close(struct marker_table *t)
{
	free(t->port_flows);
	marker_totals_close(&t->totals);
	free(t->stale);
	marker_flows_unmap(&t->flows);
}

/* The set of ports is read by the program on other CPUs. */
static void port_show(struct marker_table *t, uint16_t port, bool has_flow)
{
	uint16_t number = htons(port);
	uint8_t *octet = &t->local_ports[number / 8], bit = (uint8_t)(1U << (number % 8));

	__atomic_store_n(octet, (uint8_t)(has_flow ? *octet | bit : *octet & ~bit), __ATOMIC_RELEASE);
}

static void port_add(struct marker_table *t, uint16_t port)
{
	if (t->port_flows[port]++ == 0)
		port_show(t, port, true);
}

static void port_remove(struct marker_table *t, uint16_t port)
{
	if (--t->port_flows[port] == 0)
		port_show(t, port, false);
}

/* -- queue -------------------------------------------------------------------------- */

static uint32_t key_hash(const struct flow_key *key)
{
	uint64_t word[5], hash = 0;

	_Static_assert(sizeof(word) == sizeof(*key), "flow_key is five words");
	memcpy(word, key, sizeof(word));
	for (int i = 0; i < 5; i++) {
		hash = (hash ^ word[i]) * 0x9E3779B97F4A7C15ULL;
		hash ^= hash >> 32;
	}
	return (uint32_t)hash;
}

/* The queued change of a flow; NULL when there is none, and then *entry is where it is to be noted. */
static struct marker_change *change_of(struct marker_table *t, const struct flow_key *key, uint16_t **entry)
{
	for (uint32_t at = key_hash(key);; at++) {
		*entry = &t->index[at & (MARKER_INDEX_SIZE - 1)];
		if (**entry == 0)
			return NULL;
		if (memcmp(&t->change[**entry - 1].key, key, sizeof(*key)) == 0)
			return &t->change[**entry - 1];
	}
}

static struct marker_change *change_new(struct marker_table *t, const struct flow_key *key, uint16_t *entry)
{
	struct marker_change *c = &t->change[t->changes++];

	*entry = (uint16_t)t->changes;
	*c = (struct marker_change){.key = *key};
	return c;
}

static enum marker_refusal refusal_reason(int error)
{
	if (error == -E2BIG)
		return MARKER_REFUSED_FULL;
	return error == -ENOMEM ? MARKER_REFUSED_MEMORY : MARKER_REFUSED_OTHER;
}

/* Count and log a flow that is not marked, or whose mark could not be changed or removed. */
static void refuse(struct marker_table *t, const struct flow_key *key, int error)
{
	static struct log_limit limit;
	char src[INET6_ADDRSTRLEN], dst[INET6_ADDRSTRLEN];

	t->counts.refused[refusal_reason(error)]++;
	inet_ntop(AF_INET6, key->src.octet, src, sizeof(src));
	inet_ntop(AF_INET6, key->dst.octet, dst, sizeof(dst));
	log_limited(&limit, LOG_LEVEL_ERROR, "marker: flow [%s]:%u to [%s]:%u: cannot set its mark: %s", src,
		    key->src_port, dst, key->dst_port,
		    error == -E2BIG ? "the table of marks is full" : strerror(-error));
}

/* Is this flow's mark in the table? One that the process before set is ours when its label is right. */
static bool is_marked(struct marker_table *t, const struct flow_event *e, bool wanted,
		      struct marker_change *c)
{
	uint32_t at = marker_flows_find(&t->flows, &e->key);

	if (at == MARKER_NOWHERE)
		return false;
	if (t->stale && t->stale[at] && wanted) {
		t->stale[at] = 0;
		t->counts.open++;
		/* Not this flow's, if that is another. */
		c->new_flow = marker_flows_label(&t->flows, at) != e->label;
	}
	return true;
}

static void queue_event(struct marker *m, const struct flow_event *e, uint32_t route_bit)
{
	struct marker_table *t = &m->table;
	bool wanted = e->state != FLOW_END && ((uint32_t)e->route & route_bit);
	struct marker_change *c, first = {0};
	uint16_t *entry;
	bool had;

	if (!(e->flags & EVENT_DELIVER) || e->slot < 0)
		return;
	if (e->key.family != 6) {
		t->counts.ipv4 += wanted && !(e->flags & EVENT_KNOWN);
		return;
	}
	if (t->changes == MARKER_CHANGES_MAX)
		marker_flush(m);
	c = change_of(t, &e->key, &entry);
	if (!c)
		first.was_marked = first.marked = is_marked(t, e, wanted, &first);
	had = c ? c->marked : first.marked;
	/* Nothing to do: not ours, or marked with the tag that it keeps. */
	if (had == wanted && !first.new_flow && (!wanted || e->flags & EVENT_DECIDED))
		return;
	if (!c) {
		c = change_new(t, &e->key, entry);
		c->was_marked = first.was_marked;
		c->new_flow = first.new_flow;
	}
	c->label = e->label;
	c->marked = wanted;
	c->new_flow |= !wanted;
	c->restart |= e->state == FLOW_START;
}

void marker_queue(struct marker *m, const struct flow_event *events, uint32_t count, uint32_t route_bit)
{
	for (uint32_t i = 0; i < count; i++)
		queue_event(m, &events[i], route_bit);
}

/* -- flush -------------------------------------------------------------------------- */

/* Have a table of twice the size, unless that was in vain a moment ago. 0 or -errno. */
static int grow(struct marker *m)
{
	struct marker_table *t = &m->table;
	int r;

	/* Twice what is needed: for flows that are unlucky with their buckets. */
	if (t->flows.capacity / 2 >= marker_capacity(t->marks_max))
		return -E2BIG;
	if (clock_monotonic_ns() < t->grow_after_ns)
		return -ENOMEM;
	r = marker_load_larger(m, t->flows.capacity * 2);
	if (r < 0) {
		t->grow_after_ns = clock_monotonic_ns() + RETRY_NS;
		log_warn("marker: no larger table than for %u flows: %s", t->flows.capacity / 8 * 5,
			 strerror(-r));
	}
	return r;
}

static int insert(struct marker *m, const struct marker_change *c)
{
	struct marker_table *t = &m->table;
	int r = 0;

	if (t->counts.open >= t->marks_max)
		return -E2BIG;
	if (t->flows.used >= t->flows.capacity / 8 * 5)
		r = grow(m);
	port_add(t, c->key.src_port);
	while (marker_flows_insert(&t->flows, &c->key, c->label) == MARKER_NOWHERE) {
		if (r == 0)
			r = grow(m);
		if (r < 0) {
			port_remove(t, c->key.src_port);
			return r;
		}
	}
	t->counts.added++;
	t->counts.open++;
	return 0;
}

static void change(struct marker_table *t, uint32_t at, const struct marker_change *c)
{
	if (c->new_flow) {
		struct marker_count counted = marker_flows_counted(&t->flows, at);

		marker_flows_new_flow(&t->flows, at, counted);
		marker_totals_moved(&t->totals, marker_flows_label(&t->flows, at), at, counted);
	} else {
		marker_totals_changed(&t->totals, &t->flows, at, c->label);
	}
	marker_flows_change(&t->flows, at, c->label);
	if (c->new_flow || c->restart)
		marker_flows_forget_socket(&t->flows, at);
	t->counts.changed++;
}

static void remove_mark(struct marker_table *t, uint32_t at)
{
	uint32_t label = marker_flows_label(&t->flows, at);
	uint16_t port = marker_flows_port(&t->flows, at);

	marker_flows_remove(&t->flows, at);
	/* What came to the last moment is among it. */
	marker_totals_moved(&t->totals, label, at, marker_flows_counted(&t->flows, at));
	port_remove(t, port);
	t->counts.removed++;
}

void marker_flush(struct marker *m)
{
	struct marker_table *t = &m->table;

	/* Room is made before it is needed. */
	for (uint32_t i = 0; i < t->changes; i++) {
		const struct marker_change *c = &t->change[i];
		uint32_t at;

		if (c->marked || !c->was_marked)
			continue;
		at = marker_flows_find(&t->flows, &c->key);
		if (at == MARKER_NOWHERE)
			continue;
		if (t->stale && t->stale[at])
			t->stale[at] = 0;
		else
			t->counts.open--;
		remove_mark(t, at);
	}
	for (uint32_t i = 0; i < t->changes; i++) {
		const struct marker_change *c = &t->change[i];
		int r = 0;

		if (!c->marked)
			continue;
		if (c->was_marked)
			change(t, marker_flows_find(&t->flows, &c->key), c);
		else
			r = insert(m, c);
		if (r < 0)
			refuse(t, &c->key, r);
	}
	if (t->changes > 0)
		memset(t->index, 0, sizeof(t->index));
	t->changes = 0;
}

/* -- taking over ---------------------------------------------------------------------- */

int marker_table_adopt(struct marker_table *t)
{
	t->stale = calloc(t->flows.capacity, 1);
	if (!t->stale)
		return -ENOMEM;
	for (uint32_t at = 0; at < t->flows.capacity; at++) {
		if (!marker_flows_taken(&t->flows, at)) {
			marker_flows_clear(&t->flows, at);
			continue;
		}
		t->flows.used++;
		if (marker_flows_valid(&t->flows, at)) {
			t->stale[at] = 1;
			port_add(t, marker_flows_port(&t->flows, at));
		} else {
			marker_flows_discard(&t->flows, at);
		}
	}
	return marker_flows_recount(&t->flows);
}

/* Clear the bits of ports that only a mark which was about to be set, or has gone, had. */
static void trim_ports(struct marker_table *t)
{
	for (uint32_t port = 0; port < 65536; port++) {
		if (t->port_flows[port] == 0)
			port_show(t, (uint16_t)port, false);
	}
}

void marker_table_settle(struct marker_table *t)
{
	if (!t->stale)
		return;
	for (uint32_t at = 0; at < t->flows.capacity; at++) {
		if (t->stale[at])
			remove_mark(t, at);
	}
	free(t->stale);
	t->stale = NULL;
	trim_ports(t);
}
