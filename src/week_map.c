// SPDX-License-Identifier: Apache-2.0
#include "week_map.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUARTER = 900, DAY_MINUTES = 1440, THURSDAY = 3 /* 1 January 1970 */ };

static int32_t offset_here(int64_t time)
{
	time_t t = (time_t)time;
	struct tm tm;

	tzset();
	return localtime_r(&t, &tm) ? (int32_t)tm.tm_gmtoff : 0;
}

static int32_t offset_in(const char *zone, int64_t time)
{
	const char *before;
	char *kept = NULL;
	int32_t offset;

	if (zone[0] == '\0')
		return offset_here(time);
	before = getenv("TZ");
	if (before) {
		kept = strdup(before);
		if (!kept)
			return 0;
	}
	setenv("TZ", zone, 1);
	offset = offset_here(time);
	if (kept)
		setenv("TZ", kept, 1);
	else
		unsetenv("TZ");
	tzset();
	free(kept);
	return offset;
}

uint32_t week_map_find(struct week_map *m, int64_t time)
{
	int64_t quarter = time / QUARTER, minute;

	if (time < 0)
		return 0;
	if (quarter != m->quarter) {
		m->offset = offset_in(m->zone, time);
		m->quarter = quarter;
	}
	minute = (time + m->offset) / 60 + THURSDAY * DAY_MINUTES + WEEK_MINUTES;
	return m->value[minute % WEEK_MINUTES];
}
