/* SPDX-License-Identifier: Apache-2.0 */
#include "line_reader.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

enum {
	SHOW_VALUE_MAX = 64, /* octets of a field and of a line that a log message shows */
	SHOW_LINE_MAX = 200,
};

struct line_reader {
	struct state_input *input; /* borrowed */
	uint8_t *data;		   /* borrowed */
	uint32_t parsed;	   /* octets handed out: consumed <= parsed <= length */
	uint32_t scanned;	   /* no newline in [parsed, scanned) */
	bool skipping;		   /* of what follows `parsed` */
	bool suspect;		   /* [consumed, input->hand_line) was in hand at two crashes */
	struct counter *counts[FLOW_LINE_REASONS];
	struct log_limit limit;
	char name[LINE_READER_NAME_SIZE]; /* for the log */
};

static void set_flag(struct state_input *input, uint32_t flag, bool on)
{
	/* Order of stores, for the process that comes after a kill. */
	atomic_signal_fence(memory_order_seq_cst);
	input->flags = on ? input->flags | flag : input->flags & ~flag;
	atomic_signal_fence(memory_order_seq_cst);
}

/* -- the buffer ------------------------------------------------------------- */

/* Was a batch, or one of its lines alone, in hand when the process before died? */
static void recover_hand(struct line_reader *r)
{
	struct state_input *in = r->input;

	if (in->careful > in->length)
		in->careful = in->length;
	if (in->careful > in->consumed) {
		r->suspect = in->hand_line > in->consumed && in->hand_line <= in->length;
		in->hand_crashes += r->suspect;
		return;
	}
	in->hand_line = in->hand_crashes = 0;
	if (in->hand <= in->consumed)
		return;
	in->hand_crashes = 1;
	atomic_signal_fence(memory_order_seq_cst);
	in->careful = in->hand < in->length ? in->hand : in->length;
	log_info("%s: %u octets were in hand when the process before ended: they go line by line", r->name,
		 in->careful - in->consumed);
}

/* Take over what a killed reader left. */
static void recover(struct line_reader *r)
{
	struct state_input *in = r->input;
	uint32_t end = in->capacity;

	if (in->flags & LINE_READER_MOVING) {
		memset(r->data + in->length, 0, in->capacity - in->length);
		set_flag(in, LINE_READER_MOVING, false);
	} else {
		while (end > in->length && r->data[end - 1] == 0)
			end--;
		state_input_set(in, end, in->consumed);
	}
	if (in->length > in->consumed)
		log_info("%s: %u octets are left from before the restart", r->name,
			 in->length - in->consumed);
	recover_hand(r);
}

struct line_reader *line_reader_open(struct state_input *input, const char *name)
{
	struct line_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->input = input;
	r->data = state_input_data(input);
	snprintf(r->name, sizeof(r->name), "%s", name);
	if (input->flags & LINE_READER_USED)
		recover(r);
	else
		set_flag(input, LINE_READER_USED, true);
	r->parsed = input->consumed;
	r->scanned = input->consumed;
	r->skipping = (input->flags & LINE_READER_SKIPPING) != 0;
	return r;
}

void line_reader_close(struct line_reader *r)
{
	free(r);
}

/*
 * Move the start of a line to the front of the buffer. The old octets stay until the new
 * pair of offsets is stored: a kill at any point leaves a consistent buffer.
 */
static void make_room(struct line_reader *r)
{
	struct state_input *in = r->input;
	uint32_t used = in->length, shift = in->consumed, rest = used - shift;

	if (shift == 0 || rest > shift)
		return;
	/* Offsets of what is not there any more, or, of a line without its end, not worth the care. */
	in->hand = in->hand_line = in->careful = 0;
	memcpy(r->data, r->data + shift, rest);
	set_flag(in, LINE_READER_MOVING, true);
	state_input_set(in, rest, 0);
	memset(r->data + rest, 0, used - rest);
	set_flag(in, LINE_READER_MOVING, false);
	r->parsed -= shift;
	r->scanned -= shift;
}

