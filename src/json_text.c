/* SPDX-License-Identifier: Apache-2.0 */
#include "json_text.h"

#include <stdint.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at p, 0 if there is none (RFC 3629, 4: no
 * overlong forms, no surrogates, nothing beyond U+10FFFF). */
static size_t utf8_length(const unsigned char *p, size_t left)
{
	unsigned char first = p[0], low = 0x80, high = 0xbf;
	size_t length;

	if (first < 0xc2 || first > 0xf4)
		return 0;
	length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	if (left < length || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return length;
}

static char *put_control(char *out, unsigned char ch)
{
	static const char hex[] = "0123456789abcdef";

	memcpy(out, "\\u00", 4);
	out[4] = hex[ch >> 4];
	out[5] = hex[ch & 15];
	return out + 6;
}

size_t json_text_escape(char *out, const char *text, size_t length)
{
	const unsigned char *p = (const unsigned char *)text, *end = p + length;
	char *start = out;

	while (p < end) {
		unsigned char ch = *p;
		size_t n;

		if (ch >= 0x20 && ch < 0x7f) {
			if (ch == '"' || ch == '\\')
				*out++ = '\\';
			*out++ = (char)ch;
			p++;
		} else if (ch < 0x80) {
			out = put_control(out, ch);
			p++;
		} else if ((n = utf8_length(p, (size_t)(end - p))) == 0) {
			memcpy(out, "\xef\xbf\xbd", 3);
			out += 3;
			p++;
		} else if (ch == 0xc2 && p[1] < 0xa0) {
			out = put_control(out, p[1]);
			p += 2;
		} else {
			memcpy(out, p, n);
			out += n;
			p += n;
		}
	}
	return (size_t)(out - start);
}
