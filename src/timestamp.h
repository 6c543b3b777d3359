/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timestamp.h - times as text, RFC 3339 in UTC with six fraction digits, as fireflies
 * and their syslog header carry them: 2026-03-28T08:58:48.899646+00:00
 */
#ifndef TIMESTAMP_H
#define TIMESTAMP_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum { TIMESTAMP_LENGTH = 32 };

/*
 * Write UNIX time in microseconds; exactly TIMESTAMP_LENGTH octets and no NUL, and
 * that is what it returns. A year has four digits there (RFC 3339, 1): what lies beyond
 * 9999 is shown as the last microsecond of 9999. The date part is kept from call to
 * call: one thread only.
 */
FFI_EXPORT size_t timestamp_format(uint64_t time_us, char *out);

#endif
