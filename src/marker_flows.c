/* SPDX-License-Identifier: Apache-2.0 */
/* marker_flows.c - the table that daemon and program share: mapped, searched, changed entry by entry. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "marker_internal.h"

_Static_assert(sizeof(struct marker_entry) == MARKER_ENTRY_SIZE, "an entry is a cache line");

enum {
	WORDS_IN_ELEMENT = MARKER_ENTRY_SIZE / sizeof(uint64_t),
	BUCKET_SHARED = 6,   /* with so many entries the other bucket is looked at too */
	ELSEWHERE_MAX = 255, /* more are not counted, nor is it ever less then */
};

uint32_t marker_flows_elements(uint32_t capacity)
{
	return (uint32_t)((marker_flows_rests(capacity) + capacity * sizeof(struct marker_rest)) /
			  MARKER_ENTRY_SIZE);
}

size_t marker_flows_entries(uint32_t capacity)
{
	return capacity; /* behind a tag for each */
}

size_t marker_flows_rests(uint32_t capacity)
{
	return marker_flows_entries(capacity) + (size_t)capacity * MARKER_ENTRY_SIZE;
}

uint32_t marker_flows_capacity(uint32_t elements)
{
	for (uint32_t capacity = MARKER_CAPACITY_MIN; capacity; capacity *= 2) {
		if (marker_flows_elements(capacity) == elements)
			return capacity;
	}
	return 0;
}

int marker_flows_map(struct marker_flows *f, int fd, uint32_t capacity, int64_t factor, bool write)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t size = (size_t)marker_flows_elements(capacity) * MARKER_ENTRY_SIZE;
	uint8_t *base;

	size = (size + page - 1) / page * page;
	base = mmap(NULL, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	f->elsewhere = write ? calloc(capacity, 1) : NULL;
	if (write && !f->elsewhere) {
		munmap(base, size);
		return -ENOMEM;
	}
	f->base = base;
	f->size = size;
	f->tags = (uint64_t *)(void *)base;
	f->entries = (struct marker_entry *)(void *)(base + marker_flows_entries(capacity));
	f->rests = (struct marker_rest *)(void *)(base + marker_flows_rests(capacity));
	f->capacity = capacity;
	f->factor = factor;
	return 0;
}

void marker_flows_unmap(struct marker_flows *f)
{
	if (f->base)
		munmap(f->base, f->size);
	free(f->elsewhere);
	f->base = NULL;
	f->elsewhere = NULL;
}

/* What is looked for. */
static void entry_key(struct marker_entry *e, const struct flow_key *key)
{
	uint16_t ports[2] = {htons(key->src_port), htons(key->dst_port)};
	uint32_t number;

	memcpy(e->src, key->src.half, sizeof(e->src));
	memcpy(e->dst, key->dst.half, sizeof(e->dst));
	memcpy(&number, ports, sizeof(ports));
	e->key = number | (uint64_t)(key->protocol == FLOW_UDP) << MARKER_KEY_UDP;
}

static uint64_t entry_hash(const struct marker_flows *f, const struct marker_entry *e)
{
	return marker_hash(e->dst[1] * (uint64_t)f->factor, e->src, e->dst,
			   e->key & (((uint64_t)1 << MARKER_KEY_BITS) - 1));
}

static bool entry_equal(const struct marker_entry *a, const struct marker_entry *b)
{
	return memcmp(a, b, offsetof(struct marker_entry, key)) == 0 &&
	       (a->key ^ b->key) << (64 - MARKER_KEY_BITS) == 0;
}

static uint32_t label_of(uint64_t key)
{
	return (uint32_t)(key >> MARKER_KEY_LABEL) & MARKER_LABEL;
}

