/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_text.h - octets of any origin as the inside of a JSON string (RFC 8259, 7).
 *
 * What comes out is always valid UTF-8 without control characters: each octet that
 * belongs to no well-formed UTF-8 sequence (RFC 3629) becomes U+FFFD, a control
 * character (DEL and C1 included, for those who read it in a terminal) \u00XX.
 */
#ifndef JSON_TEXT_H
#define JSON_TEXT_H

#include <stddef.h>
#include "ffi_export.h"

/* No octet becomes more than these. */
enum { JSON_TEXT_GROWTH = 6 };

/* Write `length` octets of `text`, without quotes and without NUL. `out` has room for
 * length * JSON_TEXT_GROWTH octets. Returns how many were written. */
FFI_EXPORT size_t json_text_escape(char *out, const char *text, size_t length);

#endif
