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
#include "headers.h"
#include "kernel.h"
#include "marker_flows.h"

#define TC_ACT_UNSPEC (-1) /* also TCX_NEXT */

/* marker_flows.h. The daemon makes it, of the size that it needs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct marker_entry);
} flows SEC(".maps");

/* For each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct marker_cpu);
} cpus SEC(".maps");

/* label_write, where it can be used. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} writers SEC(".maps");

/* Local ports that a marked flow has, a bit each, by number as it is in packets: nearly every packet of no
 * marked flow is passed on after a look at it. A bit is set before the flow's mark is there and cleared
 * after it is gone. */
__u8 local_ports[65536 / 8];
__u64 seed;	/* of the hash */
__u64 deadline; /* of the lease, in jiffies; 0: none */
__u64 jiffies;	/* for the daemon: when it last asked */

/* The daemon's alone; here it outlives the daemon. Of which experiment << 6 | activity each class
 * is, and how many packets and octets of each number it has brought to account. */
__u16 classes[MARKER_COUNTS];
__u64 counted[2 * MARKER_COUNTS];

const volatile __u32 entry_mask;      /* entries - 1 */
const volatile __u32 entries_from;    /* number of the element that is entry 0 */
const volatile bool kernel_context;   /* kernel.h works here */
const volatile bool headers_pointers; /* headers.h */

/* What is nearly always so is laid out in one piece, and its code in few lines of the cache. */
#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static __always_inline struct marker_cpu *this_cpu(void)
{
	__u32 number = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &number);
}

/* Without CAP_PERFMON the verifier takes no index that is a constant on some ways and none on others:
 * it forgets what it knows of one that comes from a map. */
static __always_inline __u32 unknown(struct marker_cpu *cpu, __u32 value)
{
	if (headers_pointers)
		return value;
	*(volatile __u64 *)&cpu->write.spare[0] = value;
	return *(volatile __u64 *)&cpu->write.spare[0];
}

/* Programs of one CPU do not interrupt one another here: no atomic operations. */
static __always_inline int count(__u32 kind)
{
	struct marker_cpu *cpu = this_cpu();

	if (cpu)
		cpu->count[unknown(cpu, kind) & (MARKER_COUNTS - 1)].packets++;
	return TC_ACT_UNSPEC;
}

/* `port` as it is in the packet. */
static __always_inline bool port_has_flow(__u16 port)
{
	return local_ports[port / 8] >> (port % 8) & 1;
}

/* Padding behind a short packet is not its ports, which are `before` octets into the payload. Payload
 * length 0 is a jumbogram's. */
static __always_inline bool ports_in_payload(__u32 before, __u16 payload_length)
{
	return payload_length == 0 || before + sizeof(struct headers_ports) <= bpf_ntohs(payload_length);
}

/* -- the table ------------------------------------------------------------------------ */

/* What a packet is found by, and what it is changed with. */
struct packet {
	const struct headers_addresses *at;
	__u32 ports;
	__u32 udp; /* MARKER_WORD_UDP or 0 */
	__u32 network;
	__u32 word; /* the first of its IPv6 header, at octet `network` */
};

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

/* Is this entry the packet's flow's? One that changes meanwhile is not. */
static __always_inline bool entry_is(struct marker_entry *entry, const struct packet *p, __u32 *word)
{
	__u32 seen = *(volatile __u32 *)&entry->word;
	const volatile struct marker_entry *e = after(entry, seen);
	__u64 differ = e->ports ^ p->ports;

	/* Nearly every other flow has other ones. A branch keeps no order. */
	if (!ANY_ORDER && differ)
		return false;
	differ |= (e->src[0] ^ p->at->src[0]) | (e->src[1] ^ p->at->src[1]) | (e->dst[0] ^ p->at->dst[0]) |
		  (e->dst[1] ^ p->at->dst[1]) | ((seen & MARKER_WORD_UDP) ^ p->udp);
	*word = after(entry, differ)->word;
	return !(differ | ((seen ^ *word) >> MARKER_GENERATION_SHIFT)) && (*word & MARKER_WORD_LABEL);
}

static __always_inline struct marker_entry *entry_at(__u32 at)
{
	__u32 index = entries_from + at;

	return bpf_map_lookup_elem(&flows, &index);
}

