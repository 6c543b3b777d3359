/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix_map.h - longest prefix match: from an address to the value of the most
 * specific prefix that holds it.
 *
 * Prefixes are added, then prefix_map_build() makes the structure that
 * prefix_map_find() walks: nodes of 16 branches (four bits of the address each, one
 * cache line), with runs of bits that lead nowhere else skipped in one comparison. A
 * find takes at most 32 steps whatever the number of prefixes; memory is at most some
 * 200 octets a prefix.
 *
 * IPv4 lives in its IPv4-mapped form (flow_abi.h) and apart from IPv6: ::/0 holds no IPv4
 * address. A caller gives IPv4 prefixes with 96 added to their length.
 *
 * A map belongs to whoever made it. Building anew replaces what find sees.
 */
#ifndef PREFIX_MAP_H
#define PREFIX_MAP_H

#include "flow_abi.h"
#include "ffi_export.h"

enum { PREFIX_VALUE_MAX = 0x3fffffff };

struct prefix_map;

/* NULL: out of memory. */
FFI_EXPORT struct prefix_map *prefix_map_new(void);
FFI_EXPORT void prefix_map_free(struct prefix_map *m);

/*
 * Add a prefix of `bits` (0..128) bits. Value: 1..PREFIX_VALUE_MAX.
 * Returns 0; -EINVAL: bits or value out of range; -ERANGE: the address has bits set beyond
 * the prefix's length (prefix_mask() clears them); -ENOMEM.
 */
FFI_EXPORT int prefix_map_add(struct prefix_map *m, const struct flow_address *address, uint32_t bits,
			      uint32_t value);

/*
 * Make what was added findable. Returns 0 or -ENOMEM; -EEXIST when one prefix was added
 * twice with different values: *first and *second are the two additions, counted from 0.
 * On an error, find answers as before.
 */
FFI_EXPORT int prefix_map_build(struct prefix_map *m, uint32_t *first, uint32_t *second);

/* The same a step at a time, each of some milliseconds at most whatever the number of prefixes: 1 while there
 * is more to do, then what prefix_map_build() returns. Adding to the map meanwhile begins it anew. */
FFI_EXPORT int prefix_map_build_step(struct prefix_map *m, uint32_t *first, uint32_t *second);

/* The value of the longest prefix that holds the address; 0 when none does. */
FFI_EXPORT uint32_t prefix_map_find(const struct prefix_map *m, const struct flow_address *address);

/* The same for an address given as the words of struct flow_address: from registers, where the caller
 * (compiled Lua) has them, and not through memory. */
FFI_EXPORT uint32_t prefix_map_find_words(const struct prefix_map *m, uint32_t word0, uint32_t word1,
					  uint32_t word2, uint32_t word3);

/* How many prefixes were added, and the octets that the map takes. */
FFI_EXPORT uint32_t prefix_map_count(const struct prefix_map *m);
FFI_EXPORT size_t prefix_map_memory(const struct prefix_map *m);

/* Clear every bit of the address beyond the first `bits`. */
FFI_EXPORT void prefix_mask(struct flow_address *address, uint32_t bits);

#endif
