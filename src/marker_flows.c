/* SPDX-License-Identifier: Apache-2.0 */
/* marker_flows.c - the table that daemon and program share: mapped, searched, changed entry by entry. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "marker_internal.h"

_Static_assert(sizeof(struct marker_entry) == MARKER_ENTRY_SIZE, "an entry is a cache line");

enum {
	WORDS_IN_ELEMENT = MARKER_ENTRY_SIZE / sizeof(uint64_t),
	BUCKET_SHARED = 6, /* with so many entries the other bucket is looked at too */
};

uint32_t marker_flows_elements(uint32_t capacity)
{
	return capacity + capacity / MARKER_ENTRY_SIZE;
}

uint32_t marker_flows_capacity(uint32_t elements)
{
	for (uint32_t capacity = MARKER_CAPACITY_MIN; capacity; capacity *= 2) {
		if (marker_flows_elements(capacity) == elements)
			return capacity;
	}
	return 0;
}

int marker_flows_map(struct marker_flows *f, int fd, uint32_t capacity, uint64_t seed, bool write)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t size = (size_t)marker_flows_elements(capacity) * MARKER_ENTRY_SIZE;
	uint8_t *base;

	size = (size + page - 1) / page * page;
	base = mmap(NULL, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	f->base = base;
	f->size = size;
	f->tags = (uint64_t *)(void *)base;
	f->entries = (struct marker_entry *)(void *)(base + capacity);
	f->capacity = capacity;
	f->bucket_mask = capacity / MARKER_BUCKET - 1;
	f->seed = seed;
	return 0;
}

void marker_flows_unmap(struct marker_flows *f)
{
	if (f->base)
		munmap(f->base, f->size);
	f->base = NULL;
}

/* What is looked for. */
static void entry_key(struct marker_entry *e, const struct flow_key *key)
{
	uint16_t ports[2] = {htons(key->src_port), htons(key->dst_port)};

	memcpy(e->src, key->src.half, sizeof(e->src));
	memcpy(e->dst, key->dst.half, sizeof(e->dst));
	memcpy(&e->ports, ports, sizeof(ports));
	e->word = key->protocol == FLOW_UDP ? MARKER_WORD_UDP : 0;
}

static uint64_t entry_hash(const struct marker_flows *f, const struct marker_entry *e)
{
	return marker_hash(e->src, e->dst, e->ports, e->word & MARKER_WORD_UDP, f->seed);
}

static bool entry_equal(const struct marker_entry *a, const struct marker_entry *b)
{
	return memcmp(a, b, offsetof(struct marker_entry, word)) == 0 &&
	       ((a->word ^ b->word) & MARKER_WORD_UDP) == 0;
}

static uint32_t find_in(const struct marker_flows *f, uint32_t bucket, uint32_t tag,
			const struct marker_entry *wanted)
{
	for (uint64_t match = marker_tags_match(f->tags[bucket], tag); match; match &= match - 1) {
		uint32_t at = bucket * MARKER_BUCKET + marker_tags_first(match);

		if (entry_equal(&f->entries[at], wanted))
			return at;
	}
	return MARKER_NOWHERE;
}

uint32_t marker_flows_find(const struct marker_flows *f, const struct flow_key *key)
{
	struct marker_entry wanted;
	uint32_t bucket, tag, at;
	uint64_t hash;

	entry_key(&wanted, key);
	hash = entry_hash(f, &wanted);
	bucket = marker_bucket(hash) & f->bucket_mask;
	tag = marker_tag(hash);
	at = find_in(f, bucket, tag, &wanted);
	if (at == MARKER_NOWHERE)
		at = find_in(f, marker_bucket_other(hash) & f->bucket_mask, tag, &wanted);
	return at;
}

