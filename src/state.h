/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - the state file: what must outlive a killed daemon.
 *
 * One file, mapped MAP_SHARED, so that kill -9 loses nothing: its pages belong to
 * the page cache. In this order it holds
 *
 *   header   one page: who wrote it, how far it is filled, which script runs
 *   names    of plugins, backends, rules; slots refer to them by number
 *   inputs   one struct each: how much of its buffer is filled and consumed
 *   counters (counter.h)
 *   input data   STATE_INPUT_CAPACITY_MAX octets of file offsets for each input
 *   slots    of the flow table (flow_table.h), to the end of the file
 *
 * All of it is mapped once, at one address, but no page is touched before
 * posix_fallocate() has reserved it: a full file system is an error that is returned
 * and counted, never a SIGBUS. Indexes lie in anonymous memory and are rebuilt.
 *
 * The process that holds the lock owns the file (an open file description lock: it ends
 * with the process, and looking whether it is held does not disturb anybody). The file is
 * the owner's alone, 0600. It is valid for one boot and one layout version.
 *
 * Values are in host order: the file never leaves the host.
 */
#ifndef STATE_H
#define STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"
#include "flow_table.h"

enum {
	/* Raise with every change of a struct in the file, or of an offset. */
	STATE_VERSION = 1,
	STATE_HEADER_SIZE = 4096,
	STATE_NAMES_MAX = 1024, /* number 0 is no name */
	STATE_NAME_SIZE = 64,	/* octets, with the closing NUL */
	STATE_INPUTS_MAX = 64,
	STATE_INPUT_NAME_SIZE = 160,
	STATE_INPUT_CAPACITY = 262144, /* default */
	STATE_INPUT_CAPACITY_MAX = 1048576,
	STATE_FLOWS_MAX = 16777216, /* upper bound of flows_max */
};

/* What kind of script is being run (struct state_running). */
enum {
	STATE_RUNNING_NOTHING = 0,
	STATE_RUNNING_RULE = 1,
	STATE_RUNNING_PLUGIN = 2,
	STATE_RUNNING_BACKEND = 3,
	STATE_RUNNING_FILE = 4, /* a configuration or rule file is being loaded */
	STATE_RUNNING_CONSOLE = 5,
	STATE_RUNNING_TIMER = 6, /* of a site's policy */
};

/* Why the process was replaced (struct state_running). */
enum {
	STATE_REASON_HANG = 0,
	STATE_REASON_MEMORY = 1,
};

/* Noted before a script is entered, so that whoever takes over after a hang or a
 * crash knows the culprit. Written by C and Lua; kind last when a script is
 * entered, kind = NOTHING when it is left. */
struct state_running {
	uint32_t kind;	    /* STATE_RUNNING_* */
	uint32_t number;    /* of the rule, or the owner's choice */
	uint64_t heartbeat; /* raised with each turn of the loop */
	uint64_t entered_us;
	uint32_t crashes; /* in a row, with this note standing */
	uint32_t reason;  /* STATE_REASON_*, when that happened */
	char name[96];	  /* NUL-terminated */
};

/* One page at the start of the file. */
struct state_header {
	char magic[8];		 /* "FLOWDST" and NUL; written last when a file is made */
	uint32_t version;	 /* STATE_VERSION */
	uint32_t slot_size;	 /* sizeof(struct flow_slot) */
	char boot_id[40];	 /* of this boot, NUL-terminated; "" = the system has none */
	uint32_t pid;		 /* of the owner; 0 = closed in order, to be taken over */
	uint32_t flows_max;	 /* as configured */
	uint32_t slots_reserved; /* slots whose octets are allocated: whole chunks */
	uint32_t slots_used;	 /* no slot from here on was ever used */
	uint64_t sequence;	 /* id of the newest flow */
	uint64_t batch;		 /* number of the last batch that was begun */
	uint64_t created_us;	 /* when the file was made */
	uint64_t opened_us;	 /* when its owner started */
	uint32_t adoptions;	 /* how often it was taken over since it was made */
	uint32_t undo_slot;	 /* slot number + 1 while `undo` is to be restored, else 0 */
	uint32_t inputs_used;	 /* no input from here on was ever used */
	uint32_t spare;
	uint16_t backend[32];  /* name number of the backend with that bit in a route; 0 = none */
	struct flow_slot undo; /* a slot as it was before the change that is under way */
	struct state_running running;
};

/* An input buffer. `length` and `consumed` change together, by state_input_set().
 * Octets [consumed, length) are input whose events are not committed yet: the next
 * process finds them after a crash. */
