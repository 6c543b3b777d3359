/* SPDX-License-Identifier: Apache-2.0 */
/*
 * line_reader.h - lines from a descriptor, through an input buffer of the state file.
 *
 * Octets are read straight into the buffer and stay there until the events made of them are
 * committed: a process that is killed in between leaves them to the next one, which may
 * repeat events but misses none. For that, in the buffer
 *   - [consumed, length) is input that is not committed yet;
 *   - everything from `length` on is zero, so that octets which a kill left there between
 *     read(2) and the store of `length` are found; except while LINE_READER_MOVING is set.
 *
 * One turn:  line_reader_fill();
 *            do { line_reader_parse(); run the batch; line_reader_commit(); } while the batch was full
 *
 * What was in hand when the process before died may be why. A reader that finds such a batch is careful
 * with it (line_reader_careful): its lines make batches of one event. The line that is in hand when
 * the process dies again is the suspect: its owner sets it aside.
 *
 * Any octet may come. A line of more than LINE_READER_LINE_MAX octets is refused and skipped up to its
 * newline. Each refused line is counted by reason, and logged at a limited rate.
 */
#ifndef LINE_READER_H
#define LINE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "counter.h"
#include "flow_event.h"
#include "flow_line.h"
#include "state.h"
#include "ffi_export.h"

enum {
	LINE_READER_LINE_MAX = 4096, /* octets of a line without its newline */
	LINE_READER_CAPACITY_MIN = 16384,
	LINE_READER_NAME_SIZE = 192,
};

/* state_input.flags; the bits from 16 on belong to the reader's user. */
enum {
	LINE_READER_USED = 1 << 0,     /* not a new buffer */
	LINE_READER_SKIPPING = 1 << 1, /* within a line that is too long */
	LINE_READER_MOVING = 1 << 2,   /* octets beyond `length` are no input */
};

struct line_reader;

/* A reader that goes on where the input buffer's last one stopped. Borrows `input` until
 * line_reader_close(); its capacity is at least LINE_READER_CAPACITY_MIN. `name` is copied, and cut if
 * it is too long. NULL: out of memory. */
FFI_EXPORT struct line_reader *line_reader_open(struct state_input *input, const char *name);
FFI_EXPORT void line_reader_close(struct line_reader *r);

/* Count lines in this counter, from now on: those refused for a reason, or, FLOW_LINE_OK, the events. */
FFI_EXPORT void line_reader_count(struct line_reader *r, uint32_t reason, struct counter *counter);

/* One read(2) into the buffer's free space. Returns the octets read; 0 at the end of the file;
 * -errno, -EAGAIN when there is nothing now; -ENOSPC when lines must be parsed and committed first. */
FFI_EXPORT int line_reader_fill(struct line_reader *r, int fd);

/* Append an event for each whole line to the batch until it is full, and set now_us. Refused
 * lines are passed over. Returns the events added. When the batch is not full afterwards,
 * no whole line is left; of a careful reader, when none was added. */
FFI_EXPORT int line_reader_parse(struct line_reader *r, struct flow_batch *batch, uint16_t source);

/* The same at the end of the file: octets without a newline are the last line. */
FFI_EXPORT int line_reader_finish(struct line_reader *r, struct flow_batch *batch, uint16_t source);

/* For other formats than flow lines: the next whole line, or, `at_end`, the octets that are left. Returns
 * NULL when there is none; valid until the next line_reader_fill(). Not NUL-terminated. */
FFI_EXPORT const char *line_reader_next(struct line_reader *r, bool at_end, size_t *length);

/* What was handed out so far is done with. */
FFI_EXPORT void line_reader_commit(struct line_reader *r);

/* Is what comes next taken line by line, to be committed after each? */
FFI_EXPORT bool line_reader_careful(const struct line_reader *r);

/* The octets that were in hand at two crashes in a row, the last time alone; NULL: there are none.
 * Valid until line_reader_drop_suspect(), after which they count as consumed. */
FFI_EXPORT const char *line_reader_suspect(const struct line_reader *r, size_t *length);
FFI_EXPORT void line_reader_drop_suspect(struct line_reader *r);

/* After all whole lines were taken: was the start of a line read whose newline was not? */
FFI_EXPORT bool line_reader_within_line(const struct line_reader *r);

/* Refuse the start of a line whose rest nobody will read: when we stop. */
FFI_EXPORT void line_reader_abandon(struct line_reader *r);

#endif