int line_reader_fill(struct line_reader *r, int fd)
{
	struct state_input *in = r->input;
	ssize_t n;

	make_room(r);
	if (in->length == in->capacity)
		return -ENOSPC;
	do {
		n = read(fd, r->data + in->length, in->capacity - in->length);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	state_input_set(in, in->length + (uint32_t)n, in->consumed);
	return (int)n;
}

void line_reader_commit(struct line_reader *r)
{
	struct state_input *in = r->input;

	/* After a kill between the two stores, the tail of a long line may be taken for a line
	 * (and refused), but no good line is skipped. */
	if (!r->skipping && (in->flags & LINE_READER_SKIPPING))
		set_flag(in, LINE_READER_SKIPPING, false);
	else if (r->skipping && !(in->flags & LINE_READER_SKIPPING))
		set_flag(in, LINE_READER_SKIPPING, true);
	in->total += r->parsed - in->consumed;
	state_input_set(in, in->length, r->parsed);
	if (in->careful && in->careful <= in->consumed)
		in->careful = in->hand_crashes = 0;
}

bool line_reader_careful(const struct line_reader *r)
{
	return r->input->careful > r->parsed;
}

const char *line_reader_suspect(const struct line_reader *r, size_t *length)
{
	const struct state_input *in = r->input;

	if (!r->suspect)
		return NULL;
	*length = in->hand_line - in->consumed;
	return (const char *)r->data + in->consumed;
}

void line_reader_drop_suspect(struct line_reader *r)
{
	if (!r->suspect)
		return;
	r->suspect = r->skipping = false;
	r->parsed = r->scanned = r->input->hand_line;
	line_reader_commit(r);
}

bool line_reader_within_line(const struct line_reader *r)
{
	return r->skipping || r->parsed < r->input->length;
}

/* -- refusals ------------------------------------------------------------------ */

/* Octets in quotes, escaped, cut after `max` of them; `out` has room for 4 * max + 6. */
static void quote(char *out, const char *text, size_t length, size_t max)
{
	static const char hex[] = "0123456789abcdef";
	size_t shown = length > max ? max : length;

	*out++ = '"';
	for (size_t i = 0; i < shown; i++) {
		unsigned char ch = (unsigned char)text[i];

		if (ch == '"' || ch == '\\') {
			*out++ = '\\';
			*out++ = (char)ch;
		} else if (ch >= 0x20 && ch < 0x7f) {
			*out++ = (char)ch;
		} else {
			*out++ = '\\';
			*out++ = 'x';
			*out++ = hex[ch >> 4];
			*out++ = hex[ch & 15];
		}
	}
	*out++ = '"';
	memcpy(out, shown < length ? "..." : "", shown < length ? 4 : 1);
}

void line_reader_count(struct line_reader *r, uint32_t reason, struct counter *counter)
{
	if (reason < FLOW_LINE_REASONS)
		r->counts[reason] = counter;
}

static void count(struct line_reader *r, uint32_t reason, uint64_t lines)
{
	if (r->counts[reason])
		r->counts[reason]->value += lines;
}

/* `value` says what was found, as it is to be shown. */
static void refuse(struct line_reader *r, const char *line, size_t length,
		   const struct flow_line_error *error, const char *value)
{
	char text[4 * SHOW_LINE_MAX + 6];
	char more[48] = "";
	uint32_t suppressed;

	count(r, error->reason, 1);
	if (!log_enabled(LOG_LEVEL_WARN) || !log_limit_pass(&r->limit, &suppressed))
		return;
	if (suppressed)
		snprintf(more, sizeof(more), " (and %u more refused lines)", suppressed);
	quote(text, line, length, SHOW_LINE_MAX);
	log_warn("%s: line refused: %s %s, expected %s: %s%s", r->name, error->field, value, error->expected,
		 text, more);
}

static void refuse_fields(struct line_reader *r, const char *line, size_t length,
			  const struct flow_line_error *error)
{
	char value[4 * SHOW_VALUE_MAX + 6] = "is missing";

	/* A blank line carries nothing that could be lost. */
	if (error->reason == FLOW_LINE_EMPTY) {
		count(r, FLOW_LINE_EMPTY, 1);
		return;
	}
	if (error->value_length > 0)
		quote(value, line + error->value_offset, error->value_length, SHOW_VALUE_MAX);
	refuse(r, line, length, error, value);
}

static void refuse_too_long(struct line_reader *r, const char *line, size_t length)
{
	static const struct flow_line_error error = {
		.reason = FLOW_LINE_TOO_LONG,
		.field = "length",
		.expected = "at most 4096 octets",
	};
	char value[32];

	snprintf(value, sizeof(value), "%zu or more", length);
	refuse(r, line, length, &error, value);
}

void line_reader_abandon(struct line_reader *r)
{
	static const struct flow_line_error error = {
		.reason = FLOW_LINE_UNFINISHED,
		.field = "newline",
		.expected = "one before we stop",
	};
	uint32_t rest = r->input->length - r->parsed;

	if (rest > 0 && !r->skipping)
		refuse(r, (const char *)r->data + r->parsed, rest, &error, "is missing");
	r->parsed = r->scanned = r->input->length;
	r->skipping = false;
	line_reader_commit(r);
}

/* -- lines ---------------------------------------------------------------------- */

const char *line_reader_next(struct line_reader *r, bool at_end, size_t *length)
{
	uint32_t used = r->input->length;

	for (;;) {
		const char *line = (const char *)r->data + r->parsed;
		const char *newline = memchr(r->data + r->scanned, '\n', used - r->scanned);
		const char *end = newline ? newline : (const char *)r->data + used;
		uint32_t next = (uint32_t)(end - (const char *)r->data) + (newline ? 1 : 0);
		bool was_skipping = r->skipping;

		if (!newline && !at_end && !was_skipping && end - line <= LINE_READER_LINE_MAX) {
			r->scanned = used;
			return NULL;
		}
		if (r->parsed == used && !newline) {
			/* The end of the file also ends a line that is skipped. */
			if (at_end)
				r->skipping = false;
			return NULL;
		}
		/* Here a line, or a piece of one that is too long, is passed over or handed out. */
		r->parsed = r->scanned = next;
		r->skipping = !newline && !at_end;
		if (was_skipping)
			continue;
		if (end - line <= LINE_READER_LINE_MAX) {
			if (r->input->careful)
				r->input->hand_line = next;
			else
				r->input->hand = next;
			*length = (size_t)(end - line);
			return line;
		}
		refuse_too_long(r, line, (size_t)(end - line));
	}
}

static int parse(struct line_reader *r, struct flow_batch *batch, uint16_t source, bool at_end)
{
	uint32_t before = batch->count;
	uint32_t room = line_reader_careful(r) ? before + 1 : FLOW_BATCH_MAX;
	struct flow_line_error error;
	const char *line;
	size_t length;

	batch->now_us = clock_realtime_us();
	while (batch->count < room && (line = line_reader_next(r, at_end, &length)) != NULL) {
		struct flow_event *event = &batch->event[batch->count];

		if (flow_line_parse(line, length, batch->now_us, event, &error) != 0) {
			refuse_fields(r, line, length, &error);
			continue;
		}
		event->source = source;
		batch->count++;
	}
	count(r, FLOW_LINE_OK, batch->count - before);
	return (int)(batch->count - before);
}

int line_reader_parse(struct line_reader *r, struct flow_batch *batch, uint16_t source)
{
	return parse(r, batch, source, false);
}

int line_reader_finish(struct line_reader *r, struct flow_batch *batch, uint16_t source)
{
	return parse(r, batch, source, true);
}
