/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decimal.h - numbers as decimal text without printf, for the paths that write many.
 */
#ifndef DECIMAL_H
#define DECIMAL_H

#include <stdint.h>
#include <string.h>

/* "00" to "99", one after the other. */
extern const char decimal_pairs[200];

/* Two digits of a value 0..99. */
static inline void decimal_put2(char *out, uint32_t value)
{
	memcpy(out, decimal_pairs + 2 * value, 2);
}

/* A value without leading zeros; at most 20 octets, no NUL. Returns the end. */
static inline char *decimal_put(char *out, uint64_t value)
{
	char text[20];
	char *p = text + sizeof(text);

	while (value >= 100) {
		p -= 2;
		decimal_put2(p, (uint32_t)(value % 100));
		value /= 100;
	}
	p -= 2;
	decimal_put2(p, (uint32_t)value);
	if (value < 10)
		p++;
	memcpy(out, p, (size_t)(text + sizeof(text) - p));
	return out + (text + sizeof(text) - p);
}

#endif
