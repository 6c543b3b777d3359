/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

#include <errno.h>
#include <string.h>

/* Value + 1 of a hexadecimal digit; 0: none. */
static const uint8_t hex_values[256] = {
	['0'] = 1,  ['1'] = 2,	['2'] = 3,  ['3'] = 4,	['4'] = 5,  ['5'] = 6,	['6'] = 7,  ['7'] = 8,
	['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
	['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* Four octets in decimal, all of [p, end). */
static bool parse_quad(const char *p, const char *end, uint8_t *out)
{
	for (int i = 0; i < 4; i++) {
		unsigned int value;
		const char *first;

		if (i > 0 && (p == end || *p++ != '.'))
			return false;
		first = p;
		for (value = 0; p < end && (unsigned char)(*p - '0') <= 9; p++) {
			value = value * 10 + (unsigned int)(*p - '0');
			if (value > 255)
				return false;
		}
		if (p == first || (*first == '0' && p - first > 1))
			return false;
		out[i] = (uint8_t)value;
	}
	return p == end;
}

static bool parse_groups(const char *p, const char *end, uint8_t *out)
{
	int n = 0, gap = -1; /* octets written; where "::" stands */

	if (end - p >= 2 && p[0] == ':' && p[1] == ':') {
		gap = 0;
		p += 2;
	}
	while (p < end) {
		const char *first = p;
		unsigned int value = 0, digit;

		while (p < end && (digit = hex_values[(unsigned char)*p]) != 0) {
			value = value << 4 | (digit - 1);
			p++;
		}
		if (p < end && *p == '.') {
			if (n > 12 || !parse_quad(first, end, out + n))
				return false;
			n += 4;
			break;
		}
		if (p == first || p - first > 4 || n == 16)
			return false;
		out[n++] = (uint8_t)(value >> 8);
		out[n++] = (uint8_t)value;
		if (p == end)
			break;
		if (*p++ != ':' || p == end)
			return false;
		if (*p == ':') {
			if (gap >= 0)
				return false;
			gap = n;
			p++;
		}
	}
	if (gap < 0)
		return n == 16;
	if (n == 16)
		return false;
	memmove(out + 16 - (n - gap), out + gap, (size_t)(n - gap));
	memset(out + gap, 0, (size_t)(16 - n));
	return true;
}

int address_parse(const char *text, size_t length, struct flow_address *out)
{
	struct flow_address address;

	if (length < 2 || length >= ADDRESS_TEXT_SIZE)
		return -EINVAL;
	/* IPv6 text has a colon among its first five octets: a group has at most four digits. */
	if (memchr(text, ':', length < 5 ? length : 5)) {
		if (!parse_groups(text, text + length, address.octet))
			return -EINVAL;
	} else {
		memcpy(address.octet, mapped_prefix, sizeof(mapped_prefix));
		if (!parse_quad(text, text + length, address.octet + 12))
			return -EINVAL;
	}
	*out = address;
	return address_family(out);
}

int address_family(const struct flow_address *address)
{
	return memcmp(address->octet, mapped_prefix, sizeof(mapped_prefix)) == 0 ? 4 : 6;
}

static char *format_octet(char *p, unsigned int value)
{
	if (value >= 100) {
		*p++ = (char)('0' + value / 100);
		value %= 100;
		*p++ = (char)('0' + value / 10);
	} else if (value >= 10) {
		*p++ = (char)('0' + value / 10);
	}
	*p++ = (char)('0' + value % 10);
	return p;
}

static char *format_group(char *p, unsigned int value)
{
	static const char digits[] = "0123456789abcdef";

	if (value >= 0x1000)
		*p++ = digits[value >> 12];
	if (value >= 0x100)
		*p++ = digits[value >> 8 & 15];
	if (value >= 0x10)
		*p++ = digits[value >> 4 & 15];
	*p++ = digits[value & 15];
	return p;
}

/* The longest run of two or more zero groups, the first of several (RFC 5952, 4.2). */
static void find_gap(const unsigned int *groups, int *start, int *length)
{
	int run = 0;

	*start = -1;
	*length = 1;
	for (int i = 0; i < 8; i++) {
		run = groups[i] == 0 ? run + 1 : 0;
		if (run > *length) {
			*length = run;
			*start = i + 1 - run;
		}
	}
}

static char *format_groups(char *p, const uint8_t *octets)
{
	unsigned int groups[8];
	int gap, gap_length;

	for (int i = 0; i < 8; i++)
		groups[i] = (unsigned int)octets[2 * i] << 8 | octets[2 * i + 1];
	find_gap(groups, &gap, &gap_length);
	for (int i = 0; i < 8; i++) {
		if (i == gap) {
			*p++ = ':';
			i += gap_length - 1;
			if (i == 7)
				*p++ = ':';
			continue;
		}
		if (i > 0)
			*p++ = ':';
		p = format_group(p, groups[i]);
	}
	return p;
}

size_t address_format(const struct flow_address *address, char *out)
{
	char *p = out;

	if (address_family(address) == 4) {
		for (int i = 12; i < 16; i++) {
			p = format_octet(p, address->octet[i]);
			if (i < 15)
				*p++ = '.';
		}
	} else {
		p = format_groups(p, address->octet);
	}
	*p = '\0';
	return (size_t)(p - out);
}
