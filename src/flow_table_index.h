/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_table_index.h - from 5-tuple to slot number: linear probing in anonymous memory,
 * at most half full, deletion by moving entries back (no tombstones: speed does not
 * depend on what was there before). The hash is SipHash-1-3 under a random key, so that
 * nobody who chooses addresses and ports can make flows collide.
 *
 * The memory is reserved at once and touched as flows come.
 */
#ifndef FLOW_TABLE_INDEX_H
#define FLOW_TABLE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "flow_table.h"

struct flow_index_entry {
	uint32_t hash;
	uint32_t slot; /* number + 1; 0 = empty */
};

struct flow_index {
	struct flow_index_entry *entry;
	uint32_t size;
	uint32_t used;
	uint64_t seed[2];
};

/* Room for `flows` entries. Returns 0 or -errno. */
int flow_index_open(struct flow_index *ix, uint32_t flows);
void flow_index_close(struct flow_index *ix);

size_t flow_index_memory(const struct flow_index *ix);

/* The key must not be in the index, and there must be room. */
void flow_index_insert(struct flow_index *ix, uint32_t hash, uint32_t slot);

/* Remove the entry of that slot if it is there. */
void flow_index_remove(struct flow_index *ix, uint32_t hash, uint32_t slot);

static inline uint64_t flow_index_rotate(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static inline void flow_index_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = flow_index_rotate(v[1], 13) ^ v[0];
	v[0] = flow_index_rotate(v[0], 32);
	v[2] += v[3];
	v[3] = flow_index_rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = flow_index_rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = flow_index_rotate(v[1], 17) ^ v[2];
	v[2] = flow_index_rotate(v[2], 32);
}

/* SipHash-1-3 of the key's five words; all keys are equally long, so its length is left out. */
static inline uint32_t flow_index_hash(const struct flow_index *ix, const struct flow_key *key)
{
	uint64_t v[4] = {ix->seed[0] ^ 0x736f6d6570736575, ix->seed[1] ^ 0x646f72616e646f6d,
			 ix->seed[0] ^ 0x6c7967656e657261, ix->seed[1] ^ 0x7465646279746573};
	uint64_t word[5];

	memcpy(word, key, sizeof(word));
	for (int i = 0; i < 5; i++) {
		v[3] ^= word[i];
		flow_index_round(v);
		v[0] ^= word[i];
	}
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		flow_index_round(v);
	v[0] ^= v[1] ^ v[2] ^ v[3];
	return (uint32_t)(v[0] ^ v[0] >> 32);
}

/* Where the search for a hash begins. Grows with the hash. */
static inline uint32_t flow_index_home(const struct flow_index *ix, uint32_t hash)
{
	return (uint32_t)((uint64_t)hash * ix->size >> 32);
}

static inline bool flow_key_equal(const struct flow_key *a, const struct flow_key *b)
{
	uint64_t x[5], y[5];

	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

/* The key's entry, or NULL. */
static inline struct flow_index_entry *flow_index_find(const struct flow_index *ix,
						       const struct flow_slot *slots,
						       const struct flow_key *key, uint32_t hash)
{
	uint32_t i = flow_index_home(ix, hash);

	while (ix->entry[i].slot) {
		if (ix->entry[i].hash == hash && flow_key_equal(&slots[ix->entry[i].slot - 1].key, key))
			return &ix->entry[i];
		if (++i == ix->size)
			i = 0;
	}
	return NULL;
}

static inline void flow_index_prefetch(const struct flow_index *ix, uint32_t hash)
{
	__builtin_prefetch(&ix->entry[flow_index_home(ix, hash)], 1);
}

/* The slot that most likely has the key (its entry is in the cache by now), or 0: number + 1. */
static inline uint32_t flow_index_guess(const struct flow_index *ix, uint32_t hash)
{
	uint32_t i = flow_index_home(ix, hash);

	while (ix->entry[i].slot && ix->entry[i].hash != hash) {
		if (++i == ix->size)
			i = 0;
	}
	return ix->entry[i].slot;
}

#endif