struct state_input {
	char name[160];	       /* of the owner, "pipe:/run/np"; "" = free. Written last */
	uint32_t capacity;     /* octets of the data area: whole pages */
	uint32_t number;       /* of this entry */
	uint32_t length;       /* octets present */
	uint32_t consumed;     /* octets done with; <= length */
	uint32_t scanned;      /* for the reader: octets searched already */
	uint32_t flags;	       /* for the reader */
	uint32_t hand;	       /* for the reader: where the batch in hand ends; none: <= consumed */
	uint32_t hand_crashes; /* crashes in a row with the octets at `consumed` in hand */
	uint64_t device;       /* for the reader: of the file that is read */
	uint64_t inode;
	uint64_t position; /* for the reader: in that file */
	uint64_t total;	   /* octets ever consumed */
	uint64_t batch;	   /* state_header.batch when octets were last consumed */
	/* After a crash with a batch in hand its lines go one by one: where it ends, none: <= consumed;
	 * and where the line in hand ends. */
	uint32_t careful;
	uint32_t hand_line;
	uint64_t reserved[2];
};

struct state_name {
	char text[64]; /* STATE_NAME_SIZE; "" = unused */
};

struct state;

/* Create the file, or take over the one that a dead process left: its open flows, names,
 * counters and unconsumed input, when layout and boot are this process's; else it is made
 * anew and a log line says why. flows_max: 1..STATE_FLOWS_MAX. Returns NULL and one line in
 * `error` when another process owns the file (named by its pid), or it cannot be
 * used. At most one state is open in a process: the counters live in it. */
FFI_EXPORT struct state *state_open(const char *path, uint32_t flows_max, char *error, size_t error_size);

/* A copy of header, names, inputs and counters, of a live or a dead daemon's file. */
FFI_EXPORT struct state *state_view(const char *path, char *error, size_t error_size);

/* Close; `remove` also unlinks the file (a view never does). Without it the next
 * daemon takes over what is in it. NULL is allowed. */
FFI_EXPORT void state_close(struct state *s, bool remove);

/* Of a view: does a process own the file now? */
FFI_EXPORT bool state_owned(const struct state *s);

FFI_EXPORT struct state_header *state_header(struct state *s);

/* Where the note about the running script stands. Valid until state_close(). */
FFI_EXPORT struct state_running *state_running(struct state *s);

/* The n-th counter of a view, 0..COUNTERS_MAX-1; NULL when that place holds none. */
FFI_EXPORT const struct counter *state_counter(const struct state *s, uint32_t n);

/* Number of a name, 1..STATE_NAMES_MAX-1: found or added. -ENOSPC when all numbers are
 * taken, -EINVAL when it is empty or longer than STATE_NAME_SIZE-1. Numbers survive. */
FFI_EXPORT int state_name_id(struct state *s, const char *name);

/* "" for a number that is not in use. Valid until state_close(). */
FFI_EXPORT const char *state_name(const struct state *s, uint32_t id);

/* The bit, 0..FLOW_BACKENDS_MAX-1, that stands for the backend in routes: the same one for as long
 * as the file lives, so that the routes of adopted flows mean the same backends whatever the
 * configuration says now. -ENOSPC when all bits are taken, -EINVAL as state_name_id(). */
FFI_EXPORT int state_backend_bit(struct state *s, const char *name);

/* The input buffer of that name: a new empty one, or the one that the dead
 * process left, with what it had not consumed. capacity: 1..STATE_INPUT_CAPACITY_MAX octets,
 * rounded up to pages; an inherited buffer is never made smaller. A new buffer's octets are zero.
 * NULL when no entry is free, the name is empty, too long or in use, or the file system is full
 * (errno says which; logged and counted). Valid until state_input_close(). */
FFI_EXPORT struct state_input *state_input_open(struct state *s, const char *name, uint32_t capacity);

/* Give the buffer back. What is not consumed stays for the next who opens that name. */
FFI_EXPORT void state_input_close(struct state *s, struct state_input *input);

/* Octets 0..capacity-1. */
FFI_EXPORT uint8_t *state_input_data(struct state_input *input);

/* Set both offsets in one store: a kill leaves either the old pair or the new. When `consumed`
 * changes, the batch that was begun last counts as done with: see flow_table_settle(). */
FFI_EXPORT void state_input_set(struct state_input *input, uint32_t length, uint32_t consumed);

/* The n-th entry, 0..STATE_INPUTS_MAX-1; NULL when it is free. */
FFI_EXPORT struct state_input *state_input_at(struct state *s, uint32_t n);

/* It was not the input in hand that ended the process before: no reader need be careful with it. */
FFI_EXPORT void state_input_forgive(struct state *s);

/* For flow_table.c. */

/* Slots 0..slots_reserved-1 may be touched. The address never changes. */
struct flow_slot *state_slots(struct state *s);

/* Reserve one more chunk of slots. -ENOSPC when the file system (or quota) is full or
 * all slots that flows_max needs are reserved. */
int state_slots_grow(struct state *s);

/* Slots that may ever be reserved. */
uint32_t state_slots_limit(const struct state *s);

#endif
