/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h - the memory of one Lua state: counted, limited, and given back at once.
 *
 * All memory of a state lies in blocks that are its own, so that closing a state returns every octet of it
 * to the system, whatever the states before and after it hold.
 *
 * Scripts (between heap_enter_script() and heap_leave_script()) are refused memory beyond `limit`. Everything
 * else may take `reserve` more than they left behind, so that what a script's error means can still be said.
 * Between heap_enter_rules() and heap_leave_script() a script runs while *owner is not 0; what runs rules one
 * after another is refused nothing, as nobody could tell whose fault that were. A refusal is an ordinary Lua
 * error, "not enough memory".
 *
 * Each block knows for whom it was made: the number that *owner had at that time (which rule was running).
 * So what a rule holds is known when memory runs out, also of what it took long ago. Besides, each owner but
 * number 0 may have a limit of its own: then whoever grows is the one that is refused.
 *
 * Memory that C primitives take for a script (prefix maps and such) counts when they are told of it, by
 * heap_charge().
 *
 * Not thread-safe.
 */
#ifndef HEAP_H
#define HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum {
	/* Owners are numbers below this; all others count as owner 0. Rules have those from 1 on, ... */
	HEAP_OWNERS_MAX = 16384,
	/* ... timers of a policy, plugins and backends the numbers behind these. */
	HEAP_OWNER_TIMERS = 8192,
	HEAP_OWNER_MODULES = 12288,
	/* Clients of the console; they are in a policy, where no plugins and backends are. */
	HEAP_OWNER_CONSOLE = HEAP_OWNER_MODULES,
	/* Their part of the limit, all of them together: one in so many. */
	HEAP_CONSOLE_PART = 8,
	/* Of an owner's limit, one part in so many is not for heap_hold(). */
	HEAP_HOLD_REST = 8,
	/* What they can make: octets of a text, entries of a list, and of any other table. */
	HEAP_CONSOLE_TEXT_MAX = 1 << 16,
	HEAP_CONSOLE_LIST_MAX = 1 << 16,
	HEAP_CONSOLE_TABLE_MAX = 1 << 15,
	/* Texts of the whole state, when theirs are many. */
	HEAP_CONSOLE_TEXTS_MAX = 1 << 16,
};

struct heap;

/* Octets. `limit` is for scripts; `reserve` comes on top of it. NULL when out of memory. */
struct heap *heap_new(uint64_t limit, uint64_t reserve);

/* Give everything back. */
void heap_free(struct heap *h);

/* The same, so many pieces of it (of 1 MiB or more). True: that was the last one, h is no more. */
bool heap_free_part(struct heap *h, unsigned int pieces);

/* From now on nothing is worth freeing: heap_free() follows. */
void heap_abandon(struct heap *h);

/* As realloc(), with the old size known: the signature of lua_Alloc. NULL is a refusal; what gets smaller
 * is never refused. */
void *heap_allocate(void *heap, void *block, size_t old_size, size_t new_size);

/* Where the number of the owner stands; borrowed. NULL: owner 0. */
FFI_EXPORT void heap_set_owner(struct heap *h, const uint32_t *owner);
/* What is set to true when memory is refused, or given only because machine code asked; borrowed. NULL:
 * nothing. */
FFI_EXPORT void heap_set_refused(struct heap *h, bool *refused);
FFI_EXPORT void heap_set_limit(struct heap *h, uint64_t limit);

/* What each owner but number 0 may hold; 0: whatever the other limits allow. */
FFI_EXPORT void heap_set_owner_limit(struct heap *h, uint64_t limit);

/* From now on the owner is this one, whatever *owner says; 0: that again. Returns what it was before. */
FFI_EXPORT uint32_t heap_act_as(struct heap *h, uint32_t owner);

/* Count octets that lie elsewhere, for the owner of now. Its number, or -1: they would be too many, and are
 * not counted. */
FFI_EXPORT int32_t heap_charge(struct heap *h, uint64_t octets);
FFI_EXPORT void heap_discharge(struct heap *h, int32_t owner, uint64_t octets);

