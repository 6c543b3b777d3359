/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_line.h - the line that a data server writes into the pipe:
 *
 *     start|end  tcp|udp  SRC-IP SRC-PORT  DST-IP DST-PORT  EXPERIMENT ACTIVITY
 *
 * Fields stand apart by any run of blanks (as do \t \r \v \f); case does not matter.
 * Ports are 1..65535. Experiment (0..511) and activity (0..63) are numbers, 0 meaning
 * "unset, a rule decides", or names of the registry, an activity's within the line's
 * experiment. Nothing is ever truncated to fit: what is out of range is refused.
 */
#ifndef FLOW_LINE_H
#define FLOW_LINE_H

#include "flow_event.h"
#include "ffi_export.h"

/* Why a line is refused. */
enum flow_line_reason {
	FLOW_LINE_OK,
	FLOW_LINE_EMPTY,      /* blanks only */
	FLOW_LINE_TOO_LONG,   /* over LINE_READER_LINE_MAX octets */
	FLOW_LINE_UNFINISHED, /* we stopped before its writer had written the newline */
	FLOW_LINE_FIELDS,     /* a field too few or too many */
	FLOW_LINE_STATE,
	FLOW_LINE_PROTOCOL,
	FLOW_LINE_ADDRESS, /* no address, or the two are of different families */
	FLOW_LINE_PORT,
	FLOW_LINE_EXPERIMENT,
	FLOW_LINE_ACTIVITY,
	FLOW_LINE_REASONS,
};

/* What is wrong with a line. The strings are constants. */
struct flow_line_error {
	uint32_t reason;       /* enum flow_line_reason */
	uint32_t value_offset; /* the offending field, from the line's first octet */
	uint32_t value_length; /* 0: the field is missing */
	uint32_t spare;
	const char *field;    /* "source port" */
	const char *expected; /* "1 to 65535" */
};

/*
 * Parse one line of `length` octets, without its newline; any octet may occur in it. On success
 * fills all of *event (time_us = now_us, source 0, start_us and label unset) and returns 0;
 * otherwise fills *error and returns -EINVAL, *event is then undefined.
 */
FFI_EXPORT int flow_line_parse(const char *line, size_t length, uint64_t now_us, struct flow_event *event,
			       struct flow_line_error *error);

/* A reason as the value of a counter's label: "too_long". */
FFI_EXPORT const char *flow_line_reason_name(uint32_t reason);

/*
 * The names that lines may use. One table for the process, filled from the registry.
 * Compared without regard to case; '_' and blank are equal.
 */
enum { FLOW_LINE_NAME_SIZE = 120 }; /* octets of a name, with the closing NUL */

/* Forget all names. */
FFI_EXPORT void flow_line_names_clear(void);

/* Add the name of an experiment (activity 0) or of one of its activities. Returns 0, also for
 * a name that is there with the same meaning; -EEXIST when it means something else, which
 * stands; -EINVAL for an id out of range or no name; -ENAMETOOLONG; -ENOMEM. */
FFI_EXPORT int flow_line_name_add(uint32_t experiment, uint32_t activity, const char *name);

/* The id of an experiment (experiment = 0) or of an activity of `experiment`; 0: no such name. */
FFI_EXPORT uint32_t flow_line_name_find(uint32_t experiment, const char *name, size_t length);

#endif
