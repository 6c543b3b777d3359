// SPDX-License-Identifier: Apache-2.0
#include "heap_inside.h"

enum {
	/* LuaJIT 2.1. An entry of a table's hash part, of which there are a power of two; of its array. */
	TABLE_ENTRY = 24,
	LIST_ENTRY = 8,
	/* Beside a text's octets; and entries that an array or a stack has besides. */
	TEXT_HEAD = 64,
	LIST_SPARE = 256,
	/* Clients that hold so little have not filled the table of texts. */
	FEW_OCTETS = 2 << 20,
	TEXTS_LAST = 256, /* for what cannot be refused */
};

static bool is_power_of_two(size_t n)
{
	return (n & (n - 1)) == 0;
}

/* LuaJIT makes texts in a buffer that doubles. Stacks grow as arrays do. */
static bool is_too_large(const void *block, size_t size)
{
	if (size <= HEAP_CONSOLE_TEXT_MAX + TEXT_HEAD)
		return false;
	if (size % TABLE_ENTRY == 0 && is_power_of_two(size / TABLE_ENTRY))
		return size / TABLE_ENTRY > HEAP_CONSOLE_TABLE_MAX;
	if (block ? is_power_of_two(size) : !is_power_of_two(size / LIST_ENTRY - 1))
		return true;
	return size > (size_t)LIST_ENTRY * (HEAP_CONSOLE_LIST_MAX + LIST_SPARE);
}

/* Would LuaJIT's table of texts, when it is so nearly full, become larger than events can wait for? */
static bool has_too_many_texts(const struct heap *h, uint32_t spare)
{
	return h->texts && h->texts[0] >= HEAP_CONSOLE_TEXTS_MAX - 1 && h->texts[1] + spare >= h->texts[0] &&
	       h->console_used > FEW_OCTETS;
}

static uint32_t refusal(const struct heap *h, const void *block, size_t old_size, size_t size)
{
	if (!h->reads && is_too_large(block, size))
		return HEAP_CONSOLE_SIZE;
	if (h->console_used + size - old_size > heap_console_limit(h))
		return HEAP_CONSOLE_MEMORY;
	return !block && has_too_many_texts(h, TEXTS_LAST) ? HEAP_CONSOLE_TEXTS : 0;
}

bool heap_console_refuses(struct heap *h, const void *block, size_t old_size, size_t size)
{
	uint32_t why;

	/* Rules that run for a client have memory of their own. */
	if (!h->console || heap_owner_now(h) < HEAP_OWNER_CONSOLE)
		return false;
	if (h->machine && *h->machine != HEAP_INTERPRETER && *h->machine != HEAP_FUNCTION)
		return false;
	why = refusal(h, block, old_size, size);
	if (why)
		h->console_refusal = why;
	return why != 0;
}

void heap_enter_console(struct heap *h, uint32_t owner, bool reads)
{
	h->console = true;
	h->reads = reads;
	h->acting = owner;
}

void heap_leave_console(struct heap *h)
{
	h->console = false;
	h->acting = 0;
}

uint32_t heap_console_refusal(const struct heap *h)
{
	return h->console_refusal;
}

void heap_set_texts(struct heap *h, const volatile uint32_t texts[2])
{
	h->texts = texts;
}

bool heap_console_texts_full(const struct heap *h, uint32_t spare)
{
	return has_too_many_texts(h, spare);
}

uint64_t heap_console_used(const struct heap *h)
{
	return h->console_used;
}

uint64_t heap_console_limit(const struct heap *h)
{
	return h->limit / HEAP_CONSOLE_PART;
}
