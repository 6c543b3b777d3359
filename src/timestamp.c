/* SPDX-License-Identifier: Apache-2.0 */
#include "timestamp.h"

#include <string.h>

#include "decimal.h"

#define DAY_US 86400000000ULL
/* 9999-12-31T23:59:59.999999 */
#define LAST_US 253402300799999999ULL

enum { DATE_LENGTH = 10 };

/* Day number since 1970-01-01 as YYYY-MM-DD: Gregorian years counted from March, so that
 * the leap day comes last. */
static void format_date(uint32_t day, char *out)
{
	uint32_t shifted = day + 719468; /* since 0000-03-01 */
	uint32_t era = shifted / 146097; /* of 400 years */
	uint32_t of_era = shifted % 146097;
	uint32_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	uint32_t of_year = of_era - (365 * year + year / 4 - year / 100);
	uint32_t month = (5 * of_year + 2) / 153; /* 0 = March */
	uint32_t of_month = of_year - (153 * month + 2) / 5 + 1;

	year += era * 400 + (month >= 10);
	month = month < 10 ? month + 3 : month - 9;
	decimal_put2(out, year / 100);
	decimal_put2(out + 2, year % 100);
	out[4] = '-';
	decimal_put2(out + 5, month);
	out[7] = '-';
	decimal_put2(out + 8, of_month);
}

size_t timestamp_format(uint64_t time_us, char *out)
{
	static uint32_t cached_day = UINT32_MAX;
	static char cached_date[DATE_LENGTH];
	uint32_t day, second, fraction;
	uint64_t of_day;

	if (time_us > LAST_US)
		time_us = LAST_US;
	day = (uint32_t)(time_us / DAY_US);
	of_day = time_us % DAY_US;
	second = (uint32_t)(of_day / 1000000);
	fraction = (uint32_t)(of_day % 1000000);
	if (day != cached_day) {
		format_date(day, cached_date);
		cached_day = day;
	}
	memcpy(out, cached_date, DATE_LENGTH);
	out[10] = 'T';
	decimal_put2(out + 11, second / 3600);
	out[13] = ':';
	decimal_put2(out + 14, second / 60 % 60);
	out[16] = ':';
	decimal_put2(out + 17, second % 60);
	out[19] = '.';
	decimal_put2(out + 20, fraction / 10000);
	decimal_put2(out + 22, fraction / 100 % 100);
	decimal_put2(out + 24, fraction % 100);
	memcpy(out + 26, "+00:00", 6);
	return TIMESTAMP_LENGTH;
}
