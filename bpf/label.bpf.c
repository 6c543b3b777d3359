// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * label.bpf.c - write the flow label of marked flows into what leaves an interface.
 *
 * Every packet goes on to the next program or filter, whatever happens here; a packet that
 * cannot be marked leaves as it came, and a counter says why. Egress sees the segments of a
 * flow before they are cut (GSO, BIG TCP), so one label here is the label of all of them.
 *
 * A call of one of the kernel's functions costs more than all else that is done for a packet:
 * what the verifier does not inline is called only where there is no other way.
 */
#include "fast.h"
#include "marking.h"

/* A packet of a marked flow, with the help of the kernel's functions. */
static __always_inline int label_found(struct __sk_buff *skb, const struct packet *p, const struct found *f)
{
	__u64 generation = high_bits(f->key, MARKER_KEY_GENERATION);
	__u64 cookie = p->protocol == FLOW_UDP ? 0 : bpf_get_socket_cookie(skb);
	__u64 who = (cookie ? cookie : this_cpu_as_sender()) | generation;
	__u32 word = with_label(p->ip->ip.version_class_label, f->key);
	bool by_owner;

	if (is_expired())
		return count(MARKER_EXPIRED);
	by_owner = *(volatile __u64 *)&f->entry->identity == who;
	if (!by_owner && !sent_by_another(f->entry, generation, who))
		return count(MARKER_REUSED);
	if (bpf_skb_store_bytes(skb, p->network, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM))
		return count(MARKER_WRITE);
	count_marked(skb, p->network, f->entry, f->at, by_owner, false);
	return TC_ACT_UNSPEC;
}

/* These are for the few flows that are not in their own entry, and functions for the verifier: each way out
 * of them it follows once. */
static __attribute__((noinline)) bool find_elsewhere_asked(__u64 hash, const struct packet *p,
							   struct found *f)
{
	return find_elsewhere(hash, p, f, false);
}

static __attribute__((noinline)) int label_elsewhere(struct __sk_buff *skb, __u64 hash,
						     const struct packet *p)
{
	struct found f = {};

	return find_elsewhere_asked(hash, p, &f) && f.entry ? label_found(skb, p, &f) : count(MARKER_MISSED);
}

/* A packet from a port that some marked flow has: it is counted as what it is. */
static __always_inline int label_packet(struct __sk_buff *skb, const struct packet *p)
{
	__u64 hash = packet_hash(p, false);
	struct found own = {.at = own_at(hash, false)};

	own.entry = entry_at(own.at, false);
	if (!own.entry)
		return TC_ACT_UNSPEC;
	if (likely(entry_is(own.entry, p, &own.key)))
		return label_found(skb, p, &own);
	return own.key >> MARKER_KEY_ELSEWHERE & 1 ? label_elsewhere(skb, hash, p) : count(MARKER_MISSED);
}

/*
 * Global functions, not inlined: the verifier goes through each once, for any offset, and not
 * again for every way that leads to it. The program loads five times as fast. Offsets are
 * masked to give the verifier a bound.
 */
#define OFFSET_MASK 0x7FFF

/* A packet of TCP or UDP at `transport`: is it of a marked flow? */
__attribute__((noinline)) int label_flow(struct __sk_buff *skb, __u32 network, __u32 transport,
					 __u32 protocol)
{
	struct packet p = {.protocol = protocol};
	struct headers_ports ports;
	struct headers_fixed ip;

	p.network = network &= OFFSET_MASK;
	transport &= OFFSET_MASK;
	if (!headers_load(skb, transport, sizeof(ports), &ports))
		return count(MARKER_TRUNCATED);
	if (!port_has_flow(ports.source))
		return TC_ACT_UNSPEC;
	if (!headers_load(skb, network, sizeof(ip), &ip) ||
	    !headers_has_ports(transport - network - HEADERS_IPV6_SIZE, ip.ip.payload_length))
		return count(MARKER_TRUNCATED);
	p.ip = &ip;
	p.key = packet_key(&ports, protocol);
	return label_packet(skb, &p);
}

