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
#include "flows.h"

/* label_in_place, where it can be used. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} writers SEC(".maps");

/* -- who sends it ----------------------------------------------------------------------- */

/* 0: no socket sends this packet. */
static __always_inline __u64 socket_cookie(struct __sk_buff *skb, bool known)
{
	if (known || kernel_known()) {
		struct kernel_sock *socket = kernel_skb_socket(kernel_skb(skb));
		__u64 cookie;

		if (!socket)
			return 0;
		cookie = kernel_sock_cookie(socket);
		if (likely(cookie))
			return cookie;
	}
	return bpf_get_socket_cookie(skb);
}

/* Who counts a packet: marker_flows.h, struct marker_rest. */
enum counted_by { BY_OWNER, BY_OTHERS, BY_NONE };

/* The flow's is the socket that sent its first packet; packets of another are of another connection. `who`:
 * its cookie, or the CPU. */
static __always_inline enum counted_by sent_by(struct marker_entry *entry, __u32 word, __u64 who)
{
	__u64 generation = (__u64)(word >> MARKER_GENERATION_SHIFT) << MARKER_IDENTITY_SHIFT;
	__u64 known = *(volatile __u64 *)&entry->identity;
	__u64 is_cpu = 1ULL << MARKER_IDENTITY_CPU;

	if (likely(known == (generation | who)))
		return BY_OWNER;
	if ((known ^ generation) >> MARKER_IDENTITY_SHIFT == 0) {
		if (who & is_cpu)
			return BY_OTHERS;
		if (!(known & is_cpu))
			return BY_NONE;
		/* A socket takes it from a CPU. */
	}
	*(volatile __u64 *)&entry->identity = generation | who;
	/* Who had it may be about to count. */
	return BY_OTHERS;
}

/* -- marking -------------------------------------------------------------------------- */

/* What becomes of a packet. */
struct mark {
	struct found flow; /* .entry NULL: it stays as it is */
	__u32 word;	   /* the first of its IPv6 header, now with the label */
	__u32 by;	   /* enum counted_by */
};

/* A packet is marked (sign 1), or was not after all (-1). */
static __always_inline void count_marked(struct __sk_buff *skb, const struct packet *p, const struct mark *m,
					 struct marker_cpu *cpu, __s64 sign)
{
	struct marker_entry *entry = m->flow.entry;
	__u64 class = *(volatile __u64 *)&entry->packets >> MARKER_CLASS_SHIFT;
	__s64 segments = 1, octets = skb->len;
	struct marker_count *c;
	struct marker_rest *rest;

	/* It will be cut, and each piece has headers. */
	if (skb->wire_len > octets) {
		segments = skb->gso_segs ? skb->gso_segs : 1;
		octets = skb->wire_len;
	}
	octets = sign * (octets - segments * p->network);
	segments *= sign;
	asm volatile("" : "+r"(class));
	c = &cpu->count[class & (MARKER_COUNTS - 1)];
	c->packets += segments;
	c->octets += octets;
	if (likely(m->by == BY_OWNER)) {
		entry->packets += segments;
		entry->octets += octets;
		return;
	}
	rest = rest_at(m->flow.at, p->flat);
	if (rest) {
		__sync_fetch_and_add(&rest->packets, segments);
		__sync_fetch_and_add(&rest->octets, octets);
	}
}

static __always_inline bool is_expired(void)
{
	return bpf_jiffies64() > *(volatile __u64 *)&deadline;
}

static __always_inline struct mark not_marked(__u32 why)
{
	count(why);
	return (struct mark){};
}

/* A packet from a port that some marked flow has: it is counted as what it is. */
static __always_inline struct mark mark(struct __sk_buff *skb, const struct packet *p)
{
	struct mark m = {.flow = find(p)};
	struct marker_cpu *cpu;
	__u64 who = 0;

	if (!m.flow.entry)
		return not_marked(MARKER_MISSED);
	if (unlikely(is_expired()))
		return not_marked(MARKER_EXPIRED);
	/* A UDP port's datagrams may come from several sockets. */
	if (!p->udp)
		who = socket_cookie(skb, p->flat);
	if (!who)
		who = 1ULL << MARKER_IDENTITY_CPU | bpf_get_smp_processor_id();
	m.by = sent_by(m.flow.entry, m.flow.word, who);
	if (unlikely(m.by == BY_NONE))
		return not_marked(MARKER_REUSED);
	cpu = this_cpu(p->flat);
	if (cpu)
		count_marked(skb, p, &m, cpu, 1);
	/* Version and traffic class (DSCP, ECN) share the word with the label: they stay. */
	m.word = (p->word & bpf_htonl(0xFFF00000)) | bpf_htonl(m.flow.word & MARKER_WORD_LABEL);
	return m;
}