static uint64_t key_with(uint64_t key, uint32_t label)
{
	return (key & ~((uint64_t)MARKER_LABEL << MARKER_KEY_LABEL)) | (uint64_t)label << MARKER_KEY_LABEL;
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

static uint32_t own_entry(const struct marker_flows *f, uint64_t hash)
{
	return (uint32_t)marker_own(hash, (uint32_t)__builtin_ctz(f->capacity));
}

static uint32_t own_bucket(const struct marker_flows *f, uint64_t hash)
{
	return own_entry(f, hash) / MARKER_BUCKET;
}

static uint32_t other_bucket(const struct marker_flows *f, uint64_t hash)
{
	return (uint32_t)marker_bucket_other(hash) & (f->capacity / MARKER_BUCKET - 1);
}

uint32_t marker_flows_find(const struct marker_flows *f, const struct flow_key *key)
{
	struct marker_entry wanted;
	uint32_t tag, at;
	uint64_t hash;

	entry_key(&wanted, key);
	hash = entry_hash(f, &wanted);
	tag = marker_tag(hash);
	at = find_in(f, own_bucket(f, hash), tag, &wanted);
	if (at == MARKER_NOWHERE)
		at = find_in(f, other_bucket(f, hash), tag, &wanted);
	return at;
}

static uint32_t tag_at(const struct marker_flows *f, uint32_t at)
{
	return f->tags[at / MARKER_BUCKET] >> at % MARKER_BUCKET * 8 & 0xFF;
}

/* Where in a bucket there is room for a tag, at `first` or beside it if it is there, and how many entries it
 * has. */
static uint32_t free_in(const struct marker_flows *f, uint32_t bucket, uint32_t tag, uint32_t first,
			int *used)
{
	uint64_t tags = f->tags[bucket], rooms = marker_tags_match(tags, 0);
	uint32_t wanted = first - bucket * MARKER_BUCKET;

	*used = MARKER_BUCKET - __builtin_popcountll(rooms);
	if (!rooms || __builtin_popcountll(marker_tags_match(tags, tag)) >= MARKER_TAG_SHARED)
		return MARKER_NOWHERE;
	if (wanted < MARKER_BUCKET && rooms >> wanted * 8 & 0x80)
		return first;
	wanted = (uint32_t)marker_beside(wanted);
	if (wanted < MARKER_BUCKET && rooms >> wanted * 8 & 0x80)
		return (uint32_t)marker_beside(first);
	return bucket * MARKER_BUCKET + marker_tags_first(rooms);
}

static uint32_t free_for(const struct marker_flows *f, uint64_t hash)
{
	uint32_t own = own_entry(f, hash), tag = marker_tag(hash);
	int used, used_other;
	uint32_t at = free_in(f, own / MARKER_BUCKET, tag, own, &used), other;

	if (at != MARKER_NOWHERE && used < BUCKET_SHARED)
		return at;
	other = free_in(f, other_bucket(f, hash), tag, MARKER_NOWHERE, &used_other);
	return at == MARKER_NOWHERE || (other != MARKER_NOWHERE && used_other < used) ? other : at;
}

static void tag_store(struct marker_flows *f, uint32_t at, uint64_t tag)
{
	uint32_t bucket = at / MARKER_BUCKET, shift = at % MARKER_BUCKET * 8;
	uint64_t tags = (f->tags[bucket] & ~((uint64_t)0xFF << shift)) | tag << shift;

	__atomic_store_n(&f->tags[bucket], tags, __ATOMIC_RELEASE);
}

#define ELSEWHERE ((uint64_t)1 << MARKER_KEY_ELSEWHERE)

/* All of an entry's key but whether others are elsewhere, which is not the flow's. */
static void key_store(struct marker_flows *f, uint32_t at, uint64_t key)
{
	uint64_t *there = &f->entries[at].key;

	__atomic_store_n(there, (key & ~ELSEWHERE) | (*there & ELSEWHERE), __ATOMIC_RELEASE);
}

/* So many flows whose own entry it is are elsewhere. */
static void elsewhere_store(struct marker_flows *f, uint32_t own, uint32_t count)
{
	uint64_t *key = &f->entries[own].key;

	f->elsewhere[own] = (uint8_t)count;
	__atomic_store_n(key, count > 0 ? *key | ELSEWHERE : *key & ~ELSEWHERE, __ATOMIC_RELEASE);
}

static uint64_t next_generation(uint64_t key)
{
	uint64_t generation = (key >> MARKER_KEY_GENERATION) + 1;

	return (generation < MARKER_GENERATIONS ? generation : 1) << MARKER_KEY_GENERATION;
}

/* Programs on other CPUs read what is stored here, in this order. */
static void put(struct marker_flows *f, uint32_t at, const struct marker_entry *from, uint64_t key,
		uint64_t identity, uint64_t hash)
{
	struct marker_entry *e = &f->entries[at];
	uint32_t own = own_entry(f, hash);

	memcpy(e, from, offsetof(struct marker_entry, key));
	e->identity = identity;
	e->packets = e->octets = 0;
	f->rests[at] = (struct marker_rest){0};
	key_store(f, at, key);
	tag_store(f, at, marker_tag(hash));
	if (own != at && f->elsewhere[own] < ELSEWHERE_MAX)
		elsewhere_store(f, own, f->elsewhere[own] + 1U);
	f->used++;
}

uint32_t marker_flows_insert(struct marker_flows *f, const struct flow_key *key, uint32_t label)
{
	struct marker_entry e;
	uint64_t hash;
	uint32_t at;

	entry_key(&e, key);
	hash = entry_hash(f, &e);
	at = free_for(f, hash);
	if (at != MARKER_NOWHERE)
		put(f, at, &e, next_generation(f->entries[at].key) | key_with(e.key, label), 0, hash);
	return at;
}

void marker_flows_change(struct marker_flows *f, uint32_t at, uint32_t label)
{
	key_store(f, at, key_with(f->entries[at].key, label));
}

void marker_flows_new_flow(struct marker_flows *f, uint32_t at, struct marker_count counted)
{
	struct marker_rest *rest = &f->rests[at];

	/* The entry's own counters are its owner's, who may be adding to them. */
	__atomic_fetch_sub(&rest->packets, counted.packets, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&rest->octets, counted.octets, __ATOMIC_RELAXED);
}

void marker_flows_forget_socket(struct marker_flows *f, uint32_t at)
{
	__atomic_store_n(&f->entries[at].identity, 0, __ATOMIC_RELAXED);
}

void marker_flows_remove(struct marker_flows *f, uint32_t at)
{
	uint32_t own = own_entry(f, entry_hash(f, &f->entries[at])), count = f->elsewhere[own];

	marker_flows_discard(f, at);
	if (own != at && count > 0 && count < ELSEWHERE_MAX)
		elsewhere_store(f, own, count - 1);
}

void marker_flows_clear(struct marker_flows *f, uint32_t at)
{
	key_store(f, at, f->entries[at].key >> MARKER_KEY_GENERATION << MARKER_KEY_GENERATION);
}

void marker_flows_discard(struct marker_flows *f, uint32_t at)
{
	tag_store(f, at, 0);
	marker_flows_clear(f, at);
	f->used--;
}

/* Of each entry, how many flows whose own one it is are elsewhere. NULL: out of memory. */
static uint8_t *count_elsewhere(const struct marker_flows *f)
{
	uint8_t *count = calloc(f->capacity, 1);

	for (uint32_t at = 0; count && at < f->capacity; at++) {
		uint32_t own;

		if (!marker_flows_taken(f, at))
			continue;
		own = own_entry(f, entry_hash(f, &f->entries[at]));
		if (own != at && count[own] < ELSEWHERE_MAX)
			count[own]++;
	}
	return count;
}

int marker_flows_recount(struct marker_flows *f)
{
	uint8_t *count = count_elsewhere(f);

	if (!count)
		return -ENOMEM;
	for (uint32_t at = 0; at < f->capacity; at++) {
		if (count[at] > 0 || f->entries[at].key & ELSEWHERE)
			elsewhere_store(f, at, count[at]);
	}
	free(count);
	return 0;
}

uint32_t marker_flows_faults(const struct marker_flows *f)
{
	uint8_t *count = count_elsewhere(f);
	uint32_t faults = !count, used = 0;

	for (uint32_t at = 0; count && at < f->capacity; at++) {
		bool noted = f->entries[at].key & ELSEWHERE;

		faults += f->elsewhere[at] != count[at] || noted != (count[at] > 0);
		used += marker_flows_taken(f, at);
		faults += marker_flows_taken(f, at) && !marker_flows_valid(f, at);
	}
	free(count);
	return faults + (used != f->used);
}

struct marker_count marker_flows_counted(const struct marker_flows *f, uint32_t at)
{
	const struct marker_entry *e = &f->entries[at];
	const struct marker_rest *rest = &f->rests[at];

	return (struct marker_count){
		.packets = __atomic_load_n(&e->packets, __ATOMIC_RELAXED) +
			   __atomic_load_n(&rest->packets, __ATOMIC_RELAXED),
		.octets = __atomic_load_n(&e->octets, __ATOMIC_RELAXED) +
			  __atomic_load_n(&rest->octets, __ATOMIC_RELAXED),
	};
}

uint32_t marker_flows_label(const struct marker_flows *f, uint32_t at)
{
	return label_of(__atomic_load_n(&f->entries[at].key, __ATOMIC_RELAXED));
}

bool marker_flows_read(const struct marker_flows *f, uint32_t at, struct marker_mark *out)
{
	const struct marker_entry *e = &f->entries[at];
	uint64_t key = __atomic_load_n(&e->key, __ATOMIC_ACQUIRE), identity;
	struct marker_count counted = marker_flows_counted(f, at);
	uint32_t number = (uint32_t)key;
	uint16_t ports[2];

	if (!tag_at(f, at) || !label_of(key))
		return false;
	memset(out, 0, sizeof(*out));
	memcpy(out->key.src.half, e->src, sizeof(e->src));
	memcpy(out->key.dst.half, e->dst, sizeof(e->dst));
	memcpy(ports, &number, sizeof(ports));
	out->key.src_port = ntohs(ports[0]);
	out->key.dst_port = ntohs(ports[1]);
	out->key.protocol = key >> MARKER_KEY_UDP & 1 ? FLOW_UDP : FLOW_TCP;
	out->key.family = 6;
	out->label = label_of(key);
	out->packets = counted.packets;
	out->octets = counted.octets;
	identity = __atomic_load_n(&e->identity, __ATOMIC_RELAXED);
	if ((identity ^ key) >> MARKER_KEY_GENERATION == 0 && !(identity >> MARKER_IDENTITY_CPU & 1))
		out->cookie = identity & (((uint64_t)1 << MARKER_IDENTITY_CPU) - 1);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	/* It was another flow's for a moment. */
	return (__atomic_load_n(&e->key, __ATOMIC_RELAXED) ^ key) >> MARKER_KEY_GENERATION == 0;
}

bool marker_flows_valid(const struct marker_flows *f, uint32_t at)
{
	const struct marker_entry *e = &f->entries[at];
	uint64_t hash = entry_hash(f, e);
	uint32_t here = at / MARKER_BUCKET;

	return label_of(e->key) && tag_at(f, at) == marker_tag(hash) &&
	       (here == own_bucket(f, hash) || here == other_bucket(f, hash));
}

bool marker_flows_taken(const struct marker_flows *f, uint32_t at)
{
	return tag_at(f, at) != 0;
}

uint16_t marker_flows_port(const struct marker_flows *f, uint32_t at)
{
	uint32_t ports = (uint32_t)f->entries[at].key;
	uint16_t port;

	memcpy(&port, &ports, sizeof(port));
	return ntohs(port);
}

uint32_t marker_flows_copy(struct marker_flows *to, const struct marker_flows *from, uint32_t at)
{
	struct marker_entry e = from->entries[at];
	uint64_t hash = entry_hash(to, &e);
	uint32_t there = free_for(to, hash);

	if (there == MARKER_NOWHERE)
		return there;
	put(to, there, &e, e.key, e.identity, hash);
	return there;
}

void marker_flows_carry(struct marker_flows *to, uint32_t there, const struct marker_flows *from, uint32_t at)
{
	struct marker_count counted = marker_flows_counted(from, at);
	uint64_t identity = from->entries[at].identity, none = 0;

	/* The entry's own are somebody's by now. */
	__atomic_fetch_add(&to->rests[there].packets, counted.packets, __ATOMIC_RELAXED);
	__atomic_fetch_add(&to->rests[there].octets, counted.octets, __ATOMIC_RELAXED);
	/* The first packet may have come meanwhile. */
	if (identity)
		__atomic_compare_exchange_n(&to->entries[there].identity, &none, identity, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
