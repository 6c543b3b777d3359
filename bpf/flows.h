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
__s64 factor;	/* of the hash */
__u64 deadline; /* of the lease, in jiffies */
__u64 jiffies;	/* for the daemon: when it last asked */

/* The daemon's alone; here it outlives the daemon: marker_totals.c, marker_count.c. */
__u16 classes[MARKER_CLASSES];	   /* of which experiment << 6 | activity each is */
__u64 moved[2 * MARKER_CLASSES];   /* packets and octets of flows that are not in the table any more */
__u64 counted[2 * MARKER_CLASSES]; /* those that were brought to account */
__u64 counted_kinds[MARKER_KINDS];

const volatile __u32 entry_bits;      /* of an entry's number */
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

/* Without CAP_PERFMON the verifier takes no index that is a constant on some ways and none on others:
 * it forgets what it knows of one that comes from a map. */
static __always_inline __u32 unknown(struct marker_cpu *cpu, __u32 value)
{
	volatile __u64 *spare = &cpu->packets[MARKER_KINDS - 1];

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
		cpu = kernel_cpus() + kernel_cpu_within(bpf_get_smp_processor_id());
		cpu->packets[kind]++;
		return TC_ACT_UNSPEC;
	}
	cpu = element(&cpus, bpf_get_smp_processor_id());
	if (cpu)
		cpu->packets[unknown(cpu, kind) & (MARKER_KINDS - 1)]++;
	return TC_ACT_UNSPEC;
}

/* -- the table ------------------------------------------------------------------------ */

/* What a packet is found by, and what it is changed with. */
struct packet {
	struct headers_fixed *ip; /* at octet `network`; or a copy of it */
	__u64 key;		  /* as an entry's: ports and protocol */
	__u32 network;
	__u32 protocol;
};

/* `port` as it is in the packet. */
static __always_inline bool port_has_flow(__u16 port)
{
	return local_ports[port / 8] >> (port % 8) & 1;
}

/* Of protocols 6 and 17. */
static __always_inline __u64 packet_key(const struct headers_ports *ports, __u32 protocol)
{
	return *(const __u32 *)ports | (__u64)(protocol & 0x10) << (MARKER_KEY_UDP - 4);
}

static __always_inline struct packet packet_of(const struct headers_plain *plain, __u32 network)
{
	return (struct packet){
		.ip = (struct headers_fixed *)&plain->fixed,
		.key = packet_key(&plain->ports, plain->fixed.ip.next),
		.network = network,
		.protocol = plain->fixed.ip.next,
	};
}

/* Bits of a number, by shifts that the compiler does not turn into a mask of ten octets. */
static __always_inline __u64 high_bits(__u64 value, __u32 from)
{
	asm volatile("" : "+r"(value)); /* here, not before what leads here */
	value >>= from;
	asm volatile("" : "+r"(value));
	return value << from;
}

static __always_inline __u64 low_bits(__u64 value, __u32 count)
{
	value <<= 64 - count;
	asm volatile("" : "+r"(value));
	return value;
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

/* Is this entry the packet's flow's? One that changes meanwhile is not. *key: the entry's. */
static __always_inline bool entry_is(struct marker_entry *entry, const struct packet *p, __u64 *key)
{
	__u64 seen = *(volatile __u64 *)&entry->key, differ;
	const volatile struct marker_entry *e = after(entry, seen);

	*key = seen;
	/* Nearly every other flow has other ports. */
	if (low_bits(seen ^ p->key, MARKER_KEY_BITS))
		return false;
	differ = (e->src[0] ^ p->ip->addresses.src[0]) | (e->src[1] ^ p->ip->addresses.src[1]) |
		 (e->dst[0] ^ p->ip->addresses.dst[0]) | (e->dst[1] ^ p->ip->addresses.dst[1]);
	return !(differ | (after(entry, differ)->key ^ seen) >> MARKER_KEY_GENERATION);
}

/* `flat` from here on: known to be so, for what is there only where all tables are; else it is asked. */

/* The number of a flow's own entry. */
static __always_inline __u64 own_at(__u64 hash, bool flat)
{
	return flat || kernel_flows_flat() ? kernel_entry_own(hash) : hash >> (64 - entry_bits);
}

/* A number of an entry, whatever it was. */
static __always_inline __u64 within(__u64 at, bool flat)
{
	return flat || kernel_flows_flat() ? kernel_entry_within(at) : at & ((1ULL << entry_bits) - 1);
}

/* Of an entry that is within. */
static __always_inline struct marker_entry *entry_at(__u64 at, bool flat)
{
	return flat || kernel_flows_flat() ? kernel_entries() + at : element(&flows, entries_from + at);
}

static __always_inline struct marker_rest *rest_of(const struct marker_entry *entry, __u64 at, bool flat)
{
	struct marker_rest *rest;

	if (flat || kernel_flows_flat())
		return kernel_rests() + kernel_entry_within(entry - kernel_entries());
	rest = element(&flows, entries_from + (1U << entry_bits) + at / 4);
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

/* An entry, where it is, and its key as it was found. */
struct found {
	struct marker_entry *entry;
	__u64 at;
	__u64 key;
};

/* Is the packet's flow among those with this tag in a bucket? */
static __always_inline bool find_tagged(__u64 bucket, __u32 tag, const struct packet *p, struct found *f,
					bool flat)
{
	__u64 *tags = tags_of(bucket, flat), match;

	if (!tags)
		return false;
	match = marker_tags_match(*tags, tag);
	_Static_assert(MARKER_TAG_SHARED == 3, "so many are looked at");
	for (int i = 0; i < MARKER_TAG_SHARED && match; i++) {
		f->at = within(bucket * MARKER_BUCKET + marker_tags_first(match), flat);
		f->entry = entry_at(f->at, flat);
		if (f->entry && entry_is(f->entry, p, &f->key))
			return true;
		match &= match - 1;
	}
	return false;
}

static __always_inline __u64 packet_hash(const struct packet *p, bool flat)
{
	const struct headers_addresses *at = &p->ip->addresses;
	__u64 product = flat || kernel_flows_flat() ? kernel_times_factor(at->dst[1]) : at->dst[1] * factor;

	return marker_hash(product, at->src, at->dst, p->key);
}

/* The entry of a flow that is not in its own one. */
static __always_inline bool find_elsewhere(__u64 hash, const struct packet *p, struct found *f, bool flat)
{
	__u64 own = own_at(hash, flat), other = within(marker_bucket_other(hash) * MARKER_BUCKET, flat);

	return find_tagged(own / MARKER_BUCKET, marker_tag(hash), p, f, flat) ||
	       find_tagged(other / MARKER_BUCKET, marker_tag(hash), p, f, flat);
}

#endif