static __always_inline int label_store(struct __sk_buff *skb, const struct packet *p)
{
	struct mark m = mark(skb, p);
	struct marker_cpu *cpu;

	if (m.flow.entry &&
	    bpf_skb_store_bytes(skb, p->network, &m.word, sizeof(m.word), BPF_F_RECOMPUTE_CSUM)) {
		cpu = this_cpu(p->flat);
		if (cpu)
			count_marked(skb, p, &m, cpu, -1);
		return count(MARKER_WRITE);
	}
	return TC_ACT_UNSPEC;
}

static __always_inline void packet_of(struct packet *p, const struct headers_plain *plain, __u32 network,
				      bool flat)
{
	p->at = &plain->addresses;
	p->ports = *(const __u32 *)&plain->ports;
	p->udp = word_udp(plain->ip.next);
	p->network = network;
	p->word = plain->ip.version_class_label;
	p->flat = flat;
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
	struct packet p;
	struct headers_ipv6 ip;
	struct headers_ports ports;
	struct headers_addresses addresses;

	network &= OFFSET_MASK;
	transport &= OFFSET_MASK;
	if (!headers_load(skb, transport, sizeof(ports), &ports))
		return count(MARKER_TRUNCATED);
	p.ports = *(const __u32 *)&ports;
	if (!port_has_flow(ports.source))
		return TC_ACT_UNSPEC;
	if (!headers_load(skb, network, sizeof(ip), &ip) ||
	    !headers_has_ports(transport - network - HEADERS_IPV6_SIZE, ip.payload_length))
		return count(MARKER_TRUNCATED);
	p.word = ip.version_class_label;
	if (!headers_load(skb, network + sizeof(ip), sizeof(addresses), &addresses))
		return count(MARKER_TRUNCATED);
	p.at = &addresses;
	p.udp = word_udp(protocol);
	p.network = network;
	p.flat = false;
	return label_store(skb, &p);
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
	if (!headers_has_ports(0, plain->ip.payload_length))
		return count(MARKER_TRUNCATED);
	packet_of(&p, plain, link, false);
	return label_store(skb, &p);
}

__attribute__((noinline)) int label_plain_ethernet(struct __sk_buff *skb)
{
	return label_plain(skb, HEADERS_ETHERNET);
}

SEC("tc")
int label_ethernet(struct __sk_buff *skb)
{
	const struct headers_plain *plain;

	if (unlikely(!headers_find_plain(skb, HEADERS_ETHERNET, &plain)))
		return label_any_ethernet(skb);
	if (likely(!port_has_flow(plain->ports.source)))
		return TC_ACT_UNSPEC;
	if (kernel_known() && !kernel_skb_cloned(kernel_skb(skb)))
		bpf_tail_call_static(skb, &writers, 0);
	/* It is cloned, or that program is not there. */
	return label_plain_ethernet(skb);
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
 * Where label_ethernet goes with a plain packet that is not cloned, from a port that some marked flow has: it
 * is written to in place. Anywhere else that would cost every packet of the host: in front of a program that
 * does so the kernel puts a check for cloned packets, which also drops those that it has no memory for. Here
 * it finds nothing to do.
 */
SEC("tc")
int label_in_place(struct __sk_buff *skb)
{
	struct headers_plain *plain = (void *)(long)skb->data + HEADERS_ETHERNET;
	struct packet p;
	struct mark m;

	/* It is as label_ethernet found it. */
	if (!kernel_known() || (void *)(&plain->ports + 1) > (void *)(long)skb->data_end)
		return TC_ACT_UNSPEC;
	if (!headers_has_ports(0, plain->ip.payload_length))
		return count(MARKER_TRUNCATED);
	packet_of(&p, plain, HEADERS_ETHERNET, true);
	m = mark(skb, &p);
	if (m.flow.entry)
		plain->ip.version_class_label = m.word;
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
