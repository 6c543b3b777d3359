/* SPDX-License-Identifier: Apache-2.0 */
/*
 * firefly.h - a flow event as a firefly: the payload of one UDP datagram, a syslog header
 * (RFC 5424) and a JSON object, message version 1 of the public schema v1.0.0.
 *
 *   <134>1 TIME HOSTNAME flowd-lua - firefly-json - {"version":1,"flow-lifecycle":{...},
 *   "flow-id":{...},"usage":{...},"context":{...}}
 *
 * No newline. Blanks may follow the closing brace (see udp_out.h). Nothing is allocated.
 */
#ifndef FIREFLY_H
#define FIREFLY_H

#include "flow_event.h"
#include "ffi_export.h"

enum {
	FIREFLY_PORT = 10514,
	/* What fits a packet of 1,500 octets, by the family that carries it. */
	FIREFLY_SIZE_IPV4 = 1472,
	FIREFLY_SIZE_IPV6 = 1452,
	/* Longer than anything firefly_encode writes: checked when compiled. */
	FIREFLY_ENCODED_MAX = 1280,
	FIREFLY_HOSTNAME_MAX = 255, /* RFC 5424, 6 */
};

/* How a sender's fireflies look. Made by firefly_style_init. */
struct firefly_style {
	uint8_t syslog_header;
	uint8_t spare;
	uint16_t hostname_length;
	char hostname[256];
};

/*
 * syslog_header: begin with the RFC 5424 header; without it the JSON stands alone.
 * hostname: what the header names as sender; NULL or "": the system's host name. Octets
 * that a header cannot carry (RFC 5424: PRINTUSASCII, no blank) become '-'; what exceeds
 * FIREFLY_HOSTNAME_MAX is cut.
 */
FFI_EXPORT void firefly_style_init(struct firefly_style *style, bool syslog_header, const char *hostname);

/*
 * Write the event as a firefly into `out`, at most `size` octets, no NUL. now_us is both
 * the header's time and current-time. A time that is unset is taken from the next
 * best one: start_us from time_us, time_us from now_us. No application in the
 * event: "flowd-lua VERSION". Fastest when size is FIREFLY_ENCODED_MAX or more.
 * Returns its length; 0: it needs more than `size` octets.
 */
FFI_EXPORT size_t firefly_encode(char *out, size_t size, const struct firefly_style *style,
				 const struct flow_event *event, uint64_t now_us);

#endif
