/* SPDX-License-Identifier: Apache-2.0 */
/*
 * glob_map.h - from a text to the value of the most specific pattern that matches all of it.
 *
 * In a pattern * stands for any octets, none included, ? for exactly one, and \ takes the octet
 * behind it as it is. Of several that match, the one with most octets of its own wins; of equals,
 * the one that was added first.
 *
 * All patterns are one trie, which a find walks once, octet by octet, with every place that is
 * still possible: its time grows with the text and with what matches so far, never exponentially
 * and, unless patterns start alike, hardly with their number.
 *
 * A map belongs to whoever made it. A find uses memory of the map: one at a time.
 */
#ifndef GLOB_MAP_H
#define GLOB_MAP_H

#include <stddef.h>
#include <stdint.h>
#include "ffi_export.h"

enum { GLOB_PATTERN_MAX = 1024 };

struct glob_map;

/* NULL: out of memory. */
FFI_EXPORT struct glob_map *glob_map_new(void);
FFI_EXPORT void glob_map_free(struct glob_map *m);

/*
 * Add a pattern of 1..GLOB_PATTERN_MAX octets. Value: not 0. Returns 0; -EINVAL: its length, or a \
 * at its end; -EEXIST: it is there already with another value; -ENOMEM: the map is as before, but
 * for what it takes.
 */
FFI_EXPORT int glob_map_add(struct glob_map *m, const char *pattern, size_t length, uint32_t value);

/* The value for a text; 0 when no pattern matches, or for want of memory in the map's first find. */
FFI_EXPORT uint32_t glob_map_find(struct glob_map *m, const char *text, size_t length);

/* The octets that the map takes, or will have taken behind its first find. */
FFI_EXPORT size_t glob_map_memory(const struct glob_map *m);

#endif