/* Where in a bucket there is room for a tag, and how many entries it has. */
static uint32_t free_in(const struct marker_flows *f, uint32_t bucket, uint32_t wanted, int *used)
{
	uint32_t at = MARKER_NOWHERE;
	int same = 0;

	*used = 0;
	for (uint32_t i = MARKER_BUCKET; i-- > 0;) {
		uint32_t tag = f->tags[bucket] >> 8 * i & 0xFF;

		same += tag == wanted;
		if (tag)
			++*used;
		else
			at = bucket * MARKER_BUCKET + i;
	}
	return same < MARKER_TAG_SHARED ? at : MARKER_NOWHERE;
}

static uint32_t free_for(const struct marker_flows *f, uint64_t hash)
{
	uint32_t bucket = marker_bucket(hash) & f->bucket_mask, tag = marker_tag(hash);
	int used, used_other;
	uint32_t at = free_in(f, bucket, tag, &used), other;

	if (at != MARKER_NOWHERE && used < BUCKET_SHARED)
		return at;
	other = free_in(f, marker_bucket_other(hash) & f->bucket_mask, tag, &used_other);
	return at == MARKER_NOWHERE || (other != MARKER_NOWHERE && used_other < used) ? other : at;
}

/* The tag of an entry: the first is the lowest octet of its word. */
static uint8_t *tag_at(const struct marker_flows *f, uint32_t at)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return (uint8_t *)f->tags + (at ^ (MARKER_BUCKET - 1));
#else
	return (uint8_t *)f->tags + at;
#endif
}

static uint32_t next_generation(uint32_t word)
{
	uint32_t generation = (word >> MARKER_GENERATION_SHIFT) + 1;

	return (generation < MARKER_GENERATIONS ? generation : 1) << MARKER_GENERATION_SHIFT;
}

/* Programs on other CPUs read what is stored here, in this order. */
static void put(struct marker_flows *f, uint32_t at, const struct marker_entry *from, uint32_t word,
		uint64_t identity, uint64_t hash)
{
	struct marker_entry *e = &f->entries[at];

	memcpy(e, from, offsetof(struct marker_entry, word));
	e->identity = identity;
	e->packets = from->packets;
	e->octets = from->octets;
	__atomic_store_n(&e->word, word, __ATOMIC_RELEASE);
	__atomic_store_n(tag_at(f, at), (uint8_t)marker_tag(hash), __ATOMIC_RELEASE);
	f->used++;
}

uint32_t marker_flows_insert(struct marker_flows *f, const struct flow_key *key, uint32_t label,
			     uint32_t class)
{
	struct marker_entry e;
	uint64_t hash;
	uint32_t at;

	entry_key(&e, key);
	e.packets = (uint64_t) class << MARKER_CLASS_SHIFT;
	e.octets = 0;
	hash = entry_hash(f, &e);
	at = free_for(f, hash);
	if (at != MARKER_NOWHERE)
		put(f, at, &e, next_generation(f->entries[at].word) | e.word | label, 0, hash);
	return at;
}

