// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * marker_baseline.bpf.c - what the marker is measured against: a plain hash by the 5-tuple of 40
 * octets, looked up for every packet, and the label written in place. And the empty program,
 * which both are measured above. Never part of the daemon.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow_abi.h"

#define NEXT (-1)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1100000);
	__type(key, struct flow_key);
	__type(value, __u32);
} marks SEC(".maps");

SEC("tc")
int empty(struct __sk_buff *skb)
{
	return NEXT;
}

SEC("tc")
int baseline(struct __sk_buff *skb)
{
	__u32 *at = (void *)(long)skb->data;
	__u16 *type = (void *)at + 12;
	__u32 *ip = (void *)at + 14;
	struct flow_key key = {};
	__u32 *mark;
	__u8 next;

	if ((void *)ip + 44 > (void *)(long)skb->data_end || *type != bpf_htons(0x86DD))
		return NEXT;
	next = *((__u8 *)ip + 6);
	if (next != FLOW_TCP && next != FLOW_UDP)
		return NEXT;
	for (int i = 0; i < 4; i++) {
		key.src.word[i] = ip[2 + i];
		key.dst.word[i] = ip[6 + i];
	}
	key.src_port = bpf_ntohs(*(__u16 *)(ip + 10));
	key.dst_port = bpf_ntohs(*((__u16 *)(ip + 10) + 1));
	key.protocol = next;
	key.family = 6;
	mark = bpf_map_lookup_elem(&marks, &key);
	if (mark)
		*ip = (*ip & bpf_htonl(0xFFF00000)) | bpf_htonl(*mark);
	return NEXT;
}

char LICENSE[] SEC("license") = "GPL";
