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

/* Padding behind a short packet is not its ports. Payload length 0 is a jumbogram's. */
static __always_inline bool ports_in_payload(const struct headers *h, __u16 payload_length)
{
	return payload_length == 0 ||
	       h->transport + sizeof(h->ports) <= h->network + HEADERS_IPV6_SIZE + bpf_ntohs(payload_length);
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

/* A packet from a port that some marked flow has: is it of such a flow? */
static __always_inline int label_flow(struct __sk_buff *skb, const struct headers *h)
{
	struct flow_key key = {
		.src_port = bpf_ntohs(h->ports.source),
		.dst_port = bpf_ntohs(h->ports.destination),
		.protocol = h->protocol,
		.family = 6,
	};
	struct headers_ipv6 copy;
	const struct headers_ipv6 *ip = headers_at(skb, h->network, sizeof(*ip), &copy);
	const __u32 *mark;
	__u32 word;

	if (!ip || !ports_in_payload(h, ip->payload_length) ||
	    !copy_addresses(skb, h->network + sizeof(*ip), &key))
		return count(MARKER_TRUNCATED);
	word = ip->version_class_label;
	mark = bpf_map_lookup_elem(&marks, &key);
	if (!mark)
		return count(MARKER_MISSED);

	/* Version and traffic class (DSCP, ECN) share the word with the label: they stay. */
	word = (word & bpf_htonl(0xFFF00000)) | bpf_htonl(*mark & 0xFFFFF);
	/* A direct write would cost every packet of the host: the kernel then puts a check for
	 * cloned packets in front of the program. */
	if (bpf_skb_store_bytes(skb, h->network, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM))
		return count(MARKER_WRITE);
	return count(MARKER_MARKED);
}

static __always_inline int label(struct __sk_buff *skb, __u32 link)
{
	struct headers h;
	int reason = headers_parse(skb, link, &h);

	if (reason)
		return count(reason);
	if (!port_has_flow(bpf_ntohs(h.ports.source)))
		return count(MARKER_MISSED);
	return label_flow(skb, &h);
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
