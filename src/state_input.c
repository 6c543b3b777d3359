/* SPDX-License-Identifier: Apache-2.0 */
/* state_input.c - the input buffers of the state file. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "state_file.h"

static void fence(void)
{
	/* Only the order in which this process's stores are made counts: the next process
	 * sees what was stored before the kill. */
	atomic_signal_fence(memory_order_seq_cst);
}

/* The entry of that name, else a free one, else NULL. */
static struct state_input *find_entry(struct state *s, const char *name)
{
	struct state_input *unused = NULL;

	for (uint32_t i = 0; i < STATE_INPUTS_MAX; i++) {
		struct state_input *in = &state_inputs(s)[i];

		if (strcmp(in->name, name) == 0)
			return in;
		if (in->name[0] == '\0' && !unused) {
			unused = in;
			in->number = i;
		}
	}
	return unused;
}

/* Pages for its data, zero when the buffer is new. */
static int reserve_data(struct state *s, struct state_input *in, uint32_t capacity)
{
	struct state_header *header = state_header(s);
	int error;

	if (capacity <= in->capacity)
		capacity = in->capacity;
	/* Also what an inherited buffer claims to have: a copied file may have holes. */
	error = state_file_reserve(s->fd, state_input_offset(in->number), capacity);
	if (error)
		return error;
	/* Pages that were never used are zero: do not touch them. */
	if (in->number >= header->inputs_used)
		header->inputs_used = in->number + 1;
	else if (in->name[0] == '\0')
		memset(state_input_data(in), 0, capacity);
	in->capacity = capacity;
	return 0;
}

static struct state_input *refuse(const struct state *s, const char *name, int error)
{
	counter_get("flowd_inputs_refused_total")->value++;
	log_error("state file %s: no input buffer for %s: %s", s->path, name, strerror(error));
	errno = error;
	return NULL;
}

struct state_input *state_input_open(struct state *s, const char *name, uint32_t capacity)
{
	size_t len = strnlen(name, STATE_INPUT_NAME_SIZE);
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	struct state_input *in;
	int error;

	if (len == 0 || len == STATE_INPUT_NAME_SIZE || capacity == 0 || capacity > STATE_INPUT_CAPACITY_MAX)
		return refuse(s, name, EINVAL);
	in = find_entry(s, name);
	if (!in)
		return refuse(s, name, ENFILE);
	if (s->input_open[in->number])
		return refuse(s, name, EBUSY);
	error = reserve_data(s, in, (capacity + page - 1) / page * page);
	if (error)
		return refuse(s, name, -error);
	fence();
	memcpy(in->name, name, len);
	s->input_open[in->number] = true;
	return in;
}

void state_input_close(struct state *s, struct state_input *in)
{
	s->input_open[in->number] = false;
	if (in->consumed < in->length)
		return;
	in->name[0] = '\0';
	fence();
	memset(in, 0, sizeof(*in));
}

static uint8_t *file_base(struct state_input *in)
{
	return (uint8_t *)(in - in->number) - STATE_INPUTS_OFFSET;
}

uint8_t *state_input_data(struct state_input *in)
{
	return file_base(in) + state_input_offset(in->number);
}

void state_input_set(struct state_input *in, uint32_t length, uint32_t consumed)
{
	uint32_t pair[2] = {length, consumed};
	bool done = consumed != in->consumed;
	uint64_t word;

	memcpy(&word, pair, sizeof(word));
	fence();
	__atomic_store_n((uint64_t *)&in->length, word, __ATOMIC_RELAXED);
	fence();
	if (done)
		in->batch = ((struct state_header *)file_base(in))->batch;
}

void state_input_forgive(struct state *s)
{
	for (uint32_t i = 0; i < STATE_INPUTS_MAX; i++) {
		struct state_input *in = &state_inputs(s)[i];

		in->hand = in->hand_line = in->hand_crashes = 0;
	}
}

struct state_input *state_input_at(struct state *s, uint32_t n)
{
	return n < STATE_INPUTS_MAX && state_inputs(s)[n].name[0] ? &state_inputs(s)[n] : NULL;
}
