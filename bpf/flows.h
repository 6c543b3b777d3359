/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * flows.h - what the programs share with the daemon: the table of marked flows, the set of their local
 * ports, the counters. And how a packet's flow is found.
 *
 * A call of one of the kernel's functions costs more than all else that is done for a packet, and memory
 * that is spoken to through one is a dozen instructions. So the two large maps are one element each where the
 * kernel takes that, which a program reaches by address ("flat", see kernel.h).
 */
#ifndef FLOWS_H
#define FLOWS_H

#include "headers.h"
#include "kernel.h"
#include "marker_flows.h"

#define TC_ACT_UNSPEC (-1) /* also TCX_NEXT */

/* What is nearly always so is laid out in one piece, and its code in few lines of the cache. */
#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* marker_flows.h. The daemon makes it, of the size that it needs: elements of 64 octets, or all in one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct marker_entry));
} flows SEC(".maps");

/* For each CPU: an element each, or all in one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct marker_cpu));
} cpus SEC(".maps");

/* Local ports that a marked flow has, a bit each, by number as it is in packets: nearly every packet of no
 * marked flow is passed on after a look at it, and not even counted: that would add half to its cost. A bit
 * is set before the flow's mark is there and cleared after it is gone. */
__u8 local_ports[65536 / 8];
__u64 seed;	/* of the hash */
__u64 deadline; /* of the lease, in jiffies */
__u64 jiffies;	/* for the daemon: when it last asked */

/* The daemon's alone; here it outlives the daemon. Of which experiment << 6 | activity each class
 * is, and how many packets and octets of each number it has brought to account. */
__u16 classes[MARKER_COUNTS];
__u64 counted[2 * MARKER_COUNTS];

const volatile __u32 entry_mask;      /* entries - 1 */
const volatile __u32 entries_from;    /* number of the element that is entry 0 */
const volatile bool headers_pointers; /* headers.h */

/* Of a map that is an array. The key is written as 8 octets: without CAP_PERFMON the verifier takes no 4 in
 * a place where an address was before. */
static __always_inline void *element(void *array, __u32 index)
{
	__u64 key = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? index : (__u64)index << 32;

	return bpf_map_lookup_elem(array, &key);
}

/* -- counters ------------------------------------------------------------------------- */

static __always_inline struct marker_cpu *cpu_flat(void)
{
	return kernel_cpus() + kernel_cpu_within(bpf_get_smp_processor_id());
}

static __always_inline struct marker_cpu *this_cpu(bool flat)
{
	return flat || kernel_cpus_flat() ? cpu_flat() : element(&cpus, bpf_get_smp_processor_id());
}

/* Without CAP_PERFMON the verifier takes no index that is a constant on some ways and none on others:
 * it forgets what it knows of one that comes from a map. */
static __always_inline __u32 unknown(struct marker_cpu *cpu, __u32 value)
{
	volatile __u64 *spare = &cpu->count[MARKER_CLASS_FIRST - 1].octets;

	if (headers_pointers)
		return value;
	*spare = value;
	return *spare;
}

/* Programs of one CPU do not interrupt one another here: no atomic operations. */
static __always_inline int count(__u32 kind)
{
	struct marker_cpu *cpu;

	if (kernel_cpus_flat()) {
		cpu_flat()->count[kind].packets++;
		return TC_ACT_UNSPEC;
	}
	cpu = this_cpu(false);
	if (cpu)
		cpu->count[unknown(cpu, kind) & (MARKER_COUNTS - 1)].packets++;
	return TC_ACT_UNSPEC;
}

/* -- the table ------------------------------------------------------------------------ */

/* What a packet is found by, and what it is changed with. */
struct packet {
	const struct headers_addresses *at;
	__u32 ports;
	__u32 udp; /* MARKER_WORD_UDP or 0 */
	__u32 network;
	__u32 word; /* the first of its IPv6 header, at octet `network` */
	bool flat;  /* for a program that is there only where all tables are: else it is asked */
};

/* `port` as it is in the packet. */
static __always_inline bool port_has_flow(__u16 port)
{
	return local_ports[port / 8] >> (port % 8) & 1;
}

/* Of protocols 6 and 17: MARKER_WORD_UDP or 0. */
static __always_inline __u32 word_udp(__u32 protocol)
{
	return (protocol & 0x10) * (MARKER_WORD_UDP / 0x10);
}

/* What is read through the result is read after `value`, also by a processor that reads in any order: it
 * sees that the one depends on the other. */
static __always_inline const volatile struct marker_entry *after(const struct marker_entry *entry,
								 __u64 value)
{
	if (!ANY_ORDER)
		return entry;
	asm volatile("%0 &= 0" : "+r"(value));
	return (const volatile void *)entry + value;
}

