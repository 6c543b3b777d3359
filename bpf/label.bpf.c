// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * label.bpf.c - write the flow label of marked flows into what leaves an interface.
 *
 * Every packet goes on to the next program or filter, whatever happens here; a packet that
 * cannot be marked leaves as it came, and a counter says why. Egress sees the segments of a
 * flow before they are cut (GSO, BIG TCP), so one label here is the label of all of them.
 */
#include "headers.h"

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

/* Local ports that a marked flow has, a bit each: nearly every other packet is passed on
 * without a look into the hash. A bit is set before the flow's mark is there and cleared
 * after it is gone. */
__u64 local_ports[65536 / 64];

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

static __always_inline bool copy_addresses(struct __sk_buff *skb, __u32 offset, struct flow_key *key)
{
	const __u32 *at = (const void *)(long)skb->data + offset;

	if ((const void *)(at + 8) > (const void *)(long)skb->data_end)
		return bpf_skb_load_bytes(skb, offset, key, 2 * sizeof(struct flow_address)) == 0;
	for (int i = 0; i < 4; i++) {
		key->src.word[i] = at[i];
		key->dst.word[i] = at[4 + i];
	}
	return true;
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
	const struct headers_ports *ports;
	const struct headers_ipv6 *ip;
	const __u32 *mark;
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
	/* Padding behind a short packet is not its ports. Payload length 0 is a jumbogram's. */
	if (!ip || (ip->payload_length != 0 &&
		    transport + sizeof(*ports) > network + HEADERS_IPV6_SIZE + bpf_ntohs(ip->payload_length)))
		return count(MARKER_TRUNCATED);
	word = ip->version_class_label;
	if (!copy_addresses(skb, network + sizeof(*ip), &key))
		return count(MARKER_TRUNCATED);
	mark = bpf_map_lookup_elem(&marks, &key);
	if (!mark)
		return count(MARKER_MISSED);

	/* Version and traffic class (DSCP, ECN) share the word with the label: they stay. */
	word = (word & bpf_htonl(0xFFF00000)) | bpf_htonl(*mark & 0xFFFFF);
	/* A direct write would cost every packet of the host: the kernel then puts a check for
	 * cloned packets in front of the program. */
	if (bpf_skb_store_bytes(skb, network, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM))
		return count(MARKER_WRITE);
	return count(MARKER_MARKED);
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

static __always_inline int label(struct __sk_buff *skb, __u32 link)
{
	const struct headers_ipv6 *ip = (const void *)(long)skb->data + link;
	const struct headers_ports *ports = (const void *)ip + HEADERS_IPV6_SIZE;
	__u32 network;
	int reason = headers_find_ipv6(skb, link, &network);

	if (reason)
		return count(reason);
	/* Nearly every packet: no tag, TCP or UDP right behind the IPv6 header, all in place. Most
	 * come from a port that no marked flow has. */
	if (network == link && (const void *)(ports + 1) <= (const void *)(long)skb->data_end &&
	    (*(const __u8 *)ip & 0xF0) == 0x60 && (ip->next == FLOW_TCP || ip->next == FLOW_UDP)) {
		if (!port_has_flow(bpf_ntohs(ports->source)))
			return count(MARKER_MISSED);
		return label_flow(skb, link, link + HEADERS_IPV6_SIZE, ip->next);
	}
	return label_packet(skb, network);
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
