// SPDX-License-Identifier: Apache-2.0
#include "heap_inside.h"

enum {
	/* LuaJIT 2.1: an entry of a table's hash part; there are a power of two of them. */
	TABLE_ENTRY = 24,
	TABLE_ENTRIES_MAX = 1 << 16,
};

static bool is_power_of_two(size_t n)
{
	return (n & (n - 1)) == 0;
}

bool heap_console_refuses(const struct heap *h, size_t old_size, size_t size)
{
	/* Rules that run for a client have memory of their own. */
	if (!h->console || heap_owner_now(h) < HEAP_OWNER_CONSOLE)
		return false;
	if (h->machine && *h->machine != HEAP_INTERPRETER && *h->machine != HEAP_FUNCTION)
		return false;
	if (size > HEAP_CONSOLE_BLOCK_MAX || h->console_used + size - old_size > heap_console_limit(h))
		return true;
	return size > (size_t)TABLE_ENTRY * TABLE_ENTRIES_MAX && size % TABLE_ENTRY == 0 &&
	       is_power_of_two(size / TABLE_ENTRY);
}

void heap_enter_console(struct heap *h, uint32_t owner)
{
	h->console = true;
	h->acting = owner;
}

void heap_leave_console(struct heap *h)
{
	h->console = false;
	h->acting = 0;
}

uint64_t heap_console_used(const struct heap *h)
{
	return h->console_used;
}

uint64_t heap_console_limit(const struct heap *h)
{
	return h->limit / HEAP_CONSOLE_PART;
}