/* The tags of 8 buckets. */
static __always_inline __u64 *tags_of(__u32 bucket)
{
	__u32 line = bucket / 8;

	return bpf_map_lookup_elem(&flows, &line);
}

/* The entry, if it is the packet's flow's. */
static __always_inline struct marker_entry *entry_of(__u32 at, const struct packet *p, __u32 *word)
{
	struct marker_entry *entry = entry_at(at);

	return entry && entry_is(entry, p, word) ? entry : NULL;
}

/* Among the entries of a bucket. */
static __always_inline struct marker_entry *find_in(__u32 bucket, __u64 tags, __u32 tag,
						    const struct packet *p, __u32 *word)
{
	__u64 match = marker_tags_match(tags, tag);
	struct marker_entry *entry;

	_Static_assert(MARKER_TAG_SHARED == 3, "so many are looked at");
	if (likely(!match))
		return NULL;
	entry = entry_of(bucket * MARKER_BUCKET + marker_tags_first(match), p, word);
	match &= match - 1;
	if (entry || !match)
		return entry;
	entry = entry_of(bucket * MARKER_BUCKET + marker_tags_first(match), p, word);
	match &= match - 1;
	if (entry || !match)
		return entry;
	return entry_of(bucket * MARKER_BUCKET + marker_tags_first(match), p, word);
}

static __always_inline struct marker_entry *find(const struct packet *p, __u32 *word)
{
	__u64 hash = marker_hash(p->at->src, p->at->dst, p->ports, p->udp, seed);
	__u32 own = marker_own(hash) & entry_mask, bucket = own / MARKER_BUCKET;
	struct marker_entry *entry = entry_of(own, p, word);
	__u64 *line, tags;

	if (likely(entry))
		return entry;
	line = tags_of(bucket);
	if (!line)
		return NULL;
	tags = line[bucket % 8];
	entry = find_in(bucket, tags, marker_tag(hash), p, word);
	if (entry || likely(!marker_tags_elsewhere(tags)))
		return entry;
	bucket = marker_bucket_other(hash) & entry_mask / MARKER_BUCKET;
	line = tags_of(bucket);
	return line ? find_in(bucket, line[bucket % 8], marker_tag(hash), p, word) : NULL;
}

/* -- the socket ----------------------------------------------------------------------- */

/* 0: no socket sends this packet. */
static __always_inline __u64 socket_cookie(struct __sk_buff *skb)
{
	if (kernel_context) {
		struct kernel_sock *socket = kernel_skb_socket(kernel_skb(skb));
		__u64 cookie;

		if (!socket)
			return 0;
		cookie = kernel_sock_cookie(socket);
		if (cookie)
			return cookie;
	}
	return bpf_get_socket_cookie(skb);
}

/* Does the flow's socket send this? It is the one that sent the flow's first packet. */
static __always_inline bool socket_is_of_flow(struct marker_entry *entry, __u32 word, __u64 cookie)
{
	__u64 generation = word >> MARKER_GENERATION_SHIFT;
	__u64 mine = generation << MARKER_IDENTITY_SHIFT | cookie;
	__u64 known = *(volatile __u64 *)&entry->identity;

	if (known == mine)
		return true;
	if (known >> MARKER_IDENTITY_SHIFT == generation)
		return false;
	*(volatile __u64 *)&entry->identity = mine;
	return true;
}

/* -- marking -------------------------------------------------------------------------- */

/* A packet is marked (sign 1), or was not after all (-1). `alone`: no other CPU sends one of this flow, for
 * its socket is locked. */
static __always_inline void count_marked(struct __sk_buff *skb, struct marker_cpu *cpu,
					 struct marker_entry *entry, __u32 network, bool alone, __s64 sign)
{
	__s64 segments = skb->gso_segs ? skb->gso_segs : 1;
	/* Of a packet that came by no qdisc only the length is known. */
	__u32 length = skb->wire_len > skb->len ? skb->wire_len : skb->len;
	__s64 octets = length - segments * network;
	__u64 class = *(volatile __u64 *)&entry->packets >> MARKER_CLASS_SHIFT;
	struct marker_count *c;

