/* SPDX-License-Identifier: Apache-2.0 */
/*
 * week_map.h - from a moment to the value of the minute of the week that it falls in, as the clocks
 * of a time zone show it.
 *
 * The difference to UTC is asked once for every quarter of an hour, on which clocks are put forward
 * and back everywhere; so a find costs a division.
 */
#ifndef WEEK_MAP_H
#define WEEK_MAP_H

#include <stdint.h>
#include "ffi_export.h"

enum { WEEK_MINUTES = 10080, WEEK_ZONE_SIZE = 64 };

struct week_map {
	int64_t quarter;	      /* for which `offset` holds; -1: for none */
	int32_t offset;		      /* seconds east of UTC */
	uint16_t value[WEEK_MINUTES]; /* Monday 00:00 first; 0: none */
	char zone[WEEK_ZONE_SIZE];    /* as in TZ (tzset(3)); "": the machine's */
};

/* The value at a time, in seconds of UNIX time. Sets and restores TZ: not for threads. */
FFI_EXPORT uint32_t week_map_find(struct week_map *m, int64_t time);

#endif