/* The same for an owner, whoever runs now, and for callers that do without it: no refusal is noted. False:
 * the owner's limit does not allow so many, less the part that is for the script, which has to go on. */
bool heap_hold(struct heap *h, uint32_t owner, uint64_t octets);

/* Each returns what heap_leave_script() puts back: scripts nest. At first, and as the 0 that it takes,
 * nothing is a script. */
FFI_EXPORT uint32_t heap_enter_script(struct heap *h);
FFI_EXPORT uint32_t heap_enter_rules(struct heap *h);
FFI_EXPORT void heap_leave_script(struct heap *h, uint32_t before);

/* Octets that are in use; that an owner holds; that the system has given. */
FFI_EXPORT uint64_t heap_used(const struct heap *h);
FFI_EXPORT uint64_t heap_used_by(const struct heap *h, uint32_t owner);
FFI_EXPORT uint64_t heap_mapped(const struct heap *h);
FFI_EXPORT uint64_t heap_limit(const struct heap *h);

/* What heap_set_machine()'s `stop` asked for has come: the interpreter is there. Is the script that runs now
 * beyond its limit? */
bool heap_stopped(struct heap *h);

/* What LuaJIT 2.1 notes as running; machine code is a number from 0 on, the rest are its collector and
 * compiler. */
enum {
	HEAP_INTERPRETER = -1,
	HEAP_FUNCTION = -2, /* of C */
};

/*
 * Where that is noted. Only these two are refused memory; instead of the others `stop` is told, with at_once
 * = true when they have come to twice the limit; and nothing is refused from then until heap_stopped(), as
 * finalizers make the collector look like the interpreter. All three are borrowed.
 */
void heap_set_machine(struct heap *h, const volatile int32_t *running, void (*stop)(void *data, bool at_once),
		      void *data);

/* LuaJIT's table of all texts of a state: its size less one, and how many there are. Borrowed; NULL: unknown.
 */
void heap_set_texts(struct heap *h, const volatile uint32_t texts[2]);

/*
 * Between these two code of a client of the console runs: what it takes is the owner's, and refused beyond
 * the clients' part. Events wait while a table or text is made or grows, so none may become so large that it
 * takes long: see HEAP_CONSOLE_TABLE_MAX and the like. reads: it is code of theirs that is
 * read: neither holds. Texts are refused when LuaJIT's table of them would grow beyond HEAP_CONSOLE_TEXTS_MAX
 * on account of clients. In machine code and in the collector nothing is refused (see above).
 */
FFI_EXPORT void heap_enter_console(struct heap *h, uint32_t owner, bool reads);
FFI_EXPORT void heap_leave_console(struct heap *h);

enum heap_console_refusal {
	HEAP_CONSOLE_MEMORY = 1, /* all clients' part, or that of all scripts */
	HEAP_CONSOLE_SIZE = 2,	 /* of a text, list or table */
	HEAP_CONSOLE_TEXTS = 3,
};

/* Why clients were refused memory last; 0: they were not. */
FFI_EXPORT uint32_t heap_console_refusal(const struct heap *h);

/* Have clients as many texts as they may, or would they with so many more? */
FFI_EXPORT bool heap_console_texts_full(const struct heap *h, uint32_t spare);

/* Octets that clients of the console hold, and may hold. */
FFI_EXPORT uint64_t heap_console_used(const struct heap *h);
FFI_EXPORT uint64_t heap_console_limit(const struct heap *h);

/* Blocks that are in use. */
FFI_EXPORT uint64_t heap_blocks(const struct heap *h);

/* Octets in use in all heaps of the process. May be asked by a signal handler. */
uint64_t heap_used_by_all(void);

/* For callers that may be refused the memory for a 64-bit number. */
FFI_EXPORT bool heap_uses_more(const struct heap *h, double octets);

/* How often memory was refused. */
FFI_EXPORT uint64_t heap_refusals(const struct heap *h);

#endif
