/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - one line per message on standard error.
 *
 * Under systemd (JOURNAL_STREAM names our stderr) each line starts with the
 * journal's <N> priority instead of the level's name. A line break inside a
 * message would let input forge a log line: control characters are shown as \xNN.
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>
#include <stdint.h>
#include "ffi_export.h"

enum log_level { LOG_LEVEL_TRACE, LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* At most `burst` messages each `interval_ns`; the rest is counted and told with
 * the next one that passes. Zero-initialised: 10 in 10 seconds. */
struct log_limit {
	uint64_t window_start_ns;
	uint32_t passed;
	uint32_t suppressed;
	uint32_t burst;
	uint32_t spare;
	uint64_t interval_ns;
};

/* Messages below `level` are not written. with_time: prefix RFC 3339 UTC time. */
FFI_EXPORT void log_setup(int level, bool with_time);
FFI_EXPORT int log_get_level(void);
FFI_EXPORT bool log_enabled(int level);

/* Write text as it is: for callers that formatted it already (Lua). */
FFI_EXPORT void log_text(int level, const char *text);

/* Write each line of text as a message of its own, 200 at most: for tracebacks. */
FFI_EXPORT void log_lines(int level, const char *text);

/* True when a message may pass now; counts it as suppressed otherwise. When true,
 * *suppressed is how many were held back since the last one that passed. */
FFI_EXPORT bool log_limit_pass(struct log_limit *limit, uint32_t *suppressed);

void log_write(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_limited(struct log_limit *limit, int level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_trace(...) log_write(LOG_LEVEL_TRACE, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