/* Not 0: not the packet's key. */
static __always_inline __u64 key_differs(const volatile struct marker_entry *e, const struct packet *p)
{
	return (e->ports ^ p->ports) | (e->src[0] ^ p->at->src[0]) | (e->src[1] ^ p->at->src[1]) |
	       (e->dst[0] ^ p->at->dst[0]) | (e->dst[1] ^ p->at->dst[1]);
}

/* Is this entry the packet's flow's? One that changes meanwhile is not. *word: the entry's. */
static __always_inline bool entry_is(struct marker_entry *entry, const struct packet *p, __u32 *word)
{
	__u32 seen = *(volatile __u32 *)&entry->word, again;
	const volatile struct marker_entry *e = after(entry, seen);
	__u64 differ;

	*word = seen;
	/* Nearly every other flow has other ones. A branch keeps no order. */
	if (!ANY_ORDER && e->ports != p->ports)
		return false;
	differ = key_differs(e, p);
	again = after(entry, differ)->word;
	*word = again;
	/* Its generation and protocol. */
	seen = (seen >> MARKER_GENERATION_SHIFT << MARKER_GENERATION_SHIFT | p->udp) ^ again;
	return !(differ | seen >> (MARKER_GENERATION_SHIFT - 1)) && again & MARKER_WORD_LABEL;
}

/* A number of an entry, whatever it was. */
static __always_inline __u64 within(__u64 at, bool flat)
{
	return flat || kernel_flows_flat() ? kernel_entry_within(at) : at & entry_mask;
}

/* Of an entry that is within. */
static __always_inline struct marker_entry *entry_at(__u64 at, bool flat)
{
	return flat || kernel_flows_flat() ? kernel_entries() + at : element(&flows, entries_from + at);
}

static __always_inline struct marker_rest *rest_at(__u64 at, bool flat)
{
	struct marker_rest *rest;

	if (flat || kernel_flows_flat())
		return kernel_rests() + at;
	rest = element(&flows, entries_from + entry_mask + 1 + at / 4);
	if (!rest)
		return NULL;
	asm volatile("" : "+r"(rest)); /* the verifier wants it to be asked before anything is added */
	return rest + at % 4;
}

/* The tags of a bucket. */
static __always_inline __u64 *tags_of(__u64 bucket, bool flat)
{
	__u64 *tags;

	if (flat || kernel_flows_flat())
		return kernel_tags() + bucket;
	tags = element(&flows, bucket / 8);
	if (!tags)
		return NULL;
	asm volatile("" : "+r"(tags)); /* the verifier wants it to be asked before anything is added */
	return tags + bucket % 8;
}

/* An entry, where it is, and its word as it was found. (No gaps: without CAP_PERFMON none may be copied.) */
struct found {
	struct marker_entry *entry;
	__u64 at;
	__u32 word;
	__u32 spare;
};

/* Is the packet's flow among those with this tag in a bucket? */
static __always_inline bool find_tagged(__u64 bucket, __u32 tag, const struct packet *p, struct found *f)
{
	__u64 *tags = tags_of(bucket, p->flat), match;

	if (!tags)
		return false;
	match = marker_tags_match(*tags, tag);
	_Static_assert(MARKER_TAG_SHARED == 3, "so many are looked at");
	for (int i = 0; i < MARKER_TAG_SHARED && match; i++) {
		f->at = within(bucket * MARKER_BUCKET + marker_tags_first(match), p->flat);
		f->entry = entry_at(f->at, p->flat);
		if (f->entry && entry_is(f->entry, p, &f->word))
			return true;
		match &= match - 1;
	}
	return false;
}

/* The entry of a flow that is not in its own one; NULL: there is none. Not inlined: the registers are for
 * what is done for every packet. */
static __attribute__((noinline)) struct marker_entry *find_elsewhere(__u64 hash, const struct packet *p,
								     struct found *f)
{
	__u64 own = within(hash, p->flat), other = within(hash >> (MARKER_OTHER_SHIFT - 3), p->flat);

	/* marker_bucket_other(), within the table */
	if (find_tagged(own / MARKER_BUCKET, marker_tag(hash), p, f) ||
	    find_tagged(other / MARKER_BUCKET, marker_tag(hash), p, f))
		return f->entry;
	return NULL;
}

/* The entry of the packet's flow; NULL: there is none. */
static __always_inline struct found find(const struct packet *p)
{
	__u64 hash = marker_hash(p->at->src, p->at->dst, p->ports, p->udp, seed);
	struct found own = {.at = within(hash, p->flat)};

	own.entry = entry_at(own.at, p->flat);
	if (!own.entry || likely(entry_is(own.entry, p, &own.word)))
		return own;
	if (unlikely(own.word & MARKER_WORD_ELSEWHERE)) {
		/* What a function is told lies in memory: only here. */
		struct packet copy = *p;
		struct found other = {};

		other.entry = find_elsewhere(hash, &copy, &other);
		return other;
	}
	own.entry = NULL;
	return own;
}

#endif
