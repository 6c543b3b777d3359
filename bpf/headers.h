/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * headers.h - the one parser of packets: from the first octet that a device sends to the
 * ports. Bounded, reads only, believes no length.
 */
#ifndef HEADERS_H
#define HEADERS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow_abi.h"

enum {
	HEADERS_ETHERNET = 14, /* octets before the network header */
	HEADERS_NONE = 0,      /* tun, wireguard, ipip, ppp: the packet starts with it */

	HEADERS_TAGS_MAX = 2,	    /* VLAN tags inside the frame: 802.1Q, QinQ */
	HEADERS_EXTENSIONS_MAX = 8, /* RFC 8200, 4.1 recommends at most 6 before TCP or UDP */
	HEADERS_IPV6_SIZE = 40,
};

struct headers_tag {
	__u16 control;
	__u16 type;
};

/* The first half of the fixed header (RFC 8200, 3); the addresses follow. */
struct headers_ipv6 {
	__u32 version_class_label;
	__u16 payload_length;
	__u8 next;
	__u8 hop_limit;
};

struct headers_addresses {
	__u64 src[2];
	__u64 dst[2];
};

struct headers_extension {
	__u8 next;
	__u8 length;
	__u16 fragment; /* of a fragment header: offset in its 13 high bits */
};

struct headers_ports {
	__u16 source;
	__u16 destination;
};

struct headers_fixed {
	struct headers_ipv6 ip;
	struct headers_addresses addresses;
};

/* What nearly all packets begin with: no tags, no extension headers. */
struct headers_plain {
	struct headers_fixed fixed;
	struct headers_ports ports;
};

/* Where things are. Offsets from the first octet. */
struct headers {
	__u32 network;
	__u32 transport;
	__u32 protocol; /* FLOW_TCP or FLOW_UDP */
};

/* May the program have pointers to places in the packet that only the packet tells? That takes CAP_PERFMON.
 * Defined by the program. */
extern const volatile bool headers_pointers;

/*
 * Copy `size` octets at `offset`: from where they are when that is the linear part of the packet (headers
 * nearly always are). False when the packet ends before.
 */
static __always_inline bool headers_load(struct __sk_buff *skb, __u32 offset, __u32 size, void *copy)
{
	const void *at = (const void *)(long)skb->data;

	if (!headers_pointers || at + offset + size > (const void *)(long)skb->data_end)
		return bpf_skb_load_bytes(skb, offset, copy, size) == 0;
	__builtin_memcpy(copy, at + offset, size);
	return true;
}

static __always_inline bool headers_is_tag(__u16 type)
{
	return type == bpf_htons(0x8100) || type == bpf_htons(0x88A8) || type == bpf_htons(0x9100);
}

/* Where the IPv6 header is. 0, or why there is none: enum marker_packet. */
static __always_inline int headers_find_ipv6(struct __sk_buff *skb, __u32 link, __u32 *network)
{
	__u32 offset = link;

	if (link == HEADERS_ETHERNET) {
		__u16 protocol;

		if (!headers_load(skb, link - sizeof(protocol), sizeof(protocol), &protocol))
			return MARKER_TRUNCATED;
		for (int i = 0; i < HEADERS_TAGS_MAX && headers_is_tag(protocol); i++) {
			struct headers_tag tag;

			if (!headers_load(skb, offset, sizeof(tag), &tag))
				return MARKER_TRUNCATED;
			protocol = tag.type;
			offset += sizeof(tag);
		}
		if (protocol != bpf_htons(0x86DD))
			return MARKER_NOT_IPV6;
	}
	*network = offset;
	return 0;
}

/*
 * The headers of TCP or UDP right behind the fixed IPv6 header, when that is what is there and it is
 * in the linear part of the packet. False: find out step by step.
 */
static __always_inline bool headers_find_plain(struct __sk_buff *skb, __u32 link,
					       const struct headers_plain **found)
{
	const void *data = (const void *)(long)skb->data;
	const struct headers_plain *plain = data + link;

	if ((const void *)(&plain->ports + 1) > (const void *)(long)skb->data_end)
		return false;
	/* The type of the frame and the version of IP, in one look. */
	if (link == HEADERS_ETHERNET &&
	    (*(const __u32 *)((const __u8 *)plain - 2) & bpf_htonl(0xFFFFF000)) != bpf_htonl(0x86DD6000))
		return false;
	if (link != HEADERS_ETHERNET && (*(const __u8 *)plain & 0xF0) != 0x60)
		return false;
	if (plain->fixed.ip.next != FLOW_TCP && plain->fixed.ip.next != FLOW_UDP)
		return false;
	*found = plain;
	return true;
}

/* Padding behind a short packet is not its ports, which are `before` octets into the payload. Payload
 * length 0 is a jumbogram's. */
static __always_inline bool headers_has_ports(__u32 before, __u16 payload_length)
{
	return payload_length == 0 || before + sizeof(struct headers_ports) <= bpf_ntohs(payload_length);
}

/* The same, of what is right behind the IPv6 header: nearly all is answered by a look at some bits. */
static __always_inline bool headers_plain_has_ports(const struct headers_plain *plain)
{
	return plain->fixed.ip.payload_length & bpf_htons(0x10000 - sizeof(struct headers_ports)) ||
	       headers_has_ports(0, *(const volatile __u16 *)&plain->fixed.ip.payload_length);
}

/* Octets of an extension header, or 0 when `protocol` is none that is walked. */
static __always_inline __u32 headers_extension_size(__u32 protocol, const struct headers_extension *header)
{
	switch (protocol) {
	case 0:	 /* hop-by-hop; with the jumbo option in packets of more than 65,535 octets (BIG TCP) */
	case 43: /* routing */
	case 60: /* destination options */
		return (header->length + 1) * 8;
	case 44: /* fragment */
		return 8;
	case 51: /* authentication, RFC 4302 */
		return (header->length + 2) * 4;
	}
	return 0;
}

/*
 * Find TCP or UDP behind the IPv6 header at `network`. 0 and h->transport, h->protocol, or the
 * reason why there is none: enum marker_packet.
 */
static __always_inline int headers_find_transport(struct __sk_buff *skb, struct headers *h)
{
	struct headers_ipv6 ip;
	__u32 protocol, offset;

	if (!headers_load(skb, h->network, sizeof(ip), &ip))
		return MARKER_TRUNCATED;
	if ((*(const __u8 *)&ip & 0xF0) != 0x60)
		return MARKER_NOT_IPV6;
	protocol = ip.next;
	offset = h->network + HEADERS_IPV6_SIZE;

	for (int i = 0; protocol != FLOW_TCP && protocol != FLOW_UDP; i++) {
		struct headers_extension header;
		__u32 size;

		if (i == HEADERS_EXTENSIONS_MAX)
			return MARKER_EXTENSIONS;
		if (!headers_load(skb, offset, sizeof(header), &header))
			return MARKER_TRUNCATED;
		size = headers_extension_size(protocol, &header);
		if (!size)
			return MARKER_PROTOCOL;
		if (protocol == 44 && header.fragment & bpf_htons(0xFFF8))
			return MARKER_FRAGMENT;
		protocol = header.next;
		offset += size;
	}
	h->protocol = protocol;
	h->transport = offset;
	return 0;
}

#endif
