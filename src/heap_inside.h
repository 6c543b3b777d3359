/* SPDX-License-Identifier: Apache-2.0 */
/* heap_inside.h - what the files of heap.h share. */
#ifndef HEAP_INSIDE_H
#define HEAP_INSIDE_H

#include "heap.h"
#include "heap_class.h"

/* In front of each block; Lua wants multiples of 8. */
struct head {
	uint32_t owner;
	uint32_t spare;
};

/* In front of a mapping. Its size follows from the block's. */
struct mapping {
	struct mapping *next, *previous;
	size_t size;
	struct head head;
};

struct heap {
	uint64_t used, limit, owner_limit, reserve, mapped, refusals, blocks, console_used;
	uint64_t left; /* `used` when a script was left */
	const uint32_t *owner;
	bool *refused;
	uint32_t acting;
	uint32_t script; /* FRAMEWORK, SCRIPT, RULES */
	bool stopping;
	bool abandoned;
	bool console; /* code of a client of the console runs */
	bool reads;   /* or is being read */
	uint32_t console_refusal;
	const volatile uint32_t *texts;
	const volatile int32_t *machine;
	void (*stop)(void *data, bool at_once);
	void *stop_data;
	char *fresh, *fresh_end;
	struct segment *segments;
	struct mapping mappings; /* a ring */
	struct free_block *free[HEAP_CLASSES];
	uint64_t owners[HEAP_OWNERS_MAX];
};

static inline uint32_t heap_owner_now(const struct heap *h)
{
	uint32_t owner = h->acting ? h->acting : h->owner ? *h->owner : 0;

	return owner < HEAP_OWNERS_MAX ? owner : 0;
}

enum {
	/* Octets of LuaJIT's table of all texts, a power of two of pointers, from which on it is known as
	   that. */
	HEAP_TEXTS_MIN = 1 << 15,
};

/* LuaJIT does not survive that its table of all texts cannot grow: the error would come from within. It takes
 * no more than a third of what the texts take. */
static inline bool heap_is_for_texts(const void *block, size_t size)
{
	return !block && size >= HEAP_TEXTS_MIN && (size & (size - 1)) == 0;
}

/* May a client of the console not have this? block: what is to grow; NULL: it is new. */
bool heap_console_refuses(struct heap *h, const void *block, size_t old_size, size_t size);

#endif