/* From the IPv6 header on, whatever is behind it. */
__attribute__((noinline)) int label_ipv6(struct __sk_buff *skb, __u32 network)
{
	struct headers h = {.network = network & OFFSET_MASK};
	int reason = headers_find_transport(skb, &h);

	return reason ? count(reason) : label_flow(skb, h.network, h.transport, h.protocol);
}

/* From the first octet on, whatever it is. */
static __always_inline int label_any(struct __sk_buff *skb, __u32 link)
{
	__u32 network;
	int reason = headers_find_ipv6(skb, link, &network);

	return reason ? count(reason) : label_ipv6(skb, network);
}

__attribute__((noinline)) int label_any_ethernet(struct __sk_buff *skb)
{
	return label_any(skb, HEADERS_ETHERNET);
}

/* A plain packet from a port that some marked flow has, written to by way of the kernel. */
static __always_inline int label_plain(struct __sk_buff *skb, __u32 link)
{
	const struct headers_plain *plain;
	struct packet p;

	if (!headers_find_plain(skb, link, &plain))
		return TC_ACT_UNSPEC; /* it was */
	if (!headers_plain_has_ports(plain))
		return count(MARKER_TRUNCATED);
	p = packet_of(plain, link);
	return label_packet(skb, &p);
}

__attribute__((noinline)) int label_plain_ethernet(struct __sk_buff *skb)
{
	return label_plain(skb, HEADERS_ETHERNET);
}

/* -- the programs ----------------------------------------------------------------------------- */

SEC("tc")
int label_ethernet(struct __sk_buff *skb)
{
	const struct headers_plain *plain;

	if (unlikely(!headers_find_plain(skb, HEADERS_ETHERNET, &plain)))
		return label_any_ethernet(skb);
	if (likely(!port_has_flow(plain->ports.source)))
		return TC_ACT_UNSPEC;
	if (!kernel_flows_flat()) {
		/* Not a call as others, of which the compiler would make one: this block is nobody else's, so
		 * where it cannot be come by the kernel removes it together with the question. */
		asm volatile("r1 = %0\n"
			     "call label_plain_ethernet"
			     :
			     : "r"(skb)
			     : "r0", "r1", "r2", "r3", "r4", "r5");
		return TC_ACT_UNSPEC;
	}
	/* All else is counted from this one address. */
	asm volatile("" : "+r"(plain));
	return label_flat(skb, plain);
}

SEC("tc")
int label_bare(struct __sk_buff *skb)
{
	const struct headers_plain *plain;

	if (unlikely(!headers_find_plain(skb, HEADERS_NONE, &plain)))
		return label_any(skb, HEADERS_NONE);
	if (likely(!port_has_flow(plain->ports.source)))
		return TC_ACT_UNSPEC;
	return label_plain(skb, HEADERS_NONE);
}

/*
 * The end of label_ethernet's way with a plain packet of a marked flow that is not cloned: it is written to
 * in place. Anywhere else that would cost every packet of the host: in front of a program that does so the
 * kernel puts a check for cloned packets, which also drops those that it has no memory for. Here it finds
 * nothing to do.
 */
SEC("tc")
int label_in_place(struct __sk_buff *skb)
{
	struct headers_plain *plain = (void *)(long)skb->data + HEADERS_ETHERNET;

	if ((void *)(&plain->ports + 1) <= (void *)(long)skb->data_end)
		plain->fixed.ip.version_class_label = skb->cb[WORD_FOR_WRITER];
	return TC_ACT_UNSPEC;
}

/* For the daemon: what time the programs think it is. */
SEC("tc")
int label_clock(struct __sk_buff *skb)
{
	(void)skb;
	jiffies = bpf_jiffies64();
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
