/* SPDX-License-Identifier: Apache-2.0 */
/*
 * address.h - IP addresses as text, both ways, without libc's detours.
 *
 * An IPv4 address is held in its IPv4-mapped form (flow_abi.h), so that text such
 * as ::ffff:192.0.2.1 and 192.0.2.1 are one address. Nothing is allocated.
 */
#ifndef ADDRESS_H
#define ADDRESS_H

#include "flow_abi.h"
#include "ffi_export.h"

enum { ADDRESS_TEXT_SIZE = 46 }; /* longest text and its NUL, as INET6_ADDRSTRLEN */

/*
 * Read `length` octets of text: a dotted quad (RFC 6943, 3.1.1, the strict form: no
 * leading zeros, no octal) or IPv6 text (RFC 4291, 2.2). Accepts what inet_pton(3)
 * accepts: no zone id, no brackets, no prefix length, no blanks.
 * Returns 4 or 6, the family (4 for IPv4-mapped IPv6 text), or -EINVAL; *out is
 * written only on success.
 */
FFI_EXPORT int address_parse(const char *text, size_t length, struct flow_address *out);

/*
 * Write an address in its canonical form (RFC 5952), IPv4-mapped as dotted quad.
 * `out` has room for ADDRESS_TEXT_SIZE octets. Returns the length without the NUL.
 */
FFI_EXPORT size_t address_format(const struct flow_address *address, char *out);

/* 4 for IPv4-mapped, else 6. */
FFI_EXPORT int address_family(const struct flow_address *address);

#endif
