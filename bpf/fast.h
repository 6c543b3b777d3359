/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * fast.h - the way of nearly all packets of marked flows: plain ones, where all tables are flat. One that is
 * not cloned is written to in place.
 *
 * A register that outlives a call is saved and restored for every packet of the host. So nothing but the
 * context outlives one here: what is for some packets only is a function of its own, which nothing comes
 * behind.
 */
#ifndef FAST_H
#define FAST_H

#include "marking.h"

/* label_in_place, where it can be used. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} writers SEC(".maps");

/* What label_in_place is to write: the last word of what programs note in a packet for one another. */
#define WORD_FOR_WRITER 4

/* It does not come back, unless there is none. (bpf_tail_call_static() takes more registers.) */
static __always_inline void call_writer(struct __sk_buff *skb, __u32 word)
{
	skb->cb[WORD_FOR_WRITER] = word;
	asm volatile("r1 = %0\n"
		     "r2 = %1 ll\n"
		     "r3 = 0\n"
		     "call 12"
		     :
		     : "r"(skb), "i"(&writers)
		     : "r0", "r1", "r2", "r3", "r4", "r5");
}

/* label.bpf.c: a plain packet, with the help of the kernel's functions. */
int label_plain_ethernet(struct __sk_buff *skb);

/* Octets 14 to 17 of a packet, by the kernel. */
static __attribute__((noinline)) int label_cloned(struct __sk_buff *skb, struct marker_entry *entry,
						  __u32 word, bool by_owner)
{
	__u32 copy = word;

	if (bpf_skb_store_bytes(skb, HEADERS_ETHERNET, &copy, sizeof(copy), BPF_F_RECOMPUTE_CSUM))
		return count(MARKER_WRITE);
	count_marked(skb, HEADERS_ETHERNET, entry, 0, by_owner, true);
	return TC_ACT_UNSPEC;
}

/* call_writer() came back. */
static __attribute__((noinline)) int label_unwritten(struct __sk_buff *skb)
{
	__u32 word = skb->cb[WORD_FOR_WRITER];

	return bpf_skb_store_bytes(skb, HEADERS_ETHERNET, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM)
		       ? count(MARKER_WRITE)
		       : TC_ACT_UNSPEC;
}

/* Not sent by the entry's owner. */
static __attribute__((noinline)) int label_by_another(struct __sk_buff *skb, struct marker_entry *entry,
						      __u64 key, __u64 who, __u32 first)
{
	__u32 word = with_label(first, key);

	if (!sent_by_another(entry, high_bits(key, MARKER_KEY_GENERATION), who))
		return count(MARKER_REUSED);
	if (kernel_cloned(skb))
		return label_cloned(skb, entry, word, false);
	count_marked(skb, HEADERS_ETHERNET, entry, 0, false, true);
	call_writer(skb, word);
	return label_unwritten(skb);
}

static __always_inline bool is_owner(const struct marker_entry *entry, __u64 who)
{
	return likely(*(volatile __u64 *)&entry->identity == who);
}

static __always_inline int label_found_flat(struct __sk_buff *skb, const struct packet *p,
					    struct marker_entry *entry, __u64 key)
{
	__u32 first = p->ip->ip.version_class_label, protocol = *(volatile __u8 *)&p->ip->ip.next, word;
	__u64 who, cloned;

	if (unlikely(is_expired()))
		return count(MARKER_EXPIRED);
	asm volatile("" ::: "r7", "r8", "r9"); /* that was a call */
	who = protocol == FLOW_UDP ? 0 : kernel_cookie(skb, &cloned);
	if (likely(who)) {
		who |= high_bits(key, MARKER_KEY_GENERATION);
		if (!is_owner(entry, who))
			return label_by_another(skb, entry, key, who, first);
	} else {
		/* The first time that its socket is asked for a cookie. */
		if (protocol != FLOW_UDP && kernel_has_socket(skb))
			return label_plain_ethernet(skb);
		who = this_cpu_as_sender() | high_bits(key, MARKER_KEY_GENERATION);
		if (!is_owner(entry, who))
			return label_by_another(skb, entry, key, who, first);
		cloned = kernel_cloned(skb);
	}
	word = with_label(first, key);
	if (cloned)
		return label_cloned(skb, entry, word, true);
	count_marked(skb, HEADERS_ETHERNET, entry, 0, true, true);
	call_writer(skb, word);
	return label_unwritten(skb);
}

/* Not its own entry's flow. The packet is asked anew: else all would have to be kept meanwhile. */
static __attribute__((noinline)) int label_elsewhere_flat(struct __sk_buff *skb, __u64 hash)
{
	const struct headers_plain *plain;
	struct found f = {};
	struct packet p;

	if (!headers_find_plain(skb, HEADERS_ETHERNET, &plain))
		return TC_ACT_UNSPEC; /* it was */
	p = packet_of(plain, HEADERS_ETHERNET);
	return find_elsewhere(hash, &p, &f, true) && f.entry ? label_found_flat(skb, &p, f.entry, f.key)
							     : count(MARKER_MISSED);
}

static __always_inline int label_flat(struct __sk_buff *skb, const struct headers_plain *plain)
{
	struct packet p = packet_of(plain, HEADERS_ETHERNET);
	volatile __u64 kept; /* in memory: the registers are for the comparison */
	struct marker_entry *entry;
	__u64 hash, key;

	if (unlikely(!headers_plain_has_ports(plain)))
		return count(MARKER_TRUNCATED);
	hash = packet_hash(&p, true);
	kept = hash;
	entry = entry_at(own_at(hash, true), true);
	/* Once, and not before each access. */
	asm volatile("" : "+r"(entry));
	if (unlikely(!entry_is(entry, &p, &key))) {
		if (likely(!(key >> MARKER_KEY_ELSEWHERE & 1)))
			return count(MARKER_MISSED);
		/* Made anew: else that would have to be kept, too. */
		asm volatile("" : "+r"(plain));
		p = packet_of(plain, HEADERS_ETHERNET);
		entry = entry_at(marker_beside(own_at(kept, true)), true);
		asm volatile("" : "+r"(entry));
		if (!entry_is(entry, &p, &key))
			return label_elsewhere_flat(skb, kept);
	}
	return label_found_flat(skb, &p, entry, key);
}

#endif
