/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h - the memory of one Lua state: counted, limited, and given back at once.
 *
 * All memory of a state lies in blocks that are its own, so that closing a state returns every octet of it
 * to the system, whatever the states before and after it hold.
 *
 * There are two limits. Scripts (between heap_enter_script() and heap_leave_script()) are refused memory
 * beyond `limit`; everything else may take `reserve` more, so that what a script's error means can still be
 * said. A refusal is an ordinary Lua error, "not enough memory".
 *
 * Each block knows for whom it was made: the number that *owner had at that time (which rule was running).
 * So what a rule holds is known when memory runs out, also of what it took long ago.
 *
 * Not thread-safe. Memory that C primitives take (prefix maps and such) is not counted.
 */
#ifndef HEAP_H
#define HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum {
	/* Owners are numbers below this; all others count as owner 0. */
	HEAP_OWNERS_MAX = 16384,
};

struct heap;

/* Octets. `limit` is for scripts; `reserve` comes on top of it. NULL when out of memory. */
struct heap *heap_new(uint64_t limit, uint64_t reserve);

/* Give everything back. */
void heap_free(struct heap *h);

/* From now on nothing is worth freeing: heap_free() follows. */
void heap_abandon(struct heap *h);

/* As realloc(), with the old size known: the signature of lua_Alloc. NULL is a refusal; what gets smaller
 * is never refused. */
void *heap_allocate(void *heap, void *block, size_t old_size, size_t new_size);

/* Where the number of the owner stands; borrowed. NULL: owner 0. */
FFI_EXPORT void heap_set_owner(struct heap *h, const uint32_t *owner);
FFI_EXPORT void heap_set_limit(struct heap *h, uint64_t limit);

/* Returns what heap_leave_script() puts back: scripts nest. */
FFI_EXPORT bool heap_enter_script(struct heap *h);
FFI_EXPORT void heap_leave_script(struct heap *h, bool before);

/* Octets that are in use; that an owner holds; that the system has given. */
FFI_EXPORT uint64_t heap_used(const struct heap *h);
FFI_EXPORT uint64_t heap_used_by(const struct heap *h, uint32_t owner);
FFI_EXPORT uint64_t heap_mapped(const struct heap *h);
FFI_EXPORT uint64_t heap_limit(const struct heap *h);

/* How often memory was refused. */
FFI_EXPORT uint64_t heap_refusals(const struct heap *h);

#endif
