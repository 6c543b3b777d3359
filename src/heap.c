// SPDX-License-Identifier: Apache-2.0
#include "heap_inside.h"

#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#include "pages.h"

enum {
	SEGMENT_SIZE = 1 << 20,
	PAGE = 4096,
};

/* What runs. */
enum {
	FRAMEWORK,
	SCRIPT,
	RULES, /* a script, while there is an owner */
};

struct free_block {
	struct free_block *next;
};

struct segment {
	struct segment *next;
	uint64_t spare;
};

static volatile uint64_t used_by_all;

static void *map_pages(struct heap *h, size_t size)
{
	void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		return NULL;
	h->mapped += size;
	return pages;
}

static struct head *take_block(struct heap *h, size_t size)
{
	size_t block_size;
	unsigned int class = heap_class(size, &block_size);
	struct free_block *block = h->free[class];

	if (block) {
		h->free[class] = block->next;
		return (struct head *)block;
	}
	if ((size_t)(h->fresh_end - h->fresh) < block_size) {
		struct segment *segment = map_pages(h, SEGMENT_SIZE);

		/* What is left of the one before is at most HEAP_BLOCK_MAX octets of 1 MiB. */
		if (!segment)
			return NULL;
		segment->next = h->segments;
		h->segments = segment;
		h->fresh = (char *)segment + sizeof(*segment);
		h->fresh_end = (char *)segment + SEGMENT_SIZE;
	}
	h->fresh += block_size;
	return (struct head *)(h->fresh - block_size);
}

static void give_block(struct heap *h, struct head *head, size_t size)
{
	size_t block_size;
	unsigned int class = heap_class(size, &block_size);
	struct free_block *block = (struct free_block *)head;

	block->next = h->free[class];
	h->free[class] = block;
}