	asm volatile("" : "+r"(class));
	c = &cpu->count[class & (MARKER_COUNTS - 1)];
	c->packets += sign * segments;
	c->octets += sign * octets;
	if (alone) {
		entry->packets += sign * segments;
		entry->octets += sign * octets;
	} else {
		__sync_fetch_and_add(&entry->packets, sign * segments);
		__sync_fetch_and_add(&entry->octets, sign * octets);
	}
}

static __always_inline int count_at(struct marker_cpu *cpu, __u32 kind)
{
	cpu->count[unknown(cpu, kind) & (MARKER_COUNTS - 1)].packets++;
	return TC_ACT_UNSPEC;
}

static __always_inline bool is_expired(void)
{
	__u64 end = *(volatile __u64 *)&deadline;

	return end && bpf_jiffies64() > end;
}

/* A packet from a port that some marked flow has. */
static __always_inline int label_store(struct __sk_buff *skb, const struct packet *p, bool plain)
{
	struct marker_cpu *cpu = this_cpu();
	struct marker_entry *entry;
	__u64 cookie = 0;
	__u32 word = 0;

	if (!cpu)
		return TC_ACT_UNSPEC;
	entry = find(p, &word);
	if (!entry)
		return count_at(cpu, MARKER_MISSED);
	if (unlikely(is_expired()))
		return count_at(cpu, MARKER_EXPIRED);
	/* A UDP port's datagrams may come from several sockets. */
	if (!p->udp)
		cookie = socket_cookie(skb);
	if (cookie && !socket_is_of_flow(entry, word, cookie))
		return count_at(cpu, MARKER_REUSED);
	count_marked(skb, cpu, entry, p->network, cookie != 0, 1);
	/* Version and traffic class (DSCP, ECN) share the word with the label: they stay. */
	word = (p->word & bpf_htonl(0xFFF00000)) | bpf_htonl(word & MARKER_WORD_LABEL);
	/* A direct write would cost every packet of the host: the kernel then puts a check for cloned
	 * packets in front of the program, which also drops the packet when it is out of memory. */
	if (plain && kernel_context && !kernel_skb_cloned(kernel_skb(skb))) {
		cpu->write.word = word;
		cpu->write.packet = (long)skb;
		bpf_tail_call_static(skb, &writers, 0);
		/* It is not there. */
	}
	if (bpf_skb_store_bytes(skb, p->network, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM)) {
		count_marked(skb, cpu, entry, p->network, cookie != 0, -1);
		return count_at(cpu, MARKER_WRITE);
	}
	return TC_ACT_UNSPEC;
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
		return count(MARKER_MISSED);
	if (!headers_load(skb, network, sizeof(ip), &ip) ||
	    !ports_in_payload(transport - network - HEADERS_IPV6_SIZE, ip.payload_length))
		return count(MARKER_TRUNCATED);
	p.word = ip.version_class_label;
	if (!headers_load(skb, network + sizeof(ip), sizeof(addresses), &addresses))
		return count(MARKER_TRUNCATED);
	p.at = &addresses;
	p.udp = word_udp(protocol);
	p.network = network;
	return label_store(skb, &p, false);
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
static __always_inline int label_plain(struct __sk_buff *skb, __u32 link, const struct headers_plain *plain)
{
	struct packet p;

	/* Most come from a port that no marked flow has. */
	if (!port_has_flow(plain->ports.source))
		return count(MARKER_MISSED);
	if (!ports_in_payload(0, plain->ip.payload_length))
		return count(MARKER_TRUNCATED);
	p.at = &plain->addresses;
	p.ports = *(const __u32 *)&plain->ports;
	p.udp = word_udp(plain->ip.next);
	p.network = link;
	p.word = plain->ip.version_class_label;
	return label_store(skb, &p, link == HEADERS_ETHERNET);
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

/*
 * Where label_ethernet goes with a marked flow's packet, which is plain and not cloned: it is written to
 * in place. The check for cloned packets that the kernel puts in front of this program finds nothing to do.
 */
SEC("tc")
int label_write(struct __sk_buff *skb)
{
	struct headers_ipv6 *ip = (void *)(long)skb->data + HEADERS_ETHERNET;
	struct marker_cpu *cpu = this_cpu();

	/* On a real-time kernel another packet may have come between. */
	if (cpu && (void *)(ip + 1) <= (void *)(long)skb->data_end && (long)skb == (long)cpu->write.packet)
		ip->version_class_label = cpu->write.word;
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
