/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counter.h - named 64-bit counters: what the daemon did, refused and lost.
 *
 * One table for the process. Until a state file is open it lies in anonymous
 * memory; then it lies in the file, so that `flowd-lua stats` reads it without
 * asking and a killed daemon's figures are not lost. Its address never changes:
 * a pointer that counter_get() gave out stays valid for the process's life.
 *
 * A name is a whole Prometheus series, flowd_events_total{plugin="pipe"}; label
 * values come escaped (lua/flowd/counters.lua does that, and holds the help text of every
 * name). A series that ends in _total before its labels is a COUNTER_TOTAL,
 * everything else a COUNTER_GAUGE.
 *
 * Increment with `c->value++`. One thread: no atomics.
 */
#ifndef COUNTER_H
#define COUNTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum { COUNTER_TOTAL = 0, COUNTER_GAUGE = 1 };

enum {
	COUNTER_NAME_SIZE = 112, /* octets, with the closing NUL */
	COUNTERS_MAX = 8192,
};

struct counter {
	uint64_t value;
	uint32_t kind; /* COUNTER_* */
	uint32_t spare;
	char name[112]; /* COUNTER_NAME_SIZE; "" = unused */
};

/* Find or register. Never NULL: when the table is full, or the name too long or no
 * series in the form above, the shared counter flowd_counters_overflow_total is returned (and
 * that is logged once). Not for hot paths: keep the pointer. */
FFI_EXPORT struct counter *counter_get(const char *name);

/* The n-th registered counter, 0-based; NULL from counter_count() on. */
FFI_EXPORT const struct counter *counter_at(uint32_t n);
FFI_EXPORT uint32_t counter_count(void);

/* For state.c. The table's octets, as they stand in the state file. */
size_t counter_table_size(void);

/* True when the entry could have been written by counter_get(). */
bool counter_valid(const struct counter *c);

/* From now on the table lies in `fd` at `offset` (page-aligned, counter_table_size() octets
 * that are allocated). With `adopt`, totals that stand there are carried on and gauges start
 * anew; entries that counter_valid() refuses are dropped. Returns 0 or -errno. */
int counter_table_attach(int fd, int64_t offset, bool adopt);

/* Back to anonymous memory, values kept: before the file is closed. Returns 0 or -errno. */
int counter_table_detach(void);

#endif
