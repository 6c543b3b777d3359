/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_file.h - for the state_*.c files only: where things stand in the state file,
 * its lock, its space, and whether what is found in it can be believed.
 */
#ifndef STATE_FILE_H
#define STATE_FILE_H

#include "counter.h"
#include "state.h"

/* header.magic, with the closing NUL. */
#define STATE_MAGIC "FLOWDST"

/* Offsets. Multiples of 64 KiB from the counters on: the largest page size in use. */
enum {
	STATE_NAMES_OFFSET = STATE_HEADER_SIZE,
	STATE_INPUTS_OFFSET = STATE_NAMES_OFFSET + STATE_NAMES_MAX * STATE_NAME_SIZE,
	STATE_COUNTERS_OFFSET = 131072,
	STATE_FIXED_SIZE = STATE_COUNTERS_OFFSET + COUNTERS_MAX * 128,
	STATE_INPUT_DATA_OFFSET = STATE_FIXED_SIZE,
	STATE_SLOTS_OFFSET = STATE_INPUT_DATA_OFFSET + STATE_INPUTS_MAX * STATE_INPUT_CAPACITY_MAX,
	STATE_CHUNK_SLOTS = 4096,
	STATE_CHUNK_SIZE = STATE_CHUNK_SLOTS * 192,
	/* Beside flows_max: slots of flows that end in the batch in hand, ended in the last one,
	 * or had ended before a crash. */
	STATE_SLOTS_EXTRA = 4 * FLOW_BATCH_MAX,
};

struct state {
	int fd;
	bool view;	     /* base is a private copy of STATE_FIXED_SIZE octets */
	bool refused;	     /* the last attempt to grow failed */
	uint64_t refused_ns; /* and when */
	uint8_t *base;
	size_t size; /* mapped */
	uint32_t slots_limit;
	bool input_open[STATE_INPUTS_MAX];
	char path[]; /* as given to state_open() */
};

static inline struct state_name *state_names(const struct state *s)
{
	return (struct state_name *)(s->base + STATE_NAMES_OFFSET);
}

static inline struct state_input *state_inputs(const struct state *s)
{
	return (struct state_input *)(s->base + STATE_INPUTS_OFFSET);
}

/* File offset of the n-th input's data. */
static inline int64_t state_input_offset(uint32_t n)
{
	return STATE_INPUT_DATA_OFFSET + (int64_t)n * STATE_INPUT_CAPACITY_MAX;
}

/* Open or create the file and lock it. Returns the descriptor, or -1 and a line in `error`. */
int state_file_lock(const char *path, char *error, size_t error_size);

/* Does a process hold the lock? */
bool state_file_locked(int fd);

/* Allocate octets. Returns 0 or -errno. */
int state_file_reserve(int fd, int64_t offset, int64_t length);

/* The kernel's id of this boot, or "". */
void state_file_boot_id(char *id, size_t size);

/* Why the file cannot be taken over, or NULL. `size`: of the file. */
const char *state_file_refusal(const struct state_header *h, int64_t size);

/* After state_file_refusal() let it pass: remove names and inputs that no flowd-lua wrote. */
void state_file_repair(struct state *s);

#endif
