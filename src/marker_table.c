/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marker_table.c - which flows are marked: queued per batch, one change a flow, and brought
 * into the BPF hash and the program's set of local ports by as few system calls as possible.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "marker_filter.h"
#include "marker_internal.h"

int marker_table_open(struct marker_table *t, int fd, uint64_t *local_ports, uint64_t *flow_filter)
{
	t->fd = fd;
	t->local_ports = local_ports;
	t->flow_filter = flow_filter;
	t->port_flows = calloc(65536, sizeof(*t->port_flows));
	t->bit_flows = calloc(MARKER_FILTER_BITS, sizeof(*t->bit_flows));
	return t->port_flows && t->bit_flows ? 0 : -ENOMEM;
}

void marker_table_close(struct marker_table *t)
{
	free(t->port_flows);
	free(t->bit_flows);
	free(t->slot);
	marker_stale_free(t->stale);
}

uint32_t marker_key_hash(const struct flow_key *key)
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

/* Never 0. */
static uint32_t slot_print(const struct flow_key *key)
{
	return marker_key_hash(key) | 1;
}

/* Is this flow's mark in the hash? A slot whose flow went without an end that came here (its batch
 * failed) does not pass for that of the next flow. */
static bool slot_marked(const struct marker_table *t, uint32_t slot, const struct flow_key *key)
{
	return slot < t->slots && t->slot[slot] == slot_print(key);
}

static int slot_set(struct marker_table *t, uint32_t slot, const struct flow_key *key)
{
	if (slot >= t->slots) {
		uint32_t slots = slot + slot / 2 + 1024;
		uint32_t *larger = realloc(t->slot, slots * sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		memset(larger + t->slots, 0, (slots - t->slots) * sizeof(*larger));
		t->slot = larger;
		t->slots = slots;
	}
	t->slot[slot] = slot_print(key);
	return 0;
}

/* The sets of ports and flows are read by the program on other CPUs. */
static void bit_set(uint64_t *set, uint32_t number)
{
	__atomic_fetch_or(&set[number / 64], 1ULL << (number % 64), __ATOMIC_RELEASE);
}

static void bit_clear(uint64_t *set, uint32_t number)
{
	__atomic_fetch_and(&set[number / 64], ~(1ULL << (number % 64)), __ATOMIC_RELEASE);
}

static void sets_add(struct marker_table *t, const struct flow_key *key)
{
	uint32_t number = marker_filter_bit(key->dst.word, key->src_port, key->dst_port);

	if (t->bit_flows[number]++ == 0)
		bit_set(t->flow_filter, number);
	if (t->port_flows[key->src_port]++ == 0)
		bit_set(t->local_ports, key->src_port);
}

static void sets_remove(struct marker_table *t, const struct flow_key *key)
{
	uint32_t number = marker_filter_bit(key->dst.word, key->src_port, key->dst_port);

	if (--t->port_flows[key->src_port] == 0)
		bit_clear(t->local_ports, key->src_port);
	if (--t->bit_flows[number] == 0)
		bit_clear(t->flow_filter, number);
}

/* -- queue -------------------------------------------------------------------------- */

/* The queued change of a flow; a new one, not yet filled in but for its key, when there is none. */
static struct marker_change *change_of(struct marker_table *t, const struct flow_key *key, bool *found)
{
	uint32_t at = marker_key_hash(key);
	struct marker_change *c;

	for (;; at++) {
		uint16_t *entry = &t->index[at & (MARKER_INDEX_SIZE - 1)];

		if (*entry == 0) {
			*entry = (uint16_t)(t->changes + 1);
			break;
		}
		c = &t->change[*entry - 1];
		if (memcmp(&c->key, key, sizeof(*key)) == 0) {
			*found = true;
			return c;
		}
	}
	c = &t->change[t->changes++];
	c->key = *key;
	*found = false;
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

/* A mark that the process before set, if there is one for this event's flow and label, is ours now. */
static void claim(struct marker_table *t, const struct flow_event *e)
{
	if (!marker_stale_take(t->stale, &e->key, e->label) || slot_set(t, (uint32_t)e->slot, &e->key) < 0)
		return;
	sets_add(t, &e->key);
	t->counts.open++;
}

static void queue_event(struct marker *m, const struct flow_event *e, uint32_t route_bit)
{
	struct marker_table *t = &m->table;
	bool wanted = e->state != FLOW_END && ((uint32_t)e->route & route_bit);
	uint32_t slot = (uint32_t)e->slot;
	struct marker_change *c;
	bool had, found;

	if (!(e->flags & EVENT_DELIVER) || e->slot < 0)
		return;
	if (e->key.family != 6) {
		t->counts.ipv4 += wanted && !(e->flags & EVENT_KNOWN);
		return;
	}
	if (t->changes == MARKER_CHANGES_MAX)
		marker_flush(m);
	if (t->stale && wanted && !slot_marked(t, slot, &e->key))
		claim(t, e);
	had = slot_marked(t, slot, &e->key);
	/* Nothing to do: not ours, or marked with the tag that it keeps. */
	if (had == wanted && (!wanted || e->flags & EVENT_DECIDED))
		return;
	if (wanted && slot_set(t, slot, &e->key) < 0) {
		refuse(t, &e->key, -ENOMEM);
		return;
	}
	if (!wanted)
		t->slot[slot] = 0;
	c = change_of(t, &e->key, &found);
	if (!found)
		c->was_marked = had;
	c->slot = slot;
	c->label = e->label;
	c->marked = wanted;
}

void marker_queue(struct marker *m, const struct flow_event *events, uint32_t count, uint32_t route_bit)
{
	for (uint32_t i = 0; i < count; i++)
		queue_event(m, &events[i], route_bit);
}

/* -- flush -------------------------------------------------------------------------- */

/* A mark is in the hash. */
static void change_done(struct marker_table *t, const struct marker_change *c)
{
	if (c->was_marked) {
		t->counts.changed++;
	} else {
		t->counts.added++;
		t->counts.open++;
	}
}

static void change_failed(struct marker_table *t, const struct marker_change *c, int error)
{
	refuse(t, &c->key, error);
	/* A label that cannot be changed stays as it was. */
	if (c->was_marked)
		return;
	t->slot[c->slot] = 0;
	sets_remove(t, &c->key);
}

/* A mark is not in the hash any more. */
static void remove_done(struct marker_table *t, const struct marker_change *c)
{
	sets_remove(t, &c->key);
	t->counts.removed++;
	t->counts.open--;
}

/*
 * Insert or change `count` marks: number[i] is the change that keys[i] and labels[i] are of. A
 * batch stops at the first one that fails; that one is tried alone, which gives its reason.
 */
static void update_marks(struct marker_table *t, const uint16_t *number, uint32_t count)
{
	uint32_t done = 0;

	while (done < count) {
		uint32_t n = count - done;
		int r = bpf_map_update_batch(t->fd, &t->keys[done], &t->labels[done], &n, NULL);

		/* A call that failed before its first mark leaves n alone. */
		if (r < 0 && n >= count - done)
			n = 0;
		for (uint32_t i = 0; i < n; i++)
			change_done(t, &t->change[number[done + i]]);
		done += n;
		if (r == 0)
			continue;
		r = bpf_map_update_elem(t->fd, &t->keys[done], &t->labels[done], BPF_ANY);
		if (r == 0)
			change_done(t, &t->change[number[done]]);
		else
			change_failed(t, &t->change[number[done]], r);
		done++;
	}
}

static void remove_marks(struct marker_table *t, const uint16_t *number, uint32_t count)
{
	uint32_t done = 0;

	while (done < count) {
		uint32_t n = count - done;
		int r = bpf_map_delete_batch(t->fd, &t->keys[done], &n, NULL);

		if (r < 0 && n >= count - done)
			n = 0;
		for (uint32_t i = 0; i < n; i++)
			remove_done(t, &t->change[number[done + i]]);
		done += n;
		if (r == 0)
			continue;
		r = bpf_map_delete_elem(t->fd, &t->keys[done]);
		if (r < 0 && r != -ENOENT)
			refuse(t, &t->change[number[done]].key, r);
		remove_done(t, &t->change[number[done]]);
		done++;
	}
}

/* Collect the changes that end with a mark, or those that end a mark. */
static uint32_t collect(struct marker_table *t, bool marked, uint16_t *number)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < t->changes; i++) {
		const struct marker_change *c = &t->change[i];

		if (c->marked != marked || (!marked && !c->was_marked))
			continue;
		if (marked && !c->was_marked)
			sets_add(t, &c->key);
		t->keys[count] = c->key;
		t->labels[count] = c->label;
		number[count++] = (uint16_t)i;
	}
	return count;
}