static size_t mapping_size(size_t size)
{
	return (offsetof(struct mapping, head) + size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static void link_mapping(struct heap *h, struct mapping *m)
{
	m->next = h->mappings.next;
	m->previous = &h->mappings;
	m->next->previous = m;
	h->mappings.next = m;
}

static void unlink_mapping(struct mapping *m)
{
	m->next->previous = m->previous;
	m->previous->next = m->next;
}

static struct mapping *mapping_of(struct head *head)
{
	return (struct mapping *)((char *)head - offsetof(struct mapping, head));
}

/* size: with the head. */
static struct head *take(struct heap *h, size_t size)
{
	struct mapping *m;

	if (size <= HEAP_BLOCK_MAX)
		return take_block(h, size);
	m = map_pages(h, mapping_size(size));
	if (!m)
		return NULL;
	m->size = mapping_size(size);
	link_mapping(h, m);
	return &m->head;
}

static void give(struct heap *h, struct head *head, size_t size)
{
	struct mapping *m;

	if (size <= HEAP_BLOCK_MAX) {
		give_block(h, head, size);
		return;
	}
	m = mapping_of(head);
	unlink_mapping(m);
	h->mapped -= m->size;
	munmap(m, m->size);
}

/* A mapping that stays one. */
static struct head *resize_mapping(struct heap *h, struct head *head, size_t size)
{
	struct mapping *m = mapping_of(head), *moved;
	size_t wanted = mapping_size(size);

	if (wanted == m->size)
		return head;
	unlink_mapping(m);
	moved = mremap(m, m->size, wanted, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED) {
		link_mapping(h, m);
		return NULL;
	}
	h->mapped += wanted - moved->size;
	moved->size = wanted;
	link_mapping(h, moved);
	return &moved->head;
}

static struct head *resize(struct heap *h, struct head *head, size_t old_size, size_t size)
{
	size_t old_block, block;
	struct head *moved;

	if (old_size > HEAP_BLOCK_MAX && size > HEAP_BLOCK_MAX)
		return resize_mapping(h, head, size);
	if (old_size <= HEAP_BLOCK_MAX && size <= HEAP_BLOCK_MAX &&
	    heap_class(old_size, &old_block) == heap_class(size, &block))
		return head;
	moved = take(h, size);
	if (!moved)
		return NULL;
	memcpy(moved, head, old_size < size ? old_size : size);
	give(h, head, old_size);
	return moved;
}

/* What `used` may come to. */
static uint64_t most_of(const struct heap *h, uint32_t owner)
{
	if (h->script == FRAMEWORK)
		return (h->left > h->limit ? h->left : h->limit) + h->reserve;
	return h->script == SCRIPT || owner != 0 ? h->limit : UINT64_MAX / 2;
}

/* Would more octets be too many, of limits so many times as high? */
static bool exceeds(const struct heap *h, uint64_t more, unsigned int times)
{
	uint32_t owner = heap_owner_now(h);

	return h->used + more > times * most_of(h, owner) ||
	       (owner != 0 && h->owner_limit != 0 && h->owners[owner] + more > times * h->owner_limit);
}

static bool refuse(struct heap *h, uint64_t more)
{
	if (!exceeds(h, more, 1))
		return false;
	h->refusals++;
	h->console_refusal = HEAP_CONSOLE_MEMORY;
	if (h->refused)
		*h->refused = true;
	if (!h->machine ||
	    (!h->stopping && (*h->machine == HEAP_INTERPRETER || *h->machine == HEAP_FUNCTION)))
		return true;
	h->stopping = true;
	h->stop(h->stop_data, exceeds(h, more, 2));
	return false;
}

static void own(struct heap *h, uint32_t owner, uint64_t more, uint64_t less)
{
	h->owners[owner] += more - less;
	if (owner >= HEAP_OWNER_CONSOLE)
		h->console_used += more - less;
}

static void count(struct heap *h, uint32_t owner, uint64_t more, uint64_t less)
{
	h->used += more - less;
	used_by_all += more - less;
	own(h, owner, more, 0);
}

void *heap_allocate(void *heap, void *block, size_t old_size, size_t new_size)
{
	struct heap *h = heap;
	struct head *head = block ? (struct head *)block - 1 : NULL;
	uint32_t owner = head ? head->owner : 0;

	if (!head)
		old_size = 0;
	if (new_size == 0) {
		if (!head || h->abandoned)
			return NULL;
		own(h, owner, 0, old_size);
		count(h, owner, 0, old_size);
		h->blocks--;
		give(h, head, old_size + sizeof(*head));
		return NULL;
	}
	if (new_size > old_size && !heap_is_for_texts(block, new_size) &&
	    (heap_console_refuses(h, block, old_size, new_size) || refuse(h, new_size - old_size)))
		return NULL;
	if (head)
		head = resize(h, head, old_size + sizeof(*head), new_size + sizeof(*head));
	else
		head = take(h, new_size + sizeof(*head));
	if (!head) {
		h->refusals++;
		return NULL;
	}
	own(h, owner, 0, old_size);
	if (!block)
		h->blocks++;
	/* Whoever makes it grow has it. */
	if (new_size > old_size || !block)
		owner = heap_owner_now(h);
	head->owner = owner;
	count(h, owner, new_size, old_size);
	return head + 1;
}

struct heap *heap_new(uint64_t limit, uint64_t reserve)
{
	/* Few of its owners are ever used. */
	struct heap *h = pages_new(sizeof(*h));

	if (!h)
		return NULL;
	h->limit = limit;
	h->reserve = reserve;
	h->mappings.next = h->mappings.previous = &h->mappings;
	return h;
}

void heap_abandon(struct heap *h)
{
	h->abandoned = true;
	h->refused = NULL;
}

bool heap_free_part(struct heap *h, unsigned int pieces)
{
	for (; pieces > 0; pieces--) {
		struct mapping *m = h->mappings.next;
		struct segment *segment = h->segments;

		if (m != &h->mappings) {
			unlink_mapping(m);
			munmap(m, m->size);
		} else if (segment) {
			h->segments = segment->next;
			munmap(segment, SEGMENT_SIZE);
		} else {
			used_by_all -= h->used;
			pages_free(h, sizeof(*h));
			return true;
		}
	}
	return false;
}

void heap_free(struct heap *h)
{
	if (h)
		heap_free_part(h, UINT_MAX);
}

void heap_set_owner(struct heap *h, const uint32_t *owner)
{
	h->owner = owner;
}

void heap_set_refused(struct heap *h, bool *refused)
{
	h->refused = refused;
}

void heap_set_limit(struct heap *h, uint64_t limit)
{
	h->limit = limit;
}

void heap_set_owner_limit(struct heap *h, uint64_t limit)
{
	h->owner_limit = limit;
}

uint32_t heap_act_as(struct heap *h, uint32_t owner)
{
	uint32_t before = h->acting;

	h->acting = owner;
	return before;
}

int32_t heap_charge(struct heap *h, uint64_t octets)
{
	uint32_t owner = heap_owner_now(h);

	if (refuse(h, octets))
		return -1;
	count(h, owner, octets, 0);
	return (int32_t)owner;
}

bool heap_hold(struct heap *h, uint32_t owner, uint64_t octets)
{
	uint64_t most = h->owner_limit - h->owner_limit / HEAP_HOLD_REST;

	if (owner != 0 && h->owner_limit != 0 && h->owners[owner] + octets > most)
		return false;
	count(h, owner, octets, 0);
	return true;
}

void heap_discharge(struct heap *h, int32_t owner, uint64_t octets)
{
	own(h, (uint32_t)owner, 0, octets);
	count(h, (uint32_t)owner, 0, octets);
}

uint64_t heap_blocks(const struct heap *h)
{
	return h->blocks;
}

uint32_t heap_enter_script(struct heap *h)
{
	uint32_t before = h->script;

	h->script = SCRIPT;
	return before;
}

uint32_t heap_enter_rules(struct heap *h)
{
	uint32_t before = h->script;

	h->script = RULES;
	return before;
}

void heap_leave_script(struct heap *h, uint32_t before)
{
	h->script = before;
	h->left = h->used;
}

uint64_t heap_used(const struct heap *h)
{
	return h->used;
}

uint64_t heap_used_by(const struct heap *h, uint32_t owner)
{
	return owner < HEAP_OWNERS_MAX ? h->owners[owner] : 0;
}

uint64_t heap_mapped(const struct heap *h)
{
	return h->mapped;
}

uint64_t heap_limit(const struct heap *h)
{
	return h->limit;
}

uint64_t heap_used_by_all(void)
{
	return used_by_all;
}

uint64_t heap_refusals(const struct heap *h)
{
	return h->refusals;
}

bool heap_stopped(struct heap *h)
{
	h->stopping = false;
	return exceeds(h, 0, 1);
}

void heap_set_machine(struct heap *h, const volatile int32_t *running, void (*stop)(void *data, bool at_once),
		      void *data)
{
	h->machine = running;
	h->stop = stop;
	h->stop_data = data;
}

bool heap_uses_more(const struct heap *h, double octets)
{
	return (double)h->used > octets;
}