void marker_flows_change(struct marker_flows *f, uint32_t at, uint32_t label, uint32_t class, bool new_flow)
{
	struct marker_entry *e = &f->entries[at];
	uint64_t packets = e->packets, now;
	uint32_t word = (e->word & ~(uint32_t)MARKER_WORD_LABEL) | label;

	do {
		now = new_flow ? 0 : packets & (((uint64_t)1 << MARKER_CLASS_SHIFT) - 1);
		now |= (uint64_t) class << MARKER_CLASS_SHIFT;
	} while (!__atomic_compare_exchange_n(&e->packets, &packets, now, false, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	if (new_flow)
		__atomic_store_n(&e->octets, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&e->word, word, __ATOMIC_RELEASE);
}

void marker_flows_forget_socket(struct marker_flows *f, uint32_t at)
{
	__atomic_store_n(&f->entries[at].identity, 0, __ATOMIC_RELAXED);
}

void marker_flows_remove(struct marker_flows *f, uint32_t at)
{
	struct marker_entry *e = &f->entries[at];

	__atomic_store_n(tag_at(f, at), 0, __ATOMIC_RELEASE);
	__atomic_store_n(&e->word, e->word & ~((1U << MARKER_GENERATION_SHIFT) - 1), __ATOMIC_RELEASE);
	f->used--;
}

bool marker_flows_read(const struct marker_flows *f, uint32_t at, struct marker_mark *out)
{
	const struct marker_entry *e = &f->entries[at];
	uint32_t word = __atomic_load_n(&e->word, __ATOMIC_ACQUIRE);
	uint64_t identity;
	uint16_t ports[2];

	if (!*tag_at(f, at) || !(word & MARKER_WORD_LABEL))
		return false;
	memset(out, 0, sizeof(*out));
	memcpy(out->key.src.half, e->src, sizeof(e->src));
	memcpy(out->key.dst.half, e->dst, sizeof(e->dst));
	memcpy(ports, &e->ports, sizeof(ports));
	out->key.src_port = ntohs(ports[0]);
	out->key.dst_port = ntohs(ports[1]);
	out->key.protocol = word & MARKER_WORD_UDP ? FLOW_UDP : FLOW_TCP;
	out->key.family = 6;
	out->label = word & MARKER_WORD_LABEL;
	out->packets =
		__atomic_load_n(&e->packets, __ATOMIC_RELAXED) & (((uint64_t)1 << MARKER_CLASS_SHIFT) - 1);
	out->octets = __atomic_load_n(&e->octets, __ATOMIC_RELAXED);
	identity = __atomic_load_n(&e->identity, __ATOMIC_RELAXED);
	if (identity >> MARKER_IDENTITY_SHIFT == word >> MARKER_GENERATION_SHIFT)
		out->cookie = identity & (((uint64_t)1 << MARKER_IDENTITY_SHIFT) - 1);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	/* It was another flow's for a moment. */
	return (__atomic_load_n(&e->word, __ATOMIC_RELAXED) ^ word) >> MARKER_GENERATION_SHIFT == 0;
}

bool marker_flows_valid(const struct marker_flows *f, uint32_t at)
{
	const struct marker_entry *e = &f->entries[at];
	uint64_t hash = entry_hash(f, e);
	uint32_t bucket = marker_bucket(hash) & f->bucket_mask, here = at / MARKER_BUCKET;

	return (e->word & MARKER_WORD_LABEL) && *tag_at(f, at) == marker_tag(hash) &&
	       (here == bucket || here == (marker_bucket_other(hash) & f->bucket_mask));
}

bool marker_flows_taken(const struct marker_flows *f, uint32_t at)
{
	return *tag_at(f, at) != 0;
}

uint16_t marker_flows_port(const struct marker_flows *f, uint32_t at)
{
	uint16_t port;

	memcpy(&port, &f->entries[at].ports, sizeof(port));
	return ntohs(port);
}

uint32_t marker_flows_copy(struct marker_flows *to, const struct marker_flows *from, uint32_t at)
{
	struct marker_entry e = from->entries[at];
	uint64_t hash = entry_hash(to, &e);
	uint32_t there = free_for(to, hash);

	if (there == MARKER_NOWHERE)
		return there;
	/* What it has counted follows when no program counts there any more. */
	e.packets &= ~(((uint64_t)1 << MARKER_CLASS_SHIFT) - 1);
	e.octets = 0;
	put(to, there, &e, e.word, e.identity, hash);
	return there;
}

void marker_flows_carry(struct marker_flows *to, uint32_t there, const struct marker_flows *from, uint32_t at)
{
	const struct marker_entry *old = &from->entries[at];
	struct marker_entry *e = &to->entries[there];
	uint64_t none = 0;

	__atomic_fetch_add(&e->packets, old->packets & (((uint64_t)1 << MARKER_CLASS_SHIFT) - 1),
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&e->octets, old->octets, __ATOMIC_RELAXED);
	/* The first packet may have come meanwhile. */
	if (old->identity)
		__atomic_compare_exchange_n(&e->identity, &none, old->identity, false, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED);
}
