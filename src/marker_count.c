/* SPDX-License-Identifier: Apache-2.0 */
/* marker_count.c - what the programs have counted, and the time until which they mark. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "label.skel.h"
#include "marker_internal.h"

_Static_assert(sizeof(((struct marker_counts *)0)->packets) == MARKER_PACKET_KINDS * sizeof(uint64_t),
	       "a counter for every enum marker_packet");
_Static_assert(sizeof(((struct marker_counts *)0)->refused) == MARKER_REFUSALS * sizeof(uint64_t),
	       "a counter for every enum marker_refusal");
_Static_assert((int)MARKER_PACKET_KINDS < (int)MARKER_KINDS, "room for all, and the programs' own");
_Static_assert((int)MARKER_CLASSES_MAX >= (int)MARKER_CLASSES, "room for all");

static uint64_t sum(const struct marker *m, uint32_t kind)
{
	uint64_t total = 0;

	for (uint32_t cpu = 0; cpu < m->cpus; cpu++)
		total += __atomic_load_n(&m->cpu[cpu].packets[kind], __ATOMIC_RELAXED);
	return total;
}

void marker_counts(const struct marker *m, struct marker_counts *out)
{
	*out = m->table.counts;
	for (uint32_t kind = 0; kind < MARKER_PACKET_KINDS; kind++)
		out->packets[kind] = sum(m, kind);
	out->packets[MARKER_MARKED] = marker_totals_packets(&m->table.totals, &m->table.flows);
}

bool marker_look(struct marker *m)
{
	return marker_totals_look(&m->table.totals, &m->table.flows);
}

uint32_t marker_account(struct marker *m, struct marker_counts *out, struct marker_class *classes)
{
	uint64_t *counted = (uint64_t *)m->skeleton->bss->counted_kinds;
	struct marker_totals *t = &m->table.totals;
	bool known = marker_totals_known(t, &m->table.flows);
	uint32_t found = 0;

	*out = m->table.counts;
	for (uint32_t kind = MARKER_MARKED + 1; kind < MARKER_PACKET_KINDS; kind++) {
		uint64_t now = sum(m, kind);

		out->packets[kind] = now - counted[kind];
		counted[kind] = now;
	}
	for (uint32_t class = 0; class < t->used && known; class ++) {
		struct marker_count more = marker_totals_account(t, class);

		if (more.packets == 0)
			continue;
		out->packets[MARKER_MARKED] += more.packets;
		classes[found++] = (struct marker_class){
			.experiment = class == 0 ? 0 : t->classes[class] >> 6,
			.activity = class == 0 ? 0 : t->classes[class] & 63,
			.packets = more.packets,
			.octets = more.octets,
		};
	}
	return found;
}

int marker_flow_usage(const struct marker *m, const struct flow_key *key, struct marker_usage *out)
{
	uint32_t at = key->family == 6 ? marker_flows_find(&m->table.flows, key) : MARKER_NOWHERE;
	struct marker_mark mark;

	if (at == MARKER_NOWHERE || !marker_flows_read(&m->table.flows, at, &mark))
		return -ENOENT;
	*out = (struct marker_usage){.packets = mark.packets, .octets = mark.octets, .cookie = mark.cookie};
	return 0;
}

void marker_fill_usage(const struct marker *m, struct flow_event *events, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct flow_event *e = &events[i];
		struct marker_usage usage;

		if (e->state != FLOW_END || !(e->flags & EVENT_DELIVER) ||
		    e->flags & (EVENT_HAS_BYTES | EVENT_HAS_SENT) ||
		    marker_flow_usage(m, &e->key, &usage) < 0 || usage.cookie != 0 || usage.packets == 0)
			continue;
		e->bytes_sent = usage.octets;
		e->flags |= EVENT_HAS_SENT;
	}
}

uint64_t marker_memory(const struct marker *m)
{
	return m->table.flows.size;
}

uint32_t marker_room(const struct marker *m)
{
	return m->table.flows.capacity / 8 * 5;
}

int marker_lease(struct marker *m, uint32_t seconds)
{
	struct label_bpf__bss *bss = m->skeleton->bss;
	uint8_t packet[64] = {0};
	struct bpf_test_run_opts opts = {
		.sz = sizeof(opts), .data_in = packet, .data_size_in = sizeof(packet)};
	struct timespec tick;
	uint64_t deadline;
	int r;

	if (seconds == 0) {
		__atomic_store_n(&bss->deadline, UINT64_MAX, __ATOMIC_RELAXED);
		return 0;
	}
	r = bpf_prog_test_run_opts(m->clock_program, &opts);
	if (r < 0)
		return r;
	/* The coarse clock goes forward with each jiffy. */
	if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) < 0 || tick.tv_sec != 0 || tick.tv_nsec == 0)
		return -EINVAL;
	deadline = __atomic_load_n(&bss->jiffies, __ATOMIC_RELAXED) +
		   (uint64_t)seconds * 1000000000 / (uint64_t)tick.tv_nsec;
	__atomic_store_n(&bss->deadline, deadline, __ATOMIC_RELAXED);
	return 0;
}