/* -- taking over ---------------------------------------------------------------------- */

int marker_table_adopt(struct marker_table *t)
{
	return marker_stale_read(&t->stale, t->fd);
}

/* Clear the bits that only those marks had. */
static void set_trim(uint64_t *set, const uint32_t *flows, uint32_t bits)
{
	for (uint32_t word = 0; word < bits / 64; word++) {
		for (uint64_t left = set[word]; left; left &= left - 1) {
			uint32_t number = word * 64 + (uint32_t)__builtin_ctzll(left);

			if (flows[number] == 0)
				bit_clear(set, number);
		}
	}
}

void marker_table_settle(struct marker_table *t)
{
	if (!t->stale)
		return;
	t->counts.removed += marker_stale_remove(t->stale, t->fd);
	marker_stale_free(t->stale);
	t->stale = NULL;
	set_trim(t->local_ports, t->port_flows, 65536);
	set_trim(t->flow_filter, t->bit_flows, MARKER_FILTER_BITS);
}

void marker_flush(struct marker *m)
{
	struct marker_table *t = &m->table;
	uint16_t number[MARKER_CHANGES_MAX];

	if (t->changes == 0)
		return;
	/* Room is made before it is needed. */
	remove_marks(t, number, collect(t, false, number));
	update_marks(t, number, collect(t, true, number));
	t->changes = 0;
	memset(t->index, 0, sizeof(t->index));
}
