// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * label.bpf.c - write the flow label of marked flows into what leaves an interface.
 *
 * Every packet goes on to the next program or filter, whatever happens here; a packet that
 * cannot be marked leaves as it came, and a counter says why. Egress sees the segments of a
 * flow before they are cut (GSO, BIG TCP), so one label here is the label of all of them.
 */
#include "headers.h"
#include "marker_filter.h"

#define TC_ACT_UNSPEC (-1) /* also TCX_NEXT */

/* Flow to label, host octet order. A plain hash: it refuses when full, and evicts nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* the daemon sets it before loading */
	__type(key, struct flow_key);
	__type(value, __u32);
} marks SEC(".maps");

/* Packets by enum marker_packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MARKER_PACKET_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

/*
 * What stands in front of the hash, so that nearly every packet of no marked flow is passed on
 * without a look into it: local ports that a marked flow has, a bit each, and then the flows
 * themselves (marker_filter.h). A bit is set before the flow's mark is there and cleared after it
 * is gone.
 */
__u64 local_ports[65536 / 64];
__u64 flow_filter[MARKER_FILTER_BITS / 64];

/* The daemon's alone: how much of `packets` it has brought to account. Here it outlives the daemon. */
__u64 counted[MARKER_PACKET_KINDS];

static __always_inline int count(__u32 kind)
{
	__u64 *value = bpf_map_lookup_elem(&packets, &kind);

	if (value)
		*value += 1;
	return TC_ACT_UNSPEC;
}

static __always_inline bool port_has_flow(__u16 port)
{
	__u32 index = port / 64;

	/* The verifier of older kernels does not see that a swapped 16-bit port is below 65,536;
	 * the compiler does, and would drop the mask. */
	asm volatile("" : "+r"(index));
	return local_ports[index & 1023] >> (port % 64) & 1;
}

static __always_inline bool filter_has_flow(const struct flow_key *key)
{
	__u32 number = marker_filter_bit(key->dst.word, key->src_port, key->dst_port);
	__u32 index = number / 64;

	asm volatile("" : "+r"(index));
	return flow_filter[index & (MARKER_FILTER_BITS / 64 - 1)] >> (number % 64) & 1;
}

/* Padding behind a short packet is not its ports, which are `before` octets into the payload. Payload
 * length 0 is a jumbogram's. */
static __always_inline bool ports_in_payload(__u32 before, __u16 payload_length)
{
	return payload_length == 0 || before + sizeof(struct headers_ports) <= bpf_ntohs(payload_length);
}

static __always_inline void copy_addresses(struct flow_key *key, const struct headers_addresses *from)
{
	for (int i = 0; i < 4; i++) {
		key->src.word[i] = from->src[i];
		key->dst.word[i] = from->dst[i];
	}
}

/* A packet from a port that some marked flow has: is it of such a flow? `word` is the first one of
 * its IPv6 header, at octet `network`. */
static __always_inline int label_key(struct __sk_buff *skb, __u32 network, __u32 word,
				     const struct flow_key *key)
{
	const __u32 *mark;

	if (!filter_has_flow(key))
		return count(MARKER_MISSED);
	mark = bpf_map_lookup_elem(&marks, key);
	if (!mark)
		return count(MARKER_MISSED);

	/* Version and traffic class (DSCP, ECN) share the word with the label: they stay. */
	word = (word & bpf_htonl(0xFFF00000)) | bpf_htonl(*mark & 0xFFFFF);
	/* A direct write would cost every packet of the host: the kernel then puts a check for
	 * cloned packets in front of the program, which also drops the packet when it is out of memory. */
	if (bpf_skb_store_bytes(skb, network, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM))
		return count(MARKER_WRITE);
	return count(MARKER_MARKED);
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
	struct flow_key key = {.protocol = protocol, .family = 6};
	struct headers_ipv6 ip_copy;
	struct headers_ports ports_copy;
	struct headers_addresses addresses_copy;
	const struct headers_addresses *addresses;
	const struct headers_ports *ports;
	const struct headers_ipv6 *ip;
	__u32 word;

	network &= OFFSET_MASK;
	transport &= OFFSET_MASK;
	ports = headers_at(skb, transport, sizeof(*ports), &ports_copy);
	if (!ports)
		return count(MARKER_TRUNCATED);
	key.src_port = bpf_ntohs(ports->source);
	key.dst_port = bpf_ntohs(ports->destination);
	if (!port_has_flow(key.src_port))
		return count(MARKER_MISSED);
	ip = headers_at(skb, network, sizeof(*ip), &ip_copy);
	if (!ip || !ports_in_payload(transport - network - HEADERS_IPV6_SIZE, ip->payload_length))
		return count(MARKER_TRUNCATED);
	word = ip->version_class_label;
	addresses = headers_at(skb, network + sizeof(*ip), sizeof(*addresses), &addresses_copy);
	if (!addresses)
		return count(MARKER_TRUNCATED);
	copy_addresses(&key, addresses);
	return label_key(skb, network, word, &key);
}

/* From the IPv6 header on, whatever is behind it. */
__attribute__((noinline)) int label_packet(struct __sk_buff *skb, __u32 network)
{
	struct headers h = {.network = network & OFFSET_MASK};
	int reason = headers_find_transport(skb, &h);

	if (reason)
		return count(reason);
	return label_flow(skb, h.network, h.transport, h.protocol);
}

/* Of nearly every packet: no tag, TCP or UDP right behind the IPv6 header, all in place. */
static __always_inline int label_plain(struct __sk_buff *skb, __u32 network,
				       const struct headers_plain *plain)
{
	struct flow_key key;

	/* Most come from a port that no marked flow has. */
	key.src_port = bpf_ntohs(plain->ports.source);
	if (!port_has_flow(key.src_port))
		return count(MARKER_MISSED);
	if (!ports_in_payload(0, plain->ip.payload_length))
		return count(MARKER_TRUNCATED);
	copy_addresses(&key, &plain->addresses);
	key.dst_port = bpf_ntohs(plain->ports.destination);
	key.protocol = plain->ip.next;
	key.family = 6;
	key.zero = 0;
	return label_key(skb, network, plain->ip.version_class_label, &key);
}

static __always_inline int label(struct __sk_buff *skb, __u32 link)
{
	const struct headers_plain *plain = headers_find_plain(skb, link);
	__u32 network;
	int reason;

	if (plain)
		return label_plain(skb, link, plain);
	reason = headers_find_ipv6(skb, link, &network);
	return reason ? count(reason) : label_packet(skb, network);
}

SEC("tc")
int label_ethernet(struct __sk_buff *skb)
{
	return label(skb, HEADERS_ETHERNET);
}

SEC("tc")
int label_bare(struct __sk_buff *skb)
{
	return label(skb, HEADERS_NONE);
}

char LICENSE[] SEC("license") = "GPL";
